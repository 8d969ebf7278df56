"""Storage for the files of jobs: a folder, or a bucket that several machines share. Knows names, not contents.

A file is stored completely or not at all. In a folder, only the owner of the process can read the files; who can read a
bucket is up to its owner. Credentials for S3 are found where S3 tools usually look for them.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

import fsspec

from lichtspiel.errors import InvalidInput
from lichtspiel.serve.errors import BadName, NotFound, StorageError
from lichtspiel.storage import atomic_write

__all__ = ["Files"]

CHUNK = 1 << 20
RETRIES = 10

# No part begins with a dot, so none is `..`, and none looks like an unfinished file.
_NAME = re.compile(r"[a-z0-9_]+(/[a-z0-9_-][a-z0-9_.-]*)*")


class Files:
    """The files below `url`: a folder, which is created if it does not exist, or `s3://bucket/prefix`.

    All methods take names such as `video_1f/input.png`. They raise BadName for a name of any other form, NotFound for
    a file that does not exist, and StorageError if the folder or bucket cannot be read or written.
    """

    def __init__(self, url: str | Path) -> None:
        protocol, separator, rest = str(url).partition("://")
        self._failures: tuple[type[Exception], ...] = (OSError,)
        self._folder: Path | None = None
        if not separator or protocol == "file":
            self._folder = Path(rest if separator else url).absolute()
            with self._explained(str(self._folder)):
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._root, self._system = str(self._folder), fsspec.filesystem("file")
        elif protocol == "s3" and rest.strip("/"):
            try:
                from botocore.exceptions import BotoCoreError

                # Other machines write too, so cached listings would be stale.
                self._system = fsspec.filesystem("s3", use_listings_cache=False, skip_instance_cache=True)
            except ImportError as error:
                raise InvalidInput(f"{url}: S3 needs more packages; run: pip install 'lichtspiel[s3]'") from error
            self._root, self._failures = rest.strip("/"), (OSError, BotoCoreError)
        else:
            raise InvalidInput(f"files: {str(url)!r} is not valid: a folder, or s3://bucket/prefix")

    def put(self, local: Path, name: str) -> None:
        """Store a copy of a local file under this name, replacing any other; it is on disk when this returns."""
        path = self._full_path(name)
        with self._explained(name):
            if self._folder is None:
                self._system.put_file(str(local), path)
            else:
                _copy_into(local, self._folder, Path(path))

    def open(self, name: str) -> BinaryIO:
        """Open the file for reading; the result is seekable."""
        with self._explained(name):
            return self._opened(name)

    def read(self, name: str, start: int, end: int) -> Iterator[bytes]:
        """Read the bytes from `start` to `end` (exclusive) or to the end of the file, in pieces of up to 1 MiB.

        A missing file raises NotFound at once, not when the first piece is requested.
        """
        assert 0 <= start <= end, (start, end)
        with self._explained(name):
            # No read-ahead: a bucket sends only these bytes, with one request per piece.
            file = self._opened(name, block_size=CHUNK, cache_type="none")
        return self._pieces(name, file, start, end)

    def fetch(self, name: str, local: Path) -> None:
        """Copy the file to a local path, completely or not at all, readable only by its owner."""
        with (
            self._explained(name),
            atomic_write(local, mode=0o600) as draft,
            self.open(name) as source,
            draft.open("wb") as target,
        ):
            shutil.copyfileobj(source, target, CHUNK)

    def size(self, name: str) -> int:
        """The size of the file in bytes."""
        with self._explained(name):
            info = self._system.info(self._full_path(name))
            if info["type"] != "file":
                raise IsADirectoryError(name)
            return int(info["size"])

    def exists(self, name: str) -> bool:
        """Whether the file exists."""
        with self._explained(name):
            return bool(self._system.isfile(self._full_path(name)))

    def named(self, prefix: str) -> list[str]:
        """The names of all files in one folder that begin with `prefix`, whose last part is the beginning of a name."""
        with self._explained(prefix):
            self._check_root()
            paths = self._system.glob(f"{self._full_path(prefix)}*")
            return [str(path).removeprefix(f"{self._root}/") for path in paths]

    def probe(self) -> None:
        """Write a small file and remove it, to check that this works. Raises StorageError."""
        name = f"probes/{uuid.uuid4().hex}"
        with tempfile.NamedTemporaryFile() as file:
            self.put(Path(file.name), name)
        self.remove([name])

    def remove(self, names: Iterable[str]) -> None:
        """Remove these files and any folders that this leaves empty. Files that do not exist are ignored."""
        self._check_root()
        for name, path in [(name, self._full_path(name)) for name in names]:
            with self._explained(name), contextlib.suppress(FileNotFoundError):
                self._system.rm_file(path)
            if self._folder is not None:
                with contextlib.suppress(OSError):  # not empty, or gone
                    for parent in Path(path).relative_to(self._folder).parents[:-1]:
                        (self._folder / parent).rmdir()

    def _check_root(self) -> None:
        """Raise StorageError if the whole folder is missing, for example not mounted, rather than one file in it."""
        if self._folder is not None and not self._folder.is_dir():
            raise StorageError(f"{self._folder}: cannot be read or written: it is gone; see that it is there")

    def _opened(self, name: str, **options: object) -> BinaryIO:
        file = self._system.open(self._full_path(name), "rb", **options)
        if self._folder is None and file.details["type"] != "file":  # a prefix of other names opens as an empty file
            file.close()
            raise IsADirectoryError(name)
        return cast(BinaryIO, file)

    def _pieces(self, name: str, file: BinaryIO, start: int, end: int) -> Iterator[bytes]:
        with self._explained(name), file:
            file.seek(start)
            while start < end and (piece := file.read(min(CHUNK, end - start))):
                start += len(piece)
                yield piece

    def _full_path(self, name: str) -> str:
        if len(name) > 512 or not _NAME.fullmatch(name):
            raise BadName(f"{name!r} is not valid: small letters, digits, _ - . and / between parts")
        return f"{self._root}/{name}"

    @contextlib.contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, IsADirectoryError) as error:
            self._check_root()
            raise NotFound(f"there is no file {name!r}") from error
        except self._failures as error:
            raise StorageError(
                f"{name}: cannot be read or written: {error}; see that there is room and access"
            ) from error


def _copy_into(local: Path, root: Path, target: Path) -> None:
    with local.open("rb") as source:
        for left in reversed(range(RETRIES)):
            try:
                for parent in reversed(target.relative_to(root).parents[:-1]):
                    (root / parent).mkdir(mode=0o700, exist_ok=True)
                with atomic_write(target, mode=0o600) as draft, draft.open("wb") as copy:
                    shutil.copyfileobj(source, copy, CHUNK)
                return
            # Another thread removed the last file here, and the folder with it: before `mkdir` looked at what was in
            # its way, or after.
            except (FileNotFoundError, FileExistsError):
                if not left:
                    raise
                source.seek(0)
