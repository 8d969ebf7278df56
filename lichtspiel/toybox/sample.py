"""Chooses scenes: what goes together, how often each concept occurs, and which combinations are held out for testing.

A scene depends on its seed and a vocabulary alone. The subject is drawn first, uniformly, then what it can do and
where, so that every concept is frequent. Does not know what a scene looks like or how it is described.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TypeVar

from lichtspiel.errors import InvalidInput
from lichtspiel.toybox import catalog
from lichtspiel.toybox.scene import (
    ACTIONS,
    CAMERAS,
    INDOORS,
    MOVING,
    PLACES,
    SIZES,
    TIMES,
    WEATHERS,
    Action,
    Actor,
    Camera,
    Direction,
    Kind,
    Place,
    Scene,
    Size,
    Time,
    Weather,
)

Item = TypeVar("Item")

_LAND: tuple[Place, ...] = ("meadow", "desert", "snowfield", "beach", "road", "path", "autumn", "city")
_OUTDOORS: tuple[Place, ...] = (*_LAND, "sea")
_INDOORS: tuple[Place, ...] = ("room",)
_ANYWHERE: tuple[Place, ...] = (*_LAND, "room")
_WATER: tuple[Place, ...] = ("underwater",)
_AFLOAT: tuple[Place, ...] = ("sea",)
_ROADS: tuple[Place, ...] = ("road", "path", "desert", "city", "beach", "snowfield")

_TRICKS: dict[Action, tuple[Place, ...]] = {
    "bounce": _ANYWHERE,
    "spin": _ANYWHERE,
    "fall": _ANYWHERE,
    "grow": _ANYWHERE,
    "shrink": _ANYWHERE,
}

FITS: dict[Kind, dict[Action, tuple[Place, ...]]] = {
    "land": {"walk": _ANYWHERE, "hop": _ANYWHERE, "stand": _ANYWHERE, **_TRICKS},
    "vehicle": {"drive": _ROADS, "stand": _ROADS, **_TRICKS},
    "flyer": {"fly": _OUTDOORS, "spin": _INDOORS, "fall": _INDOORS, "grow": _INDOORS, "shrink": _INDOORS},
    "swimmer": {"swim": _WATER, "spin": _WATER, "grow": _WATER, "shrink": _WATER},
    "boat": {"sail": _AFLOAT, "grow": _AFLOAT, "shrink": _AFLOAT},
    "thing": {"stand": _ANYWHERE, "hop": _ANYWHERE, **_TRICKS},
}
"""What each kind of subject can do, and where."""

_WEIGHTS: dict[Action, float] = {"walk": 3, "hop": 2, "drive": 4, "fly": 5, "swim": 4, "sail": 3}
"""How often an action is chosen relative to the others of its kind; those not listed have weight 1."""

_HOMES: dict[tuple[Kind, Place], float] = {("vehicle", "road"): 3, ("thing", "room"): 3}
"""Places that are more frequent for a kind; pairs not listed have weight 1."""

_CLEAR = 0.75
_STILL = 0.60
_PAIR = 0.35
"""How often a walking or driving subject meets a second one, if the vocabulary allows pairs."""

_APART_PLACE, _APART_ACTION = 0.55, 0.45
"""The share of subjects for which one place, or one moving action in one direction, is held out.

Each subject has the one or the other, and together about an eighth of all scenes is held out. Water animals and
boats have only one place, so those that would give up a place give up nothing.
"""

_PATIENCE = 5000


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The concepts that scenes may use; `pairs` allows two actors.

    Raises `InvalidInput` when a subject is unknown, or when it can perform none of these actions in these places.
    """

    subjects: tuple[str, ...]
    places: tuple[Place, ...]
    times: tuple[Time, ...]
    weathers: tuple[Weather, ...]
    cameras: tuple[Camera, ...]
    actions: tuple[Action, ...]
    sizes: tuple[Size, ...]
    pairs: bool

    def __post_init__(self) -> None:
        for name in ("subjects", "places", "times", "weathers", "cameras", "actions", "sizes"):
            if not getattr(self, name):
                raise InvalidInput(f"vocabulary: {name} is empty; name at least one")
        for subject in self.subjects:
            if subject not in catalog.SUBJECTS:
                raise InvalidInput(f"vocabulary: {subject!r} is not a subject of the toybox world")
            if not self.options(subject):
                raise InvalidInput(f"vocabulary: {subject!r} fits none of its actions and places")

    def options(self, subject: str) -> dict[Action, tuple[Place, ...]]:
        """What a subject can do within this vocabulary, and where."""
        return _fitting(catalog.SUBJECTS[subject].kind, self.actions, self.places)


@lru_cache(maxsize=256)
def _fitting(kind: Kind, actions: tuple[Action, ...], places: tuple[Place, ...]) -> dict[Action, tuple[Place, ...]]:
    fitting = {
        action: tuple(place for place in fits if place in places)
        for action, fits in FITS[kind].items()
        if action in actions
    }
    return {action: fits for action, fits in fitting.items() if fits}


FULL = Vocabulary(
    subjects=tuple(catalog.SUBJECTS),
    places=PLACES,
    times=TIMES,
    weathers=WEATHERS,
    cameras=CAMERAS,
    actions=ACTIONS,
    sizes=SIZES,
    pairs=True,
)
"""All concepts."""

STARTER = Vocabulary(
    subjects=catalog.STARTER,
    places=("meadow", "desert", "snowfield", "beach", "road", "sea", "underwater", "room"),
    times=("day", "sunset", "night"),
    weathers=WEATHERS,
    cameras=("still",),
    actions=("walk", "hop", "drive", "fly", "swim", "sail", "stand", "bounce"),
    sizes=("medium", "big"),
    pairs=False,
)
"""What a small model can learn in an hour: a few subjects that are easy to tell apart, one actor, a still camera."""


def sample(seed: int, vocabulary: Vocabulary, held_out: bool | None = None) -> Scene:
    """The scene of this seed: from the training combinations (False), the held-out ones (True) or all (None).

    Raises `InvalidInput` when the vocabulary has no such combination.
    """
    rng = random.Random(seed)
    for _ in range(_PATIENCE):
        scene = _draw(rng, vocabulary)
        if held_out is None or is_held_out(scene) == held_out:
            return scene
    raise InvalidInput(f"vocabulary: no scene with held_out={held_out} was found; use more subjects, places or actions")


def is_held_out(scene: Scene) -> bool:
    """Whether training leaves out this scene because of an actor's subject and place, or subject, action and direction.

    The choice depends on the names alone. For about half of the subjects training leaves out one outdoor place, for
    the others one action in one direction; it sees everything else, so every single concept stays frequent.
    """
    return any(
        scene.place == _apart_place(actor.subject) or (actor.action, actor.direction) == _apart_action(actor.subject)
        for actor in scene.actors
    )


def _share(*names: str) -> float:
    """A number in 0..1 that depends on the names alone, the same on every machine."""
    digest = hashlib.sha256("\x1f".join(names).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


@cache
def _apart_place(subject: str) -> Place | None:
    kind = catalog.SUBJECTS[subject].kind
    # A kind's home is frequent and belongs in training, and so does the only place that suits water animals and boats.
    options = {place for places in FITS[kind].values() for place in places if place != "room"}
    options -= {place for place in options if (kind, place) in _HOMES}
    if len(options) == 1 or _share("family", subject) >= _APART_PLACE:
        return None
    return min(options, key=lambda place: _share("place", subject, place))


@cache
def _apart_action(subject: str) -> tuple[Action, Direction] | None:
    if _share("family", subject) < 1 - _APART_ACTION:
        return None
    moves = [action for action in FITS[catalog.SUBJECTS[subject].kind] if action in MOVING]
    options = [(action, way) for action in moves for way in _directions(action)]
    return min(options, key=lambda option: _share("action", subject, *option))


def _directions(action: Action) -> tuple[Direction, ...]:
    return ("left", "right") if action in MOVING else ("none",)


def _choose(rng: random.Random, options: Sequence[Item], weights: Sequence[float]) -> Item:
    return rng.choices(options, weights)[0]


def _draw(rng: random.Random, vocabulary: Vocabulary) -> Scene:
    subject = rng.choice(vocabulary.subjects)
    kind = catalog.SUBJECTS[subject].kind
    options = vocabulary.options(subject)
    action = _choose(rng, list(options), [_WEIGHTS.get(option, 1) for option in options])
    places = options[action]
    place = _choose(rng, places, [_HOMES.get((kind, option), 1) for option in places])
    first = Actor(
        subject=subject, size=rng.choice(vocabulary.sizes), action=action, direction=rng.choice(_directions(action))
    )
    actors = (first, *_second(rng, vocabulary, first, place))
    time, weather = _sky(rng, vocabulary, place)
    return Scene(actors=actors, place=place, time=time, weather=weather, camera=_camera(rng, vocabulary))


def _second(rng: random.Random, vocabulary: Vocabulary, first: Actor, place: Place) -> tuple[Actor, ...]:
    """Sometimes a second subject, which does the same in the opposite direction."""
    if not vocabulary.pairs or first.action not in ("walk", "drive") or rng.random() >= _PAIR:
        return ()
    kinds = {kind for kind, fits in FITS.items() if place in fits.get(first.action, ())}
    candidates = [
        other for other in vocabulary.subjects if other != first.subject and catalog.SUBJECTS[other].kind in kinds
    ]
    if not candidates:
        return ()
    opposite: Direction = "left" if first.direction == "right" else "right"
    size = rng.choice(vocabulary.sizes)
    return (Actor(subject=rng.choice(candidates), size=size, action=first.action, direction=opposite),)


def _sky(rng: random.Random, vocabulary: Vocabulary, place: Place) -> tuple[Time, Weather]:
    if place in INDOORS:
        return "day", "clear"
    time = _choose(rng, vocabulary.times, [1.5 if option == "day" else 1 for option in vocabulary.times])
    # It does not rain on snow, and it does not snow where it is hot.
    wrong = {"snowfield": "rain", "desert": "snowfall", "beach": "snowfall"}.get(place)
    falling = [weather for weather in vocabulary.weathers if weather not in ("clear", wrong)]
    if not falling or ("clear" in vocabulary.weathers and rng.random() < _CLEAR):
        return time, "clear"
    return time, rng.choice(falling)


def _camera(rng: random.Random, vocabulary: Vocabulary) -> Camera:
    moving = [camera for camera in vocabulary.cameras if camera != "still"]
    if not moving or ("still" in vocabulary.cameras and rng.random() < _STILL):
        return "still"
    return rng.choice(moving)
