"""What a frame shows before any object is looked for in it, computed in threads while the frame before is worked on.

OpenCV and NumPy leave other threads running while they work on pixels, so a second core is put to use.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lichtspiel.footage.backdrop import Backdrop
from lichtspiel.footage.motion import Flows, Motion
from lichtspiel.footage.pixels import Bytes, Floats, gray_of, lab_of, pull
from lichtspiel.footage.segment import color_bins
from lichtspiel.frames import Frame

__all__ = ["THREADS", "View", "views"]

THREADS = 2
"""How many threads work beside the one that follows the objects."""


@dataclass(frozen=True)
class View:
    """A frame, as all objects share it: gray levels `gray` [h, w], colors `lab` [h, w, 3] and the cells that they fall
    into, `bins` [h, w]; the background's colors `ground` [h, w, 3] and where they are `known` [h, w].

    `motion` leads to the frame before, `last` [h, w] in gray; `before` [h, w, 3] shows the colors from there.
    """

    gray: Bytes
    lab: Bytes
    bins: NDArray[np.int32]
    ground: Floats
    known: Floats
    last: Bytes
    motion: Motion
    before: Floats


def views(
    frames: Sequence[Frame], numbers: Sequence[int], backdrop: Backdrop, motions: Mapping[tuple[int, int], Motion],
    side: Executor,
) -> Iterator[View]:  # fmt: skip
    """Each frame of `numbers` but the first, beside the one before it there, one ahead of what is asked for."""
    height, width, _ = frames[0].shape
    flows = Flows(width, height)

    def view(number: int, before: int) -> View:
        gray, lab, last = gray_of(frames[number]), lab_of(frames[number]), gray_of(frames[before])
        motion = motions.get((number, before)) or flows.motion(last, gray, backdrop.camera(number, before))
        colors = pull(lab_of(frames[before]), motion.source)
        return View(gray, lab, color_bins(lab), *backdrop.of(number), last, motion, colors)

    pairs = list(zip(numbers[1:], numbers, strict=False))
    if not pairs:
        return
    ahead = side.submit(view, *pairs[0])
    for pair in pairs[1:]:
        shown, ahead = ahead.result(), side.submit(view, *pair)
        yield shown
    yield ahead.result()
