"""Products in eight-bit floating point: the linear layers of a DiT's blocks on GPUs that have units for them.

Weights are e4m3 with a scale for each row, inputs with a scale for each token, both from the largest absolute value;
products are summed in float32 and returned in bfloat16. Weights that a file has in e4m3 keep its values and scales.
Embeddings, modulation, norms and the head stay as they are. On a processor the same numbers are multiplied in float32,
which is slow and lets tests compare.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lichtspiel.errors import RequestError

__all__ = ["BlocksInFP8", "FP8Linear", "check_fp8", "to_fp8"]

E4M3 = torch.float8_e4m3fn
LARGEST = torch.finfo(E4M3).max  # 448

CAPABILITY = (8, 9)
"""The first compute capability with units for eight-bit floating point: Ada (RTX 40, L40); then Hopper and later."""

MULTIPLE = 16
"""`torch._scaled_mm` takes matrices whose sides are multiples of this; other layers stay as they are."""


ROUNDED = 4_000_000
"""How many weights are rounded at a time (16 MB in float32)."""


def check_fp8(device: torch.device) -> None:
    """Raise RequestError if a device has no units for eight-bit floating point, with the nearest precision it has."""
    if device.type != "cuda":
        raise RequestError("dtype", "fp8", "it needs an NVIDIA GPU", "int8" if device.type == "cpu" else "float16")
    capability = torch.cuda.get_device_capability(device)
    if capability < CAPABILITY:
        name = torch.cuda.get_device_name(device)
        reason = f"{name} has no units for it (compute capability {capability[0]}.{capability[1]}, needed is 8.9)"
        raise RequestError("dtype", "fp8", reason, "bfloat16" if capability[0] >= 8 else "float16")


class FP8Linear(nn.Module):
    """A linear layer with e4m3 weights [out, in]; takes and returns bfloat16. It cannot be trained or saved.

    The layer that it is made from has weights in a wider precision, or in e4m3 and a buffer `scales` [out, 1].
    """

    weight: Tensor
    scales: Tensor
    bias: Tensor | None

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        weight = layer.weight.detach()
        held = held_tensors(weight, cast(Tensor, layer.scales) if weight.dtype == E4M3 else None)
        self.register_buffer("weight", held["weight"], persistent=False)
        self.register_buffer("scales", held["scales"], persistent=False)  # [1, out]
        bias = None if layer.bias is None else layer.bias.detach().to(torch.bfloat16)
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to the last dimension of `x`."""
        rows = x.reshape(-1, x.shape[-1])
        values, scales = quantized(rows)
        if x.device.type == "cuda":
            product: Tensor = torch._scaled_mm(
                values, self.weight.T, scale_a=scales, scale_b=self.scales, bias=self.bias, out_dtype=torch.bfloat16
            )
        else:
            product = F.linear(values.float(), self.weight.float()) * scales * self.scales
            product = (product if self.bias is None else product + self.bias.float()).to(torch.bfloat16)
        return product.reshape(*x.shape[:-1], -1).type_as(x)


def quantized(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Round a matrix to e4m3; returns it and the scale [m, 1] in float32 of each row: rows = values · scale."""
    wide = rows.float()
    scales = wide.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / LARGEST
    # A conversion to e4m3 does not saturate, and rounding can exceed the largest value by a little.
    return (wide / scales).clamp(-LARGEST, LARGEST).to(E4M3), scales


def held_tensors(weight: Tensor, scales: Tensor | None) -> dict[str, Tensor]:
    """What an `FP8Linear` holds of a weight [out, in] in e4m3 with the `scales` [out, 1] of its rows, or of a wider one
    without; some of its rows at a time, because rounding takes several copies in float32."""
    if scales is None:
        parts = [quantized(rows) for rows in torch.split(weight, max(1, ROUNDED // weight.shape[1]))]
        weight, scales = (torch.cat(column) for column in zip(*parts, strict=True))
    return {"weight": weight, "scales": scales.reshape(1, -1).contiguous()}


def fits(layer: nn.Module) -> bool:
    """Whether a layer can compute in eight bits. Layers that always compute in float32 are of another class."""
    return type(layer) is nn.Linear and not any(side % MULTIPLE for side in layer.weight.shape)


def to_fp8(block: nn.Module) -> int:
    """Replace every plain linear layer in a block; returns how many were replaced."""
    count = 0
    for name, child in [*block.named_children()]:
        if fits(child):
            setattr(block, name, FP8Linear(cast(nn.Linear, child)))
            count += 1
        else:
            count += to_fp8(child)
    return count


class BlocksInFP8:
    """`to_fp8` for every block as it loads (`each` of `offload.load_with_offload`), with what is stored in e4m3. With
    `inside`, only for the layers within the child of this name."""

    def __init__(self, inside: str | None = None) -> None:
        self.inside = inside

    def __call__(self, block: nn.Module) -> int:
        """See `to_fp8`."""
        return to_fp8(block if self.inside is None else block.get_submodule(self.inside))

    def keeps(self, block: nn.Module, name: str) -> bool:
        """Whether the weight of the layer with this name in a block may stay in e4m3."""
        inside = self.inside is None or name.startswith(f"{self.inside}.")
        return inside and fits(block.get_submodule(name))

    def tensors(self, weight: Tensor, scales: Tensor | None) -> dict[str, Tensor]:
        """What a layer then holds instead of its weight."""
        return held_tensors(weight, scales)
