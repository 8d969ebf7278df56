from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("silero_vad", reason="silero-vad is in the extra translate")
pytest.importorskip("pocketsphinx", reason="pocketsphinx is in the extra translate")

from lichtspiel.errors import InvalidInput, MediaError
from lichtspiel.media.sound import read_sound
from lichtspiel.translate import hear, voice_activity
from lichtspiel.translate.voice_activity import RATE, speech_spans
from tests.translate.conftest import BEGIN, SENTENCES


@pytest.fixture(scope="module")
def samples(talk: Path) -> Any:
    return read_sound(talk, rate=RATE)[:, 0]


def test_speech_is_found_where_it_is(samples: Any) -> None:
    spans = speech_spans(samples)
    assert len(spans) == len(BEGIN)
    for (start, end), begin in zip(spans, BEGIN, strict=True):
        assert start == pytest.approx(begin, abs=0.15)
        assert 2 < end - start < 3.5


def test_sentences_are_heard_with_their_times(samples: Any) -> None:
    heard = hear.transcribe(hear.choose(None, "en"), samples, "en", name="talk.mp4")
    assert (heard.language, heard.engine) == ("en", "pocketsphinx")
    assert [line.start for line in heard.lines] == [pytest.approx(begin, abs=0.15) for begin in BEGIN]
    said, known = " ".join(line.text.lower() for line in heard.lines), " ".join(SENTENCES).lower()
    words = {word.strip(".,?") for word in known.split()}
    understood = {word.strip(".,?") for word in said.split()} & words
    assert len(understood) >= len(words) / 2, said


def music(seconds: float) -> Any:
    """Chords with a beat: sound without a voice."""
    times = np.arange(round(seconds * RATE)) / RATE
    chord = sum(np.sin(2 * np.pi * pitch * times) for pitch in (220, 277.2, 329.6))
    return (0.1 * chord * (0.6 + 0.4 * np.sign(np.sin(2 * np.pi * 2 * times)))).astype(np.float32)


def test_silence_and_music_are_told_apart() -> None:
    hearer = hear.choose(None, None)
    with pytest.raises(MediaError, match=r"talk\.mp4: its sound track is silent"):
        hear.transcribe(hearer, np.zeros(2 * RATE, np.float32), None, name="talk.mp4")
    with pytest.raises(MediaError, match=r"no speech was found in 3 s of sound \(music or noise only\?\)"):
        hear.transcribe(hearer, music(3), None, name="talk.mp4")


def test_a_language_that_it_does_not_know_is_refused_before_the_work() -> None:
    with pytest.raises(InvalidInput, match=r"--from de: PocketSphinx understands English only; for German"):
        hear.choose(None, "de")
    with pytest.raises(InvalidInput, match="it has one model"):
        hear.choose("pocketsphinx:large", None)


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hear, "find_spec", lambda name: None)
    with pytest.raises(InvalidInput, match=r"lichtspiel\[translate\]"):
        hear.choose(None, None)
    monkeypatch.setattr(voice_activity, "_weights", lambda: None)
    voice_activity._session.cache_clear()
    with pytest.raises(InvalidInput, match=r"silero-vad.*lichtspiel\[translate\]"):
        speech_spans(music(0.1))
