"""The rules of subtitles, on generated dialogues."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lichtspiel.translate import subtitles
from lichtspiel.translate.lines import Line
from lichtspiel.translate.subtitles import LEAST, MOST, Cue, Rules, cues, joined

LATIN = "the a of harbor sail, seven. apples which understanding; bread? weather incomprehensibilities two-thirds"
CHINESE = "我们今天去海边看船，天气很好。你听到音乐了吗？明天再来吧！他说没有，可是我不信"


def dialogue(seed: int, language: str, *, brisk: float = 1.0) -> tuple[list[Line], float]:
    """Lines at a speaker's usual rate (15 characters a second, 5 in Chinese), with pauses between them."""
    draw = random.Random(seed)
    lines, at = list[Line](), draw.random()
    for _ in range(draw.randint(3, 12)):
        if language == "zh":
            text = "".join(draw.choice(CHINESE) for _ in range(draw.randint(2, 60)))
            seconds = len(text) / 5
        else:
            text = " ".join(draw.choice(LATIN.split()) for _ in range(draw.randint(1, 30)))
            seconds = len(text) / 15
        lines.append(Line(at, at + seconds / brisk, text))
        at = lines[-1].end + draw.uniform(0.1, 2.0)
    return lines, at + 1


@pytest.mark.parametrize("language", ["es", "zh"])
@given(seed=st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_every_rule_holds(language: str, seed: int) -> None:
    lines, length = dialogue(seed, language)
    rules, made = Rules.of(language, 25), cues(lines, language, length=length)
    for cue in made:
        assert len(cue.text.split("\n")) <= rules.lines
        assert max(map(len, cue.text.split("\n"))) <= rules.width
        assert 0 <= cue.start < cue.end <= length
        assert cue.end - cue.start <= MOST + 1e-3
    for cue, after in itertools.pairwise(made):
        assert after.start - cue.end >= rules.gap - 2e-3
    shown = "".join("".join(cue.text.split()) for cue in made)
    assert shown == "".join("".join(line.text.split()) for line in lines), "no word is lost"
    readable = [cue for cue in made if len(cue.text) / (cue.end - cue.start) <= rules.speed * 1.2]
    assert len(readable) >= 0.85 * len(made)


@given(seed=st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_no_cue_stays_over_a_change_of_shot_that_it_can_avoid(seed: int) -> None:
    lines, length = dialogue(seed, "es")
    shots = [(line.end + after.start) / 2 for line, after in itertools.pairwise(lines)]
    for cue in cues(lines, "es", length=length, shots=shots):
        for shot in shots:
            crosses = cue.start + LEAST < shot < cue.end - 1e-3
            assert not crosses, (cue, shot)


def test_short_words_stay_long_enough_and_start_on_time() -> None:
    (cue,) = cues([Line(1.0, 1.2, "Yes.")], "en", length=5)
    assert (cue.start, cue.end) == (1.0, pytest.approx(1 + LEAST, abs=1e-3))


def test_a_line_is_broken_where_it_makes_sense() -> None:
    text = "And then he said: hello, my friend, how are you?"
    assert subtitles.wrapped(text, Rules.of("en"), "en") == "And then he said: hello,\nmy friend, how are you?"
    assert subtitles.wrapped("短句。", Rules.of("zh"), "zh") == "短句。"
    broken = subtitles.wrapped("我们今天去海边看船，天气很好，你听到音乐了吗？", Rules.of("zh"), "zh")
    assert broken == "我们今天去海边看船，\n天气很好，你听到音乐了吗？"


def test_two_languages_stand_above_each_other() -> None:
    both = joined([Cue(0, 2, "Hola"), Cue(3, 4, "Adiós")], [Cue(0.1, 2.1, "Hel-\nlo"), Cue(9, 10, "Late")])
    assert [cue.text for cue in both] == ["Hola\nHel- lo", "Adiós"]
