"""Captions are right in three languages and tell every scene apart."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lichtspiel.toybox.captions import LANGUAGES, WORDINGS, Language, caption
from lichtspiel.toybox.catalog import SUBJECTS
from lichtspiel.toybox.sample import FITS
from lichtspiel.toybox.scene import CAMERAS, INDOORS, MOVING, PLACES, SIZES, TIMES, WEATHERS, Actor, Direction, Scene

TURTLE = Scene(
    actors=(Actor(subject="turtle", size="big", action="walk", direction="right"),),
    place="beach",
    time="sunset",
    weather="rain",
    camera="zoom-in",
)
PAIR = Scene(
    actors=(
        Actor(subject="dog", size="medium", action="walk", direction="right"),
        Actor(subject="cat", size="small", action="walk", direction="left"),
    ),
    place="meadow",
    time="day",
    weather="clear",
    camera="still",
)


def one(subject: str, action: Any, direction: Direction = "none", **changes: Any) -> Scene:
    return replace(PAIR, actors=(Actor(subject=subject, size="big", action=action, direction=direction),), **changes)


TURTLE_SAID: dict[Language, list[str]] = {
    "en": [
        "a big turtle walks to the right on a beach at sunset, it is raining, the camera zooms in",
        "At sunset, a large turtle strolls from left to right on a beach in the rain. The camera moves closer.",
        "On a beach at sunset, a huge turtle is walking to the right while it rains; the camera zooms in.",
        "A clip: a large turtle walking towards the right, a beach, at sunset, rain, the camera moves closer.",
    ],
    "de": [
        "eine große Schildkröte geht bei Sonnenuntergang an einem Strand nach rechts, es regnet, "
        "die Kamera zoomt heran",
        "Bei Sonnenuntergang spaziert an einem Strand eine riesige Schildkröte von links nach rechts. Es regnet. "
        "Die Kamera kommt näher.",
        "An einem Strand geht bei Sonnenuntergang eine große Schildkröte nach rechts, während es regnet; "
        "die Kamera zoomt heran.",
        "Kurzfilm: eine große Schildkröte geht nach rechts, Strand, Sonnenuntergang, Regen, die Kamera kommt näher.",
    ],
    "zh": [
        "一只大乌龟在日落时分的沙滩上向右走，下着雨，镜头推近",
        "日落时分，一只巨大的乌龟在沙滩上从左向右漫步。天正下着雨。镜头慢慢靠近。",
        "在日落时分的沙滩上，一只大乌龟向右走，下着雨；镜头推近。",
        "短片：一只大乌龟向右走，沙滩，日落，下雨，镜头慢慢靠近。",
    ],
}
PAIR_SAID: dict[Language, str] = {
    "en": "a dog walks to the right and a small cat walks to the left in a green meadow on a sunny day",
    "de": "ein Hund geht an einem sonnigen Tag auf einer grünen Wiese nach rechts "
    "und eine kleine Katze geht nach links",
    "zh": "一只狗在阳光明媚的绿草地上向右走，一只小猫向左走",
}
EAGLE = one("eagle", "fly", "left")
CAR = one("car", "drive", "left", place="road", weather="rain")
EXAMPLES: list[tuple[Scene, Language, int, str]] = [
    (EAGLE, "en", 0, "a big eagle flies to the left over a green meadow on a sunny day"),
    (EAGLE, "de", 1, "Über einer grünen Wiese schwebt ein riesiger Adler von rechts nach links."),
    (EAGLE, "zh", 3, "短片：一只大老鹰向左飞，绿草地上空。"),
    (CAR, "en", 0, "a big red car drives to the left on a road by day, it is raining"),
    (CAR, "de", 0, "ein großes rotes Auto fährt am Tag auf einer Straße nach links, es regnet"),
    (CAR, "zh", 0, "一辆很大的红色轿车在白天的公路上向左行驶，下着雨"),
    (one("elephant", "spin", place="room"), "en", 0, "a big elephant spins around in a room"),
    (one("elephant", "grow", place="room"), "de", 1, "In einem Zimmer wächst ein riesiger Elefant immer weiter."),
    (one("elephant", "fall", place="room"), "zh", 0, "一头很大的大象在房间里掉落下来"),
    (one("swan", "sail", "right", place="sea"), "en", 2, "On the sea, a huge swan is gliding to the right."),
    (one("ship", "sail", "right", place="sea"), "de", 2, "Auf dem Meer fährt ein großes Schiff nach rechts."),
    (PAIR, "en", 2, "In a green meadow, a dog is walking to the right and a tiny cat is walking to the left."),
]


@pytest.mark.parametrize("language", LANGUAGES)
def test_all_wordings_of_a_scene(language: Language) -> None:
    assert [caption(TURTLE, language, wording) for wording in range(WORDINGS)] == TURTLE_SAID[language]


@pytest.mark.parametrize("language", LANGUAGES)
def test_two_actors_walk_in_opposite_directions(language: Language) -> None:
    assert caption(PAIR, language, 0) == PAIR_SAID[language]


@pytest.mark.parametrize(("scene", "language", "wording", "expected"), EXAMPLES)
def test_examples(scene: Scene, language: Language, wording: int, expected: str) -> None:
    assert caption(scene, language, wording) == expected


def test_an_elephant_takes_an() -> None:
    scene = one("elephant", "stand", place="room")
    scene = replace(scene, actors=(replace(scene.actors[0], size="medium"),))
    assert caption(scene, "en", 0) == "an elephant stands still in a room"


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    def actor() -> Actor:
        subject = draw(st.sampled_from(list(SUBJECTS)))
        action = draw(st.sampled_from(list(FITS[SUBJECTS[subject].kind])))
        ways: list[Direction] = ["left", "right"] if action in MOVING else ["none"]
        direction = draw(st.sampled_from(ways))
        return Actor(subject=subject, size=draw(st.sampled_from(SIZES)), action=action, direction=direction)

    actors = tuple(actor() for _ in range(draw(st.integers(1, 2))))
    place, camera = draw(st.sampled_from(PLACES)), draw(st.sampled_from(CAMERAS))
    if place in INDOORS:
        return Scene(actors=actors, place=place, time="day", weather="clear", camera=camera)
    time, weather = draw(st.sampled_from(TIMES)), draw(st.sampled_from(WEATHERS))
    return Scene(actors=actors, place=place, time=time, weather=weather, camera=camera)


def neighbours(scene: Scene) -> list[Scene]:
    """All scenes that differ in one attribute of the place, the sky, the camera or the first actor."""
    first, others = scene.actors[0], scene.actors[1:]
    found = [replace(scene, camera=camera) for camera in CAMERAS]
    if scene.place in INDOORS:
        found += [replace(scene, place=place) for place in PLACES]
    else:
        found += [replace(scene, place=place) for place in PLACES if place not in INDOORS]
        found += [replace(scene, time=time, weather=weather) for time in TIMES for weather in WEATHERS]
    actors = [replace(first, size=size) for size in SIZES]
    for action in FITS[SUBJECTS[first.subject].kind]:
        ways: tuple[Direction, ...] = ("left", "right") if action in MOVING else ("none",)
        actors += [replace(first, action=action, direction=way) for way in ways]
    found += [replace(scene, actors=(actor, *others)) for actor in actors]
    return [*dict.fromkeys(found)]


@given(scenes(), st.sampled_from(LANGUAGES), st.integers(0, WORDINGS - 1))
def test_one_change_changes_the_caption(scene: Scene, language: Language, wording: int) -> None:
    near = neighbours(scene)
    assert len({caption(other, language, wording) for other in near}) == len(near)


@given(scenes(), scenes(), st.sampled_from(LANGUAGES), st.integers(0, WORDINGS - 1))
def test_different_scenes_have_different_captions(one: Scene, two: Scene, language: Language, wording: int) -> None:
    assume(one != two)
    assert caption(one, language, wording) != caption(two, language, wording)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("wording", range(WORDINGS))
def test_size_and_subject_are_told_apart(language: Language, wording: int) -> None:
    # The kinds share one action here: only names and sizes may tell these scenes apart.
    said = {
        caption(
            replace(TURTLE, actors=(Actor(subject=key, size=size, action="spin", direction="none"),)), language, wording
        )
        for key, size in itertools.product(SUBJECTS, SIZES)
    }
    assert len(said) == len(SUBJECTS) * len(SIZES)


@given(scenes(), st.sampled_from(LANGUAGES))
def test_sentences_are_well_formed(scene: Scene, language: Language) -> None:
    said = [caption(scene, language, wording) for wording in range(WORDINGS)]
    assert len(set(said)) == WORDINGS
    assert not said[0].endswith((".", "。"))
    for text in said:
        assert text == text.strip()
        assert "  " not in text
        assert not any(pair in text for pair in (" ,", ",,", ", ,", " .", "..", "，，", "。。", "，。", " ;"))
    for text in said[1:]:
        assert text.endswith("。" if language == "zh" else ".")
        assert language == "zh" or text[0].isupper()
