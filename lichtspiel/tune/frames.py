"""The frames of an item at the model's frame rate, and scaled to the size of a bucket.

Motion keeps its speed: a clip of 30 frames per second gives 16 of them for each second, and one of 12 shows some twice.
Taking all frames and playing them at 16, as some trainers do, teaches slow motion.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from lichtspiel.errors import MediaError
from lichtspiel.frames import Frame
from lichtspiel.media.animation import is_animation
from lichtspiel.media.media import read_frames
from lichtspiel.media.picture import is_picture
from lichtspiel.media.video import read_paced
from lichtspiel.tune.dataset import Item

__all__ = ["fit", "frame_rate", "frames_at", "is_still", "rate_of"]


def is_still(path: Path) -> bool:
    """Whether a file is one picture, and so an item of one frame."""
    return path.is_file() and is_picture(path) and not is_animation(path)


def frame_rate(path: Path) -> float | None:
    """The frames per second that a video states; None for pictures, which state none. Raises MediaError."""
    if path.is_dir() or is_picture(path):
        return None
    return float(read_paced(path)[0])


def rate_of(item: Item, path: Path) -> float | None:
    """The frame rate to believe of one file of an item; None for what the file itself states.

    The pictures of a folder beside a clip stand for the clip's own frames. A clip that cannot be read has no rate.
    """
    if item.cut.fps is not None or path == item.path or not path.is_dir():
        return item.cut.fps
    try:
        return frame_rate(item.path)
    except MediaError:
        return None


def frames_at(path: Path, fps: float, rate: float | None = None) -> Iterator[Frame]:
    """The frames of a video, a folder of pictures or a picture at `fps` frames per second.

    `rate` is the rate to believe instead of what the file states. Without any, each picture is one frame. For each time
    the last frame before it is shown. Raises MediaError for what cannot be read.
    """
    if path.is_dir() or is_picture(path):
        frames = read_frames(path)
    else:
        stated, frames = read_paced(path)
        rate = rate or float(stated)
    if rate is None or is_still(path):
        yield from frames
        return
    due = 0
    for number, frame in enumerate(frames):
        while int(due * rate / fps + 1e-6) == number:
            yield frame
            due += 1


def fit(frame: Frame, width: int, height: int, *, exact: bool = False) -> Frame:
    """Scale a frame so that it covers a size, and crop it around the center.

    `exact` takes the nearest pixel, for masks, which have no values between.
    """
    rows, columns = frame.shape[:2]
    scale = max(width / columns, height / rows)
    wide, tall = max(round(columns * scale), width), max(round(rows * scale), height)
    method = cv2.INTER_NEAREST if exact else cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    resized = cv2.resize(frame, (wide, tall), interpolation=method)
    top, left = (tall - height) // 2, (wide - width) // 2
    cropped: Frame = np.ascontiguousarray(resized[top : top + height, left : left + width])
    return cropped
