"""Short prompts say what is true of their scene, in a few words, and never more than they claim."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from lichtspiel.toybox.captions import LANGUAGES, Language
from lichtspiel.toybox.catalog import SUBJECTS
from lichtspiel.toybox.prompts import PLACES, SKIES, names, prompt
from lichtspiel.toybox.sample import FULL, sample
from lichtspiel.toybox.scene import INDOORS, Actor, Scene

CAT = Scene(
    actors=(Actor(subject="cat", size="big", action="walk", direction="left"),),
    place="beach",
    time="night",
    weather="rain",
    camera="still",
)


def drawn(scene: Scene, language: Language, count: int = 400) -> list[tuple[str, frozenset[str]]]:
    rng = random.Random(1)
    return [prompt(scene, language, rng) for _ in range(count)]


def test_people_type_such_things() -> None:
    scene = replace(CAT, weather="clear")
    written = {language: {text for text, _ in drawn(scene, language, 6000)} for language in LANGUAGES}
    assert {"a cat", "Cat", "a cat on the beach", "a cat runs on the beach", "a kitten at night"} <= written["en"]
    assert {"eine Katze", "ein Kätzchen", "eine Katze läuft am Strand"} <= written["de"]
    assert {"猫", "一只猫", "一只猫在沙滩上", "一只猫在沙滩上跑"} <= written["zh"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_is_told_is_in_the_words(language: Language) -> None:
    spoken = {
        "place": [words for pair in PLACES[language]["beach"] for words in pair],
        "time": SKIES[language]["night"],
        "weather": SKIES[language]["rain"],
    }
    for text, told in drawn(CAT, language):
        assert "subject" in told
        assert any(name.casefold() in text.casefold() for name, _ in names("cat", language))
        for fact, words in spoken.items():
            assert (fact in told) == any(word.casefold() in text.casefold() for word in words), (text, fact)


def test_nothing_is_told_that_a_scene_has_not() -> None:
    for seed in range(300):
        scene = sample(seed, FULL)
        _, told = prompt(scene, LANGUAGES[seed % 3], random.Random(seed))
        if scene.place in INDOORS:
            assert not told & {"time", "weather"}
        if scene.weather == "clear":
            assert "weather" not in told
        if scene.actors[0].direction == "none":
            assert "direction" not in told


def test_english_articles() -> None:
    elephant = Scene(
        actors=(Actor(subject="elephant", size="medium", action="stand", direction="none"),),
        place="room",
        time="day",
        weather="clear",
        camera="still",
    )
    texts = [text for text, _ in drawn(elephant, "en")]
    assert any(text.startswith("an elephant") for text in texts)
    assert not any(text.lower().startswith("a elephant") for text in texts)


def test_german_adjectives_agree() -> None:
    scene = replace(CAT, weather="clear")
    texts = {text for text, told in drawn(scene, "de", 6000) if "size" in told}
    assert "eine große Katze" in texts
    assert "ein großes Kätzchen" in texts
    assert "ein großer Kater" in texts


def test_every_subject_has_names_in_every_language() -> None:
    for key, subject in SUBJECTS.items():
        assert names(key, "en")[0] == (subject.english, subject.gender)
        assert names(key, "de")[0][0] == subject.german
        assert names(key, "zh")[0][0] == subject.chinese
        assert len(names(key, "de")) == len(dict(names(key, "de")))
    assert ("Kater", "m") in names("cat", "de")
