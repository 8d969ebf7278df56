"""A data set of three clips and a picture, and tiny models of every kind."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lichtspiel.models.dit import DiT
from lichtspiel.spec import MODELS
from tests.inference.test_vace import folders as tiny_folders
from tests.tune.caches import SHORT
from tests.tune.clips import write_clip, write_picture

__all__ = ["data", "tiny_folders"]

CONSENT = "Drawn by a program; nobody is shown."


@pytest.fixture(scope="session")
def drawn_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `data` is a copy of."""
    folder = tmp_path_factory.mktemp("drawn")
    write_clip(folder / "red.mp4", 20)
    write_clip(folder / "green.mp4", 36, fps=16, look=1, size=(192, 128))
    write_clip(folder / "blue.mp4", 10, look=2)
    write_picture(folder / "yellow.png", look=3)
    for name in ("red", "green", "blue", "yellow"):
        (folder / f"{name}.txt").write_text(f"a {name} square moves to the right", encoding="utf-8")
    return folder


@pytest.fixture
def data(drawn_data: Path, tmp_path: Path) -> Path:
    """Clips of 20, 18 and 10 frames at 8 per second, one of them wide, and a picture, each with a caption."""
    return Path(shutil.copytree(drawn_data, tmp_path / "data"))


@pytest.fixture(scope="session")
def short_nano(random_nano: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with random weights of `SHORT`."""
    folder = tmp_path_factory.mktemp("short_nano")
    for name in ("vae", "umt5"):
        (folder / f"{name}.safetensors").symlink_to(random_nano / f"{name}.safetensors")
    torch.manual_seed(0)
    dit = DiT(SHORT.dit)
    dit.initialize()
    torch.nn.init.normal_(dit.head.head.weight, std=0.02)  # a fresh head is zero, which would hide mistakes
    save_file({name: value.half() for name, value in dit.state_dict().items()}, folder / "dit.safetensors")
    return folder


@pytest.fixture
def shortened(short_nano: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with weights of `SHORT`, which is what the name "nano" stands for meanwhile."""
    monkeypatch.setitem(MODELS, "nano", SHORT)
    return short_nano


@pytest.fixture(autouse=True)
def unseeing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing looks for faces, as without the extra `moderation`, so every picture asks for consent."""
    monkeypatch.setattr("lichtspiel.policy.rules._faces", lambda image: None)
    monkeypatch.setattr("lichtspiel.policy.rules._scores", lambda images: None)
