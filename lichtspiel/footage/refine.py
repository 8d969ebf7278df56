"""The outline on the selected frame, once more: by what the rest of the clip shows of the background behind it.

GrabCut knows one frame. An object that moves away leaves open what was behind it, so gaps in the object and its shadow
can be told apart from it. For that it is followed roughly through some frames on both sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from lichtspiel.footage.backdrop import Backdrop, Background
from lichtspiel.footage.motion import Flows, Motion, carry
from lichtspiel.footage.pixels import Bytes, Floats, Mask, gray_of, lab_of, pull, widened
from lichtspiel.footage.segment import FLOOR, NEVER, box_of, color_bins, histogram, relax, tidy
from lichtspiel.footage.shapes import distance
from lichtspiel.frames import Frame

__all__ = ["Rough", "refined"]

_REACH = 81
"""How many frames are looked at on each side: a picture of the background takes frames that are 48 away."""

_AROUND = 9
"""The width in pixels by which an object is widened where it was followed roughly."""

_ROUNDS = 4

_EXPLAINED = 0.3
"""The likeness to the background above which a pixel teaches nothing about the object's colors."""

_OTHER = 0.03
"""How much something else must cover outside an area that it reaches into, as a share of the area, to be looked at."""

_CHANGED = (0.5, 1.6)
"""How much smaller or larger a refined mask may be before the first one is kept instead."""


class Rough:
    """What objects cover in the frames around the selected one, and the motions that this was found by."""

    def __init__(self, frames: Sequence[Frame], start: int, side: Executor) -> None:
        """Begin to measure the flow around the frame `start`, in the threads of `side`."""
        self._frames, self._start = frames, start
        height, width, _ = frames[start].shape
        self.flows = Flows(width, height)
        self.motions: dict[tuple[int, int], Motion] = {}
        self.covered: dict[int, Mask] = {}
        self._pairs: dict[tuple[int, int], Future[tuple[Floats, Mask]]] = {}
        first, last = max(start - _REACH, 0), min(start + _REACH, len(frames) - 1)
        for number in (*range(start + 1, last + 1), *range(start - 1, first - 1, -1)):
            before = number - 1 if number > start else number + 1
            self._pairs[number, before] = side.submit(self._flow, number, before)

    def _flow(self, number: int, before: int) -> tuple[Floats, Mask]:
        return self.flows.checked(gray_of(self._frames[before]), gray_of(self._frames[number]))

    @cached_property
    def going(self) -> Floats | None:
        """Where each pixel of the selected frame goes to in the next one, [h, w, 2] (x, y); None for the last one."""
        if self._start + 1 == len(self._frames):
            return None
        return self.flows.flow(gray_of(self._frames[self._start]), gray_of(self._frames[self._start + 1]))

    def find(self, masks: Sequence[Mask], backdrop: Backdrop) -> None:
        """Follow the objects from their masks [h, w] on the selected frame."""
        selected = [mask.astype(np.float32) for mask in masks]
        self.covered[self._start] = _any([widened(mask, _AROUND) for mask in masks])
        solid = selected
        for (number, before), pair in self._pairs.items():
            if before == self._start:
                solid = selected
            last, gray = gray_of(self._frames[before]), gray_of(self._frames[number])
            motion = Motion(*pair.result(), backdrop.camera(number, before))
            self.motions[number, before] = motion
            solid = [self._moved(mask, motion, last, gray) for mask in solid]
            self.covered[number] = _any([widened(mask > 0.3, _AROUND) for mask in solid])

    def _moved(self, mask: Floats, motion: Motion, last: Bytes, gray: Bytes) -> Floats:
        carried = pull(mask, motion.source)
        moved, agree = self.flows.object_motion(last, gray, carried > 0.5)
        if moved is None or agree < 0.3:
            return carried
        return np.where(motion.trusted, carried, carry(mask, moved))


def _any(masks: Sequence[Mask]) -> Mask:
    found: Mask = np.logical_or.reduce(masks)
    return found


def refined(frame: Frame, mask: Mask, area: Mask, background: Background, going: Floats | None = None) -> Mask:
    """The outline of an object within `area` [h, w], from a first mask [h, w] and the background.

    `going` [h, w, 2] is where pixels move to in the next frame (x, y): it tells the object from others that reach into
    the area from outside.
    """
    rows, columns = np.nonzero(area | mask)
    height, width = mask.shape
    pad = 12 + int(0.3 * np.sqrt(max(area.sum(), 1)))
    where = (
        slice(max(rows.min() - pad, 0), min(rows.max() + pad + 1, height)),
        slice(max(columns.min() - pad, 0), min(columns.max() + pad + 1, width)),
    )
    crop = lab_of(frame)[where]
    bins = color_bins(crop)
    plain, shaded = background.likeness(crop.astype(np.float32), where)
    known = background.known[where] > 0.7
    explained = known & (np.maximum(plain, shaded) > _EXPLAINED)
    inside, allowed = mask[where], area[where]
    flow = None if going is None else going[where]
    other = _Other.of(known & ~explained, allowed, bins, flow)
    if other is not None:
        inside = other.without(inside)
    for _ in range(_ROUNDS):
        sure = inside & ~explained
        own = histogram(bins, sure if sure.sum() > 0.3 * inside.sum() else inside)[bins] + FLOOR
        ground = histogram(bins, ~inside & (explained | ~allowed))[bins] + FLOOR
        ground = background.believed(ground, known, plain, shaded)
        if other is not None:
            ground = np.maximum(ground, 0.5 * other.colors[bins])
        color = np.clip(np.log(own / ground), -3, 3)
        evidence = (color + _place(inside)).astype(np.float32)
        if other is not None and flow is not None:
            evidence += other.against(flow, inside)
        evidence[~allowed] = NEVER
        inside = tidy(relax(evidence, crop) > 0)
    share = inside.sum() / max(mask.sum(), 1)
    if other is None and not _CHANGED[0] < share < _CHANGED[1]:
        return mask
    result = np.zeros_like(mask)
    result[where] = inside
    return result if _fills(result, area) >= 0.9 * _fills(mask, area) else mask


def _fills(mask: Mask, area: Mask) -> float:
    """How well the box around a mask is the one around an area: intersection over union."""
    one, other = box_of(mask), box_of(area)
    if one is None or other is None:
        return 0.0
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    sizes = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    common = max(across, 0) * max(down, 0)
    return common / (sum(sizes) - common)


@dataclass(frozen=True)
class _Other:
    """What moves beside an object, and may reach into its area: its colors [4096], its motion, and where in the area
    colors are seen that it does not have, [h, w]."""

    colors: Floats
    motion: Floats | None
    foreign: Mask

    @classmethod
    def of(cls, strange: Mask, allowed: Mask, bins: NDArray[np.int32], flow: Floats | None) -> _Other | None:
        """From where no background is seen, `strange` [h, w], outside the area that is `allowed`; None if little is."""
        opened = cv2.morphologyEx(strange.astype(np.uint8), cv2.MORPH_OPEN, np.ones((7, 7)))
        count, labels = cv2.connectedComponents(opened, connectivity=8)
        inside, outside = (opened > 0) & allowed, (opened > 0) & ~widened(allowed, 5)
        reaching = np.bincount(labels[outside], minlength=count) > _OTHER * allowed.sum()
        reaching &= np.bincount(labels[inside], minlength=count) > 0
        outside &= reaching[labels]
        if not outside.any():
            return None
        colors = histogram(bins, outside)
        foreign = inside & (histogram(bins, inside)[bins] > 2 * colors[bins])
        return cls(colors, None if flow is None else np.median(flow[outside], axis=0), foreign)

    def without(self, inside: Mask) -> Mask:
        """The first guess for the object: the colors that it alone has, where the mask lacks most of them."""
        few = self.foreign.sum() < 0.15 * max(inside.sum(), 1)
        return inside if few else self.foreign

    def against(self, flow: Floats, inside: Mask) -> Floats:
        """The log odds that a pixel moves as the object does, and not as what is beside it."""
        if self.motion is None or inside.sum() < 20:
            return np.zeros(inside.shape, np.float32)
        own = np.median(flow[inside], axis=0)
        apart = float(np.hypot(*(own - self.motion)))
        if apart < 1.5:
            return np.zeros(inside.shape, np.float32)
        nearer = np.hypot(*np.moveaxis(flow - self.motion, -1, 0)) - np.hypot(*np.moveaxis(flow - own, -1, 0))
        return np.asarray(np.clip(2 * nearer / apart, -2, 2), np.float32)


def _place(inside: Mask) -> Floats:
    """The log odds that a pixel belongs to the object by its place alone: at most 1 far inside, -1 far outside."""
    solid = inside.astype(np.uint8)
    return np.asarray(np.clip((distance(solid) - distance(1 - solid)) / 8, -1, 1), np.float32)
