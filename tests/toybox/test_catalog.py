"""The catalog names enough subjects, all from Microsoft's list, without double names."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import get_args

import pytest

from lichtspiel.toybox.catalog import STARTER, SUBJECTS, Faces, Gender, Subject
from lichtspiel.toybox.scene import Kind


def test_there_are_enough_subjects_of_every_kind() -> None:
    assert len(SUBJECTS) >= 110
    counts = Counter(subject.kind for subject in SUBJECTS.values())
    assert set(counts) == set(get_args(Kind))
    assert min(counts.values()) >= 7


def test_every_drawing_is_in_microsofts_list() -> None:
    # All code points in the metadata of microsoft/fluentui-emoji-animated (MIT).
    allowed = set((Path(__file__).parent / "fluent_code_points.txt").read_text().split())
    assert {subject.code_point for subject in SUBJECTS.values()} <= allowed


@pytest.mark.parametrize("field", ["key", "code_point", "english", "german", "chinese"])
def test_no_two_subjects_share_a_name(field: str) -> None:
    assert len({getattr(subject, field) for subject in SUBJECTS.values()}) == len(SUBJECTS)


def test_the_fields_hold_what_they_say() -> None:
    for key, subject in SUBJECTS.items():
        assert subject.key == key
        assert key.replace("-", "").isalpha()
        assert key.islower()
        assert subject.faces in get_args(Faces)
        assert subject.gender in get_args(Gender)
        assert subject.english.isascii()
        assert subject.german.split()[-1][0].isupper(), "German nouns are capitalised"
        assert len(subject.measure) == 1
        assert all("一" <= letter <= "鿿" for letter in subject.chinese + subject.measure)


def test_german_adjectives_in_names_agree_with_the_gender() -> None:
    endings = {"m": "er", "f": "e", "n": "es"}
    for subject in SUBJECTS.values():
        for adjective in subject.german.split()[:-1]:
            assert adjective.endswith(endings[subject.gender]), subject.german


def test_a_row_is_read_as_it_stands() -> None:
    assert SUBJECTS["police-car"] == Subject(
        key="police-car",
        code_point="1f693",
        kind="vehicle",
        faces="left",
        english="police car",
        german="Polizeiauto",
        gender="n",
        chinese="警车",
        measure="辆",
    )


def test_the_starter_is_a_mix_of_known_subjects() -> None:
    assert len(set(STARTER)) == len(STARTER) == 24
    assert set(STARTER) <= set(SUBJECTS)
    counts = Counter(SUBJECTS[key].kind for key in STARTER)
    assert counts == {"land": 10, "vehicle": 5, "flyer": 4, "swimmer": 3, "boat": 2}
