"""Reading a LoRA file of any of the five dialects, recognized by its keys alone.

    diffusers   transformer.blocks.0.attn1.to_q.lora_A.weight       Diffusers and PEFT; scale in the metadata, if at all
    kohya       lora_unet_blocks_0_self_attn_q.lora_down.weight     musubi-tuner and other descendants of kohya-ss
    comfy       diffusion_model.blocks.0.self_attn.q.lora_down.weight  (or lora_A), .diff, .diff_b, .diff_m
    diffsynth   blocks.0.self_attn.q.lora_A.default.weight          DiffSynth-Studio (newer files without .default)
    plain       blocks.0.self_attn.q.lora_down.weight

Layer names may be ours or Diffusers' in each of them. DoRA adds the lengths of rows, as `dora_scale` [out, 1] or as
PEFT's `lora_magnitude_vector` [out]. Other kinds of adapters (LoHa, LoKr, OFT) are refused by name, and so are halves
of pairs, layers that come twice and values that are not finite.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from lichtspiel.errors import WeightsError
from lichtspiel.lora.adapter import Delta, Dialect, LoRA
from lichtspiel.lora.names import official
from lichtspiel.weights.components import open_file
from lichtspiel.weights.tensor_files import SafetensorsFile

__all__ = ["ADAPTER_METADATA", "read_lora"]

ADAPTER_METADATA = "lora_adapter_metadata"
"""Metadata entry in which Diffusers keeps PEFT's configuration, as JSON (`loaders/lora_base.py`)."""


PREFIXES: tuple[tuple[str, Dialect, bool], ...] = (
    ("lora_unet_", "kohya", True),
    ("lora_transformer_", "kohya", True),
    ("lycoris_", "kohya", True),
    ("model.diffusion_model.", "comfy", False),
    ("diffusion_model.", "comfy", False),
    ("transformer.", "diffusers", False),
    ("base_model.model.", "diffusers", False),
    ("pipe.dit.", "diffsynth", False),
)
"""Prefixes of layers, the dialect that each indicates, and whether underscores replace dots after it."""

TEXT_ENCODER = re.compile(r"(lora_te\d*_|lora_t5_|text_encoders?(_\d+)?\.|te\d*\.|cond_stage_model\.)")

FIELDS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("down", re.compile(r"\.(lora_down|lora_A(\.[^.]+)?|lora\.down|lora_linear_layer\.down)\.weight$")),
    ("up", re.compile(r"\.(lora_up|lora_B(\.[^.]+)?|lora\.up|lora_linear_layer\.up)\.weight$")),
    ("up_bias", re.compile(r"\.lora_B(\.[^.]+)?\.bias$")),
    ("alpha", re.compile(r"\.alpha$")),
    ("diff", re.compile(r"\.diff$")),
    ("bias", re.compile(r"\.diff_b$")),
    ("modulation", re.compile(r"\.diff_m$")),
    ("magnitude", re.compile(r"\.(dora_scale|lora_magnitude_vector(\.weight|\.[^.]+(\.weight)?)?)$")),
)
"""Ends of keys: what a tensor is. `diff_m`, of LightX2V's files, is the difference of a block's modulation."""

REFUSED = {
    "hada_w": "LoHa", "lokr_w": "LoKr", "oft_": "OFT",
    "lora_mid": "a convolution in three parts", "modules_to_save": "whole layers instead of differences",
}  # fmt: skip
"""Parts of keys that identify other kinds of adapters."""


def read_lora(path: Path) -> LoRA:
    """Read a LoRA of any dialect, strictly.

    Raises WeightsError for a missing, truncated or foreign file, a pickle that holds more than tensors, another kind
    of adapter, an incomplete or doubled layer, and values that are not finite.
    """
    if not os.path.isfile(path):  # unlike Path.is_file it does not raise for a name that is too long
        raise WeightsError(f"{path} does not exist; name the LoRA's file")
    file = open_file(path)
    tensors = {key: file.read(key) for key in file.entries}
    metadata = file.metadata if isinstance(file, SafetensorsFile) else {}
    layers: dict[str, dict[str, Tensor]] = {}
    written: dict[str, str] = {}  # our name of a layer: what the file calls it
    foreign: dict[str, None] = {}
    text_encoder: dict[str, None] = {}
    dialects: dict[Dialect, str] = {}
    for key, tensor in tensors.items():
        name, field = _split(path, key)
        if TEXT_ENCODER.match(name):
            text_encoder[name] = None
            continue
        bare, dialect, underscores = _prefix(name, key)
        layer = official(f"{bare}{'_' if underscores else '.'}modulation" if field == "modulation" else bare,
                         underscores=underscores)  # fmt: skip
        if layer is None:
            foreign[name] = None
            continue
        dialects.setdefault(dialect, key)
        parts = layers.setdefault(layer, {})
        field = "diff" if field == "modulation" else field
        if field in parts:
            raise WeightsError(f"{path}: {layer} has two tensors for one purpose, the second is {key}; it is damaged")
        if not tensor.is_floating_point() and field != "alpha":
            raise WeightsError(f"{path}: {key} is {tensor.dtype}; quantized LoRA files cannot be read")
        if not bool(tensor.float().isfinite().all()):
            raise WeightsError(f"{path}: {key} has values that are not finite; its training went wrong")
        parts[field] = tensor
        written[layer] = bare
    if not layers:
        raise WeightsError(
            f"{path} is no LoRA of a Wan2.1 model: it has keys like {next(iter(tensors), 'none at all')}"
        )
    configuration = _configuration(path, metadata)
    return LoRA(
        path=path,
        dialect=_dialect(path, dialects),
        layers={name: _delta(path, name, parts, configuration, written[name]) for name, parts in layers.items()},
        foreign=tuple(foreign),
        text_encoder=tuple(text_encoder),
        metadata=metadata,
    )


def _split(path: Path, key: str) -> tuple[str, str]:
    """A key's layer, as the file names it, and what its tensor is."""
    for part, kind in REFUSED.items():
        if part in key:
            raise WeightsError(f"{path} holds {kind} ({key}), which is not supported; use a LoRA of low-rank pairs")
    for field, pattern in FIELDS:
        if match := pattern.search(key):
            return key[: match.start()], field
    raise WeightsError(f"{path} is not a LoRA that can be read: {key} is neither a pair, an alpha nor a difference")


def _prefix(name: str, key: str) -> tuple[str, Dialect, bool]:
    """A layer's name without what stands before it, the key's dialect, and whether underscores stand for dots."""
    first: tuple[Dialect, bool] | None = None
    rest = name
    while match := next((row for row in PREFIXES if rest.startswith(row[0])), None):
        prefix, dialect, underscores = match
        rest = rest.removeprefix(prefix)
        first = first or (dialect, underscores)
        if underscores:
            break
    if first is not None:
        return rest.lstrip("_") if first[1] else rest, *first
    if rest.startswith("condition_embedder.") or ".attn1." in rest or ".attn2." in rest or ".ffn.net." in rest:
        return rest, "diffusers", False
    return rest, "diffsynth" if ".lora_A." in key or ".lora_B." in key else "plain", False


def _dialect(path: Path, examples: dict[Dialect, str]) -> Dialect:
    """The one dialect of a file. Keys without a prefix tell little, so `plain` gives way to any other dialect."""
    if len(examples) > 1:
        examples = {dialect: key for dialect, key in examples.items() if dialect != "plain"}
    if len(examples) > 1 and not set(examples) <= {"diffsynth", "diffusers"}:
        raise WeightsError(f"{path} mixes dialects ({', '.join(examples.values())}); it is two LoRA files in one")
    return "diffusers" if "diffusers" in examples else next(iter(examples))


def _configuration(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """PEFT's configuration: of Diffusers in the metadata, of PEFT itself in a file beside; empty when there is none."""
    beside = path.with_name("adapter_config.json")
    if ADAPTER_METADATA in metadata:
        text = metadata[ADAPTER_METADATA]
    elif path.stem == "adapter_model" and beside.is_file():
        text = beside.read_text(encoding="utf-8")
    else:
        return {}
    try:
        content = json.loads(text)
        configuration = {str(key).removeprefix("transformer."): value for key, value in content.items()}
        float(configuration["lora_alpha"])
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise WeightsError(f"{path}: PEFT's configuration cannot be read, so that its scale is not known") from error
    return configuration


def _alpha(configuration: Mapping[str, Any], written: str, rank: int) -> float:
    """A pair's alpha after PEFT's configuration: by the first pattern that ends the layer's name, else for all; of
    rank-stabilised pairs, whose scale is alpha / √rank, the alpha that gives it (`peft/tuners/lora/layer.py`)."""
    alpha = float(configuration["lora_alpha"])
    for pattern, value in dict(configuration.get("alpha_pattern") or {}).items():
        name = str(pattern).removeprefix("^")
        if written == name or (written.endswith(f".{name}") and not str(pattern).startswith("^")):
            alpha = float(value)
            break
    return alpha * math.sqrt(rank) if configuration.get("use_rslora") else alpha


def _delta(path: Path, layer: str, parts: dict[str, Tensor], configuration: Mapping[str, Any], written: str) -> Delta:
    down, up, alpha = parts.get("down"), parts.get("up"), None
    if (down is None) != (up is None):
        raise WeightsError(f"{path}: {layer} has half of a pair only; download it again")
    if down is None or up is None:
        if "alpha" in parts or "up_bias" in parts:
            raise WeightsError(f"{path}: {layer} has an alpha or a bias without its pair; download it again")
    elif min(down.ndim, up.ndim) < 2 or up[0].numel() != down.shape[0]:
        raise WeightsError(f"{path}: the pair of {layer} does not go together: {list(up.shape)} and {list(down.shape)}")
    elif down.shape[0] == 0:
        raise WeightsError(f"{path}: the pair of {layer} has rank 0, so it changes nothing; download it again")
    elif "alpha" in parts:
        if parts["alpha"].numel() != 1:
            raise WeightsError(f"{path}: the alpha of {layer} is not one number")
        alpha = float(parts["alpha"].item())
    elif configuration:
        alpha = _alpha(configuration, written, down.shape[0])
    magnitude = _magnitude(path, layer, parts)
    delta = Delta(
        down=down, up=up, alpha=alpha, diff=parts.get("diff"), bias=parts.get("bias"), magnitude=magnitude
    )  # fmt: skip
    if "up_bias" not in parts:
        return delta
    if delta.bias is not None:
        raise WeightsError(f"{path}: {layer} has two biases; it is damaged")
    # PEFT's bias of the second matrix is scaled with the product; ours is a difference and counts once.
    bias = parts["up_bias"] if delta.scale == 1 else parts["up_bias"].float() * delta.scale
    return replace(delta, bias=bias)


def _magnitude(path: Path, layer: str, parts: dict[str, Tensor]) -> Tensor | None:
    """DoRA's lengths of the rows of a layer, [out]."""
    magnitude, up = parts.get("magnitude"), parts.get("up")
    if magnitude is None:
        return None
    if up is None:
        raise WeightsError(f"{path}: {layer} has a magnitude without its pair; download it again")
    if magnitude.numel() != len(up) or magnitude.shape[0] != len(up):
        raise WeightsError(
            f"{path}: the magnitude of {layer} is {list(magnitude.shape)}; only one length for each of its {len(up)} "
            "outputs can be read"
        )
    return magnitude.flatten()
