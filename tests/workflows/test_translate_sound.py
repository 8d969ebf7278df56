"""What `translate` and `transcribe` say of a sound in which there is nothing to hear, and of one with two speakers."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("silero_vad", reason="silero-vad is in the extra translate")
pytest.importorskip("pocketsphinx", reason="pocketsphinx is in the extra translate")
pytest.importorskip("espeakng_loader", reason="espeakng-loader is in the extra espeak")

from lichtspiel.translate.mix import RATE, resampled
from lichtspiel.workflows.terms import Terms
from lichtspiel.workflows.translate import Job, translate
from tests.test_cli_words import said
from tests.translate import tiny_whisper
from tests.translate.conftest import BEGIN, SECONDS, SENTENCES, home, video
from tests.translate.test_hear import music
from tests.translate.test_translators import apertium

__all__ = ["apertium", "home"]

CHOOSE = "choose one in which people speak"
BRING = "bring the words: --transcript FILE in its language, or --subtitles FILE in the other"


@pytest.mark.usefixtures("apertium")
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("silent", "its sound track is silent, so nothing is said in it"),
        ("music", "no speech was found in 2 s of sound (music or noise only?)"),
        ("mute", "has no sound track, so nothing is said"),
    ],
)
def test_a_sound_without_words_is_named(
    kind: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sounds = {"silent": np.zeros(2 * RATE, np.float32), "music": resampled(music(2), 16_000, RATE), "mute": None}
    clip = video(tmp_path / "clip.mp4", sounds[kind], seconds=2)
    for words, remedy in (
        (["transcribe", str(clip)], CHOOSE),
        (["translate", str(clip), "--to", "es", "--from", "en"], BRING if kind != "mute" else "bring words: --subtit"),
    ):
        code, out, err = said(capsys, *words)
        assert (code, out) == (2, ""), err
        assert f"{clip}: {message}; {remedy}" in " ".join(err.split())
    assert [one.name for one in tmp_path.glob("clip*")] == ["clip.mp4"]


@pytest.fixture(scope="module")
def pair(installation: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video in which a low voice speaks, then a high one."""
    from lichtspiel.translate.espeak import started

    samples = np.zeros(SECONDS * RATE, np.float32)
    for text, begin, voice in zip(SENTENCES, BEGIN, ("en-us", "en-us+f3"), strict=True):
        piece = resampled(started().speak(text, voice, 0.9), started().rate, RATE)
        samples[round(begin * RATE) :][: len(piece)] += piece[: len(samples) - round(begin * RATE)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LICHTSPIEL_HOME", str(installation))
        return video(tmp_path_factory.mktemp("pair") / "pair.mp4", samples)


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What hears one sentence wherever somebody speaks."""
    pytest.importorskip("faster_whisper", reason="faster-whisper is in the extra translate-models")
    return f"whisper:{tiny_whisper.write(tmp_path_factory.mktemp('whisper') / 'tiny')}"


def test_two_speakers_are_told_and_numbered(pair: Path, whisper: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, "transcribe", str(pair), "--transcriber", whisper, "--json")
    heard = json.loads(out)
    assert code == 0
    assert [line["speaker"] for line in heard["lines"]] == [0, 1]
    (note,) = heard["notes"]
    assert note.startswith("two speakers are heard (")


@pytest.mark.usefixtures("apertium")
def test_two_speakers_have_two_voices_or_it_is_told(pair: Path, whisper: str, tmp_path: Path) -> None:
    terms = Terms(consent="nobody is shown: a program speaks")
    job = Job(target="es", source="en", transcriber=whisper, voices=("espeak",), shots=())
    made = translate(pair, tmp_path / "one.mp4", job, terms=terms)
    told = [note for note in made.notes if "speakers" in note]
    assert [note.partition("(")[0] for note in told] == ["two speakers are heard "]
    assert told[0].endswith("give --voice twice, and each has a voice of their own")
    job = dataclasses.replace(job, voices=("espeak", "espeak:+f3"))
    made = translate(pair, tmp_path / "two.mp4", job, terms=terms)
    assert made.engines["voice"] == "espeak-ng es, espeak-ng es+f3"
    assert not [note for note in made.notes if "speaker" in note]
