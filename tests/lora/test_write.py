"""Conversions lose nothing: reading a converted file gives the same changes bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lichtspiel.errors import OutputError, RequestError, WeightsError
from lichtspiel.lora import Delta, LoRA, carried, convert, read_lora, write_lora
from tests.lora.files import IMAGE, TINY, keys, linear_layers, pairs, save


def product(delta: Delta) -> Tensor:
    pair = delta.matrix(1.0)
    assert pair is not None
    return pair[1].double() @ pair[0].double()


def same(one: LoRA, other: LoRA) -> None:
    assert set(one.layers) == set(other.layers)
    for name, delta in one.layers.items():
        twin = other.layers[name]
        for left, right in ((delta.diff, twin.diff), (delta.bias, twin.bias)):
            assert (left is None) == (right is None)
            assert left is None or right is None or torch.equal(left, right)
        assert delta.rank == twin.rank
        if delta.rank is not None:
            assert torch.equal(product(delta), product(twin))


@pytest.mark.parametrize("to", ["diffusers", "comfy", "kohya"])
@pytest.mark.parametrize("dialect", ["diffusers", "kohya", "comfy", "diffsynth", "plain"])
@pytest.mark.parametrize(
    "alphas", [(None,), (1.0, 16.0), (1.0, 0.1, None), (0.0,)], ids=["none", "exact", "rounding", "nothing"]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_converted_file_gives_the_same_changes(
    to: Any, dialect: str, alphas: tuple[float | None, ...], dtype: torch.dtype, tmp_path: Path
) -> None:
    ranks = (2, 4) if alphas != (1.0, 0.1, None) else (3, 4)
    made = pairs(IMAGE, linear_layers(IMAGE, everywhere=True), ranks=ranks, alphas=alphas, dtype=dtype)
    lora = read_lora(save(tmp_path / "a.safetensors", keys(dialect, made), {"note": "kept"}))
    path = tmp_path / "b.safetensors"
    write_lora(path, convert(lora, to), carried(lora, to))
    again = read_lora(path)
    assert again.dialect == to
    assert again.metadata["note"] == "kept"
    same(lora, again)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]


@pytest.mark.parametrize("to", ["comfy", "kohya"])
def test_differences_survive(to: Any, tmp_path: Path) -> None:
    tensors = keys("comfy", pairs(TINY, ["blocks.0.ffn.0"], alphas=(1.5,))) | {
        "diffusion_model.blocks.0.ffn.0.diff_b": torch.randn(48),
        "diffusion_model.blocks.0.norm3.diff": torch.randn(32),
        "diffusion_model.blocks.1.diff_m": torch.randn(1, 6, 32),
    }
    lora = read_lora(save(tmp_path / "a.safetensors", tensors))
    write_lora(tmp_path / "b.safetensors", convert(lora, to), carried(lora, to))
    same(lora, read_lora(tmp_path / "b.safetensors"))
    del tensors["diffusion_model.blocks.0.ffn.0.diff_b"]
    with pytest.raises(WeightsError, match="Diffusers cannot hold the weight difference"):
        convert(read_lora(save(tmp_path / "c.safetensors", tensors)), "diffusers")


def test_biases_go_to_diffusers_beside_their_pair(tmp_path: Path) -> None:
    bias = {"diffusion_model.blocks.0.ffn.0.diff_b": torch.randn(48)}
    pair = keys("comfy", pairs(TINY, ["blocks.0.ffn.0"], alphas=(1.0,)))
    lora = read_lora(save(tmp_path / "a.safetensors", pair | bias))
    write_lora(tmp_path / "b.safetensors", convert(lora, "diffusers"), carried(lora, "diffusers"))
    same(lora, read_lora(tmp_path / "b.safetensors"))
    for tensors in (bias, bias | keys("comfy", pairs(TINY, ["blocks.0.ffn.0"], alphas=(1.5,)))):
        with pytest.raises(WeightsError, match="cannot hold the bias difference"):
            convert(read_lora(save(tmp_path / "c.safetensors", tensors)), "diffusers")


def test_nothing_is_lost_in_silence(tmp_path: Path) -> None:
    tensors = keys("kohya", pairs(TINY, ["blocks.0.ffn.0"])) | {"lora_te_block_0.lora_down.weight": torch.ones(2, 2)}
    lora = read_lora(save(tmp_path / "a.safetensors", tensors))
    with pytest.raises(WeightsError, match="would be lost, the first is lora_te_block_0"):
        convert(lora, "comfy")
    with pytest.raises(RequestError, match="one of diffusers, comfy, kohya"):
        convert(lora, "gguf")


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_lora(path, {"a": torch.ones(2)}, {})
    before = path.read_bytes()
    wrong: Any = {"note": 1}
    with pytest.raises(OutputError, match="cannot be written"):
        write_lora(path, {"a": torch.ones(3)}, wrong)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(OutputError, match="cannot be written"):
        write_lora(tmp_path / "no" / "a.safetensors", {}, {})
    with pytest.raises(OutputError, match="has to end in"):
        write_lora(tmp_path / "a.pt", {}, {})
