"""What an object looks like where nothing covers it, and where it is expected while something does.

The last shape that was seen whole is kept with its colors. While a part of it is covered it is moved on as the object
moved against the background before, and looked for near there by its colors.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lichtspiel.footage.motion import carry
from lichtspiel.footage.pixels import Bytes, Floats, Mask

__all__ = ["Memory"]

_FRAMES = 6
"""From how many frames the object's way is taken: their median, because animals hop while they walk."""

_POINTS = 400
"""How many pixels of an object stand for all of it while it is looked for."""

_ALIKE = 30
"""How far two colors may be apart, in Lab, for a pixel to be recognized."""

_MOST = 0.6
"""The share of an object's pixels that must be recognized where it is expected for its shape to be believed."""

_LEAST = 0.12
"""The share of an object's pixels that must be recognized for its place to be corrected."""

_NEARER = 0.002
"""How much less of the object need be recognized a pixel nearer to where it is expected."""

_FARTHEST = 40
"""How far from there it is looked for, in pixels; that far only after some frames without it."""


@dataclass
class Memory:
    """One object as it was last seen whole: its `shape` [h, w] and `colors` [h, w, 3] in Lab, and the map `pose` [3, 3]
    from places in the frame at hand to places there. `covered` is the share of it that something hid in the last frame,
    `since` the number of frames since it was whole."""

    shape: Floats
    colors: Bytes
    pose: NDArray[np.float64] = field(default_factory=lambda: np.eye(3))
    ways: list[NDArray[np.float64]] = field(default_factory=list)
    covered: float = 0.0
    since: int = 0

    def refresh(self, mask: Mask, lab: Bytes) -> None:
        """Keep what is seen now."""
        self.shape, self.colors = mask.astype(np.float32), lab
        self.pose, self.since = np.eye(3), 0

    def learn(self, moved: NDArray[np.float64], camera: NDArray[np.float64], where: Floats) -> None:
        """Remember how the object moved against the background: both maps [2, 3] lead to the frame before."""
        if (center := _center(where)) is not None:
            self.ways = [*self.ways[1 - _FRAMES :], (camera - moved) @ center]

    def predicted(self, camera: NDArray[np.float64]) -> NDArray[np.float64]:
        """The map [2, 3] from the object's new places to its old ones if it moves on as before."""
        matrix = camera.copy()
        if self.ways:
            matrix[:, 2] -= np.median(self.ways, axis=0)
        return matrix

    def move(self, moved: NDArray[np.float64]) -> None:
        """Go on to the next frame by a map [2, 3] from new places to old ones."""
        self.pose = self.pose @ np.vstack([moved, [0, 0, 1]])
        self.since += 1

    def recognized(self, lab: Bytes, moved: NDArray[np.float64]) -> float:
        """The share of the object whose colors are seen where it is after a move by a map [2, 3] to its old places."""
        places = np.argwhere(self.shape > 0.5)
        if not len(places):
            return 0.0
        places = places[:: max(len(places) // _POINTS, 1)]
        back = np.linalg.inv(self.pose @ np.vstack([moved, [0, 0, 1]]))
        columns, rows = (back[:2, :2] @ places[:, ::-1].T + back[:2, 2:]).round().astype(int)
        inside = (rows >= 0) & (rows < lab.shape[0]) & (columns >= 0) & (columns < lab.shape[1])
        difference = lab[rows[inside], columns[inside]].astype(np.float32) - self.colors[tuple(places[inside].T)]
        alike = np.einsum("nc,nc->n", difference, difference) < _ALIKE**2
        return float(alike.sum()) / len(places)

    def expected_shape(self) -> Floats:
        """The whole shape in the frame at hand, [h, w]."""
        return carry(self.shape, self.pose[:2])

    def expected_colors(self) -> Floats:
        """The colors that are expected there, [h, w, 3]."""
        return carry(self.colors, self.pose[:2], edge=cv2.BORDER_REPLICATE)

    def again(self, lab: Bytes) -> Floats:
        """1 where the object is expected and its color is seen, [h, w]; nowhere if most of it is not."""
        shape, difference = self.expected_shape(), lab - self.expected_colors()
        alike = (shape > 0.5) & (np.einsum("hwc,hwc->hw", difference, difference) < _ALIKE**2)
        if alike.sum() < _MOST * (shape > 0.5).sum():
            return np.zeros_like(shape)
        return np.asarray(alike, np.float32)

    def look(self, lab: Bytes, open_ground: Mask) -> None:
        """Correct the place by the colors of what can be seen, where `open_ground` [h, w] does not show."""
        self.pose = self.pose @ self._shift(lab, open_ground, self.pose[:2], min(3 + 3 * self.since, _FARTHEST))

    def leap(self, lab: Bytes, open_ground: Mask, guess: NDArray[np.float64]) -> NDArray[np.float64]:
        """The map [2, 3] from the object's new places to its old ones that shows most of its colors, far around where
        `guess` [2, 3] expects it."""
        expected = np.vstack([guess, [0, 0, 1]])
        shift = self._shift(lab, open_ground, (self.pose @ expected)[:2], _FARTHEST)
        leap: NDArray[np.float64] = (expected @ shift)[:2]
        return leap

    def _shift(
        self, lab: Bytes, open_ground: Mask, matrix: NDArray[np.float64], reach: int
    ) -> NDArray[np.float64]:  # fmt: skip
        """The map [3, 3] from where the object is best recognized to where `matrix` [2, 3] shows it."""
        shift = np.eye(3)
        shape, colors = carry(self.shape, matrix), carry(self.colors, matrix, edge=cv2.BORDER_REPLICATE)
        places = np.argwhere(shape > 0.5)
        if len(places) < 30:
            return shift
        places = places[:: max(len(places) // _POINTS, 1)]
        wanted = colors[places[:, 0], places[:, 1]]
        steps = np.arange(-reach, reach + 1, 3)
        best = self._best(lab, open_ground, places, wanted, steps, np.zeros(2, int))
        best = self._best(lab, open_ground, places, wanted, np.arange(-2, 3), best)
        shift[:2, 2] = -best[::-1]
        return shift

    @staticmethod
    def _best(
        lab: Bytes, ground: Mask, places: NDArray[Any], wanted: Floats, steps: NDArray[Any],
        around: NDArray[Any],
    ) -> NDArray[Any]:  # fmt: skip
        """The shift (down, right) at which most places show the wanted color; none where too few do."""
        height, width = ground.shape
        shifts = np.stack(np.meshgrid(steps, steps, indexing="ij"), -1).reshape(-1, 2) + around
        at = places[None] + shifts[:, None]
        inside = ((at >= 0) & (at < (height, width))).all(-1)
        rows, columns = np.clip(at[..., 0], 0, height - 1), np.clip(at[..., 1], 0, width - 1)
        difference = lab[rows, columns].astype(np.float32) - wanted
        alike = np.einsum("knc,knc->kn", difference, difference) < _ALIKE**2
        found = (alike & inside & ~ground[rows, columns]).mean(1)
        score = found - _NEARER * np.hypot(*shifts.T)
        index = int(score.argmax())
        best: NDArray[Any] = shifts[index] if found[index] > _LEAST else np.zeros(2, int)
        return best


def _center(where: Floats) -> NDArray[np.float64] | None:
    rows, columns = np.nonzero(where > 0.5)
    return np.array([columns.mean(), rows.mean(), 1.0]) if len(rows) else None
