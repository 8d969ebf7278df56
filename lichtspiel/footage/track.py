"""Follow objects through a clip: a mask for each frame, and how sure it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from lichtspiel.footage.ahead import THREADS, views
from lichtspiel.footage.backdrop import Backdrop, Background
from lichtspiel.footage.confidence import LIMIT, LOST, along, confidence
from lichtspiel.footage.pixels import Mask, lab_of, shrunk
from lichtspiel.footage.refine import Rough, refined
from lichtspiel.footage.scene import Scene, Shot
from lichtspiel.footage.segment import Segmenter, grab
from lichtspiel.footage.selection import Selection
from lichtspiel.frames import Frame

__all__ = ["LIMIT", "Shot", "Track", "confidence", "follow", "follow_selections"]

WORKING_SIDE = 416
"""The longest side, in pixels, at which frames are worked on."""


def follow(
    frames: Sequence[Frame], start: int, masks: Sequence[Mask], progress: Callable[[float], None] = lambda share: None,
    areas: Sequence[Mask | None] | None = None,
) -> list[list[Shot]]:  # fmt: skip
    """Follow objects from their masks [h, w] on one frame, forwards to the end and backwards to the beginning.

    Returns for each frame one shot per object. Masks that have an area [h, w] are found again within it, by what the
    clip shows of the background behind them.
    """
    with ThreadPoolExecutor(THREADS) as side:
        rough = Rough(frames, start, side)
        backdrop = Backdrop(frames)
        rough.find(masks, backdrop)
        backdrop.leave_out(rough.covered)
        ground = backdrop.of(start)
        if areas is not None:
            background = Background(*ground).fitted(lab_of(frames[start]), ~rough.covered[start])
            masks = [
                mask if area is None else refined(frames[start], mask, area, background, rough.going)
                for mask, area in zip(masks, areas, strict=True)
            ]
        found = {start: [Shot(mask, {"given": 1.0}) for mask in masks]}
        for numbers in (range(start, len(frames)), range(start, -1, -1)):
            scene = Scene(frames[start], ground, masks, side)
            for number, view in zip(numbers[1:], views(frames, numbers, backdrop, rough.motions, side), strict=True):
                found[number] = scene.step(view)
                progress(len(found) / len(frames))
    return [found[number] for number in range(len(frames))]


@dataclass(frozen=True)
class Track:
    """What was followed through a clip: masks at the clip's size, and a confidence from 0 to 1 for each frame.

    A frame's confidence is that of the least certain object. Below `LIMIT` the mask should be looked at.
    """

    shots: list[list[Shot]]
    size: tuple[int, int]

    @property
    def count(self) -> int:
        """The number of frames."""
        return len(self.shots)

    @cached_property
    def confidence(self) -> list[float]:
        """How sure each frame's masks are, away from the selected one; of three frames the middle value counts."""
        each = [min(confidence(shot.facts) for shot in shots) for shots in self.shots]
        start = next((number for number, shots in enumerate(self.shots) if "given" in shots[0].facts), 0)
        return along(each, start)

    def is_low(self, number: int) -> bool:
        """Whether a frame's masks should be looked at."""
        return self.confidence[number] < LIMIT

    @property
    def first_lost(self) -> int | None:
        """The first frame of the clip in which an object is probably lost; None if there is none."""
        return next((number for number, sure in enumerate(self.confidence) if sure < LOST), None)

    def masks(self, number: int) -> list[Mask]:
        """The masks [h, w] of one frame, one per object, at the clip's size."""
        return [_enlarged(shot.mask, *self.size) for shot in self.shots[number]]


def _enlarged(mask: Mask, width: int, height: int) -> Mask:
    if mask.shape == (height, width):
        return mask
    large: Mask = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC) > 0.5
    return large


def follow_selections(
    frames: Sequence[Frame], start: int, selections: Sequence[Selection], *, segmenter: Segmenter = grab,
    progress: Callable[[float], None] = lambda share: None,
) -> Track:  # fmt: skip
    """Cut out what was selected on the frame `start`, and follow it through the clip.

    Frames are worked on at a longest side of `WORKING_SIDE` pixels.
    """
    height, width, _ = frames[0].shape
    scale = min(1.0, WORKING_SIDE / max(width, height))
    small = max(round(width * scale), 8), max(round(height * scale), 8)
    sized = list(frames) if small == (width, height) else [shrunk(frame, *small) for frame in frames]
    whole = [segmenter(frames[start], selection) for selection in selections]
    masks = [
        np.asarray(cv2.resize(mask.astype(np.float32), small, interpolation=cv2.INTER_AREA)) > 0.5 for mask in whole
    ]
    areas: list[Mask | None] = [None] * len(whole)
    if segmenter is grab:
        near = [selection.scaled(small[0] / width, small[1] / height, *small) for selection in selections]
        areas = [None if each.is_exact else each.area(*small) for each in near]
    shots = follow(sized, start, masks, progress, areas)
    for index, mask in enumerate(whole):
        if areas[index] is None:
            shots[start][index] = Shot(mask, {"given": 1.0})
    return Track(shots, (width, height))
