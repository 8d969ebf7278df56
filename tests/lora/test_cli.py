"""The verbs that make LoRA files from others and from checkpoints, as they are typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lichtspiel.cli import app
from lichtspiel.errors import InvalidInput
from lichtspiel.lora import apply, read_lora
from lichtspiel.spec import MODELS
from lichtspiel.weights.checkpoint import checkpoint
from tests.lora.files import keys, linear_layers, pairs, save

NANO = MODELS["nano"]


def typed(capsys: pytest.CaptureFixture[str], *words: str | Path) -> Any:
    app([*map(str, words), "--json"], standalone_mode=False)
    return json.loads(capsys.readouterr().out)


def test_a_lora_is_merged_extracted_and_resized(
    random_nano: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layers = linear_layers(NANO.dit)[:6]
    one, two = (
        save(tmp_path / f"{seed}.safetensors", keys("comfy", pairs(NANO.dit, layers, seed=seed))) for seed in (1, 2)
    )
    said = typed(capsys, "lora", "merge", f"{one}:0.5", two, "-o", tmp_path / "both.safetensors")
    assert said["layers"] == 6
    assert read_lora(tmp_path / "both.safetensors").ranks == {8: 6}

    folder = tmp_path / "merged"
    dtype = ("--dtype", "float32")
    typed(capsys, "lora", "merge", f"{one}:0.5", two, "--model", "nano", "--weights", random_nano, *dtype, "-o", folder)
    others = [random_nano / "vae.safetensors", random_nano / "umt5.safetensors"]
    found = checkpoint(NANO, [folder, *others]).dit(torch.float32)
    expected = checkpoint(NANO, random_nano).dit(torch.float32)
    apply(expected, [(read_lora(one), 0.5), (read_lora(two), 1.0)], merge=True)
    for name, value in found.state_dict().items():
        assert torch.allclose(value, expected.state_dict()[name], atol=1e-6)

    base = ("--model", "nano", "--weights", random_nano)
    said = typed(capsys, "lora", "extract", folder, *base, "--rank", "8", "-o", tmp_path / "again.safetensors")
    assert said["layers"] == 6
    assert said["least_kept"] > 0.999
    said = typed(
        capsys, "lora", "resize", tmp_path / "again.safetensors", "--rank", "3", "-o", tmp_path / "s.safetensors"
    )
    assert said["ranks"] == {"3": 6}
    assert 0.1 < said["least_kept"] < 1


def test_what_would_have_no_effect_is_refused(tmp_path: Path, random_nano: Path) -> None:
    path = save(tmp_path / "a.safetensors", keys("comfy", pairs(NANO.dit, linear_layers(NANO.dit)[:1])))
    for words, message in (
        (("merge", path, "--weights", random_nano, "-o", tmp_path / "b.safetensors"), "name it with --model"),
        (("merge", path, "-o", path), "name the same file"),
        (("merge", path, "--model", "nano", "--dtype", "int8", "-o", tmp_path / "w"), "--dtype int8 is not valid"),
        (("resize", path, "--rank", "2", "--keep", "0.5", "-o", tmp_path / "b.safetensors"), "either --rank or --keep"),
    ):  # fmt: skip
        with pytest.raises(InvalidInput, match=message):
            app(["lora", *map(str, words)], standalone_mode=False)
