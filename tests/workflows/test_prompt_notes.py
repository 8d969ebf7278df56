"""A prompt of which the model in the package knows nothing is told before the work."""

from __future__ import annotations

from pathlib import Path

import pytest

from lichtspiel.inference.pipeline import Pipeline, load
from lichtspiel.request import Request
from lichtspiel.workflows.generate import _prompt_notes


@pytest.fixture(scope="module")
def shipped() -> Pipeline:
    return load(Request.of(prompt="any"))


def notes(prompt: str, pipeline: Pipeline) -> list[str]:
    return _prompt_notes(Request.of(prompt=prompt), pipeline)


def test_known_subjects_need_no_note(shipped: Pipeline) -> None:
    for prompt in ("a turtle", "Zwei Busse bei Nacht", "一只乌龟在沙滩上"):
        assert notes(prompt, shipped) == []


def test_an_unknown_subject_is_told_with_its_neighbor(shipped: Pipeline) -> None:
    (note,) = notes("a mammoth on the beach", shipped)
    assert note.startswith("nano knows 40 subjects, such as cat, dog")
    assert note.endswith("nearest to 'mammoth' is 'elephant'")


def test_other_weights_may_know_another_world(random_nano: Path) -> None:
    assert notes("a mammoth", load(Request.of(prompt="any"), random_nano)) == []
