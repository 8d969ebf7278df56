"""Reading the golden files: tensors computed by the official Wan2.1 code in float32 on tiny random weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

FOLDER = Path(__file__).parent / "goldens"


@dataclass(frozen=True)
class Golden:
    """One golden file: the official configuration, and tensors by their name behind the prefix."""

    config: dict[str, Any]
    weights: dict[str, Tensor]
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]


def golden(name: str) -> Golden:
    """Read a golden file; `weights` come from the file that its configuration names, if it holds none itself."""
    with safe_open(FOLDER / f"{name}.safetensors", framework="pt") as file:
        config = json.loads(file.metadata()["config"])
        tensors = {key: widened(file.get_tensor(key)) for key in file.keys()}  # noqa: SIM118  (safe_open is no mapping)
    parts = {
        part: {key.removeprefix(part + "/"): value for key, value in tensors.items() if key.startswith(part + "/")}
        for part in ("weights", "inputs", "outputs")
    }
    source = config.get("weights", name)
    if source != name and "," not in source:
        parts["weights"] = golden(source).weights
    return Golden(config, **parts)


def widened(tensor: Tensor) -> Tensor:
    """The largest random tensors are stored in eight bits. The official code computed with just these values."""
    return tensor.float() if tensor.dtype == torch.float8_e4m3fn else tensor


def relative_error(ours: Tensor, reference: Tensor) -> float:
    """Largest absolute difference over the largest absolute reference value."""
    return float((ours.double() - reference.double()).abs().max() / reference.double().abs().max())
