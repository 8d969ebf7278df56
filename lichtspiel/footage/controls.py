"""Control films made of a clip, as models take them that follow a drawing: edges, scribble, gray, flow and boxes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

import cv2
import numpy as np

from lichtspiel.footage.motion import Flows
from lichtspiel.footage.pixels import Floats, gray_of
from lichtspiel.footage.segment import box_of
from lichtspiel.footage.track import Track
from lichtspiel.frames import Frame

__all__ = ["KINDS", "Kind", "boxes", "control"]

Kind = Literal["edges", "scribble", "gray", "flow"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_FASTEST = 0.03
"""The speed that is drawn in full color, as a share of the frame's diagonal and per frame."""


def control(frames: Sequence[Frame], kind: Kind) -> Iterator[Frame]:
    """The control film, one frame for each frame.

    Edges are Canny's, white on black, with thresholds from the median brightness; a scribble is the outline of coarse
    shapes, drawn thick; flow is the motion to the next frame as a color: hue is direction and saturation is speed.
    """
    if kind == "flow":
        yield from _flow(frames)
        return
    for frame in frames:
        gray = gray_of(frame)
        if kind == "edges":
            gray = _edges(gray, 1.0)
        elif kind == "scribble":
            gray = _scribble(gray)
        yield np.repeat(gray[..., None], 3, axis=2)


def _edges(gray: Any, strictness: float) -> Any:
    middle = float(np.median(gray))
    low, high = max(0.66 * middle * strictness, 10), max(1.33 * middle * strictness, 40)
    return np.asarray(cv2.Canny(cv2.GaussianBlur(gray, (3, 3), 0), low, min(high, 255)), np.uint8)


def _scribble(gray: Any) -> Any:
    unit = max(round(min(gray.shape) / 160), 1)
    coarse = cv2.bilateralFilter(cv2.medianBlur(gray, 4 * unit + 1), 9, 60, 9)
    lines = cv2.dilate(_edges(np.asarray(coarse, np.uint8), 0.7), np.ones((2 * unit + 1, 2 * unit + 1), np.uint8))
    return np.asarray(cv2.medianBlur(np.asarray(lines, np.uint8), 2 * unit + 1), np.uint8)


def _flow(frames: Sequence[Frame]) -> Iterator[Frame]:
    height, width, _ = frames[0].shape
    flows = Flows(width, height)
    fastest = _FASTEST * float(np.hypot(width, height))
    shown: Frame = np.full((height, width, 3), 255, np.uint8)
    for one, other in itertools.pairwise(frames):
        shown = _wheel(flows.flow(gray_of(one), gray_of(other)), fastest)
        yield shown
    yield shown  # the last frame moves on as the one before it


def _wheel(motion: Floats, fastest: float) -> Frame:
    angle = np.arctan2(motion[..., 1], motion[..., 0])
    speed = np.hypot(motion[..., 0], motion[..., 1])
    hsv = np.stack([(angle / np.pi + 1) * 90, np.clip(speed / fastest, 0, 1) * 255, np.full_like(speed, 255)], -1)
    return np.asarray(cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB), np.uint8)


def boxes(found: Track) -> Iterator[Frame]:
    """The layout of tracked objects: the outline of each one's box in a color of its own, on white."""
    width, height = found.size
    thick = max(round(min(width, height) / 120), 1)
    colors = ((255, 0, 0), (0, 160, 0), (0, 0, 255), (230, 160, 0))
    for number in range(found.count):
        frame: Frame = np.full((height, width, 3), 255, np.uint8)
        for index, mask in enumerate(found.masks(number)):
            if (box := box_of(mask)) is not None:
                left, top, right, bottom = box
                cv2.rectangle(frame, (left, top), (right - 1, bottom - 1), colors[index % len(colors)], thick)
        yield frame
