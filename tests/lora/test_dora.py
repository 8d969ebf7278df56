"""DoRA: merged and attached alike, as Diffusers computes it, through each dialect."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lichtspiel.errors import WeightsError
from lichtspiel.inference.quantize import quantize
from lichtspiel.lora import LoRA, apply, carried, convert, join, read_lora, remove, resize, write_lora
from tests.golden import relative_error
from tests.lora.files import TINY, build, inputs, keys, linear_layers, pairs, run, save
from tests.lora.test_against_diffusers import agrees


def dora(folder: Path, to: str = "comfy") -> Path:
    """A file whose rows are longer than the weights' own by up to a half."""
    dit = build(TINY)
    lora = read_lora(save(folder / "pairs.safetensors", keys("comfy", pairs(TINY, linear_layers(TINY), alphas=(2.0,)))))
    generator = torch.Generator().manual_seed(1)
    layers = {}
    for name, delta in lora.layers.items():
        lengths = torch.linalg.vector_norm(dit.get_parameter(f"{name}.weight"), dim=1)
        layers[name] = replace(delta, magnitude=lengths * (1 + 0.5 * torch.rand(len(lengths), generator=generator)))
    lora = replace(lora, layers=layers)
    path = folder / f"{to}.safetensors"
    write_lora(path, convert(lora, to), carried(lora, to))
    return path


def velocity(lora: LoRA, *, merge: bool, strength: float = 1.0) -> torch.Tensor:
    dit = build(TINY)
    apply(dit, [(lora, strength)], merge=merge)
    return run(dit, inputs(TINY))


@pytest.mark.parametrize("to", ["comfy", "kohya", "diffusers"])
def test_every_dialect_carries_it(to: str, tmp_path: Path) -> None:
    lora = read_lora(dora(tmp_path, to))
    assert lora.dialect == to
    assert lora.describe()["magnitudes"] == len(lora.layers) == 20
    assert relative_error(velocity(lora, merge=True), velocity(read_lora(dora(tmp_path)), merge=True)) < 1e-6


def test_merged_attached_and_removed(tmp_path: Path) -> None:
    lora = read_lora(dora(tmp_path))
    plain = run(build(TINY), inputs(TINY))
    for strength in (1.0, 0.4):
        merged, attached = (velocity(lora, merge=merge, strength=strength) for merge in (True, False))
        assert relative_error(attached, merged) < 1e-5
        assert relative_error(merged, plain) > 0.02
    dit = build(TINY)
    apply(dit, [(lora, 1.0)], merge=False)
    remove(dit)
    assert torch.equal(run(dit, inputs(TINY)), plain)


def test_diffusers_computes_the_same(tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="peft is in the extra test-peers")
    agrees(TINY, dora(tmp_path, "diffusers"))


def test_what_it_cannot_do_is_refused(tmp_path: Path) -> None:
    lora = read_lora(dora(tmp_path))
    with pytest.raises(WeightsError, match="cannot be joined with others"):
        join([(lora, 1.0)])
    with pytest.raises(WeightsError, match="depend on their weights"):
        resize(lora, rank=2)
    wide = replace(TINY, width=64, ffn_width=64)
    dit = build(wide)
    assert quantize(dit)
    big = read_lora(save(tmp_path / "big.safetensors", keys("comfy", pairs(wide, ["blocks.0.ffn.0"]))))
    layers = {name: replace(delta, magnitude=torch.ones(64)) for name, delta in big.layers.items()}
    with pytest.raises(WeightsError, match="is in eight bit, and DoRA needs weights"):
        apply(dit, [(replace(big, layers=layers), 1.0)], merge=False)
