"""Frames become larger: exactly as the published network makes them, in strips as at once, and before the seal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lichtspiel.errors import RequestError
from lichtspiel.inference import upscale
from lichtspiel.inference.upscale import WEIGHTS, Upscaler
from lichtspiel.models.upscaler import RealESRGAN
from lichtspiel.request import Request, default_of
from lichtspiel.seal import verify
from lichtspiel.spec import MODELS
from lichtspiel.workflows.generate import generate
from tests.golden import FOLDER, relative_error

CPU = torch.device("cpu")


def frame(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def test_it_is_the_published_network() -> None:
    golden = load_file(FOLDER / "upscale.safetensors")  # made by ncnn, see scripts/make_upscaler.py
    network = RealESRGAN()
    network.load_state_dict(load_file(WEIGHTS))
    with torch.no_grad():
        assert relative_error(network(golden["picture"][None])[0], golden["made"]) < 1e-5


def test_strips_make_the_same_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Upscaler(4, CPU)(frame(100, 24))
    monkeypatch.setattr(upscale, "STRIP", 24 * 60)
    assert np.array_equal(Upscaler(4, CPU)(frame(100, 24)), whole)


def test_bfloat16_is_off_by_less_than_a_level(processor: Callable[[str], None]) -> None:
    made = {}
    for fastest in ("float32", "bfloat16"):
        processor(fastest)
        made[fastest] = Upscaler(4, CPU)(frame(32, 32)).astype(int)
    apart = np.abs(made["float32"] - made["bfloat16"])
    assert 0 < apart.mean() < 1
    assert apart.max() < 20  # of noise, which is nothing that anybody would enlarge


@pytest.mark.parametrize("factor", [2, 4])
def test_a_flat_picture_stays_what_it_is(factor: int) -> None:
    flat = np.full((56, 64, 3), (200, 90, 30), np.uint8)
    large = Upscaler(factor, CPU)(flat).astype(int)
    assert large.shape == (56 * factor, 64 * factor, 3)
    inner = large[20 * factor : -20 * factor, 20 * factor : -20 * factor]  # where no border is seen
    assert abs(inner - (200, 90, 30)).max() <= 4
    assert abs(large - (200, 90, 30)).mean() < 4


def test_a_video_is_made_larger_before_it_is_sealed(tmp_path: Path) -> None:
    request = Request.of(prompt="a whale swims to the left in the sea", steps=1, frames=5, seed=1, upscale=4)
    result = generate(request, tmp_path / "whale.mp4", sheet=tmp_path / "sheet.png")
    with av.open(tmp_path / "whale.mp4") as file:
        stream = file.streams.video[0]
        assert (stream.width, stream.height) == (4 * request.size[0], 4 * request.size[1])
    proof = verify(tmp_path / "whale.mp4")
    assert proof.credentials.state == "trusted"
    assert proof.watermark.found
    assert result.timings["upscale"] > 0
    assert result.to_json()["upscale"] == 4


@pytest.mark.usefixtures("enlarged")
def test_only_the_embedded_model_is_enlarged_without_asking() -> None:
    assert {name for name, row in MODELS.items() if row.sampling.upscale > 1} == {"nano"}
    assert default_of("upscale") is None  # so that help says that it is the model's
    assert Request.of(prompt="a whale").upscale == 4
    assert Request.of(prompt="a whale", upscale=1).upscale == 1
    assert Request.of(prompt="a whale", model="t2v-1.3b").upscale == 1


@pytest.mark.parametrize("wrong", [0, 3, 8])
def test_other_factors_are_refused(wrong: int) -> None:
    with pytest.raises(RequestError, match="upscale"):
        Request.of(prompt="a whale", upscale=wrong)
