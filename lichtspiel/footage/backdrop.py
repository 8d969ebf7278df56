"""What a clip shows where nothing moves: the camera's motion, and a picture of the background beneath it.

The background of a frame is put together from frames around it, before and after, each moved as the camera moved. A
color is known where enough of them agree. So what an object covers in one frame is known from others. Knows no objects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from lichtspiel.footage.motion import Flows, carry, is_still
from lichtspiel.footage.pixels import Bytes, Floats, Mask, gray_of, lab_of
from lichtspiel.frames import Frame

__all__ = ["Backdrop", "Background"]

_EVERY, _AROUND, _SAMPLES = 24, 48, 15
"""A picture is put together for every 24th frame, from 15 frames that are at most 48 frames away."""

_NEAR = (11, 5, 5)
"""How far two colors may differ in L, a and b and count as the same."""

_SPREAD = (24.0, 72.0)
"""The least and the most that is assumed of the noise of a frame."""

_SHADED = 0.03
"""How dense the background's colors are in a shadow, as a share of what they are without."""

_SUPPORT = 0.3
"""The share of frames that must show the same color at a place; moving things cover it in the others."""


@dataclass
class Background:
    """The picture of the background: Lab colors [h, w, 3], where they are known, 0 to 1, and how far a frame may be
    from them where nothing covers it, as twice the variance of a color's distance."""

    lab: Floats
    known: Floats
    spread: float = 72.0

    def fitted(self, lab: Bytes, where: Mask) -> Background:
        """The same with the spread that a frame [h, w, 3] shows `where` [h, w] the background is expected."""
        seen = ((self.known > 0.7) & where)[::3, ::3]
        if seen.sum() < 200:
            return self
        difference = (lab[::3, ::3] - self.lab[::3, ::3])[seen]
        distance = np.percentile(np.einsum("nc,nc->n", difference, difference), 80)
        return replace(self, spread=float(np.clip(2 * distance, *_SPREAD)))

    @property
    def density(self) -> float:
        """How dense colors are around the background's, in cells of 16 x 8 x 8 of the Lab space: the peak of a normal
        distribution. A fifth of it is believed: objects have the color of what is behind them more often than by
        chance."""
        return float(0.2 * 1024 / (np.pi * self.spread) ** 1.5)

    def likeness(self, lab: Floats, where: tuple[slice, slice]) -> tuple[Floats, Floats]:
        """How likely a pixel shows the background, from 0 to 1, and how likely it shows it in a shadow."""
        difference = lab - self.lab[where]
        lightness = self.lab[where][..., 0]
        darker = np.clip(difference[..., 0], -0.55 * lightness, 0)
        plain = np.einsum("hwc,hwc->hw", difference, difference)
        shaded = (difference[..., 0] - darker) ** 2 + 1.5 * (difference[..., 1] ** 2 + difference[..., 2] ** 2)
        return np.exp(-plain / self.spread), np.exp(-shaded / (0.7 * self.spread))

    def believed(self, around: Floats, known: Mask, plain: Floats, shaded: Floats) -> Floats:
        """How dense the background's colors are at each pixel: those of what lies `around`, and where the background is
        `known` mostly those of its picture, of which `plain` and `shaded` are the likenesses."""
        return np.where(known, 0.15 * around + self.density * (plain + _SHADED * shaded), around)


class Backdrop:
    """The background of each frame of a clip, in Lab, and the camera's motion through it."""

    def __init__(self, frames: Sequence[Frame]) -> None:
        self._frames = frames
        height, width, _ = frames[0].shape
        flows, identity = Flows(width, height), np.eye(3)
        self._places = [identity]  # from a frame's places to those of the first one
        last = gray_of(frames[0])
        for frame in list(frames)[1:]:
            gray = gray_of(frame)
            step = np.vstack([flows.camera(last, gray), [0, 0, 1]])
            self._places.append(self._places[-1] @ step)
            last = gray
        self._covered: Mapping[int, Mask] = {}
        self._picture = lru_cache(maxsize=4)(self._put_together)

    def leave_out(self, covered: Mapping[int, Mask]) -> None:
        """Say what covers the background in some frames, [h, w] each: it is no part of any picture from now on."""
        self._covered = covered
        self._picture.cache_clear()

    def camera(self, number: int, other: int) -> NDArray[np.float64]:
        """The map [2, 3] from a background pixel's place in one frame to its place in another."""
        matrix: NDArray[np.float64] = (np.linalg.inv(self._places[other]) @ self._places[number])[:2]
        return matrix

    def of(self, number: int) -> tuple[Floats, Floats]:
        """The background of a frame: Lab colors [h, w, 3], and how well they are known, 0 to 1, [h, w]."""
        anchor = min(round(number / _EVERY) * _EVERY, len(self._frames) - 1)
        lab, known = self._picture(anchor)
        camera = self.camera(number, anchor)
        if is_still(camera, known.shape[1], known.shape[0]):
            return lab, known
        return carry(lab, camera, edge=cv2.BORDER_REPLICATE), carry(known, camera)

    def _put_together(self, anchor: int) -> tuple[Floats, Floats]:
        first, last = max(anchor - _AROUND, 0), min(anchor + _AROUND, len(self._frames) - 1)
        numbers = np.unique(np.linspace(first, last, _SAMPLES).round().astype(int)).tolist()
        height, width, _ = self._frames[0].shape
        labs, valid, hidden = [], [], np.zeros((height, width), int)
        for number in numbers:
            lab = lab_of(self._frames[number])
            camera = self.camera(anchor, number)
            shown = np.full((height, width), 255, np.uint8)
            if number in self._covered:
                shown[self._covered[number]] = 0
            if not is_still(camera, width, height):
                lab, shown = (np.asarray(carry(picture, camera), np.uint8) for picture in (lab, shown))
            labs.append(lab)
            valid.append((shown > 250).astype(np.uint8))
            if number in self._covered:
                hidden += carry(self._covered[number].astype(np.float32), camera) > 0.5
        return _agreed(labs, valid, hidden)


def _agreed(labs: Sequence[Bytes], valid: Sequence[Bytes], hidden: NDArray[np.int_]) -> tuple[Floats, Floats]:
    """From samples [h, w, 3] the color that most of them share, and whether enough do; `valid` [h, w] is 1 where a
    sample shows the place at all, `hidden` [h, w] in how many of them something is known to cover it."""
    count = len(labs)
    counts = np.stack(valid)
    for one in range(count):
        for other in range(one):
            both = _near(labs[one], labs[other]) & valid[one] & valid[other]
            counts[one] += both
            counts[other] += both
    chosen = counts.argmax(0)
    best = np.take_along_axis(counts, chosen[None], 0)[0]
    color = np.take_along_axis(np.stack(labs), chosen[None, ..., None], 0)[0]
    total = np.zeros(color.shape, np.float32)
    for lab, shown in zip(labs, valid, strict=True):
        cv2.accumulate(lab, total, mask=_near(lab, color) & shown)
    mean = np.where(best[..., None] > 0, total / np.maximum(best, 1)[..., None], labs[0]).astype(np.float32)
    seen = np.sum(valid, axis=0)
    known = (best >= np.maximum(_SUPPORT * seen, 2)) & (seen + hidden >= min(4, count))
    return mean, known.astype(np.float32)


def _near(one: Bytes, other: Bytes) -> Bytes:
    """1 where two pictures in Lab show the same color."""
    return np.asarray(cv2.inRange(cv2.absdiff(one, other), (0, 0, 0), _NEAR), np.uint8) & np.uint8(1)
