"""One tiny checkpoint, written in every layout in which Wan2.1 is published.

Weights are small multiples of 1/128, which every precision of 16 bit and more holds exactly, so that layouts can be
compared bit for bit.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lichtspiel.models.clip import CLIPVision
from lichtspiel.models.dit import DiT
from lichtspiel.models.umt5 import UMT5
from lichtspiel.models.vae import VAE
from lichtspiel.spec import MODELS, CLIPSpec, Model, Part
from lichtspiel.weights.layouts import dialect

State = dict[str, Tensor]

CLIP = CLIPSpec(image_size=28, patch=14, width=32, mlp_ratio=4, heads=2, layers=3, used_layers=2, eps=1e-5)
TINY: Model = replace(
    MODELS["i2v-14b-480p"],
    dit=replace(MODELS["i2v-14b-480p"].dit, width=48, ffn_width=64, heads=2, layers=2, text_width=32),
    vae=replace(MODELS["i2v-14b-480p"].vae, width=4),
    umt5=replace(MODELS["nano"].umt5, vocabulary=40, width=32, attention_width=32, ffn_width=48, heads=2, layers=2),
    clip=CLIP,
)
FLF2V = replace(TINY, dit=replace(TINY.dit, image_tokens=514))
VACE = replace(
    TINY, clip=None, files=MODELS["vace-1.3b"].files,
    dit=replace(TINY.dit, in_channels=16, image_tokens=0, vace_layers=(0, 1)),
)  # fmt: skip


def exact(module: nn.Module) -> State:
    """Random weights for a module that survive any change of precision down to 16 bit."""
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.randint(-64, 65, value.shape, generator=generator) / 128
        for name, value in module.state_dict().items()
    }


@cache
def state(model_dit: str, part: Part) -> State:
    model = {"i2v": TINY, "flf2v": FLF2V, "vace": VACE}[model_dit]
    assert CLIP is not None
    modules: dict[Part, Callable[[], nn.Module]] = {
        "dit": lambda: DiT(model.dit),
        "vae": lambda: VAE(model.vae),
        "umt5": lambda: UMT5(model.umt5),
        "clip": lambda: CLIPVision(replace(CLIP, used_layers=CLIP.layers)),
    }
    return exact(modules[part]())


def bf16(tensors: State) -> State:
    return {name: value.bfloat16() for name, value in tensors.items()}


def renamed(part: Part, layout: str, tensors: State) -> State:
    """Official tensors as another dialect has them, by the tables under test."""
    table = dialect(part, layout)
    found: State = {}
    for name, value in tensors.items():
        theirs = table.names(name)
        for their, piece in zip(theirs, value.chunk(len(theirs)), strict=True):
            slot = table.slot(their)
            assert slot is not None
            found[their] = piece.reshape(piece.shape[slot.axes :]).contiguous()
    return found


def official(folder: Path, kind: str = "i2v") -> Path:
    """A sharded DiT and pickles, of which CLIP's holds unused parts."""
    folder.mkdir(exist_ok=True)
    dit = bf16(state(kind, "dit"))
    half = len(dit) // 2
    shards = {f"diffusion_pytorch_model-0000{n}-of-00002.safetensors": n for n in (1, 2)}
    weight_map: dict[str, str] = {}
    for shard, number in shards.items():
        names = list(dit)[:half] if number == 1 else list(dit)[half:]
        save_file({name: dit[name] for name in names}, folder / shard)
        weight_map |= dict.fromkeys(names, shard)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    torch.save(state(kind, "vae"), folder / TINY.files["vae"])
    torch.save(bf16(state(kind, "umt5")), folder / TINY.files["umt5"])
    if kind != "vace":
        clip = {f"visual.{name}": value.half() for name, value in state(kind, "clip").items()}
        unused = {"log_scale": torch.zeros(()), "visual.head": torch.zeros(32, 16), "textual.norm": torch.ones(3)}
        torch.save(clip | unused, folder / TINY.files["clip"])
    return folder


def transformer(kind: str) -> nn.Module:
    """The class of Diffusers for the tiny DiT."""
    pytest.importorskip("diffusers", reason="diffusers is in the extra test-peers")
    from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
    from diffusers.models.transformers.transformer_wan_vace import WanVACETransformer3DModel

    spec = {"i2v": TINY, "flf2v": FLF2V, "vace": VACE}[kind].dit
    options = {
        "num_attention_heads": spec.heads, "attention_head_dim": spec.width // spec.heads, "out_channels": 16,
        "in_channels": spec.in_channels, "text_dim": spec.text_width, "ffn_dim": spec.ffn_width,
        "num_layers": spec.layers,
    }  # fmt: skip
    if kind == "vace":
        return WanVACETransformer3DModel(**options, vace_layers=list(spec.vace_layers), vace_in_channels=96)
    positions = spec.image_tokens if spec.image_tokens > 257 else None
    return WanTransformer3DModel(**options, image_dim=1280, added_kv_proj_dim=spec.width, pos_embed_seq_len=positions)


def diffusers(folder: Path, kind: str = "i2v") -> Path:
    """What the classes of Diffusers and transformers save, in shards: names and files are theirs."""
    pytest.importorskip("diffusers", reason="diffusers is in the extra test-peers")
    from diffusers import AutoencoderKLWan
    from transformers import CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel

    spec = TINY.umt5
    encoder = UMT5EncoderModel(
        UMT5Config(
            vocab_size=spec.vocabulary, d_model=spec.width, d_kv=spec.width // spec.heads, d_ff=spec.ffn_width,
            num_layers=spec.layers, num_heads=spec.heads, relative_attention_num_buckets=spec.buckets,
        )
    )  # fmt: skip
    clip = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=32, intermediate_size=128, num_hidden_layers=3, num_attention_heads=2, image_size=28,
            patch_size=14, projection_dim=16,
        )
    )  # fmt: skip
    umt5 = renamed("umt5", "transformers", state(kind, "umt5"))
    encoder.load_state_dict(umt5 | {"encoder.embed_tokens.weight": umt5["shared.weight"]}, strict=True)
    head = {"post_layernorm.weight": torch.ones(32), "post_layernorm.bias": torch.zeros(32)}
    clip.load_state_dict(renamed("clip", "transformers", state(kind, "clip")) | head, strict=True)
    dit, vae = transformer(kind), AutoencoderKLWan(base_dim=TINY.vae.width)
    dit.load_state_dict(renamed("dit", "diffusers", state(kind, "dit")), strict=True)
    vae.load_state_dict(renamed("vae", "diffusers", state(kind, "vae")), strict=True)
    dit.bfloat16().save_pretrained(folder / "transformer", max_shard_size="300KB")
    vae.save_pretrained(folder / "vae")
    encoder.bfloat16().save_pretrained(folder / "text_encoder", max_shard_size="30KB")
    if kind != "vace":
        clip.half().save_pretrained(folder / "image_encoder")
    return folder


def comfy(folder: Path, kind: str = "i2v", prefix: str = "") -> Path:
    """Single files in the folders of ComfyUI: official names for DiT and VAE, those of transformers for encoders."""
    umt5 = bf16(renamed("umt5", "transformers", state(kind, "umt5")))
    umt5["spiece_model"] = torch.zeros(9, dtype=torch.uint8)
    clip = {f"vision_model.{name}": value.half() for name, value in
            renamed("clip", "transformers", state(kind, "clip")).items()}  # fmt: skip
    clip["visual_projection.weight"] = torch.zeros(16, 32)
    clip["vision_model.embeddings.position_ids"] = torch.arange(5)
    clip["vision_model.post_layernorm.weight"] = torch.ones(32)
    files = {
        "diffusion_models/a": {prefix + name: value.half() for name, value in state(kind, "dit").items()},
        "vae/b": state(kind, "vae"),
        "text_encoders/c": umt5,
        "clip_vision/d": clip,
    }
    for name, tensors in files.items():
        path = folder / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path)
    return folder


def one_file(folder: Path, kind: str = "i2v") -> Path:
    """Every part in one file behind the prefix that ComfyUI gives it."""
    tensors = {
        **{f"model.diffusion_model.{name}": value for name, value in bf16(state(kind, "dit")).items()},
        **{f"vae.{name}": value for name, value in state(kind, "vae").items()},
        **{
            f"text_encoders.umt5xxl.transformer.{name}": value
            for name, value in renamed("umt5", "transformers", state(kind, "umt5")).items()
        },
        **{f"visual.{name}": value.half() for name, value in state(kind, "clip").items()},
    }
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "everything.safetensors")
    return folder / "everything.safetensors"


def huge(path: Path, shapes: dict[str, tuple[int, ...]], precision: str = "BF16") -> Path:
    """A .safetensors file of true size that takes no space on disk: its header, and a hole where the values are."""
    width = {"BF16": 2, "F8_E4M3": 1, "F32": 4}[precision]
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + width * torch.Size(shape).numel()
        header[name] = {"dtype": precision, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return path
