"""How actors and the camera move: the camera's view and each actor's position, tilt and height in every frame.

A clip is one event of two seconds whatever its frame count, so everything is a function of t from 0 to 1. Lengths
are in frame heights. Knows nothing of pixels, sprites or backdrops, only the ratio of an actor's width to its height.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lichtspiel.toybox.scene import MOVING, Action, Actor, Camera, Place, Size

Curve = NDArray[np.float64]

SECONDS = 2.0
MARGIN = 0.13
"""How far beyond the frame a moving camera sees on every side, as a fraction of the frame."""

_ZOOM_RANGE = 1.35
_PAN_RANGE = 0.24
_HEIGHTS: dict[Size, float] = {"small": 0.30, "medium": 0.45, "big": 0.62}
_WIDTHS: dict[Size, float] = {"small": 0.55, "medium": 0.77, "big": 1.0}
"""The fraction of the maximum width that each size may take, so that wide objects also come in three sizes."""

_LARGEST = 0.80
"""No actor grows beyond this fraction of the frame's height or width."""

_EDGE = 0.02
"""Free space kept between a moving actor and the frame's edge."""

_DRAUGHT = 0.07
"""How much of a boat's height is under water."""

_TRICKS: frozenset[Action] = frozenset({"spin", "grow", "shrink"})
"""Actions that an actor performs floating when there is water all around."""

_FLOORS: dict[Place, tuple[float, float]] = {
    "room": (0.84, 0.90),
    "underwater": (0.88, 0.93),
    "sea": (0.70, 0.78),
    "road": (0.77, 0.82),
    "path": (0.78, 0.86),
}
_FLOOR = (0.78, 0.86)


@dataclass(frozen=True)
class View:
    """The camera in every frame: magnification, and horizontal offset of its center from the still frame's center."""

    zoom: Curve
    pan: Curve


@dataclass(frozen=True)
class Pose:
    """One actor on screen in every frame: center and height of its box, and tilt in degrees counterclockwise.

    `floor` is the vertical position of its shadow on screen, and `shadow` is the shadow's strength (0 for none). An
    actor that is `afloat` is hidden below its floor, the surface of the sea.
    """

    x: Curve
    y: Curve
    height: Curve
    angle: Curve
    floor: Curve
    shadow: Curve
    afloat: bool


def clock(frames: int) -> Curve:
    """The time t of every frame: 0 for the first, 1 for the last (a single frame shows the start)."""
    return np.linspace(0.0, 1.0, frames)


def view(camera: Camera, aspect: float, t: Curve) -> View:
    """The camera's path; zooms change by the same factor in every frame, pans by the same distance."""
    ahead = t - 0.5
    zoom = {"zoom-in": _ZOOM_RANGE**ahead, "zoom-out": _ZOOM_RANGE**-ahead}.get(camera, np.ones_like(t))
    pan = _PAN_RANGE * aspect * {"pan-right": ahead, "pan-left": -ahead}.get(camera, np.zeros_like(t))
    return View(zoom, pan)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What a path depends on besides the actor: frame shape, place, camera, and whether there is a second actor."""

    aspect: float
    place: Place
    view: View
    lane: int
    lanes: int


def pose(actor: Actor, shape: float, stage: Stage, t: Curve, rng: np.random.Generator) -> Pose:
    """The path of an actor whose box is `shape` times as wide as high. Every actor uses equally many random numbers."""
    phase, start, place, turn = (float(value) for value in rng.random(4))
    low, high = _FLOORS.get(stage.place, _FLOOR)
    floor = low + (high - low) * place - 0.05 * stage.lane
    moving = actor.action in MOVING
    widest = (0.44 if stage.lanes > 1 else 0.58 if moving else 0.72) * stage.aspect
    height = min(_HEIGHTS[actor.size], widest * _WIDTHS[actor.size] / shape)
    heights = _fitted(height * _growth(actor, t), shape, stage.view, stage.aspect)
    angle = _tilt(actor, t, phase, turn)
    # An actor that leaves the ground stays below the upper edge even when the camera is closest.
    headroom = max(floor - height - (0.5 - 0.47 / stage.view.zoom.max()), 0.05)
    lift = _lift(actor, t, phase, headroom, height)
    if actor.action == "fly":
        middle = max(0.30 + 0.06 * place, height / 2 + 0.07) + 0.03 * np.sin(2 * np.pi * (t + phase))
    elif actor.action == "swim":
        middle = 0.48 + 0.06 * (place - 0.5) + 0.035 * np.sin(2 * np.pi * (1.5 * t + phase))
    elif stage.place == "underwater" and actor.action in _TRICKS:
        middle = np.full_like(t, 0.50)
    else:
        turned = np.radians(angle) if actor.action == "spin" else np.zeros_like(t)
        draught = _DRAUGHT * heights if stage.place == "sea" else 0.0
        middle = floor + draught - lift - heights / 2 * np.hypot(shape * np.sin(turned), np.cos(turned))
    camera_view = stage.view
    on_screen = heights * camera_view.zoom
    x = _across(actor, on_screen * shape, stage, t, start)
    return Pose(
        x=x,
        y=(middle - 0.5) * camera_view.zoom + 0.5,
        height=on_screen,
        angle=angle,
        floor=(floor - 0.5) * camera_view.zoom + 0.5,
        shadow=_shadow(actor, stage.place, floor - middle - heights / 2),
        afloat=stage.place == "sea" and actor.action != "fly",
    )


def _across(actor: Actor, widths: Curve, stage: Stage, t: Curve, start: float) -> Curve:
    """Horizontal center on screen: moving actors cross a fixed part of the frame, all others stay put in the world."""
    if actor.action not in MOVING:
        spot = 0.5 + 0.14 * (start - 0.5) if stage.lanes == 1 else (0.29, 0.71)[stage.lane]
        return np.asarray(((spot - 0.5) * stage.aspect - stage.view.pan) * stage.view.zoom + 0.5 * stage.aspect)
    room = stage.aspect - (widths[0] + widths[-1]) / 2 - 2 * _EDGE * stage.aspect
    travel = min((0.36 + 0.08 * start) * stage.aspect, room)
    # The random number that set the speed also decides how the remaining space is divided.
    begin = _EDGE * stage.aspect + widths[0] / 2 + (room - travel) * (start * 7 % 1)
    x = begin + travel * t
    return np.asarray(x if actor.direction == "right" else stage.aspect - x)


def _fitted(heights: Curve, shape: float, camera_view: View, aspect: float) -> Curve:
    """Heights, scaled down if the actor would not fit into the frame with this camera."""
    tallest = float((heights * camera_view.zoom).max())
    limit = min(_LARGEST, (_LARGEST * aspect - 0.75 * float(np.ptp(camera_view.pan))) / shape)
    return heights * min(1.0, limit / tallest)


def _growth(actor: Actor, t: Curve) -> Curve:
    """Height relative to the actor's size; growing and shrinking actors pass through 1 in the middle of the clip."""
    if actor.action == "grow":
        return np.asarray(2.4 ** (t - 0.5))
    if actor.action == "shrink":
        return np.asarray(2.4 ** (0.5 - t))
    return np.ones_like(t)


def _tilt(actor: Actor, t: Curve, phase: float, turn: float) -> Curve:
    if actor.action == "spin":
        return 360.0 * t * (1 if turn < 0.5 else -1)
    degrees, rate = {
        "walk": (3.0, 3.0),
        "drive": (0.7, 5.0),
        "fly": (2.5, 1.0),
        "swim": (4.0, 1.5),
        "sail": (4.0, 1.5),
    }.get(actor.action, (0.0, 1.0))
    return degrees * np.sin(2 * np.pi * (rate * t + phase))


def _arc(u: Curve) -> Curve:
    """A ballistic arc: 0 at u = 0 and u = 1, 1 in the middle, and 0 outside."""
    return np.clip(4 * u * (1 - u), 0, 1)


def _lift(actor: Actor, t: Curve, phase: float, headroom: float, height: float) -> Curve:
    """How high the actor's lowest point is above the floor."""
    match actor.action:
        case "walk":
            return 0.012 * (1 - np.cos(2 * np.pi * (6 * t + 2 * phase)))
        case "drive":
            return 0.004 * (1 + np.sin(2 * np.pi * (5 * t + phase)))
        case "sail":
            return 0.012 * np.sin(2 * np.pi * (1.5 * t + phase + 0.25))
        case "hop":
            return min(0.16, headroom) * _arc(3 * t % 1)
        case "bounce":
            return min(0.36, headroom) * _arc((2 * t + phase) % 1)
        case "fall":
            # It starts with up to a third of its height above the frame, so that large objects visibly fall, too.
            drop = min(headroom + 0.33 * height, 0.60)
            falling = drop * np.clip(1 - (t / 0.55) ** 2, 0, 1)
            return falling + 0.18 * drop * _arc((t - 0.55) / 0.28) + 0.05 * drop * _arc((t - 0.83) / 0.17)
        case _:
            return np.zeros_like(t)


def _shadow(actor: Actor, place: Place, gap: Curve) -> Curve:
    """Strength of the contact shadow, which fades as the actor rises above the floor; there is none under water."""
    if place == "underwater":
        return np.zeros_like(gap)
    return 0.42 * np.clip(1 - 1.3 * np.maximum(gap, 0), 0.38, 1)
