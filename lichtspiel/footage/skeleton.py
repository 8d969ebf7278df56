"""People drawn as skeletons, as models take them that follow a pose: OpenPose's colors on black.

Joints are those of COCO: nose, eyes, ears, shoulders, elbows, wrists, hips, knees and ankles, left before right.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from lichtspiel.frames import Frame

__all__ = ["JOINTS", "drawn_people"]

JOINTS = 17
_SEEN = 0.3
"""How sure a joint has to be to be drawn."""

_BONES = (
    (5, 7), (7, 9), (6, 8), (8, 10), (11, 13), (13, 15), (12, 14), (14, 16), (5, 6), (11, 12), (5, 11), (6, 12),
    (0, 1), (0, 2), (1, 3), (2, 4),
)  # fmt: skip


def drawn_people(size: tuple[int, int], people: Sequence[NDArray[np.float32]]) -> Frame:
    """A frame of a size (width, height) with people, each [17, 3]: x and y in pixels, and how sure the joint is."""
    width, height = size
    frame: Frame = np.zeros((height, width, 3), np.uint8)
    thick = max(round(min(size) / 100), 1)
    for joints in people:
        for number, (one, other) in enumerate(_BONES):
            if min(joints[one, 2], joints[other, 2]) >= _SEEN:
                ends = [(round(float(x)), round(float(y))) for x, y, _ in (joints[one], joints[other])]
                cv2.line(frame, ends[0], ends[1], _color(number, len(_BONES)), thick, cv2.LINE_AA)
        for number, (x, y, sure) in enumerate(joints):
            if sure >= _SEEN:
                cv2.circle(
                    frame, (round(float(x)), round(float(y))), thick + 1, _color(number, JOINTS), -1, cv2.LINE_AA
                )
    return frame


def _color(number: int, count: int) -> tuple[int, int, int]:
    """The colors of the rainbow, one for each limb, so that left and right can be told apart."""
    hue = np.array([[[round(180 * number / count), 255, 255]]], np.uint8)
    red, green, blue = cv2.cvtColor(hue, cv2.COLOR_HSV2RGB)[0, 0].tolist()
    return red, green, blue
