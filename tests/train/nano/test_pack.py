"""Packing the embedded model: 8 bits where they do no harm, and everything else as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lichtspiel.spec import MODELS
from lichtspiel.weights.checkpoint import checkpoint
from scripts.pack_nano import BLOCK, main


def test_packed_weights_are_those_of_the_run(
    random_nano: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(random_nano), "--to", str(tmp_path)])
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("dit.gguf", "umt5.gguf", "vae.safetensors"))
    assert (tmp_path / "dit.gguf").stat().st_size < 0.6 * (random_nano / "dit.safetensors").stat().st_size
    assert (tmp_path / "vae.safetensors").read_bytes() == (random_nano / "vae.safetensors").read_bytes()

    before, after = (checkpoint(MODELS["nano"], folder) for folder in (random_nano, tmp_path))
    assert before.tokenizer()("a cat") == after.tokenizer()("a cat")
    packed = after.dit(torch.float32).state_dict() | after.umt5(torch.float32).state_dict()
    given = load_file(random_nano / "dit.safetensors") | load_file(random_nano / "umt5.safetensors")
    for name, value in packed.items():
        true = given[name].float()
        if true.dim() != 2 or true.shape[1] % BLOCK:
            assert torch.equal(value, true)
            continue
        apart = (value - true).abs().unflatten(1, (-1, BLOCK))
        largest = true.abs().unflatten(1, (-1, BLOCK)).amax(-1, keepdim=True)
        assert (apart <= largest * (0.5 / 127 + 2**-10) + 1e-7).all()  # half a step, and the rounding of its scale
