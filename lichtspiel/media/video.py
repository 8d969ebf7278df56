"""Read videos, upright, with square pixels and in RGB, with limits on bytes, pixels and frames.

Errors name the file and the remedy. Videos are written in `seal`, not here. Frames are uint8 arrays
[height, width, 3].
"""

from __future__ import annotations

import contextlib
import itertools
import math
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lichtspiel.errors import MediaError
from lichtspiel.media.hdr import ToRGB
from lichtspiel.media.probe import survey
from lichtspiel.media.sheet import spread

if TYPE_CHECKING:
    import av

    from lichtspiel.frames import Frame


__all__ = [
    "OPTIONS",
    "Video",
    "VideoInfo",
    "check_pixels",
    "decoded_stamps",
    "open_video",
    "opened_video",
    "prepare",
    "read_paced",
    "read_video",
    "sample_video",
    "time_stamps",
    "turned",
    "undecodable",
    "upright",
    "video_info",
]

MAX_VIDEO_PIXELS = 4096 * 2304
MAX_VIDEO_FRAMES = 10_000

OPTIONS = {"protocol_whitelist": "file", "format_whitelist": "mov,mp4,matroska,webm,avi,mpegts,mpeg,gif"}
"""FFmpeg options for untrusted files. They restrict the formats because FFmpeg would otherwise read text files as
videos, and follow playlists to other files and URLs."""

_OPENING = 5.0  # seconds that opening a video, or a single read from it, may take
_SHORT = 12  # seconds: up to this length a video is decoded completely, even if only some of its frames are needed
_PLACES = 8
_HD = 1920 * 1088  # pixels: larger frames are not decoded ahead in parallel

_MOST_FPS = 120  # a higher declared rate is really the time base, as browsers write it
_LATE = 0.1  # seconds: encoders delay the first frame by one or two frames


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """A video as displayed: the size after rotation and with square pixels, the frames per second, and the number of
    frames that the container declares (0 if it does not)."""

    width: int
    height: int
    fps: float
    frames: int


@dataclass(frozen=True)
class Video:
    """An open video: its declared properties, and its frames, which can be read only once."""

    info: VideoInfo
    frames: Iterator[Frame]


def open_video(path: str | Path, *, max_frames: int = MAX_VIDEO_FRAMES) -> Video:
    """Open a video and decode its first frame; the others are decoded as `frames` is read.

    Raises MediaError when the file is missing, damaged, truncated, not a video, over the limits in pixels or bytes, or
    has more than `max_frames` frames. The error comes immediately if the declared properties or the first frame show
    it, otherwise while the frames are read.
    """
    path = Path(path)
    with contextlib.ExitStack() as stack:
        container, stream = stack.enter_context(opened_video(path))
        declared = int(stream.frames)
        if declared > max_frames:
            raise MediaError(f"{path}: has {declared:,} frames; at most {max_frames:,} are read; cut it first")
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
    """The properties of a video, from its container and first frame. Raises MediaError like `open_video`."""
    return open_video(path).info


def read_video(path: str | Path, *, max_frames: int = MAX_VIDEO_FRAMES) -> Iterator[Frame]:
    """Yield a video's frames, upright and with square pixels, one at a time. Raises MediaError like `open_video`."""
    return open_video(path, max_frames=max_frames).frames


def read_paced(path: str | Path) -> tuple[Fraction, Iterator[Frame]]:
    """Return a video's frame rate, and its frames at that constant rate, starting when its sound starts.

    A video with a constant frame rate keeps its frames unchanged. Phones, screen recorders and browsers write variable
    frame rates; for these, frames are repeated or dropped so that each is shown at its time stamp. The first frame is
    shown from the start. Raises MediaError like `open_video`.
    """
    path = Path(path)
    stamps, declared = time_stamps(path)
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


def time_stamps(path: Path) -> tuple[list[float], Fraction | None]:
    """Each frame's time stamp in seconds from the start of the file, in order, read without decoding; and the declared
    frame rate. Raises MediaError like `open_video`."""
    return _stamps(path, lambda container, stream: (p.pts for p in container.demux(stream) if not p.is_discard))


def decoded_stamps(path: Path) -> tuple[list[float], Fraction | None]:
    """The same from the decoded frames: exact also for codecs with packets that are not shown, but slower."""
    return _stamps(path, lambda container, stream: (frame.pts for frame in container.decode(stream)))


def _stamps(path: Path, times: Callable[[Any, Any], Iterable[int | None]]) -> tuple[list[float], Fraction | None]:
    import av

    with opened_video(path) as (container, stream):
        start = (container.start_time or 0) / 1e6
        try:
            shown = [float(pts * stream.time_base) - start for pts in times(container, stream) if pts is not None]
        except av.FFmpegError as error:
            raise MediaError(f"{path}: is damaged or cut off ({error.strerror}); copy or export it again") from error
        declared = stream.average_rate or stream.guessed_rate
    return sorted(shown), Fraction(declared).limit_denominator(1001) if declared else None


def _even(stamps: list[float], fps: Fraction) -> bool:
    """Whether the frames have a constant rate, within half an interval, and start together with the sound."""
    if fps > _MOST_FPS or stamps[0] > _LATE:
        return False
    return all(abs(stamp - stamps[0] - number / fps) < 0.5 / fps for number, stamp in enumerate(stamps))


def _at_rate(path: Path, fps: float) -> Iterator[Frame]:
    """Yield the frames at a constant rate, each repeated or dropped according to its duration."""
    times: list[float] = []
    with opened_video(path) as (container, stream):
        start = (container.start_time or 0) / 1e6
        frames = _frames(path, stream, container.decode(stream), times=times)
        shown, written = next(frames), 0
        for frame in frames:
            due = round((times[-1] - start) * fps)
            for _ in range(due - written):
                yield shown
            shown, written = frame, max(due, written)
        yield shown


def sample_video(path: str | Path, count: int, most_pixels: int | None = None) -> Iterator[Frame]:
    """Yield about `count` frames of a video, in bounded time regardless of its length.

    Frames of more than `most_pixels` are reduced, by averaging, as they are read; their full size in RGB is never in
    memory. In a short video they are spread over the whole length. A long one is sampled at eight places, each starting
    at a key frame, because decoding can only start there. Raises MediaError like `read_video`.
    """
    path = Path(path)
    with opened_video(path) as (container, stream):
        length = float((stream.duration or 0) * (stream.time_base or 0)) or (container.duration or 0) / 1e6
        if length > _SHORT:
            for part in range(_PLACES):
                container.seek(int(length * part / _PLACES / stream.time_base), stream=stream)
                read = _frames(path, stream, container.decode(stream), most_pixels=most_pixels)
                yield from itertools.islice(read, -(-count // _PLACES))
            return
    keys, packets = _packets(path)
    with opened_video(path) as (container, stream):
        if packets <= _SHORT * 120:
            wanted = set(spread(range(max(packets, 1)), count))
            decoded = (frame for number, frame in enumerate(container.decode(stream)) if number in wanted)
            large = stream.codec_context is not None and stream.codec_context.width * stream.codec_context.height > _HD
            yield from _frames(path, stream, decoded, "SLICE" if large else "AUTO", most_pixels=most_pixels)
            return
        starts = {keys[len(keys) * part // _PLACES] for part in range(_PLACES)}
        runs = _decoded_runs(container, stream, starts, -(-count // len(starts)))
        yield from _frames(path, stream, runs, "SLICE", most_pixels=most_pixels)


def _packets(path: Path) -> tuple[list[int], int]:
    """The indices of a video's key-frame packets, and the number of packets, which is about one per frame.

    Packets are counted without decoding: Matroska and WebM need not declare a length, and other containers may lie.
    """
    import av

    keys, count, coded = list[int](), 0, 0
    with opened_video(path) as (container, stream):
        try:
            for packet in container.demux(stream):
                if packet.is_keyframe and packet.size:
                    keys.append(count)
                count += 1
                coded += bool(packet.size)  # the last packet is empty
        except av.FFmpegError as error:
            raise MediaError(f"{path}: is damaged or cut off ({error.strerror}); copy or export it again") from error
    return keys, coded


def undecodable(path: Path) -> tuple[int, int]:
    """How many packets at the beginning of a video cannot be decoded, because no key frame precedes them, and how many
    packets there are. Raises MediaError."""
    keys, count = _packets(path)
    return (keys[0] if keys else count), count


def _decoded_runs(
    container: av.container.InputContainer, stream: Any, starts: set[int], length: int
) -> Iterator[av.VideoFrame]:
    """Yield up to `length` frames from each of the packets at the indices `starts`, which are key frames."""
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


def upright(pixels: Frame, frame: av.VideoFrame) -> Frame:
    """Apply a frame's display matrix (ISO/IEC 14496-12, 8.3.2: x' = ax + cy, y' = bx + dy). Supports quarter turns,
    with or without mirroring, which is all that cameras write."""
    from av.sidedata.sidedata import SideDataContainer

    # `frame.side_data` would refer to the frame and the frame to it, so that frames stay until garbage is collected: a
    # second of 4K video took 2 GB.
    side: Any = SideDataContainer(frame).get("DISPLAYMATRIX")  # type: ignore[call-arg]
    if side is None:
        return pixels
    a, b, _, c, d, *_ = struct.unpack("=9i", memoryview(side))
    if abs(b) > abs(a):
        a, d, pixels = c, b, pixels.transpose(1, 0, 2)
    return pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def turned(frame: av.VideoFrame) -> bool:
    """Whether `upright` exchanges width and height."""
    side: Any = frame.side_data.get("DISPLAYMATRIX")
    if side is None:
        return False
    a, b, *_ = struct.unpack("=9i", memoryview(side))
    return bool(abs(b) > abs(a))


@contextlib.contextmanager
def opened_video(path: Path) -> Iterator[tuple[av.container.InputContainer, Any]]:
    """Open the container and its first video stream; FFmpeg's errors become MediaError."""
    import av

    survey(path)  # FFmpeg would play a truncated MP4 as a shorter video
    try:
        # FFmpeg's time is quadratic in the number of tags: without a limit, 12 MB of tags take an hour.
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
    most_pixels: int | None = None,
) -> Iterator[Frame]:
    """Yield the frames of `decoded` upright, with square pixels, in RGB. Configures the decoder before the first frame.

    Frame threads, which AUTO may use, hold back as many frames as there are threads. The time of each frame, in
    seconds, is stored in `times`. Frames of more than `most_pixels` are reduced.
    """
    import av
    import numpy as np

    ratio, to_rgb = prepare(path, stream, threads), ToRGB()
    try:
        for frame in decoded:
            check_pixels(path, frame.width * frame.height * max(ratio, 1))
            width, height, way = max(1, round(frame.width * ratio)), frame.height, None
            if most_pixels is not None and width * height > most_pixels:
                factor = math.sqrt(most_pixels / (width * height))
                width, height, way = max(1, int(width * factor)), max(1, int(height * factor)), "AREA"
            pixels = to_rgb(frame, width, height, way)
            if times is not None:
                times.append(frame.time or 0.0)
            yield np.ascontiguousarray(upright(pixels, frame))
    except av.FFmpegError as error:
        raise MediaError(f"{path}: is damaged or cut off ({error.strerror}); copy or export it again") from error


def prepare(path: Path, stream: Any, threads: Literal["AUTO", "SLICE"] = "AUTO", **options: str) -> float:
    """Configure a stream's decoder before the first frame, with further `options` of FFmpeg, and return how many times
    as wide as high its pixels are. Raises MediaError for what cannot be decoded or exceeds the limits."""
    context = stream.codec_context
    if context is None:
        raise MediaError(f"{path}: is coded in a way that this FFmpeg does not know; export it as H.264 in MP4")
    check_pixels(path, context.width * context.height)
    if not context.is_open:  # already open from the second sampled place of a long video on
        # Sizes may grow later; codecs pad a little.
        context.options = {"max_pixels": str(MAX_VIDEO_PIXELS + (1 << 20)), **options}
        context.thread_type = threads
    ratio = float(stream.sample_aspect_ratio or 1)
    if not 0.1 <= ratio <= 10:
        raise MediaError(f"{path}: declares pixels {ratio:g} times as wide as high; export it with square pixels")
    return ratio


def check_pixels(path: Path, pixels: float) -> None:
    """Raise MediaError for a frame with more pixels than are read."""
    if pixels > MAX_VIDEO_PIXELS:
        raise MediaError(f"{path}: frames of at most {MAX_VIDEO_PIXELS:,} pixels are read; reduce the video first")
