"""The only place in the package where a video file is written.

It encodes H.264 in MP4 (`picture` writes PNG), or copies a picture that stays as it is and puts `tracks` beside it. It
applies the marks in their order (visible label, watermark, tags, signature) and makes a file appear whole or not at
all. It knows neither models nor requests nor what the provenance says; it makes sure that no file is written without
one, unless the user opted out and gave a reason.
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
from datetime import UTC
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lichtspiel import storage
from lichtspiel.errors import LichtspielError, MediaError, OutputError, RequestError
from lichtspiel.media.probe import survey
from lichtspiel.media.video import OPTIONS
from lichtspiel.seal import credentials, identity, labels, manifest, xmp
from lichtspiel.seal.marks import Marks
from lichtspiel.seal.sound import Sound
from lichtspiel.seal.tracks import Tracks, interleaved, prepare_text, sound_packets, text_packets

if TYPE_CHECKING:
    import av

    from lichtspiel.frames import Frame


__all__ = ["EncodeSettings", "Sealed", "check_output", "copies", "finalize", "seal", "seal_copy", "write_errors"]

# The number of threads is fixed, because x264's result depends on it and should not depend on the machine. Nor should
# it depend on the processor: with AVX-512, by default, x264 reads uninitialized memory when a frame is narrow, so two
# encodings of the same frames differ even on one machine.
_X264 = {"crf": "16", "preset": "medium", "threads": "4", "x264-params": "cpu-independent=1"}
_BT709 = 1  # the same code for matrix, primaries and transfer (ISO/IEC 23091-2)
_BICUBIC, _ACCURATE, _EXACT = 0x4, 0x40000, 0x80000  # libswscale flags: the same result with and without SIMD
_FULL, _LIMITED = 2, 1  # AVColorRange

_PICTURES = frozenset(["h264", "hevc", "av1", "vp9", "mpeg4"])  # what is copied into MP4 as it is
_AAC_BITS = 96_000  # a second and channel

_RAW_BYTES = 1.5  # per pixel in yuv420p, which H.264 at this quality never reaches
_SPARE_BYTES = 16 << 20
_MAX_FPS = 240
_NAME_BYTES = 255  # the limit of file systems
_PICTURE_SUFFIXES = frozenset([".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".avif", ".heic"])
_UNMARKED = {
    ".webm": ", because C2PA has no place for credentials in WebM",
    ".mkv": ", because C2PA has no place for credentials in Matroska",
}
"""Why a format that people ask for is not written."""


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
    begins. Writes nothing there, and removes the drafts that runs which were killed left there a day ago or earlier.

    `pixels` is width * height * frames and decides how much disk space is needed. Creates the signing identity if there
    is none yet. Raises OutputError, with the remedy, or LichtspielError when the identity is unusable.
    """
    out = _check_target(Path(out), suffix)
    draft = storage.draft_path(out)
    try:
        draft.touch(exist_ok=False)
        draft.unlink()
        storage.sweep_drafts(out.parent)
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
    sound: Sound | Tracks | None = None,
) -> Sealed:
    """Encode frames (uint8 [height, width, 3], RGB, even sides, all of one size), mark them and write the signed video
    to `out`.

    Frames are taken one at a time, so memory does not grow with their number. The file is written beside `out` under a
    hidden name, read back and checked, and then renamed: after an error or an interrupt nothing of it is left, and an
    older file at `out` is as it was. Otherwise that file is replaced. The same frames and id give the same picture data
    on every machine; the signature differs each time.

    `marks` defaults to the profile "eu", `signer` to this installation. `timestamp` is the URL of an RFC 3161
    authority; nothing else here uses the network. `sound` is copied from the media file that it names, or is whatever
    tracks stand beside the picture.

    Raises RequestError for frames that cannot be encoded and LichtspielError when writing or signing fails.
    """
    out, marks = _check_target(Path(out), ".mp4"), marks or Marks.of()
    if not (isinstance(fps, int | Fraction) and 1 <= fps <= _MAX_FPS):
        raise RequestError("fps", fps, f"it is a whole number or a fraction from 1 to {_MAX_FPS}")
    tracks = sound if isinstance(sound, Tracks) else Tracks(copied=sound)
    settings = EncodeSettings(fps, marks, dataclasses.replace(provenance, watermarked=marks.watermark), tracks)
    return finalize(out, settings, lambda draft: _encode(frames, draft, settings), signer, timestamp)


def seal_copy(
    video: Path,
    provenance: credentials.Provenance,
    out: str | Path,
    *,
    tracks: Tracks,
    marks: Marks | None = None,
    signer: identity.Identity | None = None,
    timestamp: str | None = None,
) -> Sealed:
    """Write the picture of a video as it is, bit by bit, with other tracks beside it, and sign the result.

    Of the marks, those in the file are set: comment, AIGC entry and credentials. A watermark would change the picture
    and is left out. Raises RequestError when the marks have a visible label, which needs `seal`, MediaError for a video
    whose picture MP4 cannot hold (see `copies`), and LichtspielError when writing or signing fails.
    """
    out, marks = _check_target(Path(out), ".mp4"), marks or Marks.of()
    if marks.label:
        raise RequestError("label", True, "the visible label changes the picture, which is copied as it is", False)
    survey(video)
    provenance = dataclasses.replace(provenance, watermarked=False)
    with _source(video) as source:
        _check_copied(video, source)
        rate = source.streams.video[0].average_rate or source.streams.video[0].guessed_rate
        fps = Fraction(rate or 1).limit_denominator(1001)
    settings = EncodeSettings(fps, dataclasses.replace(marks, watermark=False), provenance, tracks)
    return finalize(out, settings, lambda draft: _copy(video, draft, settings), signer, timestamp)


def copies(video: Path) -> bool:
    """Whether `seal_copy` can copy the picture of a video. Raises MediaError for a file that is no video."""
    survey(video)
    with _source(video) as source:
        return bool(source.streams.video) and _picture_codec(source) in _PICTURES


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
        if settings.format == "video/mp4" and (packet := settings.packet()):
            with write_errors(out):
                xmp.append_box(encoded, packet)
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
    """What a file is written with: frame rate, marks, provenance, the tracks beside the picture, and the MIME type."""

    fps: int | Fraction
    marks: Marks
    provenance: credentials.Provenance
    tracks: Tracks = dataclasses.field(default_factory=Tracks)
    format: str = "video/mp4"

    def tags(self) -> dict[str, str]:
        """The unsigned entries of the file."""
        provenance = self.provenance
        return labels.tags(
            self.marks,
            id=provenance.id,
            model=provenance.model,
            version=provenance.version,
            created=provenance.created,
            parts=" and ".join(provenance.synthesized),
        )

    def packet(self) -> str:
        """The XMP packet of the file; empty where the marks leave its tags out."""
        said = self.provenance
        if not self.marks.comment:
            return ""
        return xmp.packet(said.source_type, model=said.model, version=said.version, created=said.created)

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
    if (length := len(os.fsencode(out.name))) > _NAME_BYTES:
        raise OutputError(f"{out.name[:20]}…{out.name[-12:]}: has {length} bytes; a name has at most {_NAME_BYTES}")
    if out.suffix.lower() != suffix:
        picture = suffix == ".png" or out.suffix.lower() in _PICTURE_SUFFIXES
        nearest = f"{out.parent / (out.stem or 'out')}{'.png' if picture else suffix}"
        kind = "pictures are written as PNG" if picture else "videos are written as MP4"
        reason = _UNMARKED.get(out.suffix.lower(), "")
        raise OutputError(f"{out}: {kind}{reason}; nearest valid name: {nearest}")
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
    iterator = iter(frames)
    first = next(iterator, None)
    if first is None:
        raise RequestError("frames", 0, "a video has at least one frame", 1)
    width, height = _size(first)
    count = 0
    apply = settings.apply_marks(height, width)
    _encoder()
    with _container(path, settings) as (container, beside):
        stream = container.add_stream("libx264", rate=settings.fps, options=_X264)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        context: Any = stream.codec_context
        context.color_primaries = context.color_trc = context.colorspace = _BT709
        context.color_range = _LIMITED
        packets = beside()
        for frame in itertools.chain([first], iterator):
            if (size := _size(frame)) != (width, height):
                raise RequestError("frames", size, "all have the size of the first", (width, height))
            with write_errors(path):
                container.mux(stream.encode(_yuv420p(apply(frame, count))))
            count += 1
        with write_errors(path):
            container.mux(stream.encode(None))
            for packet in packets:
                container.mux(packet)
    return {"width": width, "height": height, "frames": count}


def _copy(video: Path, path: Path, settings: EncodeSettings) -> dict[str, int]:
    """Write an unsigned file with the packets of a video's picture; returns what `_encode` does. Only `seal_copy` calls
    this, and only with the path of a draft."""
    count = 0
    with _source(video) as source, _container(path, settings) as (container, beside):
        track: Any = source.streams.video[0]
        stream: Any = container.add_stream_from_template(track)
        stream.time_base = track.time_base
        start = _start(source, track)

        def pictures() -> Iterator[av.Packet[Any]]:
            nonlocal count
            for packet in source.demux(track):
                if packet.dts is None:
                    continue
                count += packet.size > 0
                packet.dts -= start
                packet.pts = packet.dts if packet.pts is None else packet.pts - start
                packet.stream = stream
                yield packet

        packets = beside()
        with write_errors(path):
            for packet in interleaved([pictures(), packets]):
                container.mux(packet)
        size = {"width": int(track.codec_context.width), "height": int(track.codec_context.height)}
    return {**size, "frames": count}


@contextlib.contextmanager
def _container(path: Path, settings: EncodeSettings) -> Iterator[tuple[Any, Callable[[], Iterator[av.Packet[Any]]]]]:
    """An open draft, and a function that adds the tracks beside the picture and returns their packets in order. It is
    called once, after the picture's stream was added, which players expect first."""
    import av

    tracks = settings.tracks
    with contextlib.ExitStack() as stack:
        copied = stack.enter_context(tracks.copied.opened()) if tracks.copied else None
        with write_errors(path):
            container: Any = av.open(f"file:{path.absolute()}", "w", format="mp4", options=labels.muxer(settings.marks))
        container.metadata.update(settings.tags())
        if settings.marks.comment:
            container.metadata["creation_time"] = settings.provenance.created.astimezone(UTC).isoformat()

        def beside() -> Iterator[av.Packet[Any]]:
            streams = list[Iterator[Any]]()
            if copied is not None and tracks.copied is not None:
                streams.append(_placed(tracks.copied.packets(copied), container.add_stream_from_template(copied)))
            for sound in tracks.sounds:
                channels = sound.samples.shape[1]
                voice = container.add_stream("aac", rate=sound.rate, layout="stereo" if channels == 2 else "mono")
                voice.bit_rate = _AAC_BITS * channels
                voice.metadata.update(_described(sound.language, sound.title))
                streams.append(sound_packets(voice, sound))
            for subtitles in tracks.subtitles:
                text = container.add_stream("mov_text")
                prepare_text(text)
                text.metadata.update(_described(subtitles.language, subtitles.title))
                streams.append(text_packets(text, subtitles))
            return interleaved(streams)

        try:
            yield container, beside
        finally:
            with write_errors(path):
                container.close()


def _described(language: str, title: str) -> dict[str, str]:
    """What players show of a track: VLC reads the title (in `udta`), others the name of the handler."""
    return {"language": language, **({"handler_name": title, "title": title} if title else {})}


@contextlib.contextmanager
def _source(path: Path) -> Iterator[av.container.InputContainer]:
    import av

    try:
        source = av.open(f"file:{path.absolute()}", options=OPTIONS)
    except (av.FFmpegError, ValueError) as error:
        raise MediaError(f"{path}: is no video that can be read, or is damaged; export it as MP4") from error
    with source:
        yield source


def _picture_codec(source: Any) -> str:
    context = source.streams.video[0].codec_context
    return str(context.codec.canonical_name) if context else "unknown"


def _check_copied(path: Path, source: Any) -> None:
    if not source.streams.video:
        raise MediaError(f"{path}: holds no video")
    if (codec := _picture_codec(source)) not in _PICTURES:
        raise MediaError(f"{path}: its picture ({codec}) does not fit into MP4; convert it to H.264 first")


def _placed(packets: Iterator[av.Packet[Any]], stream: Any) -> Iterator[av.Packet[Any]]:
    for packet in packets:
        packet.stream = stream
        yield packet


def _start(source: Any, track: Any) -> int:
    """When a file starts, in the time base of one of its tracks; MPEG transport streams start at any time."""
    start: int = round(Fraction(source.start_time or 0, 1_000_000) / track.time_base)
    return start


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
