"""Find shots that show the same: encoded again, scaled, cropped or mirrored.

Candidates come from the vectors of pictures, which such changes hardly move; each is checked by laying one picture over
the other, because vectors of different scenes of one place can be as near.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lichtspiel.frames import Frame

__all__ = ["Match", "alike", "groups", "pairs"]

_CANDIDATES = 12  # nearest vectors that are checked
_NEAR = 0.75  # inner product of vectors below which nothing is checked
_SIDE = 96  # pixels of the larger picture's longer side when they are compared
_SCALES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)  # how much of the larger picture's sides a crop may keep
_SAME = 0.94  # correlation of the pictures from which on they are the same
_DETAIL = 0.72  # and of their fine structure, which backdrops of one kind do not share
_TINT = 0.085  # and the most that the color of a part may differ: in gray, rooms with other walls are alike
_PARTS = 6  # along each side


@dataclass(frozen=True)
class Match:
    """How well one picture lies over another: correlations of all and of the details, the largest difference in color
    of a part (0 to 1), and what was done to it."""

    score: float
    detail: float
    tint: float
    scale: float
    mirrored: bool

    @property
    def same(self) -> bool:
        """Whether the two show the same."""
        return self.score >= _SAME and self.detail >= _DETAIL and self.tint <= _TINT


def alike(one: Frame, other: Frame) -> Match:
    """Compare two pictures, either of which may be a crop or the mirror image of the other."""
    best = Match(-1.0, -1.0, 1.0, 1.0, False)
    for large, small in ((one, other), (other, one)):
        whole = _small(large, _SIDE)
        for mirrored in (False, True):
            part = small[:, ::-1] if mirrored else small
            for scale in _SCALES:
                piece = _small(part, round(_SIDE * scale), within=whole.shape[:2])
                found = _lay(whole, piece)
                if found is not None and found[0] + found[1] > best.score + best.detail:
                    best = Match(*found, scale, mirrored)
    return best


def _small(frame: Frame, side: int, within: tuple[int, ...] | None = None) -> NDArray[np.float32]:
    """A picture in RGB with this longer side, and no larger than `within`."""
    import cv2
    import numpy as np

    factor = side / max(frame.shape[:2])
    height, width = (max(round(length * factor), 8) for length in frame.shape[:2])
    if within is not None:
        height, width = min(height, within[0]), min(width, within[1])
    small = cv2.resize(np.ascontiguousarray(frame), (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float32)


def _lay(whole: NDArray[np.float32], piece: NDArray[np.float32]) -> tuple[float, float, float] | None:
    """The correlations of all and of the details, and the largest difference in color, where the piece fits best."""
    import cv2
    import numpy as np

    gray_whole, gray_piece = (cv2.cvtColor(one, cv2.COLOR_RGB2GRAY) for one in (whole, piece))
    if gray_piece.std() < 1 or gray_whole.std() < 1:  # a flat picture lies anywhere
        return None
    fits = cv2.matchTemplate(gray_whole, gray_piece, cv2.TM_CCOEFF_NORMED)
    _, score, _, (left, top) = cv2.minMaxLoc(fits)
    height, width = gray_piece.shape
    place = slice(top, top + height), slice(left, left + width)
    details: list[Any] = [one - cv2.GaussianBlur(one, (0, 0), 3) for one in (gray_whole[place], gray_piece)]
    spread = float(details[0].std() * details[1].std())
    detail = float((details[0] * details[1]).mean() / spread) if spread > 1e-3 else 0.0
    tints: list[Any] = [
        cv2.resize(one - one.mean(axis=2, keepdims=True), (_PARTS, _PARTS), interpolation=cv2.INTER_AREA)
        for one in (whole[place], piece)
    ]
    tint = float(np.abs(tints[0] - tints[1]).max()) / 255
    return (float(score) if np.isfinite(score) else 0.0), detail, tint


def pairs(vectors: NDArray[np.float32], pictures: Sequence[Frame]) -> list[tuple[int, int]]:
    """The pairs of pictures that show the same, as numbers, the smaller first. `vectors` are unit vectors."""
    import numpy as np

    found = set()
    for start in range(0, len(vectors), 512):
        products = vectors[start : start + 512] @ vectors.T
        for row, near in enumerate(products):
            number = start + row
            near[number] = -1
            for other in np.argsort(-near)[:_CANDIDATES]:
                pair = (min(number, int(other)), max(number, int(other)))
                if near[other] >= _NEAR and pair not in found and alike(pictures[number], pictures[int(other)]).same:
                    found.add(pair)
    return sorted(found)


def groups(count: int, same: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Sets of numbers that are connected by pairs, each with more than one, in order."""
    parent = list(range(count))

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    for one, other in same:
        first, second = sorted((root(one), root(other)))
        parent[second] = first
    members: dict[int, list[int]] = {}
    for number in range(count):
        members.setdefault(root(number), []).append(number)
    return [group for group in members.values() if len(group) > 1]
