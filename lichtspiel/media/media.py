"""Pictures and videos on their way in, and the contact sheet that shows a video at a glance.

It knows file formats and their limits: whatever is opened here is bounded in bytes, pixels and frames, and what cannot
be used is refused with the file's name and the remedy. It does not know models, and it writes no video: `seal` does.
Frames are uint8 arrays [height, width, 3], RGB.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import stat
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lichtspiel.errors import MediaError, OutputError
from lichtspiel.media.probe import survey

if TYPE_CHECKING:
    import av
    import numpy as np
    import numpy.typing as npt
    from PIL import Image

    Frame = npt.NDArray[np.uint8]

__all__ = [
    "VideoInfo",
    "contact_sheet",
    "is_picture",
    "load_image",
    "pictures",
    "read_frames",
    "read_video",
    "sample_video",
    "video_info",
]

MAX_IMAGE_BYTES = 64 << 20
MAX_IMAGE_PIXELS = 64_000_000
MAX_VIDEO_PIXELS = 4096 * 2304
MAX_VIDEO_FRAMES = 10_000

# What is tried, and nothing else: every further format is one more parser for files from strangers. FFmpeg would also
# take text for a video, and follow playlists to other files and addresses.
_IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
_IMAGE_NAMES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
_VIDEO_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": "mov,mp4,matroska,webm,avi,mpegts,mpeg,gif"}

_OPENING = 5.0  # seconds that opening a video, or one read from it, may take
_SHORT = 12  # seconds: such a video is decoded as a whole when some of its frames are asked for
_PLACES = 8

_SHEET_FRAMES = 12
_CELL = 320  # pixels: the longer side of a frame on the sheet
_GAP = 8


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """A video as it is shown: size after rotation and with square pixels, frames per second, and the number of frames
    that its container declares (0 when it does not say)."""

    width: int
    height: int
    fps: float
    frames: int


def load_image(path: str | Path) -> Frame:
    """Read a picture as RGB, turned upright as its EXIF orientation says, transparency over white.

    Raises MediaError when it is missing, damaged, too large, animated, of 16 bits, or no picture.
    """
    import numpy as np
    from PIL import Image, ImageOps, UnidentifiedImageError

    path = Path(path)
    _check_image_file(path)
    try:
        with Image.open(path, formats=_IMAGE_FORMATS) as image:
            _check_image(path, image)
            upright = ImageOps.exif_transpose(image)
            if upright.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in upright.info:
                pixels = upright.convert("RGBA")
                upright = Image.alpha_composite(Image.new("RGBA", pixels.size, "white"), pixels)
            return np.array(upright.convert("RGB"), dtype=np.uint8)
    except MediaError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise MediaError(f"{path}: has more than {MAX_IMAGE_PIXELS:,} pixels; reduce it first") from error
    except UnidentifiedImageError as error:
        raise MediaError(f"{path}: is no picture in {', '.join(_IMAGE_FORMATS)}; convert it to PNG") from error
    except Exception as error:  # Pillow's parsers let through whatever a damaged file makes them raise
        raise MediaError(f"{path}: is damaged ({error}); copy or export it again") from error


def video_info(path: str | Path) -> VideoInfo:
    """Look at a video's first frame and what its container declares. Raises MediaError as `read_video` does."""
    path = Path(path)
    with _opened(path) as (container, stream):
        first = next(_frames(path, container, stream), None)
        if first is None:
            raise MediaError(f"{path}: holds no frame; export it again")
        fps = stream.average_rate or stream.guessed_rate
        height, width, _ = first.shape
        return VideoInfo(width=width, height=height, fps=float(fps or 0), frames=int(stream.frames))


def read_video(path: str | Path, *, max_frames: int = MAX_VIDEO_FRAMES) -> Iterator[Frame]:
    """Yield a video's frames, upright and with square pixels, one at a time.

    Raises MediaError when it is missing, damaged, cut off, no video, larger than the limits in pixels or bytes, or has
    more than `max_frames` frames. The first frame is checked before this returns, the others when they come.
    """
    path = Path(path)
    info = video_info(path)
    if info.frames > max_frames:
        raise MediaError(f"{path}: has {info.frames:,} frames; at most {max_frames:,} are read; cut it first")
    return _read(path, max_frames)


def read_frames(path: str | Path) -> Iterator[Frame]:
    """Yield the frames of a video, of a folder of pictures in the order of their names, or of one picture.

    Raises MediaError as `read_video` and `load_image` do, and for a folder without pictures.
    """
    path = Path(path)
    if path.is_dir():
        return (load_image(picture) for picture in pictures(path))
    return iter([load_image(path)]) if is_picture(path) else read_video(path)


def is_picture(path: Path) -> bool:
    """Whether a file's name is one of a picture; whether it is one shows when it is read."""
    return path.suffix.lower() in _IMAGE_NAMES


def pictures(folder: Path) -> list[Path]:
    """The pictures in a folder, in the order of their names; raises MediaError when there are none, or too many."""
    try:
        found = sorted(path for path in folder.iterdir() if is_picture(path) and not path.name.startswith("."))
    except OSError as error:
        raise MediaError(f"{folder}: cannot be read: {error.strerror or error}") from error
    if not found:
        raise MediaError(f"{folder}: holds no picture ({', '.join(_IMAGE_NAMES)}); name a folder of frames")
    if len(found) > MAX_VIDEO_FRAMES:
        raise MediaError(f"{folder}: holds {len(found):,} pictures; at most {MAX_VIDEO_FRAMES:,} are read")
    return found


def sample_video(path: str | Path, count: int) -> Iterator[Frame]:
    """Yield about `count` frames of a video, in bounded time however long it is.

    Of a short one these are spread over the whole. A long one is looked at in eight places, at each from a key frame
    on, because only there can decoding begin. Raises MediaError as `read_video` does.
    """
    path = Path(path)
    with _opened(path) as (container, stream):
        length = (stream.duration or 0) * (stream.time_base or 0)
        if length <= _SHORT:
            yield from _spread(itertools.islice(_frames(path, container, stream), _SHORT * 120), count)
            return
        for place in range(_PLACES):
            container.seek(int(length * place / _PLACES / stream.time_base), stream=stream)
            yield from itertools.islice(_frames(path, container, stream), -(-count // _PLACES))


def contact_sheet(
    frames: Iterable[Frame], columns: int = 4, path: str | Path | None = None, most: int = _SHEET_FRAMES
) -> Image.Image:
    """Lay out at most `most` frames, evenly spread over the whole, as one picture; with `path`, also save it as PNG.

    Frames are taken one at a time and few are kept. Small ones are enlarged by a whole factor without smoothing, so
    that the pixels of a 64x64 video can be seen; large ones are reduced. Raises MediaError when there is no frame and
    OutputError when the picture cannot be saved.
    """
    from PIL import Image

    chosen = _spread(frames, most)
    if not chosen:
        raise MediaError("a contact sheet needs at least one frame")
    cells = [_cell(Image.fromarray(frame)) for frame in chosen]
    columns = min(columns, len(cells))
    rows = math.ceil(len(cells) / columns)
    width, height = max(cell.width for cell in cells) + _GAP, max(cell.height for cell in cells) + _GAP
    sheet = Image.new("RGB", (columns * width + _GAP, rows * height + _GAP), "white")
    for number, cell in enumerate(cells):
        row, column = divmod(number, columns)
        sheet.paste(cell, (_GAP + column * width, _GAP + row * height))
    if path is not None:
        _save(sheet, Path(path))
    return sheet


def _check_image_file(path: Path) -> None:
    try:
        status = path.stat()
    except OSError as error:
        raise MediaError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not stat.S_ISREG(status.st_mode):  # a pipe would wait for ever, a device never end
        raise MediaError(f"{path}: is not a file")
    if status.st_size == 0:
        raise MediaError(f"{path}: is empty; copy or download it again")
    if status.st_size > MAX_IMAGE_BYTES:
        raise MediaError(f"{path}: has {status.st_size:,} bytes; at most {MAX_IMAGE_BYTES:,} are read; reduce it first")


def _check_image(path: Path, image: Image.Image) -> None:
    # The size stands in the header, so this comes before any pixel is unpacked.
    if image.width * image.height > MAX_IMAGE_PIXELS:
        raise MediaError(
            f"{path}: is {image.width}x{image.height}; at most {MAX_IMAGE_PIXELS:,} pixels are read; reduce it first"
        )
    if image.mode.startswith(("I", "F")):
        raise MediaError(f"{path}: has more than 8 bits per channel ({image.mode}); convert it to 8 bits")
    if getattr(image, "is_animated", False) and image.format != "MPO":  # MPO: a photograph and its previews
        raise MediaError(f"{path}: is an animation; hand it in as a video or save one frame of it")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[av.container.InputContainer, Any]]:
    """The container and its first video stream, with FFmpeg's refusal turned into MediaError."""
    import av

    survey(path)  # FFmpeg plays an MP4 that was cut off as a shorter one
    try:
        # FFmpeg's time for tags grows with the square of their number: without a limit 12 MB of them take an hour.
        container = av.open(f"file:{path.absolute()}", options=_VIDEO_OPTIONS, timeout=_OPENING)
    except (av.FFmpegError, ValueError) as error:
        raise MediaError(f"{path}: is no video that can be read, or is damaged; export it as MP4") from error
    with container:
        if not container.streams.video:
            raise MediaError(f"{path}: holds no video")
        yield container, container.streams.video[0]


def _read(path: Path, max_frames: int) -> Iterator[Frame]:
    with _opened(path) as (container, stream):
        for number, frame in enumerate(_frames(path, container, stream)):
            if number == max_frames:
                raise MediaError(f"{path}: has more than {max_frames:,} frames; cut it first")
            yield frame


def _frames(path: Path, container: av.container.InputContainer, stream: Any) -> Iterator[Frame]:
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
        context.thread_type = "AUTO"
    ratio = float(stream.sample_aspect_ratio or 1)
    if not 0.1 <= ratio <= 10:
        raise MediaError(f"{path}: declares pixels {ratio:g} times as wide as high; export it with square pixels")
    try:
        for frame in container.decode(stream):
            if frame.width * frame.height * max(ratio, 1) > MAX_VIDEO_PIXELS:
                raise MediaError(limit)
            pixels = frame.to_ndarray(format="rgb24", width=max(1, round(frame.width * ratio)), height=frame.height)
            # FFmpeg gives the angle counterclockwise, as NumPy turns; phones only use quarters of a circle.
            yield np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))
    except av.FFmpegError as error:
        raise MediaError(f"{path}: is damaged or cut off ({error.strerror}); copy or export it again") from error


def _spread(frames: Iterable[Frame], count: int) -> list[Frame]:
    """Pick at most `count` frames evenly, first and last included, holding at most 2 * count + 1 of them: every
    `stride`-th one is kept, and the stride doubles when they become too many."""
    kept: list[Frame] = []
    stride, last, number = 1, None, -1
    for number, frame in enumerate(frames):
        last = frame
        if number % stride == 0:
            kept.append(frame)
            if len(kept) > 2 * count:
                kept, stride = kept[::2], 2 * stride
    if last is not None and number % stride:
        kept.append(last)
    picks = min(count, len(kept))
    return [kept[round(index * (len(kept) - 1) / max(picks - 1, 1))] for index in range(picks)]


def _cell(frame: Image.Image) -> Image.Image:
    from PIL import Image

    side = max(frame.size)
    if factor := _CELL // side:
        return frame.resize((frame.width * factor, frame.height * factor), Image.Resampling.NEAREST)
    size = (max(1, round(frame.width * _CELL / side)), max(1, round(frame.height * _CELL / side)))
    return frame.resize(size, Image.Resampling.LANCZOS)


def _save(sheet: Image.Image, path: Path) -> None:
    draft = path.parent / f".{uuid.uuid4().hex}.png"
    try:
        sheet.save(draft, format="PNG")
        os.replace(draft, path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        draft.unlink(missing_ok=True)
