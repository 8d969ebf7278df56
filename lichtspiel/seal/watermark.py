"""The invisible mark: a faint pattern, the same in every frame, that carries the id of a video.

The pattern is a tile of 40 x 40 chips, each slightly lighter or darker, repeated over the frame. A third of the chips
is the pilot, which is the same in all videos; with it `detect` finds the grid again after cropping, scaling and
mirroring. The others carry the payload (`payload`). This is spread spectrum: no chip can be read by itself, but the sum
over many can (Cox, Kilian, Leighton and Shamoon, "Secure spread spectrum watermarking for multimedia", 1997).

It is no secret. Position and sign of every chip are public so that anybody can detect the mark; therefore somebody with
skill can also remove or forge it. It says that a video was generated; only the credentials prove that it is unchanged.

How much it survives depends on the size, because there must be room for enough chips (benchmarks/watermark.py measures
it): at 480 pixels the compression, cropping and scaling of videos that people pass on; at 64 pixels, the size of nano,
no more than our own compression and mild changes, although the mark is stronger there.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from functools import cache
from typing import TYPE_CHECKING

import cv2
import numpy as np

from lichtspiel.seal import payload

if TYPE_CHECKING:
    import numpy.typing as npt

    from lichtspiel.frames import Frame

    Plane = npt.NDArray[np.float32]

__all__ = ["TILE", "Watermark", "chip_size", "layout", "mark", "spread"]

TILE = 40
"""Chips along a side of the tile."""

_KEY = b"lichtspiel watermark 1"  # of the places and signs: another key is another mark
_PILOT = TILE * TILE // 3
# The share of the energy at which grid and message are lost together: the grid is found if the pilot has about 7
# standard deviations, and 48 bits of this code can be read if the rest has about 10.5 (measured). The ratio of their
# squares is 1 : 2.

_CHIPS_ACROSS = 64  # the short side, at any size: scaling a video keeps the number
_SMALLEST_CHIP = 1.5  # pixels: below it, cubic interpolation cannot draw a chip, and half a tile is lost at 64 pixels

# Strength in levels of 255: the most that does not make a flat gray wall look mottled, at 480 pixels and up. The sum
# over a frame grows with strength times side, so smaller frames get proportionally more, as long as 42 dB remain.
# Textures hide more, and compression removes more from them.
_FLOOR, _FLOOR_SIZE, _MOST_FLOOR = 0.8, 480, 1.8
_SLOPE = 0.08  # levels per level of local standard deviation
_CEILING = 4.0
_WINDOW = 1.2  # chips: the neighbourhood of the local deviation; wider, the mark would stand out beside edges


class Watermark:
    """The mark of one video. The pattern is computed once; `mark` then takes a few milliseconds per frame."""

    def __init__(self, id: int, height: int, width: int) -> None:
        chip = chip_size(height, width)
        role, signs = layout()
        bits = np.append(payload.encode(id), np.int8(1))  # the pilot's role, -1, meets the 1 at the end
        field = spread(signs * bits[role], chip, height, width)
        self._pattern = field / np.sqrt(np.mean(field**2))
        self._floor = min(_FLOOR * max(_FLOOR_SIZE / min(height, width), 1), _MOST_FLOOR)
        self._slope = _SLOPE * (_FLOOR / self._floor) ** 2
        self._reduction = 2 if chip >= 4 else 1  # the local deviation needs no more than two pixels a chip
        self._window = 2 * round(_WINDOW * chip / self._reduction / 2) + 1

    def mark(self, frame: Frame) -> Frame:
        """A marked copy of a frame (uint8 [height, width, 3]). All channels change alike, so colors stay the same."""
        height, width = self._pattern.shape
        assert frame.shape == (height, width, 3), (frame.shape, self._pattern.shape)
        assert frame.dtype == np.uint8, frame.dtype
        frame = np.ascontiguousarray(frame)
        luma = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        reduced = (-(-width // self._reduction), -(-height // self._reduction))
        luma = cv2.resize(luma, reduced, interpolation=cv2.INTER_AREA).astype(np.float32)
        window = (self._window, self._window)
        mean, square = cv2.blur(luma, window), cv2.blur(luma * luma, window)
        deviation = np.sqrt(np.maximum(square - mean * mean, 0))
        strength = np.minimum(self._floor + self._slope * deviation, _CEILING)
        strength = cv2.resize(strength, (width, height), interpolation=cv2.INTER_LINEAR)
        change = cv2.multiply(strength, self._pattern, dtype=cv2.CV_16S)  # rounds
        return np.asarray(cv2.add(frame, cv2.merge([change, change, change]), dtype=cv2.CV_8U), np.uint8)


def mark(frame: Frame, id: int) -> Frame:
    """A copy of one frame (uint8 [height, width, 3]) that carries `id` (below 2^32)."""
    return Watermark(id, frame.shape[0], frame.shape[1]).mark(frame)


def chip_size(height: int, width: int) -> float:
    """The side of a chip, in pixels, in a frame of this size."""
    return max(min(height, width) / _CHIPS_ACROSS, _SMALLEST_CHIP)


@cache
def layout() -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int8]]:
    """What each chip of the tile says and with which sign, both [40, 40]: the number of its coded bit, or -1 for the
    pilot. SHAKE-256 draws both, so they are the same with every version of every library."""
    drawn = np.frombuffer(hashlib.shake_256(_KEY).digest(8 * TILE * TILE), "<u8")
    order = np.argsort(drawn, kind="stable")
    role = np.full(TILE * TILE, -1, np.int64)
    role[order[_PILOT:]] = np.arange(TILE * TILE - _PILOT) % payload.CODE_BITS
    signs = 1 - 2 * (drawn >> 7 & 1).astype(np.int8)
    return role.reshape(TILE, TILE), signs.reshape(TILE, TILE)


_BAND = 16_384  # pixels that are drawn at once; OpenCV 4 draws no picture with a side above 32,766


def spread(tile: npt.NDArray[np.int8], chip: float, height: int, width: int) -> Plane:
    """The tile repeated over a frame of this size, from its upper left corner, `chip` pixels a chip, smooth between."""
    plane = np.empty((height, width), np.float32)
    for top, left in itertools.product(range(0, height, _BAND), range(0, width, _BAND)):
        part = plane[top : top + _BAND, left : left + _BAND]
        (rows, y), (columns, x) = (
            _chips(start, side, chip) for start, side in zip((top, left), part.shape, strict=True)
        )
        field = tile[np.ix_(rows % len(tile), columns % len(tile))].astype(np.float32)
        matrix = np.array([[1 / chip, 0, x], [0, 1 / chip, y]])
        flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        part[:] = cv2.warpAffine(field, matrix, (part.shape[1], part.shape[0]), flags=flags)
    return plane


def _chips(start: int, side: int, chip: float) -> tuple[npt.NDArray[np.int64], float]:
    """The chips along one side that a part of a frame needs, and where the middle of its first pixel is among them."""
    margin = 3  # more than the cubic kernel reaches
    first = math.floor(start / chip) - margin
    count = math.ceil(side / chip) + 2 * margin + (start > 0)
    return np.arange(first, first + count), (start + 0.5) / chip - 0.5 - first
