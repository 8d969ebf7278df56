"""The label that is heard finds a pause, and moves nothing."""

from __future__ import annotations

import pytest

from lichtspiel.translate import tongues
from lichtspiel.translate.announce import WORDS, announce
from lichtspiel.translate.timing import FASTEST
from tests.translate.test_timing import Metronome

SENTENCE, SHORT = WORDS["de"]


def test_it_takes_the_first_pause_that_holds_the_whole_sentence() -> None:
    label = announce(Metronome(), "de", [(6, 9), (0.5, 2)], 20)
    assert label is not None
    assert (label.line.text, label.speed) == (SENTENCE, 1)
    assert label.start == pytest.approx(2.12)
    assert label.end < 6
    assert announce(Metronome(), "de", [(4, 9), (0, 2)], 20).start == pytest.approx(9.12)  # type: ignore[union-attr]


def test_where_time_is_short_it_is_said_faster_or_in_fewer_words() -> None:
    tenths = len(SENTENCE) / 10
    fast = announce(Metronome(), "de", [(0, 5)], 5 + tenths / FASTEST + 0.4)
    assert fast is not None
    assert (fast.line.text, fast.speed) == (SENTENCE, FASTEST)
    few = announce(Metronome(), "de", [(0, 5)], 5 + len(SHORT) / 10 + 0.4)
    assert few is not None
    assert (few.line.text, few.speed) == (SHORT, 1)
    assert announce(Metronome(), "de", [(0, 5)], 5.5) is None


def test_languages_without_words_have_none() -> None:
    assert announce(Metronome(), "br", [], 60) is None
    assert WORDS.keys() <= tongues.NAMES.keys()
    assert all(len(short) < len(sentence) for sentence, short in WORDS.values())
    assert ("人工智能" in WORDS["zh"][1], "生成" in WORDS["zh"][1]) == (True, True), "GB 45438-2025 asks for both"
