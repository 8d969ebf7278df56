"""The only place in the package where a video file is written.

It encodes H.264 in MP4 (`picture` writes PNG), applies the marks in their order (visible label, watermark, tags,
signature) and makes a file appear whole or not at all. It knows neither models nor requests nor what the provenance
says; it makes sure that no file is written without one, unless the user opted out and gave a reason.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import itertools
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lichtspiel import storage
from lichtspiel.errors import LichtspielError, OutputError, RequestError
from lichtspiel.seal import credentials, identity, labels, manifest
from lichtspiel.seal.marks import Marks
from lichtspiel.seal.sound import Sound

if TYPE_CHECKING:
    import av

    from lichtspiel.frames import Frame


__all__ = ["EncodeSettings", "Sealed", "check_output", "finalize", "seal", "write_errors"]

# The number of threads is fixed, because x264's result depends on it and should not depend on the machine. Nor should
# it depend on the processor: with AVX-512, by default, x264 reads uninitialized memory when a frame is narrow, so two
# encodings of the same frames differ even on one machine.
_X264 = {"crf": "16", "preset": "medium", "threads": "4", "x264-params": "cpu-independent=1"}
_BT709 = 1  # the same code for matrix, primaries and transfer (ISO/IEC 23091-2)
_BICUBIC, _ACCURATE, _EXACT = 0x4, 0x40000, 0x80000  # libswscale flags: the same result with and without SIMD
_FULL, _LIMITED = 2, 1  # AVColorRange

_RAW_BYTES = 1.5  # per pixel in yuv420p, which H.264 at this quality never reaches
_SPARE_BYTES = 16 << 20
_MAX_FPS = 240


@dataclass(frozen=True, kw_only=True)
class Sealed:
    """A finished video: its path, the SHA-256 of its bytes, its marks, and the names in its manifest. A picture has one
    frame and no rate: `fps` is 0.

    `watermark` is the id in the pixels, in hexadecimal; it, `manifest` and `signer` are None when there is none.
    `timestamp` is None when no time stamp was requested, "stamped" when the file has one, and otherwise "none: " and
    the reason.
    """

    path: Path
    id: str
    sha256: str
    bytes: int
    width: int
    height: int
    frames: int
    fps: int | float
    marks: str
    watermark: str | None
    label: bool
    manifest: str | None
    signer: str | None
    timestamp: str | None

    def to_json(self) -> dict[str, Any]:
        """The same as a plain dictionary, ready for `json.dumps`."""
        return {**dataclasses.asdict(self), "path": str(self.path)}


def check_output(out: str | Path, *, pixels: int = 0, suffix: str = ".mp4") -> Path:
    """Check that a video, or a picture with the suffix ".png", can be written to `out` and signed, before any work
    begins. Writes nothing there.

    `pixels` is width * height * frames and decides how much disk space is needed. Creates the signing identity if there
    is none yet. Raises OutputError, with the remedy, or LichtspielError when the identity is unusable.
    """
    out = _check_target(Path(out), suffix)
    draft = storage.draft_path(out)
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
    if suffix == ".mp4":
        _encoder()
    identity.load_identity()
    return out


def seal(
    frames: Iterable[Frame],
    provenance: credentials.Provenance,
    out: str | Path,
    *,
    fps: int | Fraction,
    marks: Marks | None = None,
    signer: identity.Identity | None = None,
    timestamp: str | None = None,
    sound: Sound | None = None,
) -> Sealed:
    """Encode frames (uint8 [height, width, 3], RGB, even sides, all of one size), mark them and write the signed video
    to `out`.

    Frames are taken one at a time, so memory does not grow with their number. The file is written beside `out` under a
    hidden name, read back and checked, and then renamed: after an error or an interrupt nothing of it is left, and an
    older file at `out` is as it was. Otherwise that file is replaced. The same frames and id give the same picture data
    on every machine; the signature differs each time.

    `marks` defaults to the profile "eu", `signer` to this installation. `timestamp` is the URL of an RFC 3161
    authority; nothing else here uses the network. `sound` is copied from the media file that it names.

    Raises RequestError for frames that cannot be encoded and LichtspielError when writing or signing fails.
    """
    out, marks = _check_target(Path(out), ".mp4"), marks or Marks.of()
    if not (isinstance(fps, int | Fraction) and 1 <= fps <= _MAX_FPS):
        raise RequestError("fps", fps, f"it is a whole number or a fraction from 1 to {_MAX_FPS}")
    settings = EncodeSettings(fps, marks, dataclasses.replace(provenance, watermarked=marks.watermark), sound)
    return finalize(out, settings, lambda draft: _encode(frames, draft, settings), signer, timestamp)


def finalize(
    out: Path,
    settings: EncodeSettings,
    encode: Callable[[Path], dict[str, int]],
    signer: identity.Identity | None,
    timestamp: str | None,
) -> Sealed:
    """Sign a draft, read it back, and rename it to `out`. `encode` writes the draft to the path it is called with and
    returns width, height and number of frames. The draft is removed whatever happens."""
    encoded = storage.draft_path(out)
    provenance, marks, fps = settings.provenance, settings.marks, settings.fps
    try:
        picture = encode(encoded)
        with write_errors(out), storage.atomic_write(out) as signed:
            credential, stamped = manifest.Reading("none"), None
            if marks.credentials:
                credential, stamped = _sign(encoded, signed, settings, signer or identity.load_identity(), timestamp)
            else:
                encoded.rename(signed)
            sha256, size = storage.file_sha256(signed), signed.stat().st_size
    finally:
        encoded.unlink(missing_ok=True)
    signature = credential.manifest.get("signature_info") or {}
    return Sealed(
        path=out,
        id=provenance.id,
        sha256=sha256,
        bytes=size,
        **picture,
        fps=float(fps) if fps % 1 else int(fps),
        marks=marks.profile,
        watermark=f"{provenance.mark:08x}" if marks.watermark else None,
        label=marks.label,
        manifest=credential.manifest.get("label"),
        signer=signature.get("common_name"),
        timestamp=stamped,
    )


def _sign(
    encoded: Path, signed: Path, settings: EncodeSettings, identity: identity.Identity, timestamp: str | None
) -> tuple[manifest.Reading, str | None]:
    """Sign, then read the result back as a stranger would. Returns what was read, and `Sealed.timestamp`."""
    stamped = credentials.sign(encoded, signed, settings.provenance, identity, timestamp, format=settings.format)
    credential = manifest.read(signed, identity.root)
    if not credential.ours:
        raise LichtspielError(f"the seal does not hold, so nothing was written: {'; '.join(credential.problems)}")
    return credential, stamped


@dataclass(frozen=True)
class EncodeSettings:
    """What a file is encoded with: frame rate, marks, provenance, the sound to copy, and the MIME type."""

    fps: int | Fraction
    marks: Marks
    provenance: credentials.Provenance
    sound: Sound | None = None
    format: str = "video/mp4"

    def tags(self) -> dict[str, str]:
        """The unsigned entries of the file."""
        provenance = self.provenance
        return labels.tags(
            self.marks, id=provenance.id, model=provenance.model, version=provenance.version, created=provenance.created
        )

    def apply_marks(self, height: int, width: int) -> Callable[[Frame, int], Frame]:
        """A function that puts the visible label and the watermark on a frame of this size, given its number."""
        from lichtspiel.seal.visible import VisibleLabel  # both load OpenCV
        from lichtspiel.seal.watermark import Watermark

        mark = Watermark(self.provenance.mark, height, width).mark if self.marks.watermark else None
        label = VisibleLabel(self.marks, height, width, self.fps).draw if self.marks.label else None

        def apply(frame: Frame, number: int) -> Frame:
            if label is not None:
                frame = label(frame, number)
            return frame if mark is None else mark(frame)

        return apply


def _check_target(out: Path, suffix: str) -> Path:
    if out.suffix.lower() != suffix:
        nearest = f"{out.parent / (out.stem or 'out')}{suffix}"
        kind = "videos are written as MP4" if suffix == ".mp4" else "pictures are written as PNG"
        raise OutputError(f"{out}: {kind}; nearest valid name: {nearest}")
    if out.exists() and not out.is_file():
        raise OutputError(f"{out}: is there already and is not a file; choose another name")
    if out.exists() and not os.access(out, os.W_OK):
        raise OutputError(f"{out}: is there already and is write-protected; choose another name")
    if not out.parent.is_dir():
        raise OutputError(f"{out}: the folder {out.parent} does not exist; make it first: mkdir -p '{out.parent}'")
    return out


def _encode(frames: Iterable[Frame], path: Path, settings: EncodeSettings) -> dict[str, int]:
    """Write an unsigned H.264 file and return width, height and number of frames. Only `seal` calls this, and only with
    the path of a draft."""
    import av

    iterator = iter(frames)
    first = next(iterator, None)
    if first is None:
        raise RequestError("frames", 0, "a video has at least one frame", 1)
    width, height = _size(first)
    count = 0
    apply = settings.apply_marks(height, width)
    _encoder()
    with contextlib.ExitStack() as stack:
        sound = stack.enter_context(settings.sound.opened()) if settings.sound else None
        with write_errors(path):
            container = av.open(f"file:{path.absolute()}", "w", format="mp4", options=labels.muxer(settings.marks))
        container.metadata.update(settings.tags())
        try:
            stream = container.add_stream("libx264", rate=settings.fps, options=_X264)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            context: Any = stream.codec_context
            context.color_primaries = context.color_trc = context.colorspace = _BT709
            context.color_range = _LIMITED
            track = container.add_stream_from_template(sound) if sound else None
            for frame in itertools.chain([first], iterator):
                if (size := _size(frame)) != (width, height):
                    raise RequestError("frames", size, "all have the size of the first", (width, height))
                with write_errors(path):
                    container.mux(stream.encode(_yuv420p(apply(frame, count))))
                count += 1
            with write_errors(path):
                container.mux(stream.encode(None))
                for packet in settings.sound.packets(sound) if settings.sound and sound else ():
                    packet.stream = track
                    container.mux(packet)
        finally:
            with write_errors(path):
                container.close()
    return {"width": width, "height": height, "frames": count}


def _size(frame: Frame) -> tuple[int, int]:
    if getattr(frame, "dtype", None) != "uint8" or frame.ndim != 3 or frame.shape[2] != 3:
        kind = f"{getattr(frame, 'dtype', type(frame).__name__)} {list(getattr(frame, 'shape', ()))}"
        raise RequestError("frames", kind, "a frame is a uint8 array [height, width, 3]")
    height, width, _ = frame.shape
    if height % 2 or width % 2 or not height or not width:
        even = f"{max(2, width - width % 2)}x{max(2, height - height % 2)}"
        raise RequestError("size", f"{width}x{height}", "width and height are even, as yuv420p needs", even)
    return width, height


def _yuv420p(frame: Frame) -> av.VideoFrame:
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


@contextlib.contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn an OSError into an OutputError. Wrap only what writes: the source of the frames may raise OSError, too."""
    try:
        yield
    except OSError as error:
        hint = "; free some space" if error.errno == errno.ENOSPC else ""
        raise OutputError(f"{path.parent}: the result cannot be written: {error.strerror or error}{hint}") from error
