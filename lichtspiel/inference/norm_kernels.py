"""The VAE's RMS norm with the SiLU behind it as one Triton kernel, and another for the gradients. Import it only where
Triton is.

PyTorch's norm has a block of threads for each row, which is slow for the VAE's rows of 96 to 384 channels. Here a
program takes as many rows as make `CELLS` numbers, reads each number once and writes it once.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["norm"]

CELLS = 4096
"""Numbers that one program holds at a time; rows are rounded up to a power of two."""

PROGRAMS = 1024
"""The most programs of the backward pass. Each adds up the gradient of the weights over its rows, so that this many
sums are left to add."""

SHORTEST = tl.constexpr(1e-12)
"""The least length of a row, so that one of zeros stays zero."""


@triton.jit
def _forward(x, gamma, y, rows, root, C: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, SILU: tl.constexpr):  # noqa: PLR0913, PLR0917
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDE)
    inside = (row[:, None] < rows) & (column[None, :] < C)
    place = row[:, None].to(tl.int64) * C + column[None, :]
    value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    weight = tl.load(gamma + column, mask=column < C, other=0.0).to(tl.float32)
    factor = root / tl.maximum(tl.sqrt(tl.sum(value * value, axis=1)), SHORTEST)
    result = value * factor[:, None] * weight[None, :]
    if SILU:
        result = result / (1.0 + tl.exp(-result))
    tl.store(y + place, result.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _backward(  # noqa: PLR0913, PLR0917
    x, gamma, dy, dx, sums, rows, root, loops,
    C: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, SILU: tl.constexpr,
):  # fmt: skip
    column = tl.arange(0, WIDE)
    weight = tl.load(gamma + column, mask=column < C, other=0.0).to(tl.float32)
    total = tl.zeros([WIDE], dtype=tl.float32)
    for loop in range(loops):
        row = (tl.program_id(0) * loops + loop) * ROWS + tl.arange(0, ROWS)
        inside = (row[:, None] < rows) & (column[None, :] < C)
        place = row[:, None].to(tl.int64) * C + column[None, :]
        value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
        slope = tl.load(dy + place, mask=inside, other=0.0).to(tl.float32)
        factor = root / tl.maximum(tl.sqrt(tl.sum(value * value, axis=1)), SHORTEST)
        unit = value * factor[:, None]
        if SILU:
            before = unit * weight[None, :]
            gate = 1.0 / (1.0 + tl.exp(-before))
            slope = slope * gate * (1.0 + before * (1.0 - gate))
        total += tl.sum(slope * unit, axis=0)
        # The change of a row's length takes out of its gradient what points along the row.
        slope = slope * weight[None, :]
        along = tl.sum(slope * unit, axis=1) / C
        result = factor[:, None] * (slope - unit * along[:, None])
        tl.store(dx + place, result.to(dx.dtype.element_ty), mask=inside)
    tl.store(sums + tl.program_id(0) * C + column, total, mask=column < C)


def norm(x: Tensor, gamma: Tensor, silu: bool) -> Tensor:
    """Normalize the last dimension as `models.vae.rms_norm` does and, with `silu`, apply SiLU; computed in float32 and
    rounded once, to the dtype of `x`."""
    result: Tensor = _Norm.apply(x, gamma, silu)  # type: ignore[no-untyped-call]
    return result


class _Norm(torch.autograd.Function):
    """The norm with its gradients, which are computed from the input again, so that nothing else is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor, silu: bool) -> Tensor:
        x, gamma = x.contiguous(), gamma.contiguous()
        ctx.save_for_backward(x, gamma)
        ctx.silu = silu
        result = torch.empty_like(x)
        if x.numel():
            rows, shape = _split(x)
            grid = (triton.cdiv(rows, shape["ROWS"]),)
            with _device_of(x):
                _forward[grid](x, gamma, result, rows, len(gamma) ** 0.5, **shape, SILU=silu)
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, gamma = ctx.saved_tensors
        grad, result = grad.contiguous(), torch.empty_like(x)
        if not x.numel():
            return result, torch.zeros_like(gamma), None
        rows, shape = _split(x)
        blocks = triton.cdiv(rows, shape["ROWS"])
        loops = triton.cdiv(blocks, PROGRAMS)
        programs = triton.cdiv(blocks, loops)
        sums = torch.empty(programs, len(gamma), dtype=torch.float32, device=x.device)
        with _device_of(x):
            _backward[(programs,)](x, gamma, grad, result, sums, rows, len(gamma) ** 0.5, loops, **shape, SILU=ctx.silu)
        return result, sums.sum(0).to(gamma.dtype), None


def _split(x: Tensor) -> tuple[int, dict[str, int]]:
    """How many rows a tensor has, and their width, that rounded up to a power of two, and how many a program takes."""
    width = x.shape[-1]
    wide = triton.next_power_of_2(width)
    return x.numel() // width, {"C": width, "WIDE": wide, "ROWS": max(1, CELLS // wide)}


def _device_of(x: Tensor) -> Any:
    """Makes the GPU of a tensor the one on which kernels start."""
    return torch.cuda.device_of(x)  # type: ignore[no-untyped-call]  # nothing on a processor, where Triton's interpreter runs
