"""Probe a file before a third-party parser reads it: is it MP4, is it complete, does it contain credentials at all?

This module knows the box structure of ISO base media files (ISO/IEC 14496-12), the chunks of PNG and WebP, the blocks
of GIF, and where C2PA credentials are stored in each; it does not read the credentials. It exists because the time of
the C2PA reader is quadratic in the number of boxes: a 4 MB file of empty boxes keeps it busy for many minutes.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from lichtspiel.errors import MediaError

__all__ = ["Survey", "survey"]

MAX_BYTES = 4 << 30
MAX_BOXES = 8192
MAX_CHUNKS = 1 << 16
MAX_CREDENTIAL_BYTES = 16 << 20
MAX_DEPTH = 32
_TOO_MUCH = f"its credentials take more than {MAX_CREDENTIAL_BYTES:,} bytes, more than is read"

_C2PA = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
_XMP = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
# The boxes whose contents are boxes, as c2pa-rs reads them (sdk/src/asset_handlers/bmff_io.rs, build_bmff_tree).
_FOLDERS = frozenset(b"moov trak mdia minf stbl moof traf edts udta dinf tref treg mvex mfra meta schi".split())


@dataclass(frozen=True)
class Survey:
    """The type of a file, and whether it contains credentials; `mime` is None for formats that cannot hold them."""

    size: int
    mime: str | None
    sealed: bool

    @property
    def mp4(self) -> bool:
        """Whether it is an ISO base media file: MP4 or MOV."""
        return self.mime == "video/mp4"

    @property
    def png(self) -> bool:
        """Whether it is a PNG."""
        return self.mime == "image/png"


@dataclass
class _Tally:
    boxes: int = 0
    credential_bytes: int = 0
    sealed: bool = False


def survey(path: Path) -> Survey:
    """Inspect a file's structure in bounded time and memory, reading only box headers.

    Raises MediaError, with the remedy, when the file is missing, not a regular file, empty, too large, truncated, or
    structured as only a damaged or hostile file would be. A file that is not an MP4 at all is not an error here.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise MediaError(f"{path}: is not a file")
        if status.st_size == 0:
            raise MediaError(f"{path}: is empty; copy or download it again")
        if status.st_size > MAX_BYTES:
            raise MediaError(f"{path}: has {status.st_size:,} bytes; at most {MAX_BYTES:,} are read; cut it first")
        with path.open("rb") as file:
            head = file.read(12)
            if head[:8] == b"\x89PNG\r\n\x1a\n":
                return Survey(status.st_size, "image/png", _chunks(file, status.st_size, 8, _PNG))
            if head[:4] == b"RIFF" and head[8:] == b"WEBP":
                return Survey(status.st_size, "image/webp", _chunks(file, status.st_size, 12, _WEBP))
            if head[:6] in (b"GIF87a", b"GIF89a"):
                return Survey(status.st_size, "image/gif", _blocks(file))
            if head[4:8] not in (b"ftyp", b"moov", b"free", b"skip", b"wide", b"uuid", b"mdat"):
                return Survey(status.st_size, None, sealed=False)
            tally = _Tally()
            _walk(file, 0, status.st_size, 0, tally)
    except OSError as error:
        if str(path).startswith(("http:/", "https:/")):
            raise MediaError(f"{path}: is an address, and nothing is fetched; download the file first") from None
        raise MediaError(f"{path}: cannot be read: {error.strerror or error}") from error
    except MediaError:  # a ValueError, too
        raise
    except ValueError as error:
        raise MediaError(f"{path}: {error}") from error
    return Survey(status.st_size, "video/mp4", tally.sealed)


def _walk(file: BinaryIO, start: int, end: int, depth: int, tally: _Tally) -> None:
    """Count the boxes between two offsets. At the top level, every box must end inside the file. Further down, a box
    that does not fit ends the walk, as it does in the C2PA reader."""
    if depth > MAX_DEPTH:
        raise ValueError("its boxes are nested too deeply; it is damaged, re-encode it")
    at = start
    while end - at >= 8:
        tally.boxes += 1
        if tally.boxes > MAX_BOXES:
            raise ValueError(f"it has more than {MAX_BOXES:,} boxes; rewrite it without fragments")
        size, name, header = _header(file, at, end)
        if size < header:
            raise ValueError(f"the box at byte {at:,} is smaller than its own header; it is damaged")
        if at + size > end:
            if depth == 0:
                raise ValueError(
                    f"ends early: the part at byte {at:,} needs {size:,} bytes and {end - at:,} are there; "
                    "copy or download it again"
                )
            return
        if depth == 0 and name == b"uuid":
            _credential(file, at + header, size, tally)
        elif name in _FOLDERS:
            inside = at + header + (_version_bytes(file, at + header) if name == b"meta" else 0)
            _walk(file, inside, at + size, depth + 1, tally)
        at += size
    if depth == 0 and at != end:
        raise ValueError(f"ends early or has {end - at} foreign bytes at its end; copy or download it again")


@dataclass(frozen=True)
class _Chunks:
    """How a format writes its chunks: the one with credentials, and what is around the content."""

    credentials: bytes
    order: Literal["big", "little"]
    name_first: bool
    around: int
    padded: bool


_PNG = _Chunks(b"caBX", "big", name_first=False, around=12, padded=False)
_WEBP = _Chunks(b"C2PA", "little", name_first=True, around=8, padded=True)


def _chunks(file: BinaryIO, end: int, at: int, format: _Chunks) -> bool:
    """Whether a file of chunks has one with credentials. A truncated file is not an error here; that is up to its
    decoder."""
    sealed = False
    for _ in range(MAX_CHUNKS):
        if end - at < format.around:
            return sealed
        file.seek(at)
        first, second = file.read(4), file.read(4)
        name, length = (first, second) if format.name_first else (second, first)
        size = int.from_bytes(length, format.order)
        if name == format.credentials:
            sealed = True
            if size > MAX_CREDENTIAL_BYTES:
                raise ValueError(_TOO_MUCH)
        at += format.around + size + (size % 2 if format.padded else 0)
    raise ValueError(f"it has more than {MAX_CHUNKS:,} chunks; save it anew")


def _blocks(file: BinaryIO) -> bool:
    """Whether a GIF has a block with credentials before its first picture, where they stand."""
    file.seek(10)
    flags = file.read(1)
    at = 13 + (6 << (flags[0] & 7) if flags and flags[0] & 0x80 else 0)
    for _ in range(MAX_CHUNKS):
        file.seek(at)
        head = file.read(14)
        if len(head) < 3 or head[0] != 0x21:
            return False
        sealed, total = head[1] == 0xFF and head[3:11] == b"C2PA_GIF", 0
        at += 2
        while True:
            file.seek(at)
            size = file.read(1)
            at += 1 + (size[0] if size else 0)
            total += 1 + (size[0] if size else 0)
            if total > MAX_CREDENTIAL_BYTES:
                raise ValueError(_TOO_MUCH)
            if not size or not size[0]:
                break
        if sealed:
            return True
    raise ValueError(f"it has more than {MAX_CHUNKS:,} blocks; save it anew")


def _header(file: BinaryIO, at: int, end: int) -> tuple[int, bytes, int]:
    file.seek(at)
    head = file.read(8)
    size, name = int.from_bytes(head[:4], "big"), head[4:8]
    if size == 1:
        return int.from_bytes(file.read(8), "big"), name, 16
    return size or end - at, name, 8  # 0 means "to the end"


def _credential(file: BinaryIO, at: int, size: int, tally: _Tally) -> None:
    file.seek(at)
    kind = file.read(16)
    if kind not in (_C2PA, _XMP):
        return
    tally.sealed |= kind == _C2PA
    tally.credential_bytes += size
    if tally.credential_bytes > MAX_CREDENTIAL_BYTES:
        raise ValueError(_TOO_MUCH)


def _version_bytes(file: BinaryIO, at: int) -> int:
    # QuickTime writes `meta` without version and flags; then its first child, `hdlr`, follows immediately.
    file.seek(at)
    return 0 if file.read(8)[4:] == b"hdlr" else 4
