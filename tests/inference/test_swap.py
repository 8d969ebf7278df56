"""LoRAs exchanged between requests: the base stays in memory, and nothing of an earlier request is left."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lichtspiel.errors import WeightsError
from lichtspiel.inference.pipeline import Pipeline, load
from lichtspiel.request import Request
from lichtspiel.spec import MODELS
from tests.golden import relative_error
from tests.lora.files import TINY, keys, linear_layers, pairs, save


def asked(*loras: str) -> Request:
    return Request.of(prompt="a turtle", frames=1, steps=2, seed=3, guidance=1, dtype="float32", lora=loras)


def latents(pipeline: Pipeline, request: Request) -> torch.Tensor:
    *_, step = pipeline.denoise(pipeline.encode(request), request)
    return step.latents


def test_loras_are_swapped_without_reloading_the_base(random_nano: Path, tmp_path: Path) -> None:
    spec = MODELS["nano"].dit
    one, other = (
        str(save(tmp_path / f"{seed}.safetensors", keys("comfy", pairs(spec, linear_layers(spec), seed=seed))))
        for seed in (1, 2)
    )
    pipeline = load(asked(), random_nano, swappable=True)
    plain = latents(pipeline, asked())
    base = pipeline._networks["dit"]
    for lora in (f"{one}:0.5", other):
        assert pipeline.serves(asked(lora))
        pipeline.swap(asked(lora))
        merged = latents(load(asked(lora), random_nano), asked(lora))
        assert relative_error(latents(pipeline, asked(lora)), merged) < 1e-4
        assert relative_error(merged, plain) > 0.01
        assert any("matched 80/80 layers" in note for note in pipeline.notes)
    pipeline.swap(asked())
    assert torch.equal(latents(pipeline, asked()), plain)
    assert pipeline._networks["dit"] is base

    wrong = str(save(tmp_path / "wrong.safetensors", keys("comfy", pairs(TINY, linear_layers(TINY)))))
    pipeline.swap(asked(one))
    with pytest.raises(WeightsError, match="not matched"):
        pipeline.swap(asked(wrong))
    assert pipeline.loras == []
    assert torch.equal(latents(pipeline, asked()), plain)


def test_merged_loras_belong_to_their_pipeline(random_nano: Path, tmp_path: Path) -> None:
    spec = MODELS["nano"].dit
    path = str(save(tmp_path / "a.safetensors", keys("comfy", pairs(spec, linear_layers(spec)[:1]))))
    assert not load(asked(), random_nano).serves(asked(path))
