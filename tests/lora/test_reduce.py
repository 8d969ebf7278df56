"""Adapters made from others: joined exactly, resized and extracted with the least error that their rank allows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lichtspiel.errors import InvalidInput, WeightsError
from lichtspiel.lora import LoRA, apply, extract, join, read_lora, resize
from tests.golden import relative_error
from tests.lora.files import TINY, build, inputs, keys, linear_layers, pairs, run, save


def lora(folder: Path, seed: int, rank: int = 4) -> LoRA:
    made = pairs(TINY, linear_layers(TINY), ranks=(rank,), alphas=(2.0,), seed=seed)
    return read_lora(save(folder / f"{seed}.safetensors", keys("comfy", made)))


def product(adapter: LoRA, name: str) -> torch.Tensor:
    matrices = adapter.layers[name].matrix(1.0)
    assert matrices is not None
    down, up = matrices
    return up @ down


def test_a_joined_adapter_does_what_both_do(tmp_path: Path) -> None:
    one, other = lora(tmp_path, 1), lora(tmp_path, 2, rank=2)
    both, joined = build(TINY), build(TINY)
    apply(both, [(one, 0.7), (other, -0.5)], merge=True)
    made = join([(one, 0.7), (other, -0.5)])
    assert made.ranks == {6: 20}
    assert made.metadata["lichtspiel.joined"] == "1.safetensors:0.7, 2.safetensors:-0.5"
    apply(joined, [(made, 1.0)], merge=True)
    given = inputs(TINY)
    assert relative_error(run(joined, given), run(both, given)) < 1e-5


def test_resizing_is_the_truncated_decomposition(tmp_path: Path) -> None:
    whole = lora(tmp_path, 1, rank=6)
    small = resize(whole, rank=2)
    assert small.lora.ranks == {2: 20}
    for name in whole.layers:
        exact = product(whole, name)
        values = torch.linalg.svdvals(exact)
        error = torch.linalg.matrix_norm(exact - product(small.lora, name))
        assert float(error) == pytest.approx(float(values[2:].square().sum().sqrt()), rel=1e-3)
        held = float(values[:2].square().sum() / values.square().sum())
        assert small.kept[name] == pytest.approx(held, rel=1e-4)
    assert (
        relative_error(product(resize(whole, rank=6).lora, "blocks.0.ffn.0"), product(whole, "blocks.0.ffn.0")) < 1e-5
    )
    most = resize(whole, share=0.9)
    assert 0.9 <= most.least <= 1
    assert all(rank < 6 for rank in most.lora.ranks)


def test_extracting_finds_the_adapter_that_was_merged(tmp_path: Path) -> None:
    base, tuned = build(TINY), build(TINY)
    apply(tuned, [(lora(tmp_path, 1), 1.0)], merge=True)
    with torch.no_grad():
        tuned.blocks[0].self_attn.norm_q.weight.mul_(1.1)  # type: ignore[union-attr, operator]
        tuned.blocks[1].ffn[0].bias.add_(0.1)  # type: ignore[union-attr, index, operator]
        tuned.patch_embedding.weight.mul_(1.01)
    found = extract(base.state_dict(), tuned.state_dict(), rank=4)
    assert found.least > 0.9999
    assert found.lora.ranks == {4: 20}
    again = build(TINY)
    apply(again, [(found.lora, 1.0)], merge=True)
    given = inputs(TINY)
    assert relative_error(run(again, given), run(tuned, given)) < 1e-4
    assert relative_error(run(base, given), run(tuned, given)) > 0.02


def test_large_matrices_are_decomposed_as_far_as_needed() -> None:
    generator = torch.Generator().manual_seed(0)
    up, down = torch.randn(2100, 5, generator=generator), torch.randn(5, 2100, generator=generator)
    base = {"blocks.0.ffn.0.weight": torch.zeros(2100, 2100)}
    found = extract(base, {"blocks.0.ffn.0.weight": up @ down}, rank=5)
    assert found.least > 0.9999
    assert relative_error(product(found.lora, "blocks.0.ffn.0"), up @ down) < 1e-3


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    whole, dit = lora(tmp_path, 1), build(TINY)
    with pytest.raises(WeightsError, match="nothing to extract"):
        extract(dit.state_dict(), dit.state_dict(), rank=4)
    for wrong, message in (
        ({}, "either --rank or --keep"), ({"rank": 2, "share": 0.5}, "either --rank or --keep"),
        ({"rank": 0}, "--rank 0 is not valid"), ({"share": 1.5}, "--keep 1.5 is not valid"),
    ):  # fmt: skip
        with pytest.raises(InvalidInput, match=message):
            resize(whole, **wrong)  # type: ignore[arg-type]
