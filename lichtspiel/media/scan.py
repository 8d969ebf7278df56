"""Read a video once for everything that looks at it: a thumbnail of every frame, some larger stills, and exact times.

Thumbnails are 48x27, the input of TransNetV2 (Souček and Lokoč 2020, arXiv:2008.04838), whatever the aspect. Arrays
that exceed `MEMORY_BYTES` go to an unnamed temporary file, so that a film needs no more memory than a clip.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lichtspiel.errors import MediaError
from lichtspiel.media.hdr import ToRGB
from lichtspiel.media.picture import is_picture, load_image
from lichtspiel.media.video import (
    VideoInfo,
    check_pixels,
    opened_video,
    prepare,
    turned,
    upright,
)

if TYPE_CHECKING:
    import av
    import numpy as np
    from numpy.typing import NDArray

    from lichtspiel.frames import Frame

__all__ = ["Scan", "scan"]

THUMB = (48, 27)
"""Width and height of a thumbnail."""

MAX_FRAMES = 1_000_000
"""The most frames of one video that are scanned: eleven hours at 25 per second."""

MEMORY_BYTES = 256 << 20

_BICUBIC = 0x4  # libswscale's flag; it widens its filter when it reduces, so nothing aliases


@dataclass(frozen=True)
class Scan:
    """What one decoding pass keeps of a video.

    `times` are the seconds at which frames are shown, from the start of the file, and `thumbs` their thumbnails, uint8
    [frames, 27, 48, 3]. `stills` are some of the frames, larger, at `still_times`; `still_frames` are their numbers.
    `motion` is the mean length of the motion vectors that the codec stored with each frame, as a share of the frame's
    diagonal, or NaN for a frame that stores none. A picture is a video of one frame that lasts no time.
    """

    info: VideoInfo
    times: NDArray[np.float64]
    duration: float
    thumbs: NDArray[np.uint8]
    stills: list[Frame]
    still_frames: list[int]
    motion: NDArray[np.float32]

    @property
    def still_times(self) -> list[float]:
        """The seconds at which the stills are shown."""
        return [float(self.times[number]) for number in self.still_frames]

    def end_of(self, frame: int) -> float:
        """The second at which a frame is replaced by the next."""
        return float(self.times[frame + 1]) if frame + 1 < len(self.times) else self.duration


class _Spool:
    """Arrays of one shape, in memory up to a limit and then in a temporary file."""

    def __init__(self) -> None:
        self._parts: list[NDArray[np.uint8]] = []
        self._bytes = 0
        self._file: Any = None

    def add(self, array: NDArray[np.uint8]) -> None:
        if self._file is None and self._bytes + array.nbytes > MEMORY_BYTES:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115  (`stack` closes it)
            for part in self._parts:
                part.tofile(self._file)
            self._parts = [array[:0]]
        if self._file is None:
            self._parts.append(array)
        else:
            array.tofile(self._file)
        self._bytes += array.nbytes

    def stack(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        import numpy as np

        if self._file is None:
            return np.stack(self._parts) if self._parts else np.empty((0, *shape), np.uint8)
        self._file.flush()
        count = self._bytes // int(np.prod(shape))
        with self._file:  # closed, it exists until the array that maps it is gone
            return np.memmap(self._file, np.uint8, "r", 0, (count, *shape))


def scan(path: str | Path, *, still_side: int = 640, still_every: float = 0.5, max_frames: int = MAX_FRAMES) -> Scan:
    """Decode a video or picture once.

    Stills are at most `still_side` pixels long and at least `still_every` seconds apart; the first and the last frame
    are always among them. Raises MediaError like `open_video`.
    """
    path = Path(path)
    return (
        _scan_picture(path, still_side) if is_picture(path) else _Scanner(path, still_side, still_every).run(max_frames)
    )


def _scan_picture(path: Path, side: int) -> Scan:
    import numpy as np
    from PIL import Image

    image = Image.fromarray(load_image(path))
    info = VideoInfo(width=image.width, height=image.height, fps=0, frames=1)
    thumb = np.asarray(image.resize(THUMB, Image.Resampling.BICUBIC))[None]
    image.thumbnail((side, side), Image.Resampling.BICUBIC)
    return Scan(info, np.zeros(1), 0.0, thumb, [np.asarray(image)], [0], np.full(1, np.nan, np.float32))


class _Scanner:
    """The state of one pass."""

    def __init__(self, path: Path, side: int, every: float) -> None:
        self.path, self.side, self.every = path, side, every
        self.times: list[float] = []
        self.motion: list[float] = []
        self.thumbs, self.stills = _Spool(), _Spool()
        self.still_frames: list[int] = []
        self._to_thumb, self._to_still = ToRGB(), ToRGB()
        self.size, self.still_size = (0, 0), (0, 0)

    def run(self, max_frames: int) -> Scan:
        import av
        import numpy as np

        with opened_video(self.path) as (container, stream):
            ratio = prepare(self.path, stream, "SLICE", flags2="+export_mvs")
            start = (container.start_time or 0) / 1e6
            rate = stream.average_rate or stream.guessed_rate or Fraction(25)
            last, step = None, 1 / float(rate)
            try:
                for number, frame in enumerate(container.decode(stream)):
                    if number == max_frames:
                        raise MediaError(f"{self.path}: has more than {max_frames:,} frames; cut it first")
                    time = number * step if frame.time is None else frame.time - start
                    self._take(frame, number, max(time, self.times[-1] if self.times else 0.0), ratio)
                    last, step = frame, float(frame.duration * frame.time_base) if frame.duration else step
            except av.FFmpegError as error:
                raise MediaError(
                    f"{self.path}: is damaged or cut off ({error.strerror}); copy or export it again"
                ) from error
        if last is None:
            raise MediaError(f"{self.path}: holds no frame; export it again")
        if self.still_frames[-1] != len(self.times) - 1:
            self._keep(last, len(self.times) - 1, ratio)
        width, height = self.size
        info = VideoInfo(width=width, height=height, fps=float(rate), frames=len(self.times))
        stills = self.stills.stack((self.still_size[1], self.still_size[0], 3))
        thumbs = self.thumbs.stack((THUMB[1], THUMB[0], 3))
        times, motion = np.array(self.times), np.array(self.motion, np.float32)
        return Scan(info, times, self.times[-1] + step, thumbs, list(stills), self.still_frames, motion)

    def _take(self, frame: av.VideoFrame, number: int, time: float, ratio: float) -> None:
        check_pixels(self.path, frame.width * frame.height * max(ratio, 1))
        if not self.times:
            shown = (max(1, round(frame.width * ratio)), frame.height)
            self.size = shown[::-1] if turned(frame) else shown
            factor = min(1.0, self.side / max(self.size))
            width, height = (max(1, round(side * factor)) for side in self.size)
            self.still_size = (width, height)
        self.times.append(time)
        self.motion.append(_vector_length(frame))
        self.thumbs.add(_scaled(frame, THUMB, self._to_thumb))
        if not self.still_frames or time - self.times[self.still_frames[-1]] >= self.every - 1e-6:
            self._keep(frame, number, ratio)

    def _keep(self, frame: av.VideoFrame, number: int, ratio: float) -> None:
        self.stills.add(_scaled(frame, self.still_size, self._to_still))
        self.still_frames.append(number)


def _scaled(frame: av.VideoFrame, size: tuple[int, int], to_rgb: ToRGB) -> Frame:
    """A frame upright and in RGB, as `size` (width, height) pixels."""
    import numpy as np

    width, height = size[::-1] if turned(frame) else size
    return np.ascontiguousarray(upright(to_rgb(frame, width, height, _BICUBIC), frame))


def _vector_length(frame: av.VideoFrame) -> float:
    """The mean length of a frame's motion vectors by area, as a share of its diagonal."""
    import numpy as np

    vectors: Any = frame.side_data.get("MOTION_VECTORS")
    if vectors is None:
        return float("nan")
    table = vectors.to_ndarray()
    area = table["w"].astype(np.float64) * table["h"]
    length = np.hypot(table["motion_x"], table["motion_y"]) / np.maximum(table["motion_scale"], 1)
    covered = max(float(area.sum()), float(frame.width * frame.height))  # a block without a vector was not moved
    return float((length * area).sum() / covered / np.hypot(frame.width, frame.height))
