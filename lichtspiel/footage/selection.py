"""What a person marked on one frame: boxes, a polygon, points or a painted mask.

This module knows coordinates and masks, no pictures.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from lichtspiel.errors import RequestError

__all__ = ["Box", "Selection"]

Box = tuple[int, int, int, int]

_LEAST = 4
"""The smallest side of a box, in pixels, in which there is something to follow."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Selection:
    """One object on one frame: a `box`, `polygon` corners, `points` (x, y, inside) or a painted `mask` [h, w], bool.

    Points may be added to a box. Raises RequestError when nothing is selected.
    """

    box: Box | None = None
    polygon: tuple[tuple[int, int], ...] = ()
    points: tuple[tuple[int, int, bool], ...] = ()
    mask: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        exact = (self.mask is not None) + bool(self.polygon)
        if exact > 1 or (exact and (self.box is not None or self.points)):
            raise RequestError(
                "box", self.box, "select an object in one way: by a box with points, a polygon or a mask"
            )
        if not exact and self.box is None and not any(inside for *_, inside in self.points):
            raise RequestError("box", None, "select an object: a box, a polygon, points or a mask")

    @property
    def is_exact(self) -> bool:
        """Whether the outline is given, so that nothing has to be looked for."""
        return self.mask is not None or bool(self.polygon)

    def check(self, width: int, height: int) -> Selection:
        """Check that everything lies on a frame of this size. Raises RequestError."""
        size = f"{width}x{height}"
        if self.mask is not None and self.mask.shape != (height, width):
            shown = f"{self.mask.shape[1]}x{self.mask.shape[0]}"
            raise RequestError("object", shown, f"the painted mask must be as large as the clip, {size}")
        if self.mask is not None and not self.mask.any():
            raise RequestError("object", "a black mask", "paint the object white")
        if self.box is not None:
            self._check_box(width, height)
        for x, y in (*self.polygon, *((x, y) for x, y, _ in self.points)):
            if not (0 <= x < width and 0 <= y < height):
                near = f"{min(max(x, 0), width - 1)},{min(max(y, 0), height - 1)}"
                raise RequestError("point", f"{x},{y}", f"it lies outside the clip, which is {size}", near)
        return self

    def _check_box(self, width: int, height: int) -> None:
        assert self.box is not None
        left, top, right, bottom = self.box
        if right - left < _LEAST or bottom - top < _LEAST:
            rule = f"a box is LEFT,TOP,RIGHT,BOTTOM in pixels, at least {_LEAST} wide and high"
            raise RequestError("box", ",".join(map(str, self.box)), rule)
        if left < 0 or top < 0 or right > width or bottom > height:
            near = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
            fits = near[2] - near[0] >= _LEAST and near[3] - near[1] >= _LEAST
            rule = f"it reaches beyond the clip, which is {width}x{height}"
            raise RequestError("box", ",".join(map(str, self.box)), rule, ",".join(map(str, near)) if fits else None)

    def reach(self, width: int, height: int) -> Box:
        """The box in which the object is looked for."""
        if self.box is not None:
            return self.box
        inside = [(x, y) for x, y, within in self.points if within]
        xs, ys = [x for x, _ in inside], [y for _, y in inside]
        across, down = width // 4, height // 4
        return (
            max(min(xs) - across, 1),
            max(min(ys) - down, 1),
            min(max(xs) + across, width - 1),
            min(max(ys) + down, height - 1),
        )

    def area(self, width: int, height: int) -> NDArray[np.bool_]:
        """Everything within the outline, or within the box."""
        if self.mask is not None:
            return self.mask
        filled = np.zeros((height, width), np.uint8)
        if self.polygon:
            cv2.fillPoly(filled, [np.array(self.polygon, np.int32)], 1)
        else:
            left, top, right, bottom = self.reach(width, height)
            filled[top:bottom, left:right] = 1
        return filled.astype(bool)

    def scaled(self, across: float, down: float, width: int, height: int) -> Selection:
        """The same selection on a frame of another size."""

        def near(x: float, y: float) -> tuple[int, int]:
            return min(int(x * across), width - 1), min(int(y * down), height - 1)

        if self.mask is not None:
            small = cv2.resize(self.mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
            return Selection(mask=small > 0.5)
        box = None
        if self.box is not None:
            left, top, right, bottom = self.box
            box = (
                int(left * across), int(top * down),
                min(round(right * across), width), min(round(bottom * down), height),
            )  # fmt: skip
        points = tuple((*near(x, y), inside) for x, y, inside in self.points)
        return Selection(box=box, polygon=tuple(near(x, y) for x, y in self.polygon), points=points)
