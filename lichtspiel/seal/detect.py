"""Detection of the invisible mark (`watermark`) in frames that may have been compressed, scaled, cropped or mirrored.

"Not found" proves nothing, least of all that a person made the video.

The frames' fine detail is averaged, so that the mark adds up and the content does not, and the spectrum of the average
is flattened. For each possible size of a chip, the average is cut into tiles and their sum is correlated with the pilot
at every offset. The height of the best peak in standard deviations is the score. Rotation beyond a degree or two,
stretching in one direction, and crops that leave less than about half of the short side are not searched for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING

import cv2
import numpy as np

from lichtspiel.seal import payload
from lichtspiel.seal.watermark import TILE, layout, spread

if TYPE_CHECKING:
    import numpy.typing as npt

    from lichtspiel.frames import Frame
    from lichtspiel.seal.watermark import Plane

__all__ = ["CERTAIN", "FRAMES", "PLAUSIBLE", "Detection", "Grid", "detect", "grids", "judge", "soft_bits"]

CERTAIN = 7.5
"""The score from which the pilot alone counts as found. Frames without a mark score 4.9 on average, and this much about
once in a million times (benchmarks/watermark.py)."""

PLAUSIBLE = 5.0
"""The score from which it counts if there is a message too, clear, of a known scheme and with the right check."""

FRAMES = 48
"""How many frames are looked at; the pattern is in all of them."""

# Standard deviations of the message's chips. In mere noise the best of the 2^32 messages with this scheme and the right
# check passes it once in 2.5e7 grids: 2^32 times the tail of the normal distribution.
_READABLE = 8.5

_FOLD = 2 * TILE  # two pixels a chip
_RANGES = ((64.0, 48.0, 80.0), (38.0, 28.0, 48.0))  # chips along the short side: usual, least, most
_STEP = 0.0075  # between sizes: the grid is then off by a fifth of a chip at most at the edges of 16:9
_FINE = 5  # sizes tried around a promising one
_PROMISING = 3  # grids of each range whose message is read
_LARGE = 1920 * 1088  # pixels to which larger frames are reduced first
_SLENDER = 16  # times its short side that is looked at; OpenCV 4 turns no picture with a side above 32,766 pixels
_PIXELS = 2.5  # that a usual chip is reduced to
_SMALLEST = 1.2  # pixels of a chip that can still be seen

_BLUR, _BOX = 0.8, 2.25  # chips: what counts as detail, and the neighbourhood that it is measured by
_FAINT, _LOUD = 0.5, 2.0  # levels of detail that count as none; times its usual size that detail counts for at most
_FAINT_AVERAGE = 0.3  # of the average detail that counts as none
_FLATTEN = 0.75  # power to which the spectrum is flattened: 1 would raise the noise of frequencies that hold nothing


@dataclass(frozen=True)
class Detection:
    """The result of `detect`: whether the mark was found, its id if readable, the pilot's score in standard deviations,
    and whether the picture is mirrored left to right."""

    found: bool
    id: int | None
    score: float
    mirrored: bool


@dataclass(frozen=True)
class Grid:
    """A way in which the tiles may lie: its score, the chips along the frame's short side, whether left and right are
    exchanged, and how much each chip [40, 40] agrees with its sign."""

    score: float
    chips: float
    mirrored: bool
    values: Plane


def detect(frames: Iterable[Frame]) -> Detection:
    """Look for the mark in frames (uint8 [height, width, 3], RGB) of one video, or in a single one.

    Takes at most 48 frames from the iterator and holds one at a time; of a longer video, pass some from all parts.
    Takes a few milliseconds for each frame and a fraction of a second for the search.
    """
    return judge(grids(frames))


def grids(frames: Iterable[Frame]) -> Iterator[Grid]:
    """The few grids that resemble the mark most, whether or not it is there."""
    for image, least, most in _averages(frames):
        yield from _promising(image, least, most)


def soft_bits(grid: Grid) -> npt.NDArray[np.float64]:
    """The 144 soft bits of the payload (see `payload`) if this is the grid: positive for +1, larger the surer."""
    role, _ = layout()
    data = role >= 0
    return np.asarray(np.bincount(role[data], grid.values[data], payload.CODE_BITS), np.float64)


def judge(grids: Iterable[Grid]) -> Detection:
    """The detection from the best of these grids. Grids with a readable message come first, then the higher score."""
    best = Detection(found=False, id=None, score=0.0, mirrored=False)
    for grid in grids:
        id = _id(grid) if grid.score >= PLAUSIBLE else None
        if (id is not None, grid.score) > (best.id is not None, best.score):
            best = Detection(id is not None or grid.score >= CERTAIN, id, grid.score, grid.mirrored)
    return best


def _id(grid: Grid) -> int | None:
    values = soft_bits(grid)
    content = payload.decode(values)
    if content is None or content.scheme != payload.SCHEME:
        return None
    clearness = values @ payload.encode(content.id) / math.sqrt(float(np.sum(grid.values[layout()[0] >= 0] ** 2)))
    return content.id if clearness >= _READABLE else None


def _averages(frames: Iterable[Frame]) -> Iterator[tuple[Plane, float, float]]:
    """For each range of sizes: the average detail of the frames with a flat spectrum, and the range's ends."""
    sums: list[Plane] = []
    short = 0
    for frame in islice(frames, FRAMES):
        frame = _cropped(frame)  # noqa: PLW2901
        luma = _reduced(np.asarray(cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY), np.uint8))
        details = [_detail(luma, usual) for usual, _, _ in _RANGES]
        if not sums:
            sums, short = details, min(luma.shape)
        elif details[0].shape == sums[0].shape:  # a video may change its size; what cannot be added is left out
            sums = [total + detail for total, detail in zip(sums, details, strict=True)]
    for total, (usual, least, most) in zip(sums, _RANGES, strict=False):
        if short / _SMALLEST > least:
            # What stands still adds up as the mark does; evened again, it does not outweigh it.
            image = _evened(total, min(total.shape) / usual, _FAINT_AVERAGE * float(np.sqrt(np.mean(total**2))))
            yield _flat(image), least, min(most, short / _SMALLEST)


def _cropped(frame: Frame) -> Frame:
    """The middle of a very long or high frame; the pattern is in every part of it."""
    most = _SLENDER * min(frame.shape[:2])
    top, left = (max(side - most, 0) // 2 for side in frame.shape[:2])
    return frame[top : top + most, left : left + most]


def _reduced(luma: Frame) -> Frame | Plane:
    """A large frame reduced by a whole number, a band at a time: as floating-point numbers it would take four times the
    memory of its bytes. The last few rows and columns may be left out."""
    factor = int(math.sqrt(luma.size / _LARGE))
    if factor < 2:
        return luma
    height, width = (side // factor for side in luma.shape)
    reduced = np.empty((height, width), np.float32)
    for row in range(height):
        band = luma[row * factor : (row + 1) * factor, : width * factor]
        reduced[row] = band.mean(0, dtype=np.float32).reshape(width, factor).mean(1)
    return reduced


def _detail(luma: Frame | Plane, usual: float) -> Plane:
    """What stands out from its surroundings, in a frame reduced to what the range needs."""
    height, width = luma.shape
    short = min(round(_PIXELS * usual), height, width)
    factor, chip = short / min(height, width), short / usual
    size = (max(round(width * factor), 1), max(round(height * factor), 1))
    reduced = cv2.resize(luma.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    return _evened(reduced - cv2.GaussianBlur(reduced, (0, 0), _BLUR * chip), chip, _FAINT)


def _evened(detail: Plane, chip: float, faint: float) -> Plane:
    """The detail measured by how much of it there usually is nearby; less than `faint` counts as none."""
    side = 2 * round(_BOX * chip / 2) + 1
    usually = np.sqrt(np.maximum(cv2.blur(detail * detail, (side, side)), 0))  # its running sums can fall below 0
    return np.asarray(np.clip(detail / (usually + faint + 1e-9), -_LOUD, _LOUD), np.float32)


def _flat(image: Plane) -> Plane:
    """The picture with the magnitudes of its spectrum evened out, so that no texture drowns the pilot."""
    height, width = image.shape
    size = (cv2.getOptimalDFTSize(height), cv2.getOptimalDFTSize(width))
    spectrum = np.fft.rfft2(image, size)
    magnitude = np.abs(spectrum)
    spectrum /= np.maximum(magnitude, 1e-6 * magnitude.max() + 1e-12) ** _FLATTEN
    spectrum[0, 0] = 0
    return np.ascontiguousarray(np.fft.irfft2(spectrum, size)[:height, :width], np.float32)


def _promising(image: Plane, least: float, most: float) -> Iterator[Grid]:
    """The few best grids with between `least` and `most` chips along the short side, each with its size refined."""
    sizes = np.geomspace(least, most, math.ceil(math.log(most / least) / _STEP) + 1)
    scores = _scores(_likeness(_tiles(image, sizes), (False, True)))
    for _ in range(_PROMISING):
        number, mirrored = np.unravel_index(np.argmax(scores), scores.shape)
        fine = sizes[number] * np.exp(np.linspace(-0.5, 0.5, _FINE) * _STEP)
        tiles = _tiles(image, fine)
        likeness = _likeness(tiles, (bool(mirrored),))[:, 0]
        exact = _scores(likeness)
        nearest = int(np.argmax(exact))
        row, column = np.unravel_index(np.argmax(likeness[nearest]), (_FOLD, _FOLD))
        aligned = np.roll(tiles[nearest], (-int(row), -int(column)), (0, 1))
        upright = aligned[:, ::-1] if mirrored else aligned
        values = upright.reshape(TILE, 2, TILE, 2).sum((1, 3)) * layout()[1]
        yield Grid(float(exact[nearest]), float(fine[nearest]), bool(mirrored), values)
        scores[max(number - 2, 0) : number + 3, mirrored] = 0  # its neighbours see the same peak


def _tiles(image: Plane, sizes: npt.NDArray[np.float64]) -> Plane:
    """The sums [size, 80, 80] of all tiles; each of `sizes` is a number of chips along the short side."""
    sums = np.empty((len(sizes), _FOLD, _FOLD), np.float32)
    for number, chips in enumerate(sizes):
        step = min(image.shape) / chips / 2
        rows, columns = (math.ceil(side / step / _FOLD) for side in image.shape)
        start = 0.5 * step - 0.5
        matrix = np.array([[step, 0, start], [0, step, start]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        grid = cv2.warpAffine(image, matrix, (columns * _FOLD, rows * _FOLD), flags=flags)
        sums[number] = grid.reshape(rows, _FOLD, columns, _FOLD).sum((0, 2))
    return sums


def _likeness(tiles: Plane, ways: Sequence[bool]) -> Plane:
    """The correlation [size, way, 80, 80] with the pilot, or with its mirror image, beginning at each place."""
    # OpenCV's transform takes a third of the time of NumPy's at this size.
    likeness = np.empty((len(tiles), len(ways), _FOLD, _FOLD), np.float32)
    for number, tile in enumerate(tiles):
        spectrum = cv2.dft(tile)
        for way, mirrored in enumerate(ways):
            product = cv2.mulSpectrums(spectrum, _pilot(mirrored), 0, conjB=True)
            likeness[number, way] = cv2.idft(product, flags=cv2.DFT_SCALE)
    return likeness


def _scores(likeness: Plane) -> Plane:
    """How far the highest peak stands out, in standard deviations; 0 where there is nothing at all."""
    rest = likeness.std((-2, -1))
    return np.asarray((likeness.max((-2, -1)) - likeness.mean((-2, -1))) / np.maximum(rest, 1e-9), np.float32)


@cache
def _pilot(mirrored: bool) -> Plane:
    """The spectrum of the pilot alone, or of its mirror image, as OpenCV packs it."""
    role, signs = layout()
    tile = spread(np.where(role < 0, signs, np.int8(0)), 2, 3 * _FOLD, 3 * _FOLD)[_FOLD:-_FOLD, _FOLD:-_FOLD]
    return np.asarray(cv2.dft(np.ascontiguousarray(tile[:, ::-1] if mirrored else tile)), np.float32)
