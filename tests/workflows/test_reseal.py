"""Videos that other tools made get the same marks."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from lichtspiel.cli import app, errors
from lichtspiel.errors import MediaError, Refused, RequestError
from lichtspiel.media.video import read_video, video_info
from lichtspiel.seal import card, record, verify
from lichtspiel.workflows.reseal import reseal
from lichtspiel.workflows.terms import Terms


def foreign(path: Path, *, sound: str | None = None, width: int = 321, rate: str = "30000/1001") -> Path:
    """A video as other tools write it: odd width, fractional rate, and a sound."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=Fraction(rate))
        stream.width, stream.height, stream.pix_fmt = width, 180, "yuv420p"
        track = file.add_stream(sound, rate=48000) if sound else None
        noise = np.random.default_rng(0).integers(0, 60, (180, width, 3))
        for number in range(24):
            picture = np.clip(noise + 5 * number + np.arange(width)[None, :, None] * 0.4, 0, 255).astype(np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode(None))
        if track is not None:
            tone = (np.sin(np.arange(24 * 1024) / 20) * 0.2).astype(np.float32).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
            frame.sample_rate = 48000
            file.mux(track.encode(frame))
            file.mux(track.encode(None))
    return path


def test_a_foreign_video_gets_all_marks_and_keeps_rate_and_sound(tmp_path: Path) -> None:
    source = foreign(tmp_path / "theirs.mp4", sound="aac")
    sealed = reseal(source, tmp_path / "marked.mp4", made_with="Wan2.1 in ComfyUI", prompt="a hill", terms=Terms())
    assert (sealed.width, sealed.height, sealed.frames) == (320, 180, 24)
    assert sealed.fps == pytest.approx(30000 / 1001)
    report = verify(tmp_path / "marked.mp4")
    assert report.credentials.here
    assert report.credentials.model == "Wan2.1 in ComfyUI"
    assert report.credentials.source_type == "trainedAlgorithmicMedia"
    assert [(it.role, it.relationship) for it in report.credentials.ingredients] == [("original", "parentOf")]
    assert (report.watermark.found, report.watermark.id) == (True, sealed.id[:8])
    with av.open(str(tmp_path / "marked.mp4")) as file:
        assert file.streams.audio[0].codec_context.name == "aac"
        heard = sum(frame.samples for frame in file.decode(audio=0))
    assert heard == pytest.approx(24 * 1024, abs=2048)
    before, after = next(read_video(source)), next(read_video(tmp_path / "marked.mp4"))
    assert np.abs(before[:, :320].astype(int) - after).mean() < 6
    entry = record.find(sealed.id)
    assert entry is not None
    assert (entry.model, entry.prompt) == ("Wan2.1 in ComfyUI", "a hill")


def test_a_file_of_ours_that_comes_back_keeps_its_credentials_as_the_parent(tmp_path: Path) -> None:
    source = foreign(tmp_path / "theirs.mp4", width=320)
    first = reseal(source, tmp_path / "first.mp4", made_with="tool", prompt="", terms=Terms())
    reseal(first.path, tmp_path / "second.mp4", made_with="tool", prompt="", terms=Terms())
    report = verify(tmp_path / "second.mp4")
    assert [(it.role, it.state) for it in report.credentials.ingredients] == [("original", "intact")]


def test_what_cannot_be_adopted_is_refused_in_one_line(tmp_path: Path) -> None:
    source = foreign(tmp_path / "theirs.mkv", sound="mp2")
    out = tmp_path / "marked.mp4"
    with pytest.raises(MediaError, match="convert it to AAC"):
        reseal(source, out, made_with="tool", prompt="", terms=Terms())
    with pytest.raises(RequestError, match="made_with"):
        reseal(source, out, made_with=" ", prompt="", terms=Terms())
    with pytest.raises(Refused):
        reseal(source, out, made_with="tool", prompt="a naked child", terms=Terms())
    (tmp_path / "text.mp4").write_text("this is no video")
    with pytest.raises(MediaError, match="no video"):
        reseal(tmp_path / "text.mp4", out, made_with="tool", prompt="", terms=Terms())
    assert not out.exists()
    assert video_info(source).frames in (0, 24)


def test_a_foreign_picture_becomes_a_sealed_png(tmp_path: Path) -> None:
    source = tmp_path / "flux.jpg"
    Image.fromarray(np.random.default_rng(1).integers(60, 200, (181, 320, 3), np.uint8)).resize((333, 181)).save(source)
    sealed = reseal(source, tmp_path / "marked.png", made_with="Flux", prompt="", terms=Terms())
    assert (sealed.width, sealed.height, sealed.frames, sealed.fps) == (333, 181, 1, 0)
    report = verify(tmp_path / "marked.png")
    assert report.credentials.here
    assert [it.relationship for it in report.credentials.ingredients] == ["parentOf"]
    shown = " ".join(card(report).split())
    assert "Flux (stated by whoever sealed it)" in shown
    assert "not stored" not in shown  # there was no prompt


def test_a_name_that_a_terminal_would_obey_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="one line"):
        reseal(tmp_path / "a.mp4", tmp_path / "b.mp4", made_with="x\x1b]0;title\x07", prompt="", terms=Terms())


def stamped(path: Path, stamps: list[int], *, rate: int = 30, sound: bool = True, loud_from: float = 99) -> Path:
    """A video whose frames are shown at the given milliseconds, each a grey of its own, beside sound from 0 on, which
    is silence and then noise."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=rate, options={"bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        track = file.add_stream("aac", rate=48000) if sound else None
        for number, stamp in enumerate(stamps):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), (40 + 8 * number) % 256, np.uint8), format="rgb24")
            frame.pts, frame.time_base = stamp, Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
        if track is not None:
            tone = np.zeros((1, 48000 * (stamps[-1] + 200) // 1000), np.float32)
            noise = np.random.default_rng(0).uniform(-0.5, 0.5, tone.shape).astype(np.float32)
            tone = np.where(np.arange(tone.shape[1]) >= loud_from * 48000, noise, tone)
            heard = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
            heard.sample_rate, heard.pts = 48000, 0
            file.mux(track.encode(heard))
            file.mux(track.encode(None))
    return path


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
@pytest.mark.parametrize(
    "stamps",
    [
        [round(i * 1000 / 30) for i in range(12)] + [400 + i * 200 for i in range(6)],  # a rate that falls
        [2000 + i * 100 for i in range(6)],  # a picture that begins 2 s after the sound
    ],
)
def test_every_frame_is_shown_when_it_was(tmp_path: Path, suffix: str, stamps: list[int]) -> None:
    source = stamped(tmp_path / f"uneven.{suffix}", stamps)
    sealed = reseal(source, tmp_path / "marked.mp4", made_with="tool", prompt="", terms=Terms())
    levels = [float(frame.mean()) for frame in read_video(tmp_path / "marked.mp4")]
    for number, stamp in enumerate(stamps[:-1]):
        middle = (stamp + stamps[number + 1]) / 2000
        assert abs(levels[int(middle * float(sealed.fps))] - (40 + 8 * number)) < 5, (number, stamp, sealed.fps)
    assert sealed.frames / float(sealed.fps) == pytest.approx(stamps[-1] / 1000, abs=0.3)


def test_time_stamps_of_browsers_are_no_rate(tmp_path: Path) -> None:
    source = stamped(tmp_path / "browser.mkv", [round(i * 62.5) for i in range(20)], rate=1000, sound=False)
    assert reseal(source, tmp_path / "marked.mp4", made_with="tool", prompt="", terms=Terms()).fps == 16


def test_several_files_go_into_a_folder_and_one_that_fails_stops_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inside = tmp_path / "theirs"
    (inside / "sub").mkdir(parents=True)
    for name in ("a.png", "sub/a.png", "z.png"):
        Image.new("RGB", (64, 64), "teal").save(inside / name)
    (inside / "broken.png").write_bytes(b"no picture")
    lone = tmp_path / "b.png"
    Image.new("RGB", (64, 64), "orange").save(lone)

    def run(*words: object) -> int:
        command = ["seal", *map(str, words), "--made-with", "a tool"]
        return errors.run(lambda: app(command, prog_name="lichtspiel", standalone_mode=False))

    assert run(inside, lone, "-o", tmp_path / "out", "--json") == 2
    results = json.loads(capsys.readouterr().out)["files"]
    assert [result["exit_code"] for result in results] == [0, 2, 0, 0, 0]
    assert "broken.png" in results[1]["error"]
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["a-sealed-2.png", "a-sealed.png", "b-sealed.png", "z-sealed.png"]
    assert verify(tmp_path / "out" / "b-sealed.png").credentials.model == "a tool"
    Image.new("RGB", (64, 64), "red").save(inside / "z-sealed.png")
    before = (inside / "z-sealed.png").read_bytes()
    assert run(inside / "z.png", inside / "z-sealed.png", "-o", inside, "--force") == 2
    assert (inside / "z-sealed.png").read_bytes() == before
    assert "--out and FILE name the same file" in capsys.readouterr().out
    assert run(lone, inside / "z.png", "-o", lone) == 2
