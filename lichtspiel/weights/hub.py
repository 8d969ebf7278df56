"""Published checkpoints from the Hugging Face hub, whole and verified, into this installation's folder.

An interrupted download resumes. A file that another local checkpoint already has, such as the text encoder that all
share, is linked instead of downloaded. Every file is checked against the digest that the hub states.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from urllib.parse import urlsplit

from lichtspiel.errors import LichtspielError, OutputError, RequestError, WeightsError
from lichtspiel.spec import Model
from lichtspiel.storage import file_sha256, pulled

__all__ = ["Published", "pull"]

MARGIN = 1_000_000_000
"""Bytes to leave free on the disk."""


LOCAL = {"localhost", "127.0.0.1", "::1"}
"""Hosts to which plain HTTP goes over no network."""


@dataclass(frozen=True)
class Published:
    """A file as the hub describes it; `sha256` is empty for small files, which the hub names by another digest."""

    name: str
    size: int
    sha256: str


def pull(
    model: Model,
    folder: Path | None = None,
    *,
    endpoint: str | None = None,
    token: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> list[Path]:
    """Download the missing files of a checkpoint, and check all of them; returns their paths.

    `endpoint` is the hub or a mirror that speaks as it does; without it, `HF_ENDPOINT` or the hub itself. Raises
    RequestError for a model that ships with this package and for a token that would go over plain HTTP, OutputError
    when the disk is too small, WeightsError for a file with another digest than the hub's, and LichtspielError when the
    hub cannot be reached, which says which files to copy where.
    """
    if model.embedded:
        raise RequestError("model", model.name, "it ships with this package; there is nothing to get")
    endpoint = endpoint or hub_endpoint()
    if token and urlsplit(endpoint).scheme == "http" and urlsplit(endpoint).hostname not in LOCAL:
        raise RequestError(
            "token", "a token", f"{endpoint} would get it in clear text, for everybody on the way to read; use https"
        )
    folder = folder or pulled(model.repository)
    folder.mkdir(parents=True, exist_ok=True)
    commit, files = _listed(model, folder, endpoint, token)
    _check_space(folder, files)
    for file in files:
        path = folder / file.name
        if _whole(path, file):
            say(f"{file.name}: already here")
        elif (twin := _twin(file, folder)) is not None:
            say(f"{file.name}: the same as {twin}")
            _link(twin, path)
        else:
            say(f"{file.name}: fetching {file.size / 1e9:.2f} GB")
            _fetch(model, file, folder, commit, endpoint, token)
            _check(path, file)
    return [folder / file.name for file in files]


def hub_endpoint() -> str:
    """The hub, or the mirror that the environment names in `HF_ENDPOINT`."""
    from huggingface_hub import constants

    return constants.ENDPOINT


def cached(model: Model) -> Path | None:
    """The folder in which other programs that use the hub keep a checkpoint (`HF_HOME`, `HF_HUB_CACHE`), if it is
    there: the files of the official repository, or of the one in the layout of Diffusers."""
    from huggingface_hub import constants

    for repository in (model.repository, f"{model.repository}-Diffusers"):
        folder = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
        try:
            snapshot = folder / "snapshots" / (folder / "refs/main").read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            continue
        if snapshot.is_dir() and any(snapshot.rglob("*.safetensors")):
            return snapshot
    return None


def _matches(name: str, pattern: str) -> bool:
    """Whether a published file is one of those wanted. Its name comes from the hub or a mirror and becomes a path, so
    it must not lead anywhere but where the pattern does."""
    parts, wanted = name.split("/"), pattern.split("/")
    safe = ".." not in parts and not any(character in name for character in "\\:\0")
    return safe and len(parts) == len(wanted) and fnmatch(name, pattern)


def _listed(model: Model, folder: Path, endpoint: str, token: str | None) -> tuple[str, list[Published]]:
    """The current commit, and the files of the checkpoint in it."""
    from huggingface_hub import HfApi, constants

    try:
        info = HfApi(endpoint=endpoint, token=token).model_info(model.repository, files_metadata=True, timeout=30)
    except Exception as error:  # the library for connections, and with it their errors, changes between its editions
        raise LichtspielError(
            f"{endpoint} cannot be reached for {model.repository} ({type(error).__name__}); try again"
            f"{', without HF_HUB_OFFLINE' if constants.HF_HUB_OFFLINE else ''}, name a mirror with --endpoint, or copy "
            f"these files into {folder}: {', '.join(model.files.values())}"
        ) from error
    published = [
        Published(file.rfilename, file.size or 0, file.lfs.sha256 if file.lfs else "")
        for file in info.siblings or []
        if any(_matches(file.rfilename, pattern) for pattern in model.files.values())
    ]
    for pattern in model.files.values():
        if not any(fnmatch(file.name, pattern) for file in published):
            raise WeightsError(f"{model.repository} at {endpoint} has no {pattern}; is it a mirror of the whole hub?")
    return info.sha or "main", published


def _check_space(folder: Path, files: list[Published]) -> None:
    needed = sum(file.size for file in files if not _whole(folder / file.name, file) and _twin(file, folder) is None)
    free = shutil.disk_usage(folder).free
    if needed and needed + MARGIN > free:
        raise OutputError(
            f"{folder}: {needed / 1e9:.1f} GB are to be written, and {free / 1e9:.1f} GB are free; make room, or "
            "choose another folder with --to and name it with --weights"
        )


def _whole(path: Path, file: Published) -> bool:
    """Whether a file is complete; its digest was checked after the download and is recorded beside it."""
    return path.is_file() and path.stat().st_size == file.size and (not file.sha256 or _noted(path) == file.sha256)


def _note(path: Path) -> Path:
    return path.parent / ".cache" / f"{path.name}.sha256"


def _noted(path: Path) -> str:
    """The digest recorded for a file, if the file has not changed since."""
    try:
        digest, changed = _note(path).read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return ""
    return digest if changed == str(path.stat().st_mtime_ns) else ""


def _twin(file: Published, folder: Path) -> Path | None:
    """The same file in the folder of another checkpoint."""
    if not file.sha256:
        return None
    candidates = (other / file.name for other in folder.parent.iterdir() if other != folder)
    return next((other for other in candidates if _whole(other, file)), None)


def _link(twin: Path, path: Path) -> None:
    path.unlink(missing_ok=True)
    try:
        os.link(twin, path)
    except OSError:  # another disk, or one without links
        shutil.copy2(twin, path)
    _note(path).parent.mkdir(exist_ok=True)
    shutil.copy2(_note(twin), _note(path))


def _fetch(model: Model, file: Published, folder: Path, commit: str, endpoint: str, token: str | None) -> None:
    from huggingface_hub import hf_hub_download

    try:
        hf_hub_download(model.repository, file.name, revision=commit, local_dir=folder, endpoint=endpoint, token=token)
    except Exception as error:  # as above
        raise LichtspielError(
            f"{file.name} could not be fetched ({type(error).__name__}: {error}); the same command goes on from here"
        ) from error


def _check(path: Path, file: Published) -> None:
    """Check a file against the hub's description and record the result; a file that differs is removed."""
    digest = file_sha256(path)
    if path.stat().st_size != file.size or (file.sha256 and digest != file.sha256):
        path.unlink()
        raise WeightsError(
            f"{path} came with the digest {digest[:12]}…, not {file.sha256[:12]}…; it was removed, try again"
        )
    _note(path).parent.mkdir(exist_ok=True)
    _note(path).write_text(f"{digest} {path.stat().st_mtime_ns}\n", encoding="ascii")
