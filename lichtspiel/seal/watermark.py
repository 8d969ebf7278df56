"""The invisible mark: a faint pattern of chips, the same in every frame, that says which video this was.

draft
"""

from __future__ import annotations

import hashlib
from functools import cache

import cv2
import numpy as np
import numpy.typing as npt

from lichtspiel.seal import message

Frame = npt.NDArray[np.uint8]
Plane = npt.NDArray[np.float32]

TILE = 40
_KEY = b"lichtspiel watermark 1"
PILOT_SHARE = 1 / 3
CHIPS_ACROSS = 120
SMALLEST_CHIP = 2.0
FLOOR, SLOPE, CEILING = 0.7, 0.08, 4.0


@cache
def layout() -> tuple[npt.NDArray[np.int64], Plane]:
    noise = np.frombuffer(hashlib.shake_256(_KEY).digest(TILE * TILE * 8), "<u8").reshape(TILE, TILE)
    order = np.argsort(noise.ravel(), kind="stable")
    role = np.empty(TILE * TILE, np.int64)
    pilots = round(TILE * TILE * PILOT_SHARE)
    role[order[:pilots]] = -1
    role[order[pilots:]] = np.arange(TILE * TILE - pilots) % message.CODED
    signs = 1 - 2 * (noise >> 7 & 1).astype(np.float32)
    return role.reshape(TILE, TILE), signs


def chips(coded: npt.NDArray[np.int8] | None) -> Plane:
    role, signs = layout()
    said = np.zeros(message.CODED, np.float32) if coded is None else coded
    return np.where(role < 0, signs, signs * said[role]).astype(np.float32)


def chip_size(height: int, width: int) -> float:
    return max(min(height, width) / CHIPS_ACROSS, SMALLEST_CHIP)


def spread(tile: Plane, chip: float, height: int, width: int) -> Plane:
    margin = 3
    rows, columns = (int(np.ceil(side / chip)) + 2 * margin for side in (height, width))
    field = np.pad(tile, ((margin, max(rows - TILE - margin, 0)), (margin, max(columns - TILE - margin, 0))), "wrap")
    start = 0.5 / chip - 0.5 + margin
    matrix = np.array([[1 / chip, 0, start], [0, 1 / chip, start]])
    return np.asarray(
        cv2.warpAffine(field, matrix, (width, height), flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP), np.float32
    )


class Watermark:
    def __init__(self, id: int, height: int, width: int) -> None:
        chip = chip_size(height, width)
        field = spread(chips(message.encode(id)), chip, height, width)
        self.pattern = field / np.sqrt(np.mean(field**2))
        self.window = 2 * round(chip * 9 / 8) + 1
        self.small = min(height, width) < 240

    def mark(self, frame: Frame) -> Frame:
        luma = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32)
        size = (self.window, self.window)
        mean, square = cv2.blur(luma, size), cv2.blur(luma * luma, size)
        deviation = np.sqrt(np.maximum(square - mean * mean, 0))
        strength = np.clip(FLOOR + SLOPE * deviation, FLOOR, CEILING)
        change = np.rint(strength * self.pattern).astype(np.int16)
        return np.asarray(cv2.add(frame, cv2.merge([change] * 3), dtype=cv2.CV_8U), np.uint8)
