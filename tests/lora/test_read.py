"""Every dialect is recognized by its keys, and what cannot be used is refused by name."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lichtspiel.errors import WeightsError
from lichtspiel.lora import LoRA, match, read_lora
from lichtspiel.lora.adapter import parameter
from lichtspiel.lora.names import official, to_diffusers, to_underscores
from lichtspiel.models import shapes
from lichtspiel.spec import MODELS
from tests.lora.files import IMAGE, TINY, keys, linear_layers, pairs, save

DIALECTS = {
    "diffusers": "diffusers", "peft": "diffusers", "kohya": "kohya", "comfy": "comfy", "comfy-ab": "comfy",
    "diffsynth": "diffsynth", "plain": "plain",
}  # fmt: skip


def layers_of(model: str) -> list[str]:
    return list(dict.fromkeys(name.removesuffix(".weight").removesuffix(".bias") for name in shapes(MODELS[model].dit)))


@pytest.mark.parametrize("model", MODELS)
def test_every_layer_of_every_model_has_one_name_in_each_naming(model: str) -> None:
    layers = layers_of(model)
    assert {parameter(layer) for layer in layers} <= set(shapes(MODELS[model].dit))
    for naming in (str, to_diffusers, to_underscores, lambda name: to_diffusers(name).replace(".", "_")):
        names = [naming(layer) for layer in layers]
        assert len(set(names)) == len(layers)
        underscores = "." not in "".join(names)
        assert [official(name, underscores=underscores) for name in names] == layers
    for name in ("blocks.0.self_attn", "blocks.x.ffn.0", "single_blocks.0.attn", "", "blocks.0.norm1"):
        assert official(name, underscores=False) is None
    assert official("blocks_0_self_attn", underscores=True) is None


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
def test_every_dialect_gives_the_same_changes(dialect: str, suffix: str, tmp_path: Path) -> None:
    made = pairs(IMAGE, linear_layers(IMAGE, everywhere=True), ranks=(2, 4, 8), alphas=(None, 1.0, 16.0))
    path = tmp_path / f"file{suffix}"
    if suffix == ".safetensors":
        save(path, keys(dialect, made), {"modelspec.trigger_phrase": "a wug"})
    else:
        torch.save(keys(dialect, made), path)
    lora = read_lora(path)
    assert (lora.dialect, lora.foreign, lora.text_encoder) == (DIALECTS[dialect], (), ())
    assert set(lora.layers) == set(made)
    for layer, (down, up, alpha) in made.items():
        delta = lora.layers[layer]
        assert delta.down is not None
        assert delta.up is not None
        assert torch.equal(delta.down, down)
        assert torch.equal(delta.up, up)
        assert delta.alpha == alpha
        assert delta.scale == (1.0 if alpha is None else alpha / len(down))
    assert set(lora.ranks) == {2, 4, 8}
    assert match(lora, IMAGE).whole


def test_differences_biases_and_modulations(tmp_path: Path) -> None:
    tensors = {
        "diffusion_model.blocks.0.norm3.diff": torch.randn(32),
        "diffusion_model.blocks.0.norm3.diff_b": torch.randn(32),
        "diffusion_model.blocks.1.self_attn.norm_q.diff": torch.randn(32),
        "diffusion_model.blocks.1.ffn.2.diff_b": torch.randn(32),
        "diffusion_model.blocks.1.diff_m": torch.randn(1, 6, 32),
        "diffusion_model.head.diff_m": torch.randn(1, 2, 32),
        "diffusion_model.patch_embedding.diff": torch.randn(32, 16, 1, 2, 2),
    }
    lora = read_lora(save(tmp_path / "a.safetensors", tensors))
    assert match(lora, TINY).whole
    assert set(lora.layers) == {
        "blocks.0.norm3", "blocks.1.self_attn.norm_q", "blocks.1.ffn.2", "blocks.1.modulation", "head.modulation",
        "patch_embedding",
    }  # fmt: skip
    described = lora.describe()
    assert (described["pairs"], described["weight_differences"], described["bias_differences"]) == (0, 5, 2)


@pytest.mark.parametrize("stabilised", [False, True])
@pytest.mark.parametrize("beside", [False, True])
def test_pefts_configuration_tells_the_scale(stabilised: bool, beside: bool, tmp_path: Path) -> None:
    made = pairs(TINY, ["blocks.0.self_attn.q", "blocks.0.ffn.0"], ranks=(4, 9))
    part = "" if beside else "transformer."
    ffn = "blocks.0.ffn.0" if beside else "blocks.0.ffn.net.0.proj"
    configuration = {f"{part}r": 4, f"{part}lora_alpha": 6, f"{part}use_rslora": stabilised,
                     f"{part}alpha_pattern": {ffn: 3}}  # fmt: skip
    text = json.dumps(configuration)
    path = tmp_path / "adapter_model.safetensors"
    if beside:
        save(path, keys("peft", made))
        (tmp_path / "adapter_config.json").write_text(text)
    else:
        save(path, keys("diffusers", made), {"lora_adapter_metadata": text})
    lora = read_lora(path)
    expected = [6 / math.sqrt(4), 3 / math.sqrt(9)] if stabilised else [6 / 4, 3 / 9]
    assert [lora.layers[layer].scale for layer in made] == pytest.approx(expected)


def test_pefts_bias_is_scaled_and_becomes_a_difference(tmp_path: Path) -> None:
    tensors = keys("diffusers", pairs(TINY, ["blocks.0.ffn.0"], alphas=(2.0,)))
    tensors["transformer.blocks.0.ffn.net.0.proj.lora_B.bias"] = torch.ones(48)
    (delta,) = read_lora(save(tmp_path / "a.safetensors", tensors)).layers.values()
    assert delta.bias is not None
    assert torch.equal(delta.bias, torch.full((48,), 0.5))


def test_text_encoders_and_foreign_layers_are_named_and_count(tmp_path: Path) -> None:
    tensors = keys("kohya", pairs(TINY, ["blocks.0.ffn.0"]))
    tensors["lora_te1_block_0_q.lora_down.weight"] = torch.ones(2, 4)
    tensors["lora_unet_face_adapter_q.lora_down.weight"] = torch.ones(2, 4)
    lora = read_lora(save(tmp_path / "a.safetensors", tensors))
    assert lora.text_encoder == ("lora_te1_block_0_q",)
    assert lora.foreign == ("lora_unet_face_adapter_q",)
    report = match(lora, TINY)
    assert (report.total, report.whole, len(report.unmatched), report.fits) == (3, False, 2, ())


def broken() -> dict[str, tuple[dict[str, Tensor], str]]:
    name = "diffusion_model.blocks.0.ffn.0"
    pair = {f"{name}.lora_down.weight": torch.ones(2, 32), f"{name}.lora_up.weight": torch.ones(48, 2)}
    hunyuan = "transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight"
    return {
        "half": ({f"{name}.lora_down.weight": torch.ones(2, 32)}, "half of a pair"),
        "alpha alone": ({f"{name}.alpha": torch.ones(())}, "without its pair"),
        "two alphas": (pair | {f"{name}.alpha": torch.ones(2)}, "not one number"),
        "ranks differ": (pair | {f"{name}.lora_up.weight": torch.ones(48, 3)}, "does not go together"),
        "a vector": (pair | {f"{name}.lora_up.weight": torch.ones(48)}, "does not go together"),
        "rank 0": ({key: tensor[:0] if "down" in key else tensor[:, :0] for key, tensor in pair.items()}, "rank 0"),
        "twice": (pair | {f"{name}.lora_A.weight": torch.ones(2, 32)}, "two tensors for one purpose"),
        "not finite": (pair | {f"{name}.diff": torch.full((48, 32), math.nan)}, "not finite"),
        "integers": ({f"{name}.diff": torch.ones(48, 32, dtype=torch.int8)}, "quantized"),
        "two biases": (pair | {f"{name}.lora_B.bias": torch.ones(48), f"{name}.diff_b": torch.ones(48)}, "two biases"),
        "magnitude alone": ({f"{name}.dora_scale": torch.ones(48)}, "magnitude without its pair"),
        "another axis": (pair | {f"{name}.dora_scale": torch.ones(1, 32)}, "one length for each of its 48"),
        "lokr": ({f"{name}.lokr_w1": torch.ones(2, 2)}, "LoKr"),
        "loha": ({f"{name}.hada_w1_a": torch.ones(2, 2)}, "LoHa"),
        "a checkpoint": ({f"{name}.weight": torch.ones(48, 32)}, "neither a pair"),
        "another model": ({hunyuan: torch.ones(2, 4)}, "no LoRA of a Wan2.1 model"),
        "nothing": ({}, "no LoRA"),
        "two files": (pair | keys("kohya", pairs(TINY, ["blocks.0.ffn.2"])), "mixes dialects"),
    }


@pytest.mark.parametrize("case", broken())
def test_what_cannot_be_used_is_refused_by_name(case: str, tmp_path: Path) -> None:
    tensors, message = broken()[case]
    with pytest.raises(WeightsError, match=message):
        read_lora(save(tmp_path / "a.safetensors", tensors))


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"lora_alpha": "x"}'])
def test_a_configuration_that_cannot_be_read_is_refused(text: str, tmp_path: Path) -> None:
    tensors = keys("diffusers", pairs(TINY, ["blocks.0.ffn.0"]))
    with pytest.raises(WeightsError, match="PEFT's configuration"):
        read_lora(save(tmp_path / "a.safetensors", tensors, {"lora_adapter_metadata": text}))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_truncated_missing_and_dangerous_files(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    tensors = keys("comfy", pairs(TINY, ["blocks.0.ffn.0"]))
    if suffix == ".safetensors":
        save(path, tensors)
    else:
        torch.save(tensors, path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(WeightsError, match=f"a{suffix} "):
        read_lora(path)
    with pytest.raises(WeightsError, match="does not exist"):
        read_lora(tmp_path / f"b{suffix}")
    whole = read_lora(save(tmp_path / "whole.bin", tensors))  # told by its content, not by its name
    assert [*whole.layers] == ["blocks.0.ffn.0"]
    torch.save({"layer": Path("/")}, path := tmp_path / "c.pth")
    with pytest.raises(WeightsError, match="could run code"):
        read_lora(path)


def test_says_what_is_in_the_file(tmp_path: Path) -> None:
    layers = ["blocks.0.self_attn.q", "blocks.0.self_attn.k", "blocks.1.self_attn.q", "head.head"]
    tensors = keys("kohya", pairs(TINY, layers, ranks=(2, 4), alphas=(2.0, None), dtype=torch.bfloat16))
    metadata = {"modelspec.trigger_phrase": "a wug", "ss_output_name": "wug"}
    lora: LoRA = read_lora(save(tmp_path / "wug.safetensors", tensors, metadata))
    described = lora.describe()
    assert json.loads(json.dumps(described)) == described
    assert described["dialect"] == "kohya"
    assert described["layers"] == 4
    assert described["ranks"] == {"2": 2, "4": 2}
    assert described["alphas"] == {"2": 2, "none": 2}
    assert described["scales"] == [1.0]
    assert described["dtypes"] == {"bfloat16": 8}
    assert described["layers_per_block"] == {"blocks.0": 2, "blocks.1": 1}
    assert described["layers_outside_blocks"] == ["head.head"]
    assert described["trigger_words"] == ["a wug"]
    assert described["metadata"] == metadata
    assert (described["fits"], described["partly_fits"]) == ([], [])
