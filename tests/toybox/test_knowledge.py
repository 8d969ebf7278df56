"""A prompt's words are compared with what a world has, in three languages, whatever their case and ending."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lichtspiel.toybox import knowledge
from lichtspiel.toybox.captions import LANGUAGES, WORDINGS, caption
from lichtspiel.toybox.catalog import SUBJECTS
from lichtspiel.toybox.knowledge import known, note, subjects_in
from lichtspiel.toybox.sample import FULL, STARTER, sample

WORLD = replace(FULL, subjects=("cat", "dog", "car", "bird", "butterfly", "ship", "tropical-fish", "star", "t-rex"))


@pytest.mark.parametrize(
    ("prompt", "keys"),
    [
        ("a cat", ["cat"]),
        ("Two CATS, running", ["cat"]),
        ("a cat, a dog and another cat", ["cat", "dog", "cat"]),
        ("Zwei Hunde am Strand", ["dog"]),
        ("viele Vögel über dem Meer", ["bird"]),
        ("die Katzen", ["cat"]),
        ("ein rotes Auto", ["car"]),
        ("a red car", ["car"]),
        ("butterflies!", ["butterfly"]),
        ("a T-Rex in the city", ["t-rex"]),
        ("fishes", ["tropical-fish"]),
        ("一只猫在沙滩上跑", ["cat"]),
        ("黄色星星上下弹跳", ["star"]),
        ("小狗和大船", ["dog", "ship"]),
        ("a seat in a carpet", []),
        ("the starting line", []),
        ("", []),
    ],
)
def test_subjects_are_found(prompt: str, keys: list[str]) -> None:
    assert subjects_in(prompt, WORLD) == keys


def test_every_caption_names_its_subject() -> None:
    for seed in range(150):
        scene = sample(seed, STARTER)
        for language in LANGUAGES:
            for wording in range(WORDINGS):
                found = subjects_in(caption(scene, language, wording), STARTER)
                assert found[:1] == [scene.actors[0].subject]


@pytest.mark.parametrize(
    ("prompt", "word", "nearest"),
    [
        ("a poodle", "poodle", "dog"),
        ("zwei Pudel im Schnee", "Pudel", "dog"),
        ("一只狼在跑", "狼", "dog"),
        ("ein Rennwagen", "Rennwagen", "red car"),
        ("three lions", "lions", "cat"),
        ("a buterfly", "buterfly", "butterfly"),
        ("ein Schmeterling", "Schmeterling", "butterfly"),
    ],
)
def test_the_nearest_is_named(prompt: str, word: str, nearest: str) -> None:
    said = note(prompt, WORLD, "nano")
    assert said is not None
    assert said.startswith("nano knows 9 subjects, such as cat, dog, red car")
    assert said.endswith(f"nearest to {word!r} is {nearest!r}")


def test_what_is_like_nothing_is_said_so() -> None:
    said = note("a chess board on a mountain", WORLD, "nano")
    assert said is not None
    assert said.endswith("the prompt names none of them")
    assert note("a cat on a mountain", WORLD, "nano") is None
    assert note(" ", WORLD, "nano") is None


def test_every_subject_of_the_catalogue_has_a_neighbour() -> None:
    """Whoever names one that a world lacks hears of one that it has: by the table, or of the same kind."""
    for key, subject in SUBJECTS.items():
        if key not in WORLD.subjects and any(SUBJECTS[other].kind == subject.kind for other in WORLD.subjects):
            said = note(f"a {subject.english}", WORLD, "nano")
            assert said is None or "nearest to" in said, key


def test_the_table_of_neighbours_names_subjects_only() -> None:
    keys = set(knowledge._near().values())
    assert keys <= set(SUBJECTS)


def test_known_lists_every_language_alike() -> None:
    said = known(WORLD)
    assert list(said) == ["subjects", "actions", "places", "times", "weathers", "cameras"]
    for lists in said.values():
        assert list(lists) == list(LANGUAGES)
        assert len({len(words) for words in lists.values()}) == 1
        assert all(words == list(dict.fromkeys(words)) for words in lists.values())
    assert said["subjects"]["de"][:2] == ["Katze", "Hund"]
    assert said["places"]["zh"][3] == "沙滩"
    assert len(said["actions"]["en"]) == len(FULL.actions)
