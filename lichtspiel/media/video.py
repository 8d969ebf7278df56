"""Videos on their way in: bounded in bytes, pixels and frames, upright, with square pixels, RGB.

What cannot be used is refused with the file's name and the remedy. No video is written here: `seal` does that.
Frames are uint8 arrays [height, width, 3].
"""

from __future__ import annotations

import contextlib
import itertools
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lichtspiel.errors import MediaError
from lichtspiel.media.probe import survey
from lichtspiel.media.sheet import spread

if TYPE_CHECKING:
    import av

    from lichtspiel.frames import Frame


__all__ = ["OPTIONS", "Video", "VideoInfo", "open_video", "read_paced", "read_video", "sample_video", "video_info"]

MAX_VIDEO_PIXELS = 4096 * 2304
MAX_VIDEO_FRAMES = 10_000

OPTIONS = {"protocol_whitelist": "file", "format_whitelist": "mov,mp4,matroska,webm,avi,mpegts,mpeg,gif"}
"""FFmpeg's options for every file from outside. No other format is tried: FFmpeg would also take text for a video, and
follow playlists to other files and addresses."""

_OPENING = 5.0  # seconds that opening a video, or one read from it, may take
_SHORT = 12  # seconds: a video that is no longer is decoded as a whole, even when only some of its frames are needed
_PLACES = 8
_HD = 1920 * 1088  # pixels: of larger frames no more are decoded at once than needed

_MOST_FPS = 120  # a declared rate above is the unit of time stamps, as browsers write it
_LATE = 0.1  # seconds: encoders delay the first frame by one or two
_HDR = {16: "PQ", 18: "HLG"}  # transfer characteristics of ITU-T H.273


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """A video as it is shown: size after rotation and with square pixels, frames per second, and the number of frames
    that its container declares (0 when it does not say)."""

    width: int
    height: int
    fps: float
    frames: int


@dataclass(frozen=True)
class Video:
    """An open video: what it declares, and its frames, which can be read once."""

    info: VideoInfo
    frames: Iterator[Frame]


def open_video(path: str | Path, *, max_frames: int = MAX_VIDEO_FRAMES) -> Video:
    """Open a video and decode its first frame; the others are decoded as `frames` is read.

    Raises MediaError when it is missing, damaged, cut off, no video, larger than the limits in pixels or bytes, or has
    more than `max_frames` frames: here if that shows in what it declares or in the first frame, else while reading.
    """
    path = Path(path)
    with contextlib.ExitStack() as stack:
        container, stream = stack.enter_context(_opened(path))
        declared = int(stream.frames)
        if declared > max_frames:
            raise MediaError(f"{path}: has {declared:,} frames; at most {max_frames:,} are read; cut it first")
        _check_transfer(path, stream)
        frames = _frames(path, stream, container.decode(stream))
        first = next(frames, None)
        if first is None:
            raise MediaError(f"{path}: holds no frame; export it again")
        fps = stream.average_rate or stream.guessed_rate
        height, width, _ = first.shape
        info = VideoInfo(width=width, height=height, fps=float(fps or 0), frames=declared)
        opened = stack.pop_all()

    def read() -> Iterator[Frame]:
        with opened:
            for number, frame in enumerate(itertools.chain([first], frames)):
                if number == max_frames:
                    raise MediaError(f"{path}: has more than {max_frames:,} frames; cut it first")
                yield frame

    return Video(info, read())


def video_info(path: str | Path) -> VideoInfo:
    """What a video's first frame and its container say. Raises MediaError as `open_video` does."""
    return open_video(path).info


def read_video(path: str | Path, *, max_frames: int = MAX_VIDEO_FRAMES) -> Iterator[Frame]:
    """Yield a video's frames, upright and with square pixels, one at a time. Raises MediaError as `open_video` does."""
    return open_video(path, max_frames=max_frames).frames


def read_paced(path: str | Path) -> tuple[Fraction, Iterator[Frame]]:
    """A video's frames per second, and its frames at that constant rate, beginning when its sound begins.

    A video of even pace keeps its frames as they are. In one of uneven pace, as telephones, screen recorders and
    browsers write them, frames are repeated or dropped so that each is shown when its time stamp says; the first one
    is shown from the start. Raises MediaError as `open_video` does.
    """
    path = Path(path)
    stamps, declared = _stamps(path)
    if not stamps or (declared and _even(stamps, declared)):
        return declared or Fraction(16), read_video(path)
    intervals = sorted(later - earlier for earlier, later in itertools.pairwise(stamps) if later > earlier)
    shortest = intervals[len(intervals) // 10] if intervals else 1 / 16
    fps = Fraction(min(max(round(1 / shortest), 1), _MOST_FPS))
    if stamps[-1] * fps > MAX_VIDEO_FRAMES:
        raise MediaError(
            f"{path}: lasts {stamps[-1]:,.0f} s; at most {MAX_VIDEO_FRAMES:,} frames are read; cut it first"
        )
    return fps, _at_rate(path, float(fps))


def _stamps(path: Path) -> tuple[list[float], Fraction | None]:
    """When each frame is shown, in seconds from the start of the file, counted without decoding; and the declared
    rate."""
    import av

    with _opened(path) as (container, stream):
        start = (container.start_time or 0) / 1e6
        try:
            packets = [packet.pts for packet in container.demux(stream) if packet.pts is not None]
            shown = [float(pts * stream.time_base) - start for pts in packets]
        except av.FFmpegError as error:
            raise MediaError(f"{path}: is damaged or cut off ({error.strerror}); copy or export it again") from error
        declared = stream.average_rate or stream.guessed_rate
    return sorted(shown), Fraction(declared).limit_denominator(1001) if declared else None


def _even(stamps: list[float], fps: Fraction) -> bool:
    """Whether frames follow each other at a rate, within half an interval, and begin with the sound."""
    if fps > _MOST_FPS or stamps[0] > _LATE:
        return False
    return all(abs(stamp - stamps[0] - number / fps) < 0.5 / fps for number, stamp in enumerate(stamps))


def _at_rate(path: Path, fps: float) -> Iterator[Frame]:
    """Each frame as often as its turn lasts at a rate."""
    times: list[float] = []
    with _opened(path) as (container, stream):
        start = (container.start_time or 0) / 1e6
        frames = _frames(path, stream, container.decode(stream), times=times)
        shown, written = next(frames), 0
        for frame in frames:
            due = round((times[-1] - start) * fps)
            for _ in range(due - written):
                yield shown
            shown, written = frame, max(due, written)
        yield shown


def sample_video(path: str | Path, count: int) -> Iterator[Frame]:
    """Yield about `count` frames of a video, in bounded time however long it is.

    From a short video they are spread over the whole. A long one is sampled at eight places, each time from a key frame
    on, because only there can decoding begin. Raises MediaError as `read_video` does.
    """
    path = Path(path)
    with _opened(path) as (container, stream):
        length = float((stream.duration or 0) * (stream.time_base or 0)) or (container.duration or 0) / 1e6
        if length > _SHORT:
            for part in range(_PLACES):
                container.seek(int(length * part / _PLACES / stream.time_base), stream=stream)
                yield from itertools.islice(_frames(path, stream, container.decode(stream)), -(-count // _PLACES))
            return
    keys, packets = _packets(path)
    with _opened(path) as (container, stream):
        if packets <= _SHORT * 120:
            wanted = set(spread(range(max(packets, 1)), count))
            decoded = (frame for number, frame in enumerate(container.decode(stream)) if number in wanted)
            large = stream.codec_context is not None and stream.codec_context.width * stream.codec_context.height > _HD
            yield from _frames(path, stream, decoded, "SLICE" if large else "AUTO")
            return
        starts = {keys[len(keys) * part // _PLACES] for part in range(_PLACES)}
        yield from _frames(path, stream, _decoded_runs(container, stream, starts, -(-count // len(starts))), "SLICE")


def _packets(path: Path) -> tuple[list[int], int]:
    """The numbers of the key frames' packets of a video, and how many packets there are: about one per frame.

    They are counted without decoding: Matroska and WebM need not say how long they are, and others may lie.
    """
    import av

    keys, count, coded = list[int](), 0, 0
    with _opened(path) as (container, stream):
        try:
            for packet in container.demux(stream):
                if packet.is_keyframe and packet.size:
                    keys.append(count)
                count += 1
                coded += bool(packet.size)  # the last one is empty
        except av.FFmpegError as error:
            raise MediaError(f"{path}: is damaged or cut off ({error.strerror}); copy or export it again") from error
    return keys, coded


def _decoded_runs(
    container: av.container.InputContainer, stream: Any, starts: set[int], length: int
) -> Iterator[av.VideoFrame]:
    """Up to `length` frames from each of the packets with the numbers `starts`, which are key frames."""
    left = 0
    for number, packet in enumerate(container.demux(stream)):
        if number in starts:
            left = length
            if stream.codec_context.is_open:
                stream.codec_context.flush_buffers()
        for frame in packet.decode() if left else ():
            if left:
                left -= 1
                yield frame


def _upright(pixels: Frame, frame: av.VideoFrame) -> Frame:
    """A frame as its display matrix says (ISO/IEC 14496-12, 8.3.2: x' = ax + cy, y' = bx + dy), in quarter turns and
    mirrored or not, which is all that cameras write."""
    side: Any = frame.side_data.get("DISPLAYMATRIX")
    if side is None:
        return pixels
    a, b, _, c, d, *_ = struct.unpack("=9i", memoryview(side))
    if abs(b) > abs(a):
        a, d, pixels = c, b, pixels.transpose(1, 0, 2)
    return pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def _check_transfer(path: Path, stream: Any) -> None:
    name = _HDR.get(int(getattr(stream.codec_context, "color_trc", 0) or 0))
    if name is not None:
        raise MediaError(f"{path}: is HDR video ({name}), which would turn gray; convert it to SDR (BT.709) first")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[av.container.InputContainer, Any]]:
    """The container and its first video stream, with FFmpeg's refusal turned into MediaError."""
    import av

    survey(path)  # FFmpeg plays an MP4 that was cut off as a shorter one
    try:
        # FFmpeg's time for tags grows with the square of their number: without a limit 12 MB of them take an hour.
        container = av.open(f"file:{path.absolute()}", options=OPTIONS, timeout=_OPENING)
    except (av.FFmpegError, ValueError) as error:
        raise MediaError(f"{path}: is no video that can be read, or is damaged; export it as MP4") from error
    with container:
        if not container.streams.video:
            raise MediaError(f"{path}: holds no video")
        yield container, container.streams.video[0]


def _frames(
    path: Path,
    stream: Any,
    decoded: Iterator[av.VideoFrame],
    threads: Literal["AUTO", "SLICE"] = "AUTO",
    times: list[float] | None = None,
) -> Iterator[Frame]:
    """The frames of `decoded` upright, with square pixels, in RGB; sets the decoder up before the first is decoded.

    Frame threads, which AUTO may use, hold back as many frames as there are threads. `times` takes the time of each
    frame in seconds.
    """
    import av
    import numpy as np

    context = stream.codec_context
    if context is None:
        raise MediaError(f"{path}: is coded in a way that this FFmpeg does not know; export it as H.264 in MP4")
    limit = f"{path}: frames of at most {MAX_VIDEO_PIXELS:,} pixels are read; reduce the video first"
    if context.width * context.height > MAX_VIDEO_PIXELS:
        raise MediaError(limit)
    if not context.is_open:  # it is from the second place on that a long video is looked at
        context.options = {"max_pixels": str(MAX_VIDEO_PIXELS + (1 << 20))}  # it may grow later; codecs pad a little
        context.thread_type = threads
    ratio = float(stream.sample_aspect_ratio or 1)
    if not 0.1 <= ratio <= 10:
        raise MediaError(f"{path}: declares pixels {ratio:g} times as wide as high; export it with square pixels")
    try:
        for frame in decoded:
            if frame.width * frame.height * max(ratio, 1) > MAX_VIDEO_PIXELS:
                raise MediaError(limit)
            pixels: Any = frame.to_ndarray(
                format="rgb24", width=max(1, round(frame.width * ratio)), height=frame.height
            )
            if times is not None:
                times.append(frame.time or 0.0)
            yield np.ascontiguousarray(_upright(pixels, frame))
    except av.FFmpegError as error:
        raise MediaError(f"{path}: is damaged or cut off ({error.strerror}); copy or export it again") from error
