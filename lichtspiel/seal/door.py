"""The door out: the only place in the package where a video file is made.

It knows H.264 in MP4 and how to let a file appear whole or not at all. It does not know models, requests or what the
provenance says; it makes sure that nothing leaves without one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import itertools
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lichtspiel.errors import LichtspielError, OutputError, RequestError
from lichtspiel.seal import credentials, keys

if TYPE_CHECKING:
    import av
    import numpy as np
    import numpy.typing as npt

    Frame = npt.NDArray[np.uint8]

__all__ = ["Sealed", "check_output", "seal"]

# threads is a number of its own, not the machine's: x264's result depends on it, and should not depend on the machine.
_X264 = {"crf": "16", "preset": "medium", "threads": "4"}
_BT709 = 1  # the same code for matrix, primaries and transfer (ISO/IEC 23091-2)
_BICUBIC, _ACCURATE, _EXACT = 0x4, 0x40000, 0x80000  # libswscale flags: the same result with and without SIMD
_FULL, _LIMITED = 2, 1  # AVColorRange
_MUXER = {"movflags": "+faststart", "fflags": "+bitexact"}  # bitexact: no version or time of the muxer in the file

_RAW_BYTES = 1.5  # of a pixel in yuv420p: what H.264 at this quality never reaches
_SPARE_BYTES = 16 << 20
_MAX_FPS = 240


@dataclass(frozen=True, kw_only=True)
class Sealed:
    """A video that left: where it is, what its bytes hash to, and the names in its manifest."""

    path: Path
    id: str
    sha256: str
    bytes: int
    width: int
    height: int
    frames: int
    fps: int
    manifest: str
    signer: str

    def to_json(self) -> dict[str, Any]:
        """The same as a plain dictionary, ready for `json.dumps`."""
        return {**dataclasses.asdict(self), "path": str(self.path)}


def check_output(out: str | Path, *, pixels: int = 0) -> Path:
    """Make sure that a video can be written to `out` and signed, before anything costs time. Writes nothing there.

    `pixels` is width * height * frames, for the disk space. Makes the signing identity if there is none yet. Raises
    OutputError, with the remedy, or LichtspielError when the identity is unusable.
    """
    out = _check_target(Path(out))
    draft = _draft(out)
    try:
        draft.touch(exist_ok=False)
        draft.unlink()
        free = shutil.disk_usage(out.parent).free
    except OSError as error:
        raise OutputError(f"{out}: the folder {out.parent} cannot be written: {error.strerror or error}") from error
    needed = int(2 * pixels * _RAW_BYTES) + _SPARE_BYTES  # the encoded and the signed file exist side by side
    if free < needed:
        raise OutputError(
            f"{out}: {free >> 20:,} MiB are free on this disk and {needed >> 20:,} MiB may be needed; "
            "free some or choose a folder on another disk"
        )
    _encoder()
    keys.identity()
    return out


def seal(
    frames: Iterable[Frame],
    provenance: credentials.Provenance,
    out: str | Path,
    *,
    fps: int,
    signer: keys.Identity | None = None,
) -> Sealed:
    """Encode frames (uint8 [height, width, 3], RGB, even sides, all alike), sign the result and let it appear at `out`.

    Frames are taken one at a time, so memory does not grow with their number. The file is written beside `out` under a
    hidden name, read back and checked, and renamed: whatever goes wrong, and when interrupted, no part of it stays and
    a file that was there is as it was. An older file at `out` is replaced. The same frames give the same picture data
    on every machine; the signature differs each time. Without `signer` this installation signs.

    Raises RequestError for frames that cannot be encoded and LichtspielError when writing or signing fails.
    """
    out = _check_target(Path(out))
    if not (isinstance(fps, int) and 1 <= fps <= _MAX_FPS):
        raise RequestError("fps", fps, f"it is a whole number from 1 to {_MAX_FPS}")
    identity = signer or keys.identity()
    encoded, signed = _draft(out), _draft(out)
    try:
        width, height, count = _encode(frames, encoded, fps)
        with _writing(out):
            credentials.sign(encoded, signed, provenance, identity)
            reading = credentials.read(signed, identity.root)
            if not reading.ours:
                raise LichtspielError(f"the seal does not hold, so nothing was written: {'; '.join(reading.problems)}")
            with signed.open("rb") as file:
                os.fsync(file.fileno())
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            size = signed.stat().st_size
            os.replace(signed, out)
            _sync_folder(out.parent)
    finally:
        for draft in (encoded, signed):
            draft.unlink(missing_ok=True)
    return Sealed(
        path=out,
        id=provenance.id,
        sha256=sha256,
        bytes=size,
        width=width,
        height=height,
        frames=count,
        fps=fps,
        manifest=str(reading.manifest["label"]),
        signer=str(reading.manifest["signature_info"]["common_name"]),
    )


def _check_target(out: Path) -> Path:
    if out.suffix.lower() != ".mp4":
        nearest = f"{out.parent / (out.stem or 'out')}.mp4"
        raise OutputError(f"{out}: videos are written as MP4; nearest valid name: {nearest}")
    if out.exists() and not out.is_file():
        raise OutputError(f"{out}: is there already and is not a file; choose another name")
    if out.exists() and not os.access(out, os.W_OK):
        raise OutputError(f"{out}: is there already and is write-protected; choose another name")
    if not out.parent.is_dir():
        raise OutputError(f"{out}: the folder {out.parent} does not exist; make it first: mkdir -p '{out.parent}'")
    return out


def _encode(frames: Iterable[Frame], path: Path, fps: int) -> tuple[int, int, int]:
    """Write an unmarked H.264 file and return width, height and number of frames. Only `seal` calls this, with the
    path of a draft that it removes."""
    import av

    iterator = iter(frames)
    first = next(iterator, None)
    if first is None:
        raise RequestError("frames", 0, "a video has at least one frame", 1)
    width, height = _size(first)
    count = 0
    _encoder()
    with _writing(path):
        container = av.open(f"file:{path.absolute()}", "w", format="mp4", options=_MUXER)
    try:
        stream = container.add_stream("libx264", rate=fps, options=_X264)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        context: Any = stream.codec_context
        context.color_primaries = context.color_trc = context.colorspace = _BT709
        context.color_range = _LIMITED
        for frame in itertools.chain([first], iterator):
            if (found := _size(frame)) != (width, height):
                raise RequestError("frames", found, "all have the size of the first", (width, height))
            with _writing(path):
                container.mux(stream.encode(_picture(frame)))
            count += 1
        with _writing(path):
            container.mux(stream.encode(None))
    finally:
        with _writing(path):
            container.close()
    return width, height, count


def _size(frame: Frame) -> tuple[int, int]:
    if getattr(frame, "dtype", None) != "uint8" or frame.ndim != 3 or frame.shape[2] != 3:
        found = f"{getattr(frame, 'dtype', type(frame).__name__)} {list(getattr(frame, 'shape', ()))}"
        raise RequestError("frames", found, "a frame is a uint8 array [height, width, 3]")
    height, width, _ = frame.shape
    if height % 2 or width % 2 or not height or not width:
        even = f"{max(2, width - width % 2)}x{max(2, height - height % 2)}"
        raise RequestError("size", f"{width}x{height}", "width and height are even, as yuv420p needs", even)
    return width, height


def _picture(frame: Frame) -> av.VideoFrame:
    """RGB to limited-range BT.709 yuv420p."""
    import av
    import numpy as np

    return av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24").reformat(
        format="yuv420p",
        src_colorspace=_BT709,
        dst_colorspace=_BT709,
        src_color_range=_FULL,
        dst_color_range=_LIMITED,
        interpolation=_BICUBIC | _ACCURATE | _EXACT,
    )


def _encoder() -> None:
    import av

    try:
        av.codec.Codec("libx264", "w")
    except ValueError as error:  # PyAV's UnknownCodecError is one
        raise OutputError(
            "this build of PyAV cannot write H.264 (libx264 is missing); install its official wheel: "
            "pip install --force-reinstall --only-binary av av"
        ) from error


def _draft(out: Path) -> Path:
    # In the same folder, because a rename is atomic only within one file system; hidden, because it is not finished.
    return out.parent / f".{uuid.uuid4().hex}.mp4"


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn a failure to write into a message. Failures of the frames' own source are not touched."""
    try:
        yield
    except OSError as error:
        hint = "; free some space" if error.errno == errno.ENOSPC else ""
        raise OutputError(f"{path.parent}: the video cannot be written: {error.strerror or error}{hint}") from error


def _sync_folder(folder: Path) -> None:
    # Makes the rename itself survive a power cut, where folders can be synced (not on Windows).
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
