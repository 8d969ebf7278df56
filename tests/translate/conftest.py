"""What the tests of translation share: a video in which eSpeak NG speaks, made once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.seal.conftest import frames, home, provenance

__all__ = ["home"]

SENTENCES = ("My brother works in a small town near the river.", "She said that the weather would be fine tomorrow.")
SECONDS, FPS, BEGIN = 8, 16, (0.5, 4.25)


def sound() -> Any:
    """The sentences at their times, at 48 kHz [n]."""
    pytest.importorskip("espeakng_loader", reason="espeakng-loader is in the extra espeak")
    from lichtspiel.translate.espeak import started
    from lichtspiel.translate.mix import RATE, resampled

    samples = np.zeros(SECONDS * RATE, np.float32)
    for text, begin in zip(SENTENCES, BEGIN, strict=True):
        piece = resampled(started().speak(text, "en-us", 0.9), started().rate, RATE)
        start = round(begin * RATE)
        samples[start : start + len(piece)] += piece
    return samples


def video(path: Path, samples: Any, seconds: int = SECONDS) -> Path:
    """A sealed video of so many seconds with these samples as its sound; None for none."""
    from lichtspiel.seal import Marks, seal
    from lichtspiel.seal.tracks import SoundTrack, Tracks

    tracks = Tracks() if samples is None else Tracks(sounds=(SoundTrack(samples=samples[:, None], rate=48_000),))
    pictures = (frame for _ in range(seconds) for frame in frames(FPS))
    return seal(pictures, provenance(), path, fps=FPS, sound=tracks, marks=Marks.none("a test")).path


@pytest.fixture(scope="session")
def talk(installation: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The video in which the sentences are spoken."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LICHTSPIEL_HOME", str(installation))
        return video(tmp_path_factory.mktemp("talk") / "talk.mp4", sound())
