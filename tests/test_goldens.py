"""A refactoring moves no result: a tiny generation and a tiny training run against stored values.

`python scripts/goldens.py` prints the same comparison with hashes, and `--write` stores new values after a change that
is meant to change results. The tolerances leave room for the order of sums, which differs from processor to processor.
"""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from scripts import goldens
from tests.golden import relative_error

TOLERANCES = {"float32": 1e-5, "bfloat16": 2e-2}


@pytest.fixture(scope="module")
def latents() -> dict[str, torch.Tensor]:
    return goldens.generate()


@pytest.mark.parametrize("dtype", goldens.DTYPES)
def test_a_tiny_generation_gives_the_stored_latents(latents: dict[str, torch.Tensor], dtype: str) -> None:
    stored = load_file(goldens.LATENTS)[dtype]
    assert relative_error(latents[dtype], stored) < TOLERANCES[dtype]


def test_the_two_precisions_are_not_the_same_computation(latents: dict[str, torch.Tensor]) -> None:
    assert not torch.equal(latents["float32"], latents["bfloat16"])


def test_a_tiny_training_run_gives_the_stored_losses() -> None:
    stored = json.loads(goldens.LOSSES.read_text(encoding="utf-8"))
    computed = goldens.train()
    assert computed.keys() == stored.keys()
    for network, losses in computed.items():
        assert len(losses) == 20
        assert losses == pytest.approx(stored[network], rel=1e-4), network
