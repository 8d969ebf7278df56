"""Tiny models and LoRA files in each dialect, drawn at random, written as their own trainers write them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from lichtspiel.lora.names import to_diffusers
from lichtspiel.models import shapes
from lichtspiel.models.dit import DiT
from lichtspiel.spec import DiTSpec

TINY = DiTSpec(
    patch=(1, 2, 2),
    width=32, ffn_width=48, heads=2, layers=2, in_channels=16, out_channels=16, time_width=32, text_width=24,
    text_length=512, image_tokens=0, image_width=40, vace_layers=(), vace_channels=96, eps=1e-6,
)  # fmt: skip
IMAGE = replace(TINY, in_channels=36, image_tokens=257)
VACE = replace(TINY, vace_layers=(0, 1))

Pair = tuple[Tensor, Tensor, float | None]
"""Down, up and alpha of a layer."""


def build(spec: DiTSpec, dtype: torch.dtype = torch.float32) -> DiT:
    """A model with every parameter drawn."""
    generator = torch.Generator().manual_seed(0)
    model = DiT(spec)
    with torch.no_grad():
        for parameter in model.parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            fan = parameter[0].numel() if parameter.ndim > 1 else 4
            parameter.copy_(drawn / fan**0.5 + (parameter.ndim == 1))
    return model.eval().requires_grad_(False).to(dtype)


def inputs(spec: DiTSpec) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    given = {
        "latents": torch.randn(1, spec.in_channels, 2, 4, 4, generator=generator),
        "timestep": torch.tensor([437.0]),
        "text": torch.randn(1, spec.text_length, spec.text_width, generator=generator),
    }
    if spec.image_tokens:
        given["image"] = torch.randn(1, 257, spec.image_width, generator=generator)
    if spec.vace_layers:
        given["vace"] = torch.randn(1, spec.vace_channels, 2, 4, 4, generator=generator)
    return given


def run(model: DiT, given: dict[str, Tensor]) -> Tensor:
    with torch.inference_mode():
        velocity: Tensor = model(**given)
    return velocity


def linear_layers(spec: DiTSpec, *, everywhere: bool = False) -> list[str]:
    """The layers that trainers usually adapt, or all that can take a pair."""
    names = [name.removesuffix(".weight") for name, shape in shapes(spec).items() if name.endswith(".weight")]
    names = [name for name in names if len(shapes(spec)[f"{name}.weight"]) > 1]
    return [name for name in names if everywhere or "blocks." in name]


def pairs(
    spec: DiTSpec,
    layers: Sequence[str],
    *,
    ranks: Sequence[int] = (4,),
    alphas: Sequence[float | None] = (None,),
    seed: int = 2,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Pair]:
    """A pair for each layer, ranks and alphas taken in turn, large enough to be seen in the output."""
    generator = torch.Generator().manual_seed(seed)
    made: dict[str, Pair] = {}
    for number, layer in enumerate(layers):
        out, *rest = shapes(spec)[f"{layer}.weight"]
        rank = ranks[number % len(ranks)]
        ones = [1] * (len(rest) - 1)
        down = torch.randn(rank, *rest, generator=generator) / torch.Size(rest).numel() ** 0.5
        up = torch.randn(out, rank, *ones, generator=generator) / rank
        made[layer] = (down.to(dtype), up.to(dtype), alphas[number % len(alphas)])
    return made


def keys(dialect: str, made: dict[str, Pair]) -> dict[str, Tensor]:
    """The tensors of a file of one dialect."""
    if dialect == "diffusers":
        return _written(made, lambda name: f"transformer.{to_diffusers(name)}", "lora_A.weight", "lora_B.weight")
    if dialect == "peft":
        return _written(made, lambda name: f"base_model.model.{name}", "lora_A.weight", "lora_B.weight")
    if dialect == "kohya":
        return _written(made, lambda name: "lora_unet_" + name.replace(".", "_"), "lora_down.weight", "lora_up.weight")
    if dialect == "comfy":
        return _written(made, lambda name: f"diffusion_model.{name}", "lora_down.weight", "lora_up.weight")
    if dialect == "comfy-ab":
        return _written(made, lambda name: f"diffusion_model.{name}", "lora_A.weight", "lora_B.weight")
    if dialect == "diffsynth":
        return _written(made, lambda name: name, "lora_A.default.weight", "lora_B.default.weight")
    assert dialect == "plain"
    return _written(made, lambda name: name, "lora_down.weight", "lora_up.weight")


def _written(made: dict[str, Pair], naming, down: str, up: str) -> dict[str, Tensor]:  # type: ignore[no-untyped-def]
    tensors: dict[str, Tensor] = {}
    for layer, (first, second, alpha) in made.items():
        tensors |= {f"{naming(layer)}.{down}": first, f"{naming(layer)}.{up}": second}
        if alpha is not None:
            tensors[f"{naming(layer)}.alpha"] = torch.tensor(alpha)
    return tensors


def save(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> Path:
    save_file(tensors, path, metadata)
    return path
