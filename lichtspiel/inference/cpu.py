"""Faster kernels for running the networks on a CPU, attached to them by `use_cpu_kernels`.

The networks are plain PyTorch with attributes for the functions that can be replaced. The replacements compute the same
sums in an order that is faster on a CPU: video convolution, upsampling and the VAE's norm (only in float32 without
gradients; everything else goes to the plain function), and rotary position embedding. Convolutions expect tensors in
the channels-last memory format. `tests/inference/test_cpu.py` compares all of them with PyTorch.

Letters: c channels in, o channels out, t time, h height, w width, y and x tiles down and across, a and b factors
of a tile down and across, p and q outputs of a tile down and across, i, j and k taps down, across and in
time, n frames.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from lichtspiel.models.dit import SelfAttention
from lichtspiel.models.vae import VAE, CausalConv3d, RMSNorm, Upsample, conv3d, rms_norm, upsample_conv2d

__all__ = ["convolve", "fast", "norm", "rotate", "upsample", "use_cpu_kernels"]

SLAB_BYTES = 8_000_000
"""Winograd works on slabs of rows whose factors fit into the CPU cache; measured in steps of two."""

WINOGRAD_CHANNELS, WINOGRAD_CELLS = 64, 4096
"""The smallest numbers of input or output channels and of output cells for which Winograd pays off; measured."""

POINTS = (0.0, 1.0, -1.0, 0.5, -2.0)
"""Where the polynomials of F(4, 3) are evaluated, in addition to infinity. These points have the smallest rounding
errors that Barabasz, Anderson, Soodhalter and Gregg found (2020, arXiv:1803.10986)."""


def use_cpu_kernels(model: nn.Module) -> None:
    """Make the layers of a VAE or DiT use the functions of this module; the weights do not change."""
    for module in model.modules():
        if isinstance(module, CausalConv3d):
            module.conv_fn = convolve
        elif isinstance(module, RMSNorm):
            module.norm_fn = norm
        elif isinstance(module, Upsample):
            module.upsample_fn = upsample
        elif isinstance(module, SelfAttention):
            module.rotate_fn = rotate
        elif isinstance(module, VAE):
            module.encoder.register_forward_pre_hook(_channels_last)
            module.conv2.register_forward_pre_hook(_channels_last)


def _channels_last(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Convert a module's first input to channels-last memory format, which the layers preserve."""
    x, *rest = inputs
    return (x.contiguous(memory_format=torch.channels_last_3d) if fast(x) else x, *rest)


def fast(x: Tensor) -> bool:
    """Whether the convolutions and the norm of this module can be used for `x`."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_grad_enabled()
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    )


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int, int], cached: Tensor | None = None
) -> Tensor:
    """The VAE's `conv3d` of [b, c, t, h, w], which follows the frames `cached`.

    When the batch is 1 and c·t·h is at most 20480, PyTorch switches from oneDNN to a plain loop, which is up to seven
    times slower (`use_mkldnn` in `aten/src/ATen/native/Convolution.cpp`, which ignores the width). So this calls oneDNN
    directly. Large 3x3x3 convolutions go to `winograd` instead.
    """
    if not fast(x):
        return conv3d(x, weight, bias, padding, cached)
    cached = x[:, :, :0] if cached is None else cached
    _, c, t, h, w = x.shape
    wide = min(c, weight.shape[0]) >= WINOGRAD_CHANNELS and (cached.shape[2] + t - 2) * h * w >= WINOGRAD_CELLS
    if wide and weight.shape[2:] == (3, 3, 3) and padding == (0, 1, 1):
        pairs = zip(torch.split(cached, 1), torch.split(x, 1), strict=True)
        videos = [winograd(pair, weight, bias) for pair in pairs]
        return torch.cat(videos) if len(videos) > 1 else videos[0]
    if cached.shape[2]:  # concatenate channels-last: otherwise an axis of length 1 can lose the memory format
        x = torch.cat([part.movedim(1, -1) for part in (cached, x)], dim=1).movedim(-1, 1)
    one = [1, 1, 1]
    result: Tensor = torch.mkldnn_convolution(x, weight, bias, list(padding), one, one, 1)
    return result


def winograd(parts: Sequence[Tensor], weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 3x3x3 convolution from [1, c, t, h, w] to [1, o, t - 2, h, w]: Winograd's F(4x4, 3x3) in space, direct in time.

    `parts` are consecutive in time. 16 outputs take 36 products instead of 144; the sums over channels and time are
    matrix products (Lavin and Gray 2015, arXiv:1509.09308, section 4). Rounding errors are those of the direct
    sum. Tiles of 6x6 overlap by two and yield 4x4 outputs; outputs beyond the picture are cut off.
    """
    videos = [rearrange(part, "1 c t h w -> t h w c") for part in parts]
    t, (_, h, w, c), o = sum(map(len, videos)), videos[0].shape, len(weight)
    below, right = -h % 4, -w % 4
    result = parts[0].new_empty(t - 2, h + below, w + right, o)
    spread = transforms()[0]
    taps = rearrange(torch.einsum("ai,bj,ockij->kabco", spread, spread, weight), "k a b c o -> k (a b) c o")
    taps = taps.contiguous()
    rows = min(max(4, SLAB_BYTES // (9 * t * w * c) // 4 * 4), h + below)
    slab = result.new_zeros(t, rows + 2, w + right + 2, c)
    # Allocating memory costs as much as a pass over it, so all slabs share two buffers.
    size = 36 * (rows // 4) * (-(-w // 4) + 1) * t * max(c, o)
    spare = (result.new_empty(size), result.new_empty(size))
    for top in range(0, h, rows):
        end = min(top + rows, h + below)
        now = slab[:, : end - top + 2]
        first, last = max(top - 1, 0), min(end + 1, h)
        inside = now[:, first - top + 1 : last - top + 1, 1 : w + 1]
        for part, video in zip(torch.split(inside, [len(video) for video in videos]), videos, strict=True):
            part.copy_(video[:, first:last])
        now[:, last - top + 1 :] = 0
        _winograd_slab(now, taps, bias, result[:, top:end], spare)
    return rearrange(result[:, :h, :w], "t h w o -> 1 o t h w")


def _winograd_slab(
    slab: Tensor, taps: Tensor, bias: Tensor | None, result: Tensor, spare: tuple[Tensor, Tensor]
) -> None:
    """Convolve padded rows [t, h + 2, w + 2, c] into `result` [t - 2, h, w, o]; `spare` are two scratch buffers."""

    def space(index: int, *shape: int) -> Tensor:
        return spare[index][: math.prod(shape)].view(shape)

    _, factors, outputs = transforms()
    t, _, wide, c = slab.shape
    _, h, w, o = result.shape
    y, x = h // 4, w // 4
    frame, count = y * x, (t - 2) * y * x
    down = space(0, 6, t, y, wide, c).copy_(rearrange(slab.unfold(1, 6, 4), "t y w c a -> a t y w c"))
    down = torch.mm(factors, down.view(6, -1), out=space(1, 6, t * y * wide * c)).view(down.shape)
    tiles = space(0, 6, 6, t, y, x, c).copy_(rearrange(down.unfold(3, 6, 4), "a t y x c b -> a b t y x c"))
    tiles = torch.bmm(factors.expand(6, 6, 6), tiles.view(6, 6, -1), out=space(1, 6, 6, t * frame * c))
    tiles = tiles.view(36, t * frame, c)
    products = torch.bmm(tiles[:, :count], taps[0], out=space(0, 36, count, o))
    products.baddbmm_(tiles[:, frame : frame + count], taps[1])
    products.baddbmm_(tiles[:, 2 * frame :], taps[2])
    across = torch.bmm(outputs.expand(6, 4, 6), products.view(6, 6, -1), out=space(1, 6, 4, count * o))
    cells = torch.mm(outputs, across.view(6, -1), out=space(0, 4, 4 * count * o)).view(4, 4, t - 2, y, x, o)
    torch.add(cells, 0 if bias is None else bias, out=rearrange(result, "t (y p) (x q) o -> p q t y x o", p=4, q=4))


@cache
@torch.inference_mode(False)
def transforms() -> tuple[Tensor, Tensor, Tensor]:
    """The matrices G [6, 3], Bᵀ [6, 6] and Aᵀ [4, 6] of F(4, 3).

    G and Bᵀ map three taps and six neighboring inputs to six factors each; Aᵀ maps the six products to four outputs.
    This is Toom-Cook multiplication of polynomials at `POINTS` and infinity, transposed: a Vandermonde matrix for the
    taps, one for the outputs, and the inverse of one for the inputs.
    """
    points = torch.tensor(POINTS, dtype=torch.float64, device="cpu")

    def powers(count: int) -> Tensor:
        infinity = F.one_hot(torch.tensor([count - 1], device="cpu"), count)
        return torch.cat([torch.linalg.vander(points, N=count), infinity.to(points)])

    return powers(3).float(), torch.linalg.inv(powers(6)).T.float().contiguous(), powers(4).T.float().contiguous()


def norm(x: Tensor, gamma: Tensor) -> Tensor:
    """The VAE's `rms_norm`, in half the time."""
    if not fast(x):
        return rms_norm(x, gamma)
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min_(1e-12)
    result: Tensor = x * length.reciprocal_().mul_(len(gamma) ** 0.5)
    return result.mul_(gamma)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """`rotate` of `models.attention` as a complex product, which takes one pass over memory instead of seven.

    Complex numbers are slow on other devices, and compilers do not support them.
    """
    turn = rearrange(torch.complex(angles[0], angles[1]), "l d -> l 1 d")
    pairs = torch.view_as_complex(rearrange(x.float(), "b l n (d two) -> b l n d two", two=2).contiguous())
    return rearrange(torch.view_as_real(pairs * turn), "b l n d two -> b l n (d two)")


def upsample(frames: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The VAE's `upsample_conv2d`: double [n, c, h, w] by repeating cells, then convolve 3x3 with a padding of 1.

    Along each axis, two of the three taps see the same cell. Adding their weights first leaves a 2x2 kernel for each of
    the four outputs of a cell. That is four ninths of the work, and the doubled input is never materialized.
    """
    if not fast(frames):
        return upsample_conv2d(frames, weight, bias)
    n, _, h, w = frames.shape
    padded = F.pad(frames, (1, 1, 1, 1)).contiguous(memory_format=torch.channels_last)
    result = frames.new_empty(n, 2 * h, 2 * w, len(weight))
    down = (torch.stack([weight[:, :, 0], weight[:, :, 1] + weight[:, :, 2]], 2),
            torch.stack([weight[:, :, 0] + weight[:, :, 1], weight[:, :, 2]], 2))  # fmt: skip
    for p, half in enumerate(down):
        across = (torch.stack([half[..., 0], half[..., 1] + half[..., 2]], -1),
                  torch.stack([half[..., 0] + half[..., 1], half[..., 2]], -1))  # fmt: skip
        for q, kernel in enumerate(across):
            part = padded[:, :, p : p + h + 1, q : q + w + 1].contiguous(memory_format=torch.channels_last)
            phase = torch.mkldnn_convolution(part, kernel, bias, [0, 0], [1, 1], [1, 1], 1)
            result[:, p::2, q::2] = rearrange(phase, "n o h w -> n h w o")
    return rearrange(result, "n h w o -> n o h w")
