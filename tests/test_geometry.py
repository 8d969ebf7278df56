"""Strides, patches and channels stand in the specification and nowhere else, so that another family fits in."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lichtspiel.errors import RequestError
from lichtspiel.inference.pipeline import load
from lichtspiel.inference.plan import plan
from lichtspiel.models.dit import DiT
from lichtspiel.models.umt5 import UMT5
from lichtspiel.models.vae import VAE
from lichtspiel.request import Request
from lichtspiel.spec import MODELS, Model
from tests.sources import PACKAGE, ROOT

NANO = MODELS["nano"]
WIDE = replace(
    NANO,
    name="wide",
    dit=replace(NANO.dit, layers=1, in_channels=48, out_channels=48),
    vae=replace(
        NANO.vae,
        stride=(4, 16, 16),
        latent_channels=48,
        width=8,
        multipliers=(1, 1, 2, 2, 2),
        temporal_downsample=(False, False, True, True),
    ),
    sampling=replace(NANO.sampling, sizes=((96, 64),), free_size=True),
)
"""A model with the geometry of Wan2.2 TI2V-5B: 4 x 16 x 16 pixels a latent cell, 48 channels, 32 pixels a token."""


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[Model, Path]:
    monkeypatch.setitem(MODELS, "wide", WIDE)
    torch.manual_seed(0)
    statistics = {"latent_mean": torch.zeros(48), "latent_std": torch.ones(48)}
    vocabulary = {"vocabulary": torch.arange(WIDE.umt5.vocabulary, dtype=torch.int32)}
    save_file(VAE(WIDE.vae).state_dict() | statistics, tmp_path / "vae.safetensors")
    save_file(DiT(WIDE.dit).state_dict(), tmp_path / "dit.safetensors")
    save_file(UMT5(WIDE.umt5).state_dict() | vocabulary, tmp_path / "umt5.safetensors")
    return WIDE, tmp_path


def test_another_geometry_goes_from_request_to_frames(wide: tuple[Model, Path]) -> None:
    row, folder = wide
    request = Request.of(model="wide", prompt="a cat", size=(64, 32), frames=5, steps=1, device="cpu", dtype="float32")
    pipeline = load(request, folder)
    assert pipeline.noise(request).shape == (1, 48, 2, 2, 4)
    *_, step = pipeline.denoise(pipeline.encode(request), request)
    frames = list(pipeline.decode(step.latents))
    assert (len(frames), frames[0].shape) == (5, (32, 64, 3))
    small = plan(row, size=(64, 32), frames=5, device="cpu", dtype=torch.float32, free_bytes=None)
    large = plan(NANO, size=(64, 32), frames=5, device="cpu", dtype=torch.float32, free_bytes=None)
    assert small.stage("dit").activation_bytes * 4 == large.stage("dit").activation_bytes


def test_another_geometry_has_rules_of_its_own(wide: tuple[Model, Path]) -> None:
    row, _ = wide
    assert (row.grid, row.frame_rule, row.latent_shape(9, (96, 64))) == (32, "4n+1", (3, 4, 6))
    with pytest.raises(RequestError, match="multiples of 32"):
        Request.of(model="wide", prompt="a cat", size=(80, 64))


@pytest.mark.parametrize("stride", [4, 8])
def test_the_rule_for_frames_follows_the_stride(stride: int) -> None:
    row = replace(WIDE, vae=replace(WIDE.vae, stride=(stride, 16, 16)))
    assert (row.frame_rule, row.nearest_frames(stride + 2), row.vae.frames(3)) == (
        f"{stride}n+1",
        stride + 1,
        2 * stride + 1,
    )


def test_no_module_has_a_geometry_of_its_own() -> None:
    numbers = re.compile(r"(?<!\w)(//|%) ?(8|16)\b|^(STRIDE|PATCH|GRID|LATENT_\w+) = ", re.MULTILINE)
    rooms = r"lichtspiel/(inference|models|lora|weights|workflows|request\.py|train/(dit|vae|latents)\.py)"
    names = [name for name in PACKAGE if re.match(rooms, name)]
    assert len(names) > 30
    for name in names:
        assert not numbers.findall((ROOT / name).read_text(encoding="utf-8")), name
