"""When each frame of a video is shown, and which frames to take from it.

Frames are chosen by their time stamps, because phones, screen recorders and browsers write uneven frame rates. Times
are in seconds from the first frame. This module reads time stamps only; `media` decodes the frames that it chooses.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from pathlib import Path

from lichtspiel.media.animation import animation_durations
from lichtspiel.media.video import decoded_stamps, time_stamps

__all__ = ["Timeline"]

_MIDDLE = 0.5
_NEAR = 1e-3  # seconds: Matroska rounds time stamps to milliseconds


@dataclass(frozen=True)
class Timeline:
    """The time stamps of a video's frames, in seconds from the start of the file, in order, and how long the last frame
    is shown."""

    starts: tuple[float, ...]
    last: float

    @classmethod
    def even(cls, count: int, fps: float) -> Timeline:
        """The timeline of frames at a constant rate, as a folder of pictures has it."""
        return cls(tuple(number / fps for number in range(count)), 1 / fps)

    @classmethod
    def of_video(cls, path: Path, fps: float, *, decode: bool = False) -> Timeline:
        """The timeline of a video file. `fps` is the rate to assume if the file states none. With `decode`, the stamps
        come from the decoded frames, which takes longer; some codecs have packets that are not shown. Raises
        MediaError."""
        stamps, declared = decoded_stamps(path) if decode else time_stamps(path)
        if len(stamps) < 2:
            return cls(tuple(stamps[:1]) or (0.0,), float(1 / declared) if declared else 1 / fps)
        longest = (stamps[-1] - stamps[0]) / (len(stamps) - 1)
        return cls(tuple(stamps), min(stamps[-1] - stamps[-2], longest) or longest or 1 / fps)

    @classmethod
    def of_animation(cls, path: Path, fps: float) -> Timeline:
        """The timeline of an animated WebP or PNG. Raises MediaError."""
        durations = [duration or 1 / fps for duration in animation_durations(path)]
        return cls((0.0, *itertools.accumulate(durations[:-1])), durations[-1])

    @property
    def count(self) -> int:
        """The number of frames."""
        return len(self.starts)

    @property
    def seconds(self) -> float:
        """How long the video is shown."""
        return self.starts[-1] + self.last - self.starts[0]

    def whole(self, frames: int, start: float = 0.0) -> list[int]:
        """The indices of `frames` frames that are spread evenly from `start` to the end, the last frame included.

        This is `_get_frameid_bbox_adjust_last` of `wan/utils/vace_processor.py`: of two frames that meet at a time, the
        earlier one is taken.
        """
        first = self.starts[0]
        ends = [stamp - first for stamp in (*self.starts[1:], self.starts[-1] + self.last)]
        end = self.seconds - self.last * _MIDDLE
        steps = max(frames - 1, 1)
        times = [start + (end - start) * number / steps for number in range(frames)]
        return [min(bisect_left(ends, time), self.count - 1) for time in times]

    def real(self, frames: int, fps: float, start: float = 0.0) -> list[int]:
        """The indices of the frames that are shown in the middle of each frame of a video with the rate `fps`, so that
        it plays at the original's speed."""
        return [self._shown(start + (number + _MIDDLE) / fps) for number in range(frames)]

    def each(self, frames: int, start: float = 0.0) -> list[int]:
        """The indices of `frames` frames in a row, from the one that is shown at `start`."""
        begin = self._shown(start)
        return [min(begin + number, self.count - 1) for number in range(frames)]

    def left(self, start: float) -> int:
        """The number of frames from the one that is shown at `start`."""
        return self.count - self._shown(start)

    def _shown(self, time: float) -> int:
        return max(bisect_right(self.starts, self.starts[0] + time + _NEAR) - 1, 0)
