"""Int8 quantization of linear layers on a CPU: about twice as fast, but not exact.

`quantize` works on a whole network, or on one block at a time while weights load (`each` of
`offload.load_with_offload`). Weights have one scale per row and inputs one per token, taken from the largest absolute
value. oneDNN computes the products, through PyTorch. Before you trust the results of a new checkpoint, compare it with
the exact network (`tests/inference/test_quantize.py`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lichtspiel.errors import RequestError

__all__ = ["Int8Linear", "quantize"]

SMALLEST = 64
"""Layers with fewer inputs or outputs stay exact, because quantizing their inputs costs more than it saves."""

LEVELS = 63
"""Inputs are quantized to seven bits, from -63 to 63. With eight bits, the sum of two products could overflow the
sixteen bits in which CPUs without VNNI add them."""

CACHED = 500_000
"""How many numbers are quantized at a time (2 MB), so that they stay in the CPU cache."""

ZERO = LEVELS + 1
"""The zero point, added to inputs because the kernels take unsigned bytes."""


class Int8Linear(nn.Module):
    """A linear layer with packed int8 weights; takes and returns float32. It cannot be trained or saved."""

    scales: Tensor
    zeros: Tensor
    bias: Tensor | None

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        weight = layer.weight.detach().float()
        scales = weight.abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny) / 127
        rounded = (weight / scales[:, None]).round().to(torch.int8)
        self.packed = torch.ops.onednn.qlinear_prepack(rounded, None)  # an opaque layout, so it is not a buffer
        self.register_buffer("scales", scales, persistent=False)
        self.register_buffer("zeros", torch.zeros(len(scales), dtype=torch.long), persistent=False)
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach().float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to the last dimension of `x`."""
        rounded, scale = to_bytes(x.reshape(-1, x.shape[-1]))
        result: Tensor = torch.ops.onednn.qlinear_pointwise(
            rounded, 1.0, ZERO, self.packed, self.scales, self.zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        result.mul_(scale) if self.bias is None else torch.addcmul(self.bias, result, scale, out=result)
        return result.reshape(*x.shape[:-1], -1)


def to_bytes(x: Tensor) -> tuple[Tensor, Tensor]:
    """Quantize tokens [l, d] to bytes; returns these and the scale [l, 1] of each token: x = scale · (byte - ZERO).

    Works on groups of tokens that fit into the CPU cache, because it makes five passes over them.
    """
    rounded = torch.empty_like(x, dtype=torch.uint8)
    scale = x.new_empty(len(x), 1)
    count = max(1, CACHED // x.shape[1])
    for part, out, part_scale in zip(*(torch.split(whole, count) for whole in (x, rounded, scale)), strict=True):
        low, high = part.aminmax(dim=1, keepdim=True)
        torch.maximum(high, low.neg_(), out=part_scale).clamp_(min=torch.finfo(torch.float32).tiny).div_(LEVELS)
        out.copy_((part / part_scale).round_().add_(ZERO))
    return rounded, scale


def quantize(module: nn.Module) -> int:
    """Quantize every plain linear layer in `module` in place; returns how many were replaced.

    Layers that always compute in float32 (the time embedding and the head of a DiT) are of another class and stay as
    they are. Raises RequestError if PyTorch was built without the int8 kernels.
    """
    if not hasattr(torch.ops.onednn, "qlinear_prepack"):
        raise RequestError("dtype", "int8", "this build of PyTorch has no eight-bit kernels", "float32")
    count = 0
    for name, child in [*module.named_children()]:
        if type(child) is nn.Linear and min(child.weight.shape) >= SMALLEST:
            setattr(module, name, Int8Linear(child))
            count += 1
        else:
            count += quantize(child)
    return count
