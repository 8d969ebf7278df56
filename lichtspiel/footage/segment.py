"""Cut an object out of one frame, and the parts of that which tracking uses in every frame.

`grab` is the segmenter that comes with the package: OpenCV's GrabCut (Rother et al. 2004), from a box, a polygon,
points or a painted mask. A better one is any function of the type `Segmenter`. This module knows one frame at a time
and nothing of motion.

Masks are boolean [h, w]. Boxes are left, top, right, bottom in pixels, right and bottom excluded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from lichtspiel.footage.pixels import Floats, Mask, shrunk, widened
from lichtspiel.footage.selection import Selection
from lichtspiel.frames import Frame

__all__ = ["FLOOR", "NEVER", "Segmenter", "box_of", "color_bins", "grab", "histogram", "relax", "tidy"]

Segmenter: TypeAlias = "Callable[[Frame, Selection], Mask]"
"""From a frame and what was selected on it to the object's mask."""

FLOOR, NEVER = 2e-5, -8.0
"""How dense a color is at least, and the log odds of a place where an object cannot be."""

_SIDE = 200
"""The longest side, in pixels, at which GrabCut works: its time grows faster than the number of pixels."""

_ROUNDS = 4
_ALIKE = 6
_NEIGHBORS = ((0, 1), (1, 0), (1, 1), (1, -1))
_LEVELS = 16


def grab(frame: Frame, selection: Selection) -> Mask:
    """Cut out what was selected by GrabCut. A painted mask is taken as it is, and so is a polygon.

    Pixels outside a box are background. Points are inside the object or outside it; without a box, the object is looked
    for around them, at most a quarter of the frame away, and starts from what has their color.
    """
    height, width, _ = frame.shape
    if selection.is_exact:
        return selection.area(width, height)
    left, top, right, bottom = selection.reach(width, height)
    across, down = int((right - left) * 0.35) + 8, int((bottom - top) * 0.35) + 8
    x0, y0, x1, y1 = max(left - across, 0), max(top - down, 0), min(right + across, width), min(bottom + down, height)
    scale = min(1.0, _SIDE / max(x1 - x0, y1 - y0))
    small = shrunk(frame[y0:y1, x0:x1], max(round((x1 - x0) * scale), 1), max(round((y1 - y0) * scale), 1))
    seeds = np.full(small.shape[:2], cv2.GC_BGD, np.uint8)
    shift = np.array([x0, y0])
    (a, b), (c, d) = (
        np.round((np.array(corner) - shift) * scale).astype(int) for corner in ((left, top), (right, bottom))
    )
    seeds[b:d, a:c] = cv2.GC_PR_FGD if selection.box is not None else cv2.GC_PR_BGD
    for x, y, inside in selection.points:
        center = np.round((np.array([x, y]) - shift) * scale).astype(int)
        if inside and selection.box is None:
            near = _alike(small, int(center[0]), int(center[1]))
            seeds[b:d, a:c][near[b:d, a:c]] = cv2.GC_PR_FGD
        cv2.circle(seeds, center.tolist(), 3, cv2.GC_FGD if inside else cv2.GC_BGD, -1)
    cut = _grabcut(small, seeds)
    mask = np.zeros((height, width), bool)
    mask[y0:y1, x0:x1] = cv2.resize(tidy(cut).astype(np.float32), (x1 - x0, y1 - y0)) > 0.5
    return mask


def _alike(picture: Frame, x: int, y: int) -> Mask:
    """What is connected to a point by similar colors, and a little around it."""
    height, width, _ = picture.shape
    reached = np.zeros((height + 2, width + 2), np.uint8)
    flags = 4 | cv2.FLOODFILL_MASK_ONLY | (1 << 8)
    cv2.floodFill(cv2.medianBlur(picture, 5), reached, (x, y), (0,), (_ALIKE,) * 3, (_ALIKE,) * 3, flags)
    return widened(reached[1:-1, 1:-1], 9)


def _grabcut(picture: Frame, seeds: NDArray[np.uint8]) -> Mask:
    if not (seeds & 1).any() or (seeds & 1).all():
        return (seeds & 1).astype(bool)
    background, foreground = np.zeros((1, 65)), np.zeros((1, 65))
    everywhere: Any = None
    cv2.setRNGSeed(1)  # k-means starts GrabCut's color models at random
    cv2.grabCut(picture, seeds, everywhere, background, foreground, _ROUNDS, cv2.GC_INIT_WITH_MASK)
    return (seeds & 1).astype(bool)


def box_of(mask: Mask) -> tuple[int, int, int, int] | None:
    """The smallest box around a mask; None if it is empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def tidy(mask: Mask, share: float = 0.12) -> Mask:
    """Drop specks, smaller than a share of the largest part, and fill holes of less than 2 % of the area."""
    _, labels, parts, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if len(parts) < 2:
        return mask
    keep = parts[:, cv2.CC_STAT_AREA] >= share * parts[1:, cv2.CC_STAT_AREA].max()
    keep[0] = False
    kept = keep[labels]
    _, labels, holes, _ = cv2.connectedComponentsWithStats((~kept).astype(np.uint8), connectivity=4)
    height, width = mask.shape
    inner = (holes[:, 0] > 0) & (holes[:, 1] > 0)
    inner &= (holes[:, 0] + holes[:, 2] < width) & (holes[:, 1] + holes[:, 3] < height)
    fill = inner & (holes[:, cv2.CC_STAT_AREA] < 0.02 * kept.sum())
    fill[0] = False
    filled: Mask = kept | fill[labels]
    return filled


def color_bins(lab: NDArray[np.uint8]) -> NDArray[np.int32]:
    """The index of each pixel's color among 16 x 16 x 16 cells of the Lab space, [h, w].

    Colors of real pictures lie close to gray: 64 units away they share the outermost cell.
    """
    cells = np.empty(lab.shape, np.int32)
    cells[..., 0] = lab[..., 0] >> 4
    cells[..., 1:] = (np.clip(lab[..., 1:], 64, 191) - 64) >> 3
    index: NDArray[np.int32] = (cells[..., 0] * _LEVELS + cells[..., 1]) * _LEVELS + cells[..., 2]
    return index


def histogram(bins: NDArray[np.int32], weight: NDArray[np.floating] | Mask) -> Floats:
    """How frequent each color is, [4096]: smoothed over neighboring cells, with sum 1 (or 0 if nothing counts)."""
    counts = np.bincount(bins.ravel(), weight.ravel(), minlength=_LEVELS**3)
    cube = counts.reshape(_LEVELS, _LEVELS, _LEVELS).astype(np.float32)
    for axis in range(3):
        ahead, behind = np.roll(cube, 1, axis), np.roll(cube, -1, axis)
        cube = 0.5 * cube + 0.25 * ahead + 0.25 * behind
    total = float(cube.sum())
    return (cube / total if total else cube).ravel()


def relax(evidence: Floats, lab: NDArray[np.uint8], rounds: int = 8, weight: float = 1.2) -> Floats:
    """Let neighboring pixels of similar color agree: mean-field inference in the model that GrabCut cuts exactly.

    `evidence` [h, w] is the log odds that a pixel belongs to the object; so is the result.
    """
    colors = lab.astype(np.float32)
    height, width = evidence.shape
    pairs = []
    for down, right in _NEIGHBORS:
        here = slice(0, height - down), slice(max(0, -right), width - max(0, right))
        there = slice(down, height), slice(max(0, right), width + min(0, right))
        difference = colors[here] - colors[there]
        pairs.append((here, there, np.einsum("hwc,hwc->hw", difference, difference)))
    beta = 1 / (2 * float(np.mean([distance.mean() for _, _, distance in pairs])) + 1e-6)
    bonds = [
        (here, there, np.float32(weight / np.hypot(*offset)) * np.exp(np.float32(-beta) * distance))
        for offset, (here, there, distance) in zip(_NEIGHBORS, pairs, strict=True)
    ]
    total, belief = evidence, np.tanh(evidence / 2)
    for _ in range(rounds):
        total = evidence.copy()
        for here, there, bond in bonds:
            total[here] += bond * belief[there]
            total[there] += bond * belief[here]
        belief = np.tanh(total / 2)
    return total
