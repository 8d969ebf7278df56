"""Sizes and lengths that a model can be tuned at, and which of them an item gets."""

from __future__ import annotations

import math

from lichtspiel.errors import RequestError
from lichtspiel.spec import Model
from lichtspiel.tune.dataset import Cut, DataOptions

__all__ = ["bucket_sizes", "bucket_starts", "default_cut", "fitting_size", "floor_frames", "sizes_of_area"]

TUNED_FRAMES = 33
"""The default length for published models: two seconds. Longer clips cost more than twice as much for each doubling."""

WIDEST = 2.0
"""The most extreme aspect ratio of a bucket, both ways; wider pictures are cropped to it."""


def default_cut(row: Model, options: DataOptions) -> Cut:
    """What the options and the model say about items that no file describes further.

    Raises RequestError for sizes and lengths that the model cannot be tuned at.
    """
    lengths = options.frames or _default_lengths(row)
    for frames in lengths:
        nearest = row.nearest_frames(frames)
        if nearest != frames:
            rule = f"{row.name} learns {row.frame_rule} frames, at most {row.sampling.max_frames}"
            raise RequestError("frames", frames, rule, nearest)
    if options.stride is not None and options.extraction != "windows":
        raise RequestError("stride", options.stride, "it is the distance of windows; add --extraction windows")
    if options.count != 1 and options.extraction != "evenly":
        raise RequestError("count", options.count, "it is the number of windows; add --extraction evenly")
    return Cut(
        sizes=_sizes(row, options.size), lengths=tuple(sorted(lengths)), extraction=options.extraction,
        stride=options.stride, count=options.count,
    )  # fmt: skip


def _default_lengths(row: Model) -> tuple[int, ...]:
    longest = min(row.sampling.frames, TUNED_FRAMES)
    return tuple(sorted({longest, row.nearest_frames(longest // 2)}))


def _sizes(row: Model, size: tuple[int, int] | None) -> tuple[tuple[int, int], ...]:
    if not row.sampling.free_size:
        if size is not None and size not in row.sampling.sizes:
            sizes = ", ".join(f"{width}x{height}" for width, height in row.sampling.sizes)
            nearest = min(row.sampling.sizes, key=lambda one: abs(one[0] * one[1] - size[0] * size[1]))
            raise RequestError("size", f"{size[0]}x{size[1]}", f"{row.name} knows {sizes}", "x".join(map(str, nearest)))
        return row.sampling.sizes if size is None else (size,)
    area = min(math.prod(one) for one in row.sampling.sizes) if size is None else math.prod(size)
    largest = max(math.prod(one) for one in row.sampling.sizes)
    if not (2 * row.grid) ** 2 <= area <= largest:
        limits = f"from {2 * row.grid}x{2 * row.grid} to {largest:,} pixels"
        raise RequestError("size", "x".join(map(str, size or ())), f"{row.name} is tuned at sizes {limits}")
    return sizes_of_area(area, row.grid)


def sizes_of_area(area: int, grid: int, widest: float = WIDEST) -> tuple[tuple[int, int], ...]:
    """All (width, height) in steps of `grid` whose area is just below `area`, up to an aspect ratio of `widest`.

    As musubi-tuner's buckets: for each width, the largest height, and both transposed.
    """
    sizes = set()
    for width in range(grid, math.isqrt(area) + 1, grid):
        height = area // width // grid * grid
        if height <= widest * width:
            sizes |= {(width, height), (height, width)}
    return tuple(sorted(sizes))


def bucket_sizes(areas: tuple[int, ...], aspects: tuple[float, ...], grid: int) -> tuple[tuple[int, int], ...]:
    """The sizes of given areas at given aspect ratios (width to height), each side rounded to `grid`."""
    sizes = set()
    for area in areas:
        for aspect in aspects:
            width = max(round(math.sqrt(area * aspect) / grid), 1) * grid
            height = max(round(math.sqrt(area / aspect) / grid), 1) * grid
            sizes.add((width, height))
    return tuple(sorted(sizes))


def fitting_size(cut: Cut, width: int, height: int, grid: int) -> tuple[int, int]:
    """The size of the frames of an item: of the sizes with the nearest aspect ratio, the largest.

    Without `enlarge`, an item that is smaller than that keeps its own size, rounded down to the grid.
    """
    aspect = math.log(width / height)
    size = min(cut.sizes, key=lambda one: (abs(math.log(one[0] / one[1]) - aspect), -one[0] * one[1]))
    if cut.enlarge or (width >= size[0] and height >= size[1]):
        return size
    return max(width // grid, 1) * grid, max(height // grid, 1) * grid


def floor_frames(frames: int, stride: int) -> int:
    """The longest 4n+1 that is no more than `frames`, which is at least 1."""
    return (frames - 1) // stride * stride + 1


def bucket_starts(cut: Cut, frames: int, stride: int) -> tuple[int, list[int]]:
    """The length of the samples of a clip of `frames` frames, and the frame that each begins with.

    There are none if the clip is shorter than the shortest allowed length.
    """
    fitting = [length for length in cut.lengths if length <= frames]
    if not fitting:
        return min(cut.lengths), []
    length = max(fitting)
    if cut.extraction == "whole":
        return min(floor_frames(frames, stride), max(cut.lengths)), [0]
    last = frames - length
    if cut.extraction == "windows":
        return length, list(range(0, last + 1, cut.stride or length))
    if cut.extraction == "evenly":
        count = min(cut.count, last + 1)
        return length, [round(number * last / max(count - 1, 1)) for number in range(count)]
    return length, [0]
