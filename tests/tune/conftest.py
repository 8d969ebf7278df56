"""A data set of three clips and a picture, and tiny models of every kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.inference.test_vace import folders as tiny_folders
from tests.tune.clips import write_clip, write_picture

__all__ = ["data", "tiny_folders"]

CONSENT = "Drawn by a program; nobody is shown."


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Clips of 20, 18 and 10 frames at 8 per second, one of them wide, and a picture, each with a caption."""
    folder = tmp_path / "data"
    folder.mkdir()
    write_clip(folder / "red.mp4", 20)
    write_clip(folder / "green.mp4", 36, fps=16, look=1, size=(192, 128))
    write_clip(folder / "blue.mp4", 10, look=2)
    write_picture(folder / "yellow.png", look=3)
    for name in ("red", "green", "blue", "yellow"):
        (folder / f"{name}.txt").write_text(f"a {name} square moves to the right", encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def unseeing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing looks for faces, as without the extra `moderation`, so every picture asks for consent."""
    monkeypatch.setattr("lichtspiel.policy.rules._faces", lambda image: None)
    monkeypatch.setattr("lichtspiel.policy.rules._scores", lambda images: None)
