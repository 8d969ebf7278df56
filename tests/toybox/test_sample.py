"""What the sampler promises: sensible scenes, balance, reach, and a held-out split that leaves every concept in."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from functools import cache

import pytest

from lichtspiel.errors import InvalidInput
from lichtspiel.toybox.catalog import SUBJECTS
from lichtspiel.toybox.sample import FITS, FULL, STARTER, Vocabulary, is_held_out, sample
from lichtspiel.toybox.scene import ACTIONS, CAMERAS, DIRECTIONS, PLACES, SIZES, TIMES, WEATHERS, Actor, Scene

COUNT = 6000


@cache
def scenes(name: str, held_out: bool | None = None) -> list[Scene]:
    vocabulary = {"full": FULL, "starter": STARTER}[name]
    return [sample(seed, vocabulary, held_out) for seed in range(COUNT)]


def combinations(drawn: list[Scene]) -> set[tuple[str, ...]]:
    places = {(actor.subject, scene.place) for scene in drawn for actor in scene.actors}
    actions = {(actor.subject, actor.action, actor.direction) for scene in drawn for actor in scene.actors}
    return places | actions


def test_the_same_seed_gives_the_same_scene() -> None:
    assert sample(7, FULL) == sample(7, FULL)
    assert len({sample(seed, FULL) for seed in range(100)}) > 95


def test_the_same_seed_gives_the_same_scene_in_another_process() -> None:
    code = (
        "from lichtspiel.toybox.sample import FULL, is_held_out, sample;"
        "print([(repr(sample(s, FULL)), is_held_out(sample(s, FULL))) for s in range(50)])"
    )
    here = repr([(repr(sample(seed, FULL)), is_held_out(sample(seed, FULL))) for seed in range(50)])
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert there == here


def test_the_full_vocabulary_reaches_every_value() -> None:
    drawn = scenes("full")
    actors = [actor for scene in drawn for actor in scene.actors]
    assert {actor.subject for actor in actors} == set(SUBJECTS)
    assert {actor.size for actor in actors} == set(SIZES)
    assert {actor.action for actor in actors} == set(ACTIONS)
    assert {actor.direction for actor in actors} == set(DIRECTIONS)
    assert {scene.place for scene in drawn} == set(PLACES)
    assert {scene.time for scene in drawn} == set(TIMES)
    assert {scene.weather for scene in drawn} == set(WEATHERS)
    assert {scene.camera for scene in drawn} == set(CAMERAS)
    assert {len(scene.actors) for scene in drawn} == {1, 2}


@pytest.mark.parametrize("name", ["full", "starter"])
def test_scenes_keep_to_their_vocabulary_and_make_sense(name: str) -> None:
    vocabulary = {"full": FULL, "starter": STARTER}[name]
    for scene in scenes(name):
        assert scene.place in vocabulary.places
        assert scene.time in vocabulary.times or scene.place in ("room", "underwater")
        assert scene.weather in vocabulary.weathers
        assert scene.camera in vocabulary.cameras
        assert (scene.place, scene.weather) not in {("snowfield", "rain"), ("desert", "snowfall")}
        assert len(scene.actors) == 1 or vocabulary.pairs
        for actor in scene.actors:
            assert actor.subject in vocabulary.subjects
            assert actor.size in vocabulary.sizes
            assert scene.place in FITS[SUBJECTS[actor.subject].kind][actor.action]


def test_two_actors_meet_from_opposite_sides() -> None:
    pairs = [scene.actors for scene in scenes("full") if len(scene.actors) == 2]
    assert pairs
    for first, second in pairs:
        assert first.subject != second.subject
        assert first.action == second.action
        assert {first.direction, second.direction} == {"left", "right"}


def test_concepts_are_balanced() -> None:
    drawn = scenes("full")
    subjects = Counter(scene.actors[0].subject for scene in drawn)
    assert min(subjects.values()) > 0.4 * COUNT / len(SUBJECTS)
    assert max(subjects.values()) < 1.9 * COUNT / len(SUBJECTS)
    outdoors = [scene for scene in drawn if scene.place not in ("room", "underwater")]
    assert sum(scene.weather == "clear" for scene in outdoors) / len(outdoors) == pytest.approx(0.75, abs=0.03)
    assert sum(scene.camera == "still" for scene in drawn) / COUNT == pytest.approx(0.60, abs=0.03)
    places = Counter(scene.place for scene in drawn)
    assert min(places.values()) > 0.03 * COUNT
    actions = Counter(scene.actors[0].action for scene in drawn)
    assert min(actions.values()) > 0.02 * COUNT
    directions = Counter(scene.actors[0].direction for scene in drawn)
    assert directions["left"] / directions["right"] == pytest.approx(1, abs=0.12)


@pytest.mark.parametrize("name", ["full", "starter"])
def test_about_an_eighth_of_the_scenes_is_held_out(name: str) -> None:
    share = sum(map(is_held_out, scenes(name))) / COUNT
    assert 0.08 < share < 0.17


@pytest.mark.parametrize("name", ["full", "starter"])
def test_the_split_is_disjoint_and_leaves_every_concept_in(name: str) -> None:
    train, test = scenes(name, False), scenes(name, True)
    assert not any(map(is_held_out, train))
    assert all(map(is_held_out, test))
    assert not set(train) & set(test)
    # Every held-out scene shows at least one combination that training never sees, of concepts that it does see.
    seen = combinations(train)
    assert all(combinations([scene]) - seen for scene in test)
    for concept in ("subject", "action", "size"):
        assert {getattr(actor, concept) for scene in test for actor in scene.actors} <= {
            getattr(actor, concept) for scene in train for actor in scene.actors
        }
    subjects = Counter(scene.actors[0].subject for scene in train)
    assert set(subjects) == set({"full": FULL, "starter": STARTER}[name].subjects)


def test_a_pair_is_held_out_when_one_of_the_two_is() -> None:
    held = next(scene for scene in scenes("full", True) if scene.actors[0].action == "walk" and len(scene.actors) == 1)
    other: Actor = next(
        replace(held.actors[0], subject=subject, direction="left")
        for subject in SUBJECTS
        if SUBJECTS[subject].kind == "land" and subject != held.actors[0].subject
    )
    assert is_held_out(replace(held, actors=(held.actors[0], other)))
    assert is_held_out(replace(held, actors=(other, held.actors[0])))


def test_a_vocabulary_must_make_sense() -> None:
    with pytest.raises(InvalidInput, match="'unicorn' is not a subject"):
        replace(FULL, subjects=("unicorn",))
    with pytest.raises(InvalidInput, match="places is empty"):
        replace(FULL, places=())
    with pytest.raises(InvalidInput, match="'whale' fits none"):
        replace(FULL, subjects=("whale",), places=("room",))


def test_a_vocabulary_without_held_out_combinations_says_so() -> None:
    still = next(
        scene for scene in scenes("full", False) if scene.actors[0].direction == "none" and len(scene.actors) == 1
    )
    actor = still.actors[0]
    only: Vocabulary = replace(FULL, subjects=(actor.subject,), places=(still.place,), actions=(actor.action,))
    with pytest.raises(InvalidInput, match="held_out=True"):
        sample(0, only, held_out=True)


def test_weather_and_camera_can_be_fixed() -> None:
    wet = replace(FULL, subjects=("cat",), places=("meadow",), weathers=("rain",), cameras=("zoom-in",))
    for seed in range(20):
        scene = sample(seed, wet)
        assert (scene.weather, scene.camera) == ("rain", "zoom-in")
