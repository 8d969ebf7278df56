"""The part of a clip that is made anew: where it is, what a model sees of it, and how the result is laid back.

A region is one mask per frame. A model sees a crop around it, and its frames are laid back where the region is. The
seam lies inside the region, so pixels outside stay as they are, bit for bit.

Boxes are left, top, right, bottom in pixels, right and bottom excluded.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from lichtspiel.footage.pixels import Floats, Mask
from lichtspiel.footage.segment import box_of
from lichtspiel.footage.selection import Box
from lichtspiel.frames import Frame

__all__ = [
    "GRAY",
    "Crop",
    "Region",
    "crop_around",
    "filled",
    "laid",
    "outlined",
    "placed",
    "scaled",
    "shown_at",
    "to_ratio",
    "union",
    "weights",
    "windows",
]

Level = TypeVar("Level", bound=np.generic)

GRAY = 127
"""The level that stands for "nothing is known here" in what VACE sees, as in its own preprocessing."""

_CONTEXT = 0.35
"""How much of its surroundings a model sees of a region, on each side, as a share of the region's longer side."""

_MOST_ENLARGED = 2
"""How far the pixels of a crop are enlarged at most: a smaller region gets more of its surroundings."""


@dataclass
class Region:
    """The masks [h, w] of a region, one for each frame of a clip, kept as bits, and their boxes."""

    size: tuple[int, int]
    boxes: list[Box | None] = field(default_factory=list)
    _bits: list[NDArray[np.uint8]] = field(default_factory=list)

    @classmethod
    def of(cls, masks: Iterable[Mask], size: tuple[int, int]) -> Region:
        """Collect the masks of all frames; `size` is width and height."""
        region = cls(size)
        for mask in masks:
            region.boxes.append(box_of(mask))
            region._bits.append(np.packbits(mask))
        return region

    def mask(self, number: int) -> Mask:
        """The mask of one frame."""
        width, height = self.size
        bits = np.unpackbits(self._bits[number], count=width * height)
        return bits.reshape(height, width).astype(bool)

    @property
    def span(self) -> tuple[int, int] | None:
        """The first and the last frame that the region is on; None if it is on none."""
        numbers = [number for number, box in enumerate(self.boxes) if box is not None]
        return (numbers[0], numbers[-1]) if numbers else None


@dataclass(frozen=True)
class Crop:
    """A part of a frame, in pixels."""

    left: int
    top: int
    width: int
    height: int

    def cut(self, picture: NDArray[Level]) -> NDArray[Level]:
        """This part of a frame or mask, [h, w, ...]; the pixels are shared."""
        return picture[self.top : self.top + self.height, self.left : self.left + self.width]


def union(boxes: Iterable[Box | None]) -> Box | None:
    """The smallest box around several ones."""
    there = [box for box in boxes if box is not None]
    if not there:
        return None
    lefts, tops, rights, bottoms = zip(*there, strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)


def crop_around(boxes: Sequence[Box], frame: tuple[int, int], seen: tuple[int, int]) -> tuple[int, int]:
    """The width and height of a crop that holds each of the boxes with its surroundings.

    `frame` is the clip's size and `seen` the largest one that the model makes, each (width, height). No side is shorter
    than half of the other where the frame allows.
    """
    margin = 2 * _CONTEXT * max(max(right - left, bottom - top) for left, top, right, bottom in boxes)
    width = max(right - left for left, _, right, _ in boxes) + margin
    height = max(bottom - top for _, top, _, bottom in boxes) + margin
    shortest = min(seen) / _MOST_ENLARGED
    width, height = max(width, height / 2, shortest), max(height, width / 2, shortest)
    return min(round(width), frame[0]), min(round(height), frame[1])


def to_ratio(size: tuple[int, int], ratio: float, frame: tuple[int, int]) -> tuple[int, int]:
    """A crop's size, made longer on one side to come closest to a ratio of width to height within the frame."""
    width, height = size
    if width < height * ratio:
        return min(round(height * ratio), frame[0]), height
    return width, min(round(width / ratio), frame[1])


def placed(box: Box, size: tuple[int, int], frame: tuple[int, int]) -> Crop:
    """A crop of a size around a box, moved into the frame."""
    left, top, right, bottom = box
    x = min(max((left + right - size[0]) // 2, 0), frame[0] - size[0])
    y = min(max((top + bottom - size[1]) // 2, 0), frame[1] - size[1])
    return Crop(x, y, *size)


def windows(count: int, length: int, overlap: int) -> list[tuple[int, int]]:
    """Begin and end (excluded) of windows of `length` frames that cover `count` frames, with `overlap` between them.

    If all three are of the form 4n+1, so is the last window.
    """
    assert 0 < overlap < length
    found = [(0, min(length, count))]
    while found[-1][1] < count:
        begin = found[-1][1] - overlap
        found.append((begin, min(begin + length, count)))
    return found


def scaled(frame: Frame, size: tuple[int, int]) -> Frame:
    """A frame at another size, (width, height)."""
    if (frame.shape[1], frame.shape[0]) == size:
        return np.ascontiguousarray(frame)
    how = cv2.INTER_CUBIC if frame.shape[1] < size[0] else cv2.INTER_AREA
    return np.asarray(cv2.resize(np.ascontiguousarray(frame), size, interpolation=how), np.uint8)


def filled(frame: Frame, mask: Mask) -> Frame:
    """A frame whose region is gray, so that the model does not see what was there."""
    result = frame.copy()
    result[mask] = GRAY
    return result


def weights(mask: Mask, feather: int) -> Floats:
    """How much of the new frame is seen, [h, w] from 0 to 1: nothing outside the mask, and within it more and more over
    `feather` pixels."""
    depth = np.asarray(cv2.distanceTransform(np.ascontiguousarray(mask, np.uint8), cv2.DIST_L2, 5), np.float32)
    return np.clip(depth / (feather + 1), 0, 1)


def laid(frame: Frame, new: Frame, crop: Crop, weight: Floats) -> Frame:
    """A frame with a new one laid over its crop, enlarged or reduced to it; `weight` [h, w] is that of the frame."""
    new = scaled(new, (crop.width, crop.height))
    result = frame.copy()
    part, share = crop.cut(result), weight[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    mixed = part + share[..., None] * (new.astype(np.float32) - part)
    part[...] = np.where(share[..., None] > 0, np.clip(mixed + 0.5, 0, 255), part).astype(np.uint8)
    return result


def shown_at(new: Sequence[Frame], picks: Sequence[int], number: int) -> Frame:
    """The new frame for frame `number` of a clip, where the new ones belong to its frames `picks`, in order: between
    two of them, both are mixed."""
    after = bisect.bisect_left(picks, number)
    if picks[after] == number:
        return new[after]
    share = (number - picks[after - 1]) / (picks[after] - picks[after - 1])
    return np.asarray(cv2.addWeighted(new[after - 1], 1 - share, new[after], share, 0), np.uint8)


def outlined(frame: Frame, mask: Mask, crop: Crop) -> Frame:
    """A frame for the preview: the outline of the region in green, and that of the crop in white."""
    shown: Frame = frame.copy()
    unit = max(round(min(mask.shape) / 160), 1)
    edge = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((2 * unit + 1, 2 * unit + 1), np.uint8))
    shown[edge > 0] = (60, 220, 90)
    corner = crop.left + crop.width - 1, crop.top + crop.height - 1
    cv2.rectangle(shown, (crop.left, crop.top), corner, (255, 255, 255), unit)
    return shown
