"""What a clip shows where nothing moves: the camera's motion, and a picture of the background beneath it.

The background of a frame is put together from frames around it, before and after, each moved as the camera moved. A
color is known where enough of them agree. So what an object covers in one frame is known from others. Knows no objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lichtspiel.footage.motion import Flows, carry, is_still
from lichtspiel.footage.pixels import Floats, gray_of, lab_of
from lichtspiel.frames import Frame

__all__ = ["Backdrop"]

_EVERY, _AROUND, _SAMPLES = 24, 48, 15
"""A picture is put together for every 24th frame, from 15 frames that are at most 48 frames away."""

_NEAR = 12.0
"""Lab distance up to which two colors count as the same."""

_SUPPORT = 0.3
"""The share of frames that must show the same color at a place; moving things cover it in the others."""


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
        self._picture = lru_cache(maxsize=4)(self._put_together)

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
        labs, valid = [], []
        for number in numbers:
            lab: NDArray[Any] = lab_of(self._frames[number])
            camera = self.camera(anchor, number)
            shown = np.full((height, width), 255, np.uint8)
            if not is_still(camera, width, height):
                lab = carry(lab, camera)
                shown = np.asarray(carry(shown, camera), np.uint8)
            labs.append(np.asarray(lab, np.int16))
            valid.append(np.asarray(shown) > 250)
        return _agreed(np.stack(labs), np.stack(valid))


def _agreed(labs: NDArray[np.int16], valid: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """From samples [n, h, w, 3] the color that most of them share, and whether enough do."""
    best = np.zeros(labs.shape[1:3], np.int16)
    color = labs[0].astype(np.float32)
    for index, sample in enumerate(labs):
        difference = labs - sample
        near = (np.abs(difference[..., 0]) < _NEAR) & (np.abs(difference[..., 1:]).max(-1) < _NEAR / 2) & valid
        count = (near.sum(0) * valid[index]).astype(np.int16)
        better = count > best
        if better.any():
            mean = (labs * near[..., None]).sum(0) / np.maximum(near.sum(0), 1)[..., None]
            color = np.where(better[..., None], mean.astype(np.float32), color)
            best = np.maximum(best, count)
    seen = valid.sum(0)
    known = (best >= np.maximum(_SUPPORT * seen, 2)) & (seen >= min(4, len(labs)))
    return color, known.astype(np.float32)
