"""Whole weights of a diffusion transformer on their way out: one safetensors file, or shards with an index."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from lichtspiel.errors import InvalidInput, OutputError
from lichtspiel.models import shapes
from lichtspiel.spec import DiTSpec
from lichtspiel.storage import atomic_write
from lichtspiel.weights.layouts import dialect

__all__ = ["LAYOUTS", "diffusers_config", "precision", "write_shards"]

LAYOUTS = ("official", "diffusers")
"""Whose names tensors are written under. ComfyUI takes the official ones; Diffusers needs its own and a config."""

PRECISIONS = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
"""What weights can be written in."""

SHARD_BYTES = 5_000_000_000
"""The largest shard, as large as the hub recommends."""

STEM = "diffusion_pytorch_model"
"""The stem of the files, which is that of the official checkpoints."""


def precision(name: str) -> torch.dtype:
    """The precision of this name. Raises InvalidInput for one that weights are not written in."""
    if name not in PRECISIONS:
        raise InvalidInput(f"--dtype {name} is not valid; use {', '.join(PRECISIONS)}")
    return PRECISIONS[name]


def write_shards(
    folder: Path, tensors: Mapping[str, Tensor], spec: DiTSpec, dtype: torch.dtype, metadata: Mapping[str, str], *,
    shard_bytes: int = SHARD_BYTES, layout: str = "official",
) -> list[Path]:  # fmt: skip
    """Write the tensors of a model of this shape, given by their official names, in one of `LAYOUTS`; returns the files
    of tensors. Earlier ones in the folder are replaced. Diffusers' layout has a `config.json` beside them.

    Each tensor is asked for once, so a mapping may make it then; never more than one shard is in memory. Raises
    OutputError when they cannot be written.
    """
    sizes = {name: math.prod(shape) * dtype.itemsize for name, shape in shapes(spec).items()}
    shards = list(_shards(sizes, shard_bytes))
    names = [f"{STEM}.safetensors"]
    if len(shards) > 1:
        names = [f"{STEM}-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, keys in zip(names, shards, strict=True):
            part = {_called(key, layout): tensors[key].detach().to("cpu", dtype).contiguous() for key in keys}
            with atomic_write(folder / name, mode=0o644) as draft:
                save_file(part, draft, {"format": "pt", **metadata})
        for stale in folder.glob(f"{STEM}*.safetensors*"):
            if stale.name not in names:
                stale.unlink()  # an earlier export may have had another number of shards
        if len(shards) > 1:
            renamed = [[_called(key, layout) for key in keys] for keys in shards]
            _write_index(folder, dict(zip(names, renamed, strict=True)), sum(sizes.values()))
        if layout == "diffusers":
            _write_config(folder, spec)
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror or error}; free some space there") from error
    return [folder / name for name in names]


def _called(name: str, layout: str) -> str:
    """What a layout calls the tensor of this official name."""
    (called,) = dialect("dit", layout).names(name)
    return called


def diffusers_config(spec: DiTSpec) -> dict[str, Any]:
    """What Diffusers builds its `WanTransformer3DModel` with, or `WanVACETransformer3DModel`."""
    config: dict[str, Any] = {
        "patch_size": list(spec.patch), "num_attention_heads": spec.heads,
        "attention_head_dim": spec.width // spec.heads, "in_channels": spec.in_channels,
        "out_channels": spec.out_channels, "text_dim": spec.text_width, "freq_dim": spec.time_width,
        "ffn_dim": spec.ffn_width, "num_layers": spec.layers, "cross_attn_norm": True,
        "qk_norm": "rms_norm_across_heads", "eps": spec.eps, "rope_max_seq_len": 1024,
    }  # fmt: skip
    if spec.image_tokens:
        config |= {"image_dim": spec.image_width, "added_kv_proj_dim": spec.width}
        config["pos_embed_seq_len"] = spec.image_tokens if spec.image_tokens > 257 else None
    if spec.vace_layers:
        config |= {"vace_layers": list(spec.vace_layers), "vace_in_channels": spec.vace_channels}
    return config


def _write_config(folder: Path, spec: DiTSpec) -> None:
    config = {
        "_class_name": "WanVACETransformer3DModel" if spec.vace_layers else "WanTransformer3DModel",
        "_diffusers_version": "0.33.0",  # the first with both classes
        **diffusers_config(spec),
    }
    with atomic_write(folder / "config.json", mode=0o644) as draft:
        draft.write_text(json.dumps(config, indent=1), encoding="utf-8")


def _shards(sizes: Mapping[str, int], limit: int) -> Iterator[Sequence[str]]:
    """The names of tensors, divided in their order so that no shard is larger than the limit."""
    shard: list[str] = []
    size = 0
    for name, more in sizes.items():
        if shard and size + more > limit:
            yield shard
            shard, size = [], 0
        shard.append(name)
        size += more
    yield shard


def _write_index(folder: Path, shards: Mapping[str, Sequence[str]], total: int) -> None:
    weight_map = {key: name for name, keys in shards.items() for key in keys}
    content = {"metadata": {"total_size": total}, "weight_map": weight_map}
    with atomic_write(folder / f"{STEM}.safetensors.index.json", mode=0o644) as draft:
        draft.write_text(json.dumps(content, indent=1), encoding="utf-8")
