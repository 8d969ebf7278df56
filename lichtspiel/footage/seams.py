"""Where a clip meets what continues it: how visible the seam is, how far colors drift, and how both are mended.

Frames are uint8 [h, w, 3], RGB.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from lichtspiel.footage.pixels import lab_of
from lichtspiel.frames import Frame

__all__ = ["color_drift", "difference", "join", "match_color", "motion_of", "resampled", "resized"]

_COMPARED = 8
"""How many frames on each side the drift of colors is measured on."""


def difference(one: Frame, other: Frame) -> float:
    """The mean absolute difference of two frames, in gray levels of 0 to 255."""
    return float(cv2.absdiff(one, other).mean())


def motion_of(frames: Sequence[Frame]) -> float:
    """The mean difference of successive frames, which seams are compared with."""
    steps = [difference(one, other) for one, other in itertools.pairwise(frames)]
    return float(np.mean(steps)) if steps else 0.0


def color_drift(source: Sequence[Frame], new: Sequence[Frame]) -> float:
    """How far the mean color at the end of `new` is from that at the end of `source`: the distance in Lab, in which 1
    is a difference that is just visible side by side."""

    def mean(frames: Sequence[Frame]) -> NDArray[np.float64]:
        colors = np.mean([lab_of(frame).reshape(-1, 3).mean(0) for frame in frames[-_COMPARED:]], axis=0)
        scaled: NDArray[np.float64] = colors * (100 / 255, 1, 1)  # eight-bit Lab stretches the lightness to 255
        return scaled

    return float(np.linalg.norm(mean(source) - mean(new)))


def match_color(new: Sequence[Frame], like: Frame) -> list[Frame]:
    """Shift and stretch each channel of all frames alike, so that the first one has the mean and spread of `like`."""
    target, first = like.reshape(-1, 3).astype(np.float32), new[0].reshape(-1, 3).astype(np.float32)
    scale = np.clip(target.std(0) / np.maximum(first.std(0), 1e-3), 0.8, 1.25)
    shift = target.mean(0) - scale * first.mean(0)
    return [np.clip(frame * scale + shift + 0.5, 0, 255).astype(np.uint8) for frame in new]


def resized(frames: Sequence[Frame], width: int, height: int) -> list[Frame]:
    """Frames at another size."""
    if frames and frames[0].shape[:2] == (height, width):
        return list(frames)
    how = cv2.INTER_CUBIC if frames and frames[0].shape[1] < width else cv2.INTER_AREA
    return [np.asarray(cv2.resize(frame, (width, height), interpolation=how), np.uint8) for frame in frames]


def resampled(frames: Sequence[Frame], fps: float, wanted: float) -> list[Frame]:
    """Frames at another rate, over the same time: at each moment, the two nearest are mixed."""
    if abs(fps - wanted) < 1e-6:
        return list(frames)
    count = max(round((len(frames) - 1) / fps * wanted), 1)
    result = []
    for place in np.linspace(0, len(frames) - 1, count + 1):
        index = min(int(place), len(frames) - 2)
        share = float(place - index)
        result.append(np.asarray(cv2.addWeighted(frames[index], 1 - share, frames[index + 1], share, 0), np.uint8))
    return result


def join(new: Sequence[Frame], first: Frame, last: Frame | None, length: int) -> list[Frame]:
    """Let frames start exactly with `first`, and end exactly with `last`.

    What the model's first (last) frame lacks of the given one is added to it, and to the `length` frames beside it with
    less and less weight. So details that the model's size lost do not vanish at once. 0 adds nothing.
    """
    result = [frame.astype(np.float32) for frame in new]
    ends = [(0, 1, first)] if last is None else [(0, 1, first), (len(new) - 1, -1, last)]
    for start, step, given in ends:
        missing = given.astype(np.float32) - new[start].astype(np.float32)
        for number in range(min(length, len(new))):
            result[start + step * number] += missing * (1 - number / length)
    return [np.clip(frame + 0.5, 0, 255).astype(np.uint8) for frame in result]
