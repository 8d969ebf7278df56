"""A LoRA in another dialect, so that reading it back gives the same changes bit for bit, and writing it to a file.

Kohya and ComfyUI keep each pair's alpha beside it. Diffusers has no place for alphas among the tensors: it refuses
every key without `lora` in it. There a scale is multiplied into the pair where that is exact, which it is for powers
of two; else all scales go into the metadata, from where Diffusers reads them (`carried`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from lichtspiel.errors import OutputError, RequestError, WeightsError
from lichtspiel.lora.adapter import Delta, LoRA
from lichtspiel.lora.names import to_diffusers, to_underscores
from lichtspiel.lora.read import ADAPTER_METADATA
from lichtspiel.storage import atomic_write

__all__ = ["carried", "convert", "write_lora"]

TARGETS = ("diffusers", "comfy", "kohya")


def convert(lora: LoRA, to: str) -> dict[str, Tensor]:
    """The LoRA's tensors under the keys of another dialect; write them together with `carried(lora, to)`.

    `to` is diffusers, comfy or kohya. Raises RequestError for another dialect, and WeightsError when the file has parts
    that are not known here and would be lost, or differences that Diffusers cannot hold.
    """
    if to not in TARGETS:
        raise RequestError("to", to, f"it is one of {', '.join(TARGETS)}")
    if lost := (*lora.foreign, *lora.text_encoder):
        raise WeightsError(f"{lora.path} has {len(lost)} layers that would be lost, the first is {lost[0]}")
    tensors: dict[str, Tensor] = {}
    if to == "diffusers":
        folded = _folded(lora)
        for layer, delta in lora.layers.items():
            tensors |= _for_diffusers(lora.path, layer, delta, delta.down if folded is None else folded.get(layer))
    else:
        for layer, delta in lora.layers.items():
            name = f"diffusion_model.{layer}" if to == "comfy" else f"lora_unet_{to_underscores(layer)}"
            tensors |= _with_alpha(name, delta, always=to == "kohya")
    return {key: value.contiguous() for key, value in tensors.items()}


def carried(lora: LoRA, to: str) -> dict[str, str]:
    """The metadata that belongs beside the converted tensors: the file's own, and for Diffusers the scales, if they
    cannot be multiplied into the pairs without rounding."""
    metadata = {key: value for key, value in lora.metadata.items() if key != ADAPTER_METADATA}
    if to != "diffusers" or _folded(lora) is not None:
        return metadata
    pairs = {to_diffusers(layer): delta for layer, delta in lora.layers.items() if delta.rank is not None}
    first = next(iter(pairs.values()))
    alphas = {name: delta.rank if delta.alpha is None else delta.alpha for name, delta in pairs.items()}
    configuration = {
        "r": first.rank,
        "lora_alpha": next(iter(alphas.values())),
        "rank_pattern": {f"^{name}": delta.rank for name, delta in pairs.items()},
        "alpha_pattern": {f"^{name}": alpha for name, alpha in alphas.items()},
        "target_modules": list(pairs),
        "lora_bias": False,
        "use_dora": any(delta.magnitude is not None for delta in pairs.values()),
    }
    content = {f"transformer.{key}": value for key, value in configuration.items()}  # the prefix of its part
    return metadata | {ADAPTER_METADATA: json.dumps(content)}


def write_lora(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a .safetensors file, whole or not at all; raises OutputError when it cannot be written."""
    if path.suffix != ".safetensors":
        raise OutputError(f"{path} has to end in .safetensors")
    try:
        with atomic_write(path, mode=0o644) as draft:
            save_file(dict(tensors), draft, {"format": "pt", **metadata})
    except Exception as error:  # safetensors has errors of its own
        raise OutputError(f"{path} cannot be written: {getattr(error, 'strerror', None) or error}") from error


def _with_alpha(name: str, delta: Delta, *, always: bool) -> dict[str, Tensor]:
    """A layer for readers that know alphas; `always` for those that expect one with each pair."""
    tensors: dict[str, Tensor] = {}
    if delta.down is not None and delta.up is not None:
        tensors |= {f"{name}.lora_down.weight": delta.down, f"{name}.lora_up.weight": delta.up}
        alpha = float(delta.down.shape[0]) if delta.alpha is None and always else delta.alpha
        if alpha is not None:
            exact = float(torch.tensor(alpha, dtype=torch.float32)) == alpha
            tensors[f"{name}.alpha"] = torch.tensor(alpha, dtype=torch.float32 if exact else torch.float64)
    if delta.magnitude is not None:
        tensors[f"{name}.dora_scale"] = delta.magnitude[:, None]
    if delta.diff is not None:
        tensors[f"{name}.diff"] = delta.diff
    if delta.bias is not None:
        tensors[f"{name}.diff_b"] = delta.bias
    return tensors


def _folded(lora: LoRA) -> dict[str, Tensor] | None:
    """Every layer's `down` with its scale in it; None if that would round anything anywhere."""
    folded: dict[str, Tensor] = {}
    for layer, delta in lora.layers.items():
        if delta.down is None:
            continue
        scale = delta.scale
        down = delta.down * scale
        if scale == 0 or math.frexp(abs(scale))[0] != 0.5 or not torch.equal(down / scale, delta.down):
            return None
        folded[layer] = down
    return folded


def _for_diffusers(path: Path, layer: str, delta: Delta, down: Tensor | None) -> dict[str, Tensor]:
    """A layer for Diffusers, with `down` in place of its own."""
    if delta.diff is not None:
        raise WeightsError(
            f"{path}: Diffusers cannot hold the weight difference of {layer}; convert it to comfy or kohya"
        )
    if delta.bias is not None and (down is None or delta.up is None or (down is delta.down and delta.scale != 1)):
        raise WeightsError(
            f"{path}: Diffusers cannot hold the bias difference of {layer}; convert it to comfy or kohya"
        )
    name = f"transformer.{to_diffusers(layer)}"
    tensors: dict[str, Tensor] = {}
    if down is not None and delta.up is not None:
        tensors |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": delta.up}
    if delta.magnitude is not None:
        tensors[f"{name}.lora_magnitude_vector"] = delta.magnitude
    if delta.bias is not None:
        tensors[f"{name}.lora_B.bias"] = delta.bias
    return tensors
