"""What becomes of a tracked mask before it is used: its shape, its margin and its edge; and how it is shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from lichtspiel.footage.pixels import Mask
from lichtspiel.footage.segment import box_of
from lichtspiel.frames import Frame

__all__ = ["Shape", "overlay", "shaped"]

Shape = Literal["tight", "box"]

_COLORS = ((60, 220, 90), (255, 140, 40), (90, 150, 255), (240, 90, 200))


def shaped(
    mask: Mask, shape: Shape = "tight", grow: int = 0, feather: int = 0, even: bool = False
) -> NDArray[np.uint8]:
    """A mask [h, w] as gray levels, 255 where it holds.

    `grow` is the margin in pixels (negative shrinks), `feather` the width in pixels over which the edge fades to the
    outside. A box is the smallest around the mask, before it grows.
    """
    area = mask.astype(np.uint8)
    if shape == "box" and (box := box_of(mask)) is not None:
        left, top, right, bottom = box
        area[top:bottom, left:right] = 1
    if grow:
        size = 2 * abs(grow) + 1
        kind = cv2.MORPH_RECT if shape == "box" else cv2.MORPH_ELLIPSE
        kernel = cv2.getStructuringElement(kind, (size, size))
        area = np.asarray(cv2.dilate(area, kernel) if grow > 0 else cv2.erode(area, kernel), np.uint8)
    if not feather or not area.any():
        return area * np.uint8(255)
    away = cv2.distanceTransform(1 - area, cv2.DIST_L2, 5)
    faded: NDArray[np.uint8] = (np.clip(1 - away / (feather + 1), 0, 1) * 255 + 0.5).astype(np.uint8)
    return faded


def overlay(frame: Frame, masks: Sequence[Mask], number: int, confidence: float, limit: float) -> Frame:
    """A frame for the sheet: each object tinted and outlined, with the frame's number and how sure the masks are."""
    picture = frame.copy()
    unit = max(frame.shape[0] / 240, 0.5)
    for index, mask in enumerate(masks):
        color = np.array(_COLORS[index % len(_COLORS)])
        picture[mask] = (picture[mask] * 0.55 + color * 0.45).astype(np.uint8)
        outline, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, outline, -1, color.tolist(), max(round(unit), 1))
    text = f"{number}  {confidence:.2f}"
    place = (round(6 * unit), frame.shape[0] - round(8 * unit))
    tone = (255, 255, 255) if confidence >= limit else (255, 70, 60)
    for ink, width in (((0, 0, 0), 4), (tone, 1)):
        cv2.putText(picture, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5 * unit, ink, round(width * unit), cv2.LINE_AA)
    return picture
