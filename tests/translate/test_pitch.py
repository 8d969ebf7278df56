from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lichtspiel.translate.lines import Line
from lichtspiel.translate.pitch import pitch, speakers
from lichtspiel.translate.voice_activity import RATE


def voiced(hertz: float, seconds: float = 1.0) -> Any:
    """A buzz with the overtones of a voice."""
    times = np.arange(round(seconds * RATE)) / RATE
    return sum(np.sin(2 * np.pi * hertz * part * times) / part for part in range(1, 9)).astype(np.float32) * 0.1


@pytest.mark.parametrize("hertz", [85, 110, 165, 220, 300])
def test_pitch_is_that_of_the_voice_and_no_octave_off(hertz: float) -> None:
    assert pitch(voiced(hertz)) == pytest.approx(hertz, rel=0.03)


def test_noise_and_silence_have_none() -> None:
    assert pitch(np.random.default_rng(1).normal(0, 0.1, RATE).astype(np.float32)) is None
    assert pitch(np.zeros(RATE, np.float32)) is None


def lines(count: int) -> list[Line]:
    return [Line(at, at + 0.9, "x") for at in range(count)]


def test_two_speakers_are_told_apart_in_the_order_in_which_they_begin() -> None:
    sound = np.concatenate([voiced(210), voiced(110), voiced(118), voiced(200)])
    numbered, found = speakers(lines(4), sound)
    assert [line.speaker for line in numbered] == [0, 1, 1, 0]
    assert found == (pytest.approx(210, rel=0.06), pytest.approx(115, rel=0.06))


def test_one_lively_speaker_is_one() -> None:
    numbered, found = speakers(lines(3), np.concatenate([voiced(180), voiced(210), voiced(230)]))
    assert [line.speaker for line in numbered] == [0, 0, 0]
    assert found == (pytest.approx(210, rel=0.03),)
