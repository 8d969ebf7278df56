"""What a toybox clip shows, as exact attributes. Does not know how the clip is drawn or captioned.

A `Scene` is the single source of truth: `render` draws it, `captions` describes it and the judge is
scored against it. Keys are short English slugs; the words for them are in `catalog` and `captions`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["land", "vehicle", "flyer", "swimmer", "boat", "thing"]
Size = Literal["small", "medium", "big"]
Action = Literal["walk", "hop", "stand", "drive", "fly", "swim", "sail", "bounce", "spin", "fall", "grow", "shrink"]
Direction = Literal["left", "right", "none"]
Place = Literal["meadow", "desert", "snowfield", "beach", "road", "path", "autumn", "city", "sea", "underwater", "room"]
Time = Literal["day", "sunset", "night", "overcast"]
Weather = Literal["clear", "rain", "snowfall"]
Camera = Literal["still", "zoom-in", "zoom-out", "pan-left", "pan-right"]

SIZES: tuple[Size, ...] = get_args(Size)
ACTIONS: tuple[Action, ...] = get_args(Action)
DIRECTIONS: tuple[Direction, ...] = get_args(Direction)
PLACES: tuple[Place, ...] = get_args(Place)
TIMES: tuple[Time, ...] = get_args(Time)
WEATHERS: tuple[Weather, ...] = get_args(Weather)
CAMERAS: tuple[Camera, ...] = get_args(Camera)

MOVING: frozenset[Action] = frozenset({"walk", "hop", "drive", "fly", "swim", "sail"})
"""Actions that have a direction; all others have the direction "none"."""

INDOORS: frozenset[Place] = frozenset({"room", "underwater"})
"""Places without a time of day or weather: their scenes are always "day" and "clear"."""


@dataclass(frozen=True, kw_only=True)
class Actor:
    """One subject on the stage: its key in `catalog.SUBJECTS`, its size and what it does."""

    subject: str
    size: Size
    action: Action
    direction: Direction

    def __post_init__(self) -> None:
        assert (self.action in MOVING) == (self.direction != "none"), (self.action, self.direction)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One clip: one actor, or two that move in opposite directions, with place, time of day, weather and camera."""

    actors: tuple[Actor, ...]
    place: Place
    time: Time
    weather: Weather
    camera: Camera

    def __post_init__(self) -> None:
        assert 1 <= len(self.actors) <= 2, self.actors
        if self.place in INDOORS:
            assert (self.time, self.weather) == ("day", "clear"), (self.place, self.time, self.weather)
