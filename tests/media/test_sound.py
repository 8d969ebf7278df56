from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from lichtspiel.errors import MediaError
from lichtspiel.media import sound
from lichtspiel.media.sound import has_sound, read_sound, sound_length

RATE = 48_000


def write(path: Path, samples: Any, *, begins: float = 0.0) -> Path:
    """A file with a second of picture and a sound track that begins late."""
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("mpeg4", rate=8)
        video.width = video.height = 32
        layout = "mono" if samples is None or samples.shape[0] == 1 else "stereo"
        track: Any = None if samples is None else container.add_stream("pcm_s16le", rate=RATE, layout=layout)
        for _ in range(8):
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), "rgb24")))
        container.mux(video.encode(None))
        if samples is not None:
            packed = np.ascontiguousarray((samples * 32767).astype(np.int16).T).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(packed, "s16", layout)
            frame.sample_rate, frame.pts, frame.time_base = RATE, round(begins * RATE), Fraction(1, RATE)
            container.mux(track.encode(frame))
            container.mux(track.encode(None))
    return path


def tone(seconds: float, channels: int = 1) -> Any:
    return np.tile(0.25 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * RATE)) / RATE), (channels, 1))


def test_samples_are_what_was_written(tmp_path: Path) -> None:
    path = write(tmp_path / "tone.mov", tone(1.0, 2))
    both = read_sound(path, rate=RATE, channels=2)
    assert both.dtype == np.float32
    assert np.allclose(both.T, tone(1.0, 2), atol=1e-3)
    assert has_sound(path)
    assert sound_length(path) == pytest.approx(1.0, abs=0.02)
    mono = read_sound(path, rate=16_000)
    assert mono.shape == (16_000, 1)
    one = read_sound(write(tmp_path / "mono.mov", tone(1.0)), rate=RATE, channels=2)
    assert np.allclose(one.T, tone(1.0, 2), atol=1e-3)
    assert np.sqrt(np.mean(mono**2)) == pytest.approx(0.25 / np.sqrt(2), rel=0.02)


def test_a_late_track_begins_with_silence(tmp_path: Path) -> None:
    samples = read_sound(write(tmp_path / "late.mov", tone(0.5), begins=0.4), rate=RATE)[:, 0]
    assert np.flatnonzero(np.abs(samples) > 0.01)[0] == pytest.approx(0.4 * RATE, abs=200)


def test_what_has_no_sound_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "mute.mov", None)
    assert not has_sound(path)
    with pytest.raises(MediaError, match="has no sound track"):
        read_sound(path, rate=RATE)
    (tmp_path / "text.mp4").write_text("no video at all")
    with pytest.raises(MediaError, match="no video or sound"):
        read_sound(tmp_path / "text.mp4", rate=RATE)
    monkeypatch.setattr(sound, "MAX_SECONDS", 0.5)
    with pytest.raises(MediaError, match="cut it first"):
        read_sound(write(tmp_path / "long.mov", tone(1.0)), rate=16_000)
