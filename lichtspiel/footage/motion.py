"""How pictures move: dense optical flow between two frames, how far it can be trusted, and the camera's share of it.

Flow is OpenCV's DIS (Kroeger et al. 2016). Knows no objects.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lichtspiel.footage.pixels import Bytes, Floats, Mask, pull

__all__ = ["EVERYWHERE", "Flows", "Motion", "carry", "is_still", "surroundings"]

EVERYWHERE = (slice(None), slice(None))
"""All of a picture, as a part of it."""

_FEWEST = 8
"""How many corners the motion of the camera or of an object is fitted to, at least."""


@dataclass(frozen=True)
class Motion:
    """The motion from one frame to the next, as seen from the next one.

    `source` [h, w, 2] is where each pixel was in the frame before (x, y); `trusted` [h, w] says whether the flow there
    and back agree; `camera` [2, 3] maps a background pixel to where it was.
    """

    source: Floats
    trusted: Mask
    camera: NDArray[np.float64]

    @cached_property
    def independent(self) -> Floats:
        """How far each pixel moved against the background, in pixels, [h, w]."""
        return self.against(self.camera)

    def against(self, matrix: NDArray[np.float64], where: tuple[slice, slice] = EVERYWHERE) -> Floats:
        """How far each pixel of a part is from where an affine map says that it was, in pixels, [h, w]."""
        x, y = self._mapped(matrix, where)
        source = self.source[where]
        distance: Floats = np.hypot(source[..., 0] - x, source[..., 1] - y)
        return distance

    def between(self, matrix: NDArray[np.float64], where: tuple[slice, slice] = EVERYWHERE) -> Floats:
        """How far an affine map and the camera's differ at each pixel of a part, [h, w]."""
        (x, y), (u, v) = self._mapped(matrix, where), self._mapped(self.camera, where)
        distance: Floats = np.hypot(x - u, y - v)
        return distance

    def _mapped(self, matrix: NDArray[np.float64], where: tuple[slice, slice]) -> tuple[Floats, Floats]:
        height, width = self.trusted.shape
        columns, rows = (
            np.arange(width, dtype=np.float32)[where[1]],
            np.arange(height, dtype=np.float32)[where[0], None],
        )
        (a, b, c), (d, e, f) = matrix.astype(np.float32)
        return a * columns + b * rows + c, d * columns + e * rows + f


class Flows:
    """Measures motions between frames of one size. Threads may share it."""

    def __init__(self, width: int, height: int) -> None:
        self._own = threading.local()  # DIS keeps its buffers from call to call
        columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
        self._places: Floats = np.stack([columns, rows], -1)

    def motion(self, old: Bytes, new: Bytes, camera: NDArray[np.float64]) -> Motion:
        """From gray frames and the camera's motion between them."""
        return Motion(*self.checked(old, new), camera)

    def checked(self, old: Bytes, new: Bytes) -> tuple[Floats, Mask]:
        """Where each pixel of the new gray frame was in the old one, [h, w, 2] (x, y), and whether to trust it."""
        back, ahead = self.flow(new, old), self.flow(old, new)
        source = self._places + back
        returned = pull(ahead, source, edge=cv2.BORDER_REPLICATE) + back
        trusted = np.hypot(returned[..., 0], returned[..., 1]) < 1 + 0.05 * np.hypot(back[..., 0], back[..., 1])
        return source, trusted

    def flow(self, one: Bytes, other: Bytes) -> Floats:
        """Where each pixel of a gray frame moves to in another one, [h, w, 2] (x, y)."""
        nothing: Any = None
        return np.asarray(self._dis().calc(one, other, nothing), np.float32)

    def _dis(self) -> Any:
        if not hasattr(self._own, "dis"):
            library: Any = cv2  # its type stubs lack this class
            self._own.dis = library.DISOpticalFlow_create(library.DISOPTICAL_FLOW_PRESET_FAST)
        return self._own.dis

    def camera(self, old: Bytes, new: Bytes) -> NDArray[np.float64]:
        """The background's motion [2, 3] from places in the new gray frame to places in the old one.

        It is the motion that is seen in most parts of the frame (a large object has more corners, but in few parts) and
        explains the picture better than standing still (rain is everywhere, too, but does not).
        """
        here, there = self._pairs(old, new, None, 400)
        best = np.eye(2, 3)
        if len(here) < _FEWEST:
            return best
        rest = np.ones(len(here), bool)
        most = _parts(here, np.hypot(*(here - there).T) < 0.8, new.shape)
        for _ in range(2):
            if rest.sum() < _FEWEST:
                break
            matrix, _ = _fit(cv2.estimateAffine2D, here[rest], there[rest], 0.8)
            if matrix is None:
                break
            error = np.hypot(*(here @ matrix[:, :2].T + matrix[:, 2] - there).T)
            parts = _parts(here, error < 0.8, new.shape)
            if parts > most and _difference(old, new, matrix) < 0.9 * _difference(old, new, best):
                best, most = matrix, parts
            rest &= error > 2
        return best

    def object_motion(
        self, old: Bytes, new: Bytes, where: Mask, guess: NDArray[np.float64] | None = None
    ) -> tuple[NDArray[np.float64] | None, float]:
        """The similarity [2, 3] from an object's new places to its old ones, and the share of its corners that agree;
        None if there are too few corners. They are looked for near the old places that a `guess` [2, 3] leads to."""
        height, width = new.shape
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        shown = old
        if guess is not None:
            warped = cv2.warpAffine(old, guess, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
            shown = np.asarray(warped, np.uint8)
        here, there = self._pairs(shown, new, where.astype(np.uint8), 200)
        if guess is not None:
            there = np.asarray(there @ guess[:, :2].T + guess[:, 2], np.float32)
        if len(here) < _FEWEST:
            return None, 0.0
        return _fit(cv2.estimateAffinePartial2D, here, there, 1.5)

    @staticmethod
    def _pairs(old: Bytes, new: Bytes, where: Bytes | None, most: int) -> tuple[Floats, Floats]:
        """Corners of the new frame and where Lucas-Kanade finds them in the old one, there and back."""
        nothing = np.empty((0, 2), np.float32)
        apart = 12 if where is None else 5
        corners = cv2.goodFeaturesToTrack(new, most, 0.002, apart, mask=where, blockSize=5)
        if corners is None:
            return nothing, nothing
        there, found = _follow(new, old, corners)
        back, again = _follow(old, new, there)
        holds = (found.ravel() > 0) & (again.ravel() > 0) & (np.abs(back - corners).max(2).ravel() < 0.7)
        return corners[holds, 0], there[holds, 0]


def _follow(one: Bytes, other: Bytes, points: Any) -> tuple[Any, Any]:
    nothing: Any = None
    there, found, _ = cv2.calcOpticalFlowPyrLK(one, other, points, nothing, winSize=(15, 15), maxLevel=3)
    return there, found


def _fit(
    fit: Callable[..., Any], here: Floats, there: Floats, tolerance: float
) -> tuple[NDArray[np.float64] | None, float]:
    cv2.setRNGSeed(1)
    matrix, inliers = fit(
        here, there, method=cv2.RANSAC, ransacReprojThreshold=tolerance, maxIters=300, confidence=0.99
    )
    return (None, 0.0) if matrix is None else (np.asarray(matrix, np.float64), float(inliers.mean()))


def _difference(old: Bytes, new: Bytes, matrix: NDArray[np.float64]) -> float:
    """How much a frame differs from the one before after a motion, without counting large differences much."""
    height, width = new.shape
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    shown = cv2.warpAffine(old, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return float(cv2.absdiff(shown, new).clip(0, 20).mean())


def _parts(places: Floats, where: Mask, shape: tuple[int, ...]) -> int:
    """In how many cells of a grid of 10 x 8 some of the places lie."""
    cells = (places[where] / (shape[1] / 10, shape[0] / 8)).astype(int)
    return len(np.unique(cells[:, 0] * 8 + cells[:, 1]))


def is_still(matrix: NDArray[np.float64], width: int, height: int) -> bool:
    """Whether an affine map moves no corner of a frame by more than a quarter of a pixel."""
    corners = np.array([[0, width, 0, width], [0, 0, height, height], [1, 1, 1, 1]], np.float64)
    return bool(np.abs(matrix @ corners - corners[:2]).max() <= 0.25)


def carry(picture: NDArray[Any], matrix: NDArray[np.float64], *, edge: int = cv2.BORDER_CONSTANT) -> Floats:
    """A picture of the frame before, as the map from new places to old ones shows it."""
    height, width = picture.shape[:2]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(picture, matrix, (width, height), flags=flags, borderMode=edge), np.float32)


def surroundings(prior: Floats, motion: Motion) -> tuple[tuple[slice, slice] | None, float]:
    """The part of the frame where an object can be, and how far its outline may be from where it is expected."""
    solid = prior > 0.5
    rows, columns = np.nonzero(solid)
    if len(rows) < 12:
        return None, 0.0
    speed = float(np.percentile(motion.independent[solid], 90))
    reach = float(int(max(4, 0.08 * np.sqrt(len(rows)), min(0.5 * speed, 20))))
    pad = int(2 * reach + 6)
    height, width = prior.shape
    down = slice(max(rows.min() - pad, 0), min(rows.max() + pad + 1, height))
    across = slice(max(columns.min() - pad, 0), min(columns.max() + pad + 1, width))
    return (down, across), reach
