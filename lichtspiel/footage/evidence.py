"""What speaks for a mask and against it in one frame: what it leaves out, its shape, and the edges under its outline.

The measures do not ask how the mask was found, so they see errors that are carried on with it.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from lichtspiel.footage.memory import Memory
from lichtspiel.footage.motion import carry
from lichtspiel.footage.pixels import Bytes, Floats, Mask

__all__ = ["contrast", "left_out", "shape", "torn", "unchanged"]

_STILL, _GOING = 0.5, 1.5
"""How far, in pixels, a pixel moves against the background at most to stand still, and at least to go."""

_SAME = 10
"""How far a color may be from another one, in each channel of Lab, to be the same."""

_FEWEST = 20
"""Of how few pixels nothing is said."""

_STEEP = 40.0
"""The difference in Lab across an outline at which it counts as a clear edge."""


def left_out(mask: Mask, strange: Mask, own: Mask) -> float:
    """How much of an object a mask [h, w] may lack, as a share of both: what is connected with it, is `strange` to the
    background there, and has the object's `own` colors, [h, w] each."""
    foreign = np.asarray(cv2.morphologyEx(strange.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3))), bool)
    count, labels = cv2.connectedComponents((foreign | mask).astype(np.uint8), connectivity=8)
    touching = np.bincount(labels[mask & foreign], minlength=count) > 0
    lacking = float((foreign & ~mask & touching[labels] & own).sum())
    return lacking / max(lacking + float(mask.sum()), 1.0)


def shape(seen: Mask, anchor: Memory) -> dict[str, float]:
    """How well a mask [h, w] has the selected shape where that moved to: intersection over union, and the ratio of the
    areas."""
    expected = anchor.expected_shape() > 0.5
    union = float((expected | seen).sum())
    return {
        "shape": float((expected & seen).sum()) / max(union, 1.0),
        "size": float(seen.sum()) / max(float(expected.sum()), 1.0),
    }


def contrast(mask: Mask, lab: Bytes) -> float:
    """How clear an edge the outline of a mask [h, w] lies on, from 0 to 1 on average."""
    solid = mask.astype(np.uint8)
    outline = mask & ~np.asarray(cv2.erode(solid, np.ones((3, 3), np.uint8), borderValue=1), bool)
    if not outline.any():
        return 0.0
    smooth = cv2.GaussianBlur(lab, (3, 3), 0).astype(np.float32)
    steps = [cv2.Sobel(smooth, cv2.CV_32F, *way, ksize=3) / 4 for way in ((1, 0), (0, 1))]
    steep = np.sqrt(sum(np.einsum("hwc,hwc->hw", step, step) for step in steps))
    return float(np.clip(steep[outline] / _STEEP, 0, 1).mean())


def torn(way: Floats) -> float | None:
    """How much of a mask stands still while the rest goes, or goes while the rest stands still, whichever is less: an
    object that was selected with a part of its background is torn in two. From how far pixels [n] of the mask moved
    against the background; None if those are too few."""
    if len(way) <= _FEWEST:
        return None
    return float(min((way < _STILL).mean(), (way > _GOING).mean()))


def unchanged(first: Bytes, lab: Bytes, camera: NDArray[np.float64]) -> Mask:
    """Where a frame shows what the selected one showed there, [h, w]; `camera` [2, 3] leads back to it."""
    lightness, red, blue = np.moveaxis(np.abs(carry(first, camera) - lab) < _SAME, -1, 0)
    return np.asarray(lightness & red & blue)
