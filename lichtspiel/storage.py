"""The data folder of this installation, and atomic writes, which never leave a file half written.

The only environment variables that the package reads are read here, and they name folders.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path

import platformdirs

from lichtspiel.errors import LichtspielError

__all__ = [
    "atomic_folder",
    "atomic_write",
    "by_age",
    "config_folder",
    "draft_path",
    "file_sha256",
    "home",
    "pulled",
    "sweep_drafts",
    "use_home",
]


_DRAFT = re.compile(r"\.[0-9a-f]{32}\.partial")


def home() -> Path:
    """The data folder of this installation: $LICHTSPIEL_HOME if set, else the platform's folder for user data.

    On Linux, that is $XDG_DATA_HOME/lichtspiel or ~/.local/share/lichtspiel. The folder need not exist yet. Raises
    LichtspielError if the user has no home folder.
    """
    try:
        if chosen := os.environ.get("LICHTSPIEL_HOME"):
            return Path(chosen).expanduser().absolute()
        folder = platformdirs.user_data_path("lichtspiel", appauthor=False)
        if not folder.is_absolute():  # a relative XDG_DATA_HOME, which XDG says to ignore, or no home folder
            folder = Path.home() / ".local" / "share" / "lichtspiel"
    except RuntimeError as error:
        raise LichtspielError("this user has no home folder; set LICHTSPIEL_HOME to a folder") from error
    return folder


def config_folder() -> Path:
    """The folder of the user's configuration: $LICHTSPIEL_HOME if set, else the platform's, such as
    ~/.config/lichtspiel on Linux. Raises LichtspielError if the user has no home folder."""
    if os.environ.get("LICHTSPIEL_HOME"):
        return home()
    folder = platformdirs.user_config_path("lichtspiel", appauthor=False)
    return folder if folder.is_absolute() else home()


def use_home(folder: str) -> None:
    """Make `folder` the data folder of this process, as a server does for the processes that it starts."""
    os.environ["LICHTSPIEL_HOME"] = folder


def pulled(repository: str) -> Path:
    """The folder where `lichtspiel pull` puts a hub repository such as Wan-AI/Wan2.1-T2V-1.3B."""
    return home() / "weights" / repository.rpartition("/")[2]


def by_age(folder: Path) -> list[tuple[int, int, Path]]:
    """The safetensors files of a folder, oldest first: modification time in nanoseconds, size in bytes, path."""
    files = []
    for path in folder.glob("*.safetensors"):
        with suppress(FileNotFoundError):  # other processes remove old files too
            status = path.stat()
            files.append((status.st_mtime_ns, status.st_size, path))
    return sorted(files)


def draft_path(path: Path) -> Path:
    """A new, hidden name next to `path` for an unfinished file.

    It is in the same folder because a rename is atomic only within one file system.
    """
    return path.parent / f".{uuid.uuid4().hex}.partial"


def sweep_drafts(folder: Path, older: float = 86_400.0) -> int:
    """Remove drafts that killed processes left in a folder; returns how many. Only those that nobody has written to for
    `older` seconds, because others may be at work. What cannot be removed stays."""
    gone = 0
    with suppress(OSError):
        for path in folder.glob(".*.partial"):
            with suppress(OSError):
                stale = time.time() - path.stat().st_mtime > older
                if stale and _DRAFT.fullmatch(path.name) and path.is_file():
                    path.unlink()
                    gone += 1
    return gone


@contextmanager
def atomic_write(path: Path, mode: int | None = None) -> Iterator[Path]:
    """Yield the path of a draft to write; when the block ends without an error, the draft replaces `path`.

    Readers see either the old file or the complete new one, even after a power failure: the file and its folder are
    synced. After an error or an interrupt, the draft is removed and `path` is unchanged. With `mode`, the draft exists
    from the start with these permissions; without, the caller creates it, with permissions from the umask. Raises
    OSError like any write.
    """
    draft = draft_path(path)
    try:
        if mode is not None:
            os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))
        yield draft
        if mode is not None:
            draft.chmod(mode)  # the umask, and some writers, change it
        _sync(draft)
        os.replace(draft, path)
        _sync_folder(path.parent)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; when the block ends without an error, it is renamed to `path`, which must be free.

    Its temporary name next to `path` is always the same, so a killed run leaves at most one such folder, which the
    next run removes. Two processes must not fill the same folder at the same time.
    """
    draft = path.with_name(f".{path.name}.partial")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        yield draft
        for file in draft.iterdir():
            _sync(file)
        _sync_folder(draft)
        draft.rename(path)
        _sync_folder(path.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def file_sha256(file: Path | BufferedReader) -> str:
    """The hexadecimal SHA-256 of a file, or of the rest of an open one."""
    if isinstance(file, Path):
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    # A rename survives a power failure once its folder is synced. Windows neither needs nor allows that.
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
