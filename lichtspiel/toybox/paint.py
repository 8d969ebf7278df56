"""Brushes for procedural backdrops: a canvas with a coordinate system, smooth noise, ridges and soft-edged shapes.

Lengths are in frame heights, with (0, 0) the top left corner of the still frame, so the same seed gives the same
picture at every size. Does not know which places exist or what is in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]
Pixels = NDArray[np.uint8]
Color = tuple[float, float, float]

_SUBPIXEL_BITS = 4
_TURN = np.linspace(0, 2 * np.pi, 24, endpoint=False)
_CIRCLE = np.stack((np.cos(_TURN), np.sin(_TURN)), 1)


@dataclass(frozen=True)
class Canvas:
    """The pixel grid a backdrop is painted on: the frame plus `margin` (a fraction of the frame) on every side."""

    width: int
    height: int
    margin: float

    @property
    def unit(self) -> int:
        """Pixels per frame height."""
        return self.height

    @property
    def aspect(self) -> float:
        """Width of the frame in frame heights."""
        return self.width / self.height

    @property
    def border(self) -> tuple[int, int]:
        """Pixels added at the left and right, and at the top and bottom."""
        return round(self.width * self.margin), round(self.height * self.margin)

    @property
    def x(self) -> Image:
        """The horizontal position of every pixel column."""
        border = self.border[0]
        return ((np.arange(self.width + 2 * border, dtype=np.float32) + 0.5 - border) / self.unit).astype(np.float32)

    @property
    def y(self) -> Image:
        """The vertical position of every pixel row."""
        border = self.border[1]
        return ((np.arange(self.height + 2 * border, dtype=np.float32) + 0.5 - border) / self.unit).astype(np.float32)


def gradient(top: Color, bottom: Color, position: NDArray[np.floating]) -> Image:
    """Blend two colors: `position` 0 gives `top`, 1 gives `bottom`; the result has one more axis."""
    clipped = np.clip(position, 0, 1)[..., None]
    low = np.asarray(top, np.float32)
    high = np.asarray(bottom, np.float32)
    return np.asarray(low + (high - low) * clipped, np.float32)


def noise(rng: np.random.Generator, size: tuple[int, int], cells: tuple[int, int], octaves: int) -> Image:
    """Smooth noise in 0..1 of `size` (rows, columns); its coarsest octave has `cells` (down, across) values."""
    total = np.zeros(size, np.float32)
    weight = 1.0
    for octave in range(octaves):
        grid = rng.random((cells[0] << octave, cells[1] << octave), np.float32)
        total += weight * cv2.resize(grid, (size[1], size[0]), interpolation=cv2.INTER_CUBIC)
        weight *= 0.5
    total -= total.min()
    total /= max(float(total.max()), 1e-6)
    return np.asarray(total, np.float32)


def ridge(rng: np.random.Generator, columns: int, cells: int, octaves: int) -> Image:
    """A smooth skyline in 0..1, one value per column."""
    return np.asarray(noise(rng, (4, columns), (1, cells), octaves)[1], np.float32)


def cover_below(image: Image, canvas: Canvas, line: Image | float, color: Image | Color) -> None:
    """Paint everything below `line` (one height, or one per column) in a color or with a picture; antialiased."""
    depth = canvas.y[:, None] - np.asarray(line, np.float32)
    alpha = np.clip(depth * canvas.unit + 0.5, 0, 1)[..., None]
    image += (np.asarray(color, np.float32) - image) * alpha


def glow(image: Image, canvas: Canvas, center: tuple[float, float], radius: float, color: Color) -> None:
    """Add a soft Gaussian light around `center`."""
    across = np.exp(-(((canvas.x - center[0]) / radius) ** 2))
    down = np.exp(-(((canvas.y - center[1]) / radius) ** 2))
    image += (down[:, None] * across[None])[..., None] * np.asarray(color, np.float32)


def perspective(canvas: Canvas, horizon: float) -> NDArray[np.intp]:
    """For every row, the row of a flat texture that a ground plane shows there; rows crowd together at the horizon."""
    rows = len(canvas.y)
    depth = np.clip((canvas.y - horizon) / (1 - horizon), 0, 1.3)
    return np.asarray(np.clip(depth**0.6 * 0.85 * rows, 0, rows - 1), np.intp)


def to_pixels(image: Image) -> Pixels:
    """Round a 0..1 picture to 8 bits."""
    return np.asarray(np.clip(image, 0, 1) * 255 + 0.5, np.uint8)


def _fixed(canvas: Canvas, points: NDArray[np.float64]) -> NDArray[np.int32]:
    """Points in frame heights as OpenCV's fixed-point pixel coordinates (pixel centers are whole numbers there)."""
    shifted = points * canvas.unit + np.asarray(canvas.border) - 0.5
    return np.asarray(np.round(shifted * (1 << _SUBPIXEL_BITS)), np.int32)


def polygon(pixels: Pixels, canvas: Canvas, points: Sequence[tuple[float, float]], color: Color) -> None:
    """Fill a polygon, antialiased."""
    corners = _fixed(canvas, np.asarray(points, np.float64))
    cv2.fillPoly(pixels, [corners], _eight_bit(color), cv2.LINE_AA, _SUBPIXEL_BITS)


def rectangle(
    pixels: Pixels, canvas: Canvas, corner: tuple[float, float], size: tuple[float, float], color: Color
) -> None:
    """Fill an upright rectangle, antialiased; the position is that of its top left corner."""
    (x, y), (w, h) = corner, size
    polygon(pixels, canvas, ((x, y), (x + w, y), (x + w, y + h), (x, y + h)), color)


def ellipse(
    pixels: Pixels, canvas: Canvas, center: tuple[float, float], radii: tuple[float, float], color: Color
) -> None:
    """Fill an upright ellipse, antialiased."""
    cv2.fillPoly(pixels, [_fixed(canvas, _CIRCLE * radii + center)], _eight_bit(color), cv2.LINE_AA, _SUBPIXEL_BITS)


def capsule(
    pixels: Pixels, canvas: Canvas, ends: tuple[tuple[float, float], tuple[float, float]], radius: float, color: Color
) -> None:
    """Fill a line with round ends, antialiased."""
    (x0, y0), (x1, y1) = ends
    heading = np.arctan2(y1 - y0, x1 - x0)
    half = np.linspace(-np.pi / 2, np.pi / 2, 8)
    angle = np.concatenate((heading + half, heading + np.pi + half))
    middle = np.repeat(np.asarray(((x1, y1), (x0, y0))), 8, axis=0)
    points = middle + radius * np.stack((np.cos(angle), np.sin(angle)), 1)
    cv2.fillPoly(pixels, [_fixed(canvas, points)], _eight_bit(color), cv2.LINE_AA, _SUBPIXEL_BITS)


def _eight_bit(color: Color) -> tuple[float, float, float]:
    red, green, blue = (min(max(channel, 0.0), 1.0) * 255 for channel in color)
    return red, green, blue
