"""Frozen linear layers in eight bit: half the memory of sixteen, and gradients still flow through them.

Weights are rounded to whole numbers of -127 to 127 in groups of 64 along the input, each with a scale of its own, and
are restored to the computing precision while the layer runs, forward and backward. The layers work on every device.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["EightBitLinear", "to_eight_bit"]

GROUP = 64
"""Weights that share a scale. Rows whose length is no multiple of it have one scale."""


class EightBitLinear(nn.Module):
    """A frozen linear layer; `rows` [out, groups, size] in int8 and `scales` [out, groups, 1] in float32."""

    rows: Tensor
    scales: Tensor
    bias: Tensor | None

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        weight = layer.weight.detach()
        outputs, inputs = weight.shape
        groups = weight.float().view(outputs, -1, GROUP if inputs % GROUP == 0 else inputs)
        scales = groups.abs().amax(dim=2, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / 127
        self.register_buffer("rows", (groups / scales).round().to(torch.int8))
        self.register_buffer("scales", scales)
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach())

    @property
    def weight(self) -> Tensor:
        """The weight [out, in] that the numbers stand for, in float32."""
        return _restored(self.rows, self.scales, torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to the last dimension of `x`."""
        product: Tensor = _Product.apply(x, self.rows, self.scales)  # type: ignore[no-untyped-call]
        return product if self.bias is None else product + self.bias.to(product)


class _Product(torch.autograd.Function):
    """The product with a weight that is restored for each use, so that no gradient keeps it in memory."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, scales: Tensor) -> Tensor:
        ctx.save_for_backward(rows, scales)
        return F.linear(x, _restored(rows, scales, x.dtype))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        rows, scales = ctx.saved_tensors
        return grad @ _restored(rows, scales, grad.dtype), None, None


def _restored(rows: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    return rows.to(dtype).mul_(scales.to(dtype)).flatten(1)


def to_eight_bit(module: nn.Module) -> int:
    """Replace every plain linear layer in `module`; returns how many there were. Layers that always compute in float32
    are of another class and stay as they are."""
    count = 0
    for name, child in [*module.named_children()]:
        if type(child) is nn.Linear:
            setattr(module, name, EightBitLinear(child))
            count += 1
        else:
            count += to_eight_bit(child)
    return count
