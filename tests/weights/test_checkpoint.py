"""Checkpoints on disk: the official folder loads strictly, and every way of being wrong is named."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lichtspiel.errors import WeightsError
from lichtspiel.models.clip import PREFIX, CLIPVision
from lichtspiel.models.dit import DiT
from lichtspiel.models.umt5 import UMT5
from lichtspiel.models.vae import VAE
from lichtspiel.spec import LATENT_MEAN, LATENT_STD, MODELS, CLIPSpec, Model
from lichtspiel.weights.checkpoint import checkpoint
from lichtspiel.weights.reading import check_digest

CLIP = CLIPSpec(
    image_size=28, patch=14, width=32, mlp_ratio=4, heads=2, layers=3, used_layers=2, out_width=16, eps=1e-5
)
TINY: Model = replace(
    MODELS["i2v-14b-480p"],
    dit=replace(MODELS["i2v-14b-480p"].dit, width=48, ffn_width=64, heads=2, layers=2, text_width=32),
    vae=replace(MODELS["i2v-14b-480p"].vae, width=4),
    umt5=replace(MODELS["nano"].umt5, vocabulary=40, width=32, attention_width=32, ffn_width=48, heads=2, layers=2),
    clip=CLIP,
)


@pytest.fixture
def official(tmp_path: Path) -> Path:
    """A folder laid out as the published ones: a sharded DiT and three pickles, of which CLIP's holds unused parts."""
    torch.manual_seed(0)
    dit = {name: value.bfloat16() for name, value in DiT(TINY.dit).state_dict().items()}
    half = len(dit) // 2
    for number, part in enumerate((list(dit)[:half], list(dit)[half:]), 1):
        shard = tmp_path / f"diffusion_pytorch_model-0000{number}-of-00002.safetensors"
        save_file({name: dit[name] for name in part}, shard)
    torch.save(VAE(TINY.vae, LATENT_MEAN, LATENT_STD).state_dict(), tmp_path / TINY.files["vae"])
    umt5 = {name: value.bfloat16() for name, value in UMT5(TINY.umt5).state_dict().items()}
    torch.save(umt5, tmp_path / TINY.files["umt5"])
    clip = {PREFIX + name: value for name, value in CLIPVision(CLIP).state_dict().items()}
    unused = {
        "log_scale": torch.zeros(()),
        f"{PREFIX}head": torch.zeros(32, 16),
        f"{PREFIX}transformer.2.norm1.weight": torch.ones(32),
    }
    torch.save(clip | unused, tmp_path / TINY.files["clip"])
    return tmp_path


def test_the_official_folder_loads(official: Path) -> None:
    files = checkpoint(TINY, official)
    dit = files.dit(torch.float32)
    shard = load_file(official / "diffusion_pytorch_model-00001-of-00002.safetensors")
    name = next(iter(shard))
    assert torch.equal(dit.state_dict()[name], shard[name].float())
    assert {value.dtype for value in dit.state_dict().values()} == {torch.float32}
    assert files.umt5(torch.bfloat16).token_embedding.weight.dtype == torch.bfloat16
    assert files.clip(torch.float32)(torch.zeros(1, 3, 28, 28)).shape == (1, 5, 32)
    vae = files.vae(torch.float32)
    assert vae.mean.flatten().tolist() == pytest.approx(LATENT_MEAN)
    assert not any(parameter.requires_grad for parameter in vae.parameters())
    assert len(files.tokenizer()("a cat")) > 1


def shard(folder: Path) -> Path:
    return folder / "diffusion_pytorch_model-00002-of-00002.safetensors"


def cut(folder: Path) -> None:
    shard(folder).write_bytes(shard(folder).read_bytes()[:-100])


def lose(folder: Path) -> None:
    shard(folder).unlink()


def add(folder: Path) -> None:
    save_file(load_file(shard(folder)) | {"lora.up": torch.zeros(2)}, shard(folder))


def resize(folder: Path) -> None:
    tensors = load_file(shard(folder))
    save_file({name: torch.zeros(*value.shape, 2) for name, value in tensors.items()}, shard(folder))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (cut, r"00002-of-00002\.safetensors is not a whole \.safetensors file .*download it again"),
        (lose, "lacks .*and .* more; it is a different model or an incomplete download"),
        (add, r"has lora\.up that this model does not use"),
        (resize, "has the shape .* this model needs .*another size"),
    ],
    ids=["truncated", "a shard lost", "unexpected", "another size"],
)
def test_what_is_wrong_with_the_dit_is_named(official: Path, harm: Callable[[Path], None], message: str) -> None:
    harm(official)
    with pytest.raises(WeightsError, match=message):
        checkpoint(TINY, official).dit(torch.float32)


def test_a_pickle_with_code_is_refused_and_not_run(official: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(tmp_path / "owned"),)

    torch.save({"weight": Evil()}, official / TINY.files["vae"])
    with pytest.raises(WeightsError, match="could run code"):
        checkpoint(TINY, official).vae(torch.float32)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04cut"], ids=["empty", "text", "cut zip"])
def test_a_foreign_file_is_refused(official: Path, content: bytes) -> None:
    (official / TINY.files["vae"]).write_bytes(content)
    with pytest.raises(WeightsError, match=r"Wan2\.1_VAE\.pth"):
        checkpoint(TINY, official).vae(torch.float32)


def test_a_pickle_of_something_else_is_refused(official: Path) -> None:
    torch.save({"step": 3}, official / TINY.files["vae"])
    with pytest.raises(WeightsError, match="not a dictionary of tensors"):
        checkpoint(TINY, official).vae(torch.float32)


def test_a_missing_part_is_named_before_anything_loads(official: Path) -> None:
    (official / TINY.files["umt5"]).unlink()
    with pytest.raises(WeightsError, match=r"has no models_t5.*Wan-AI/Wan2"):
        checkpoint(TINY, official)


def test_a_wrong_digest_is_refused(official: Path) -> None:
    with pytest.raises(WeightsError, match="has the digest"):
        check_digest(official / TINY.files["vae"], "0" * 64)
    with pytest.raises(WeightsError, match="has the digest"):
        checkpoint(replace(TINY, digests={TINY.files["vae"]: "0" * 64}), official).vae(torch.float32)
