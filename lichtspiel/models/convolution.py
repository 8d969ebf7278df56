"""Convolution of video on a processor: the same sums as PyTorch's, in an order that takes less time.

Three ways around what is slow there, for float32 without gradients; everything else goes to PyTorch unchanged. All
want tensors that are channels-last in memory, and are compared with PyTorch in `tests/models/test_convolution.py`.

Letters: c channels in, o channels out, t time, h height, w width, y and x tiles down and across, a and b factors
of a tile down and across, p and q outputs of a tile down and across, k taps in time, n frames.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

__all__ = ["convolve", "fast", "upsample"]

SLAB_BYTES = 10_000_000
"""Winograd works on so many rows at a time that its tiles stay in the processor's cache; measured in steps of two."""

WINOGRAD_CHANNELS, WINOGRAD_CELLS = 64, 4096
"""Fewest channels on either side, and fewest cells of output, for which Winograd's extra work pays; measured."""

FILTER = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))
"""G of F(2, 3), which maps three taps to four products (Lavin and Gray 2015, arXiv:1509.09308, section 4.1)."""


def fast(x: Tensor) -> bool:
    """Whether the ways of this file are open for `x`."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_grad_enabled()
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    )


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, ...]) -> Tensor:
    """`F.conv3d` of [b, c, t, h, w] with a stride of 1 and `padding` in time, height and width.

    PyTorch leaves its fast library for a plain loop when the batch is 1 and c·t·h is at most 20480 (`use_mkldnn` in
    `aten/src/ATen/native/Convolution.cpp`, which forgets the width): up to seven times as slow. Here that library is
    called by its name. Large 3x3x3 kernels are split further, by `winograd`.
    """
    if not fast(x):
        return F.conv3d(x, weight, bias, padding=padding)
    _, c, t, h, w = x.shape
    wide = min(c, weight.shape[0]) >= WINOGRAD_CHANNELS and (t - 2) * h * w >= WINOGRAD_CELLS
    if wide and weight.shape[2:] == (3, 3, 3) and padding == (0, 1, 1) and h % 2 == w % 2 == 0:
        videos = [winograd(video, weight, bias) for video in torch.split(x, 1)]
        return torch.cat(videos) if len(videos) > 1 else videos[0]
    one = [1, 1, 1]
    result: Tensor = torch.mkldnn_convolution(x, weight, bias, list(padding), one, one, 1)
    return result


def winograd(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 3x3x3 convolution of [1, c, t, h, w] to [1, o, t - 2, h, w]: F(2x2, 3x3) in space, plain in time.

    16 products make 4 outputs instead of 36; the sums over channels and time are products of matrices. Its rounding
    errors are not larger than those of the direct sum. Tiles of 4x4 overlap by two and give 2x2 outputs.
    """
    _, c, t, h, w = x.shape
    video = rearrange(x, "1 c t h w -> t h w c")
    result = x.new_empty(t - 2, h, w, len(weight))
    spread = x.new_tensor(FILTER)
    taps = torch.einsum("ai,bj,ockij->abkco", spread, spread, weight)
    taps = rearrange(taps, "a b k c o -> k (a b) c o").contiguous()
    rows = max(2, SLAB_BYTES // (16 * t * w * c) // 2 * 2)
    for top in range(0, h, rows):
        end = min(top + rows, h)
        slab = video[:, max(top - 1, 0) : min(end + 1, h)]
        slab = F.pad(slab, (0, 0, 1, 1, int(top == 0), int(end == h)))
        _winograd_slab(slab, taps, bias, result[:, top:end])
    return rearrange(result, "t h w o -> 1 o t h w")


def _winograd_slab(slab: Tensor, taps: Tensor, bias: Tensor | None, result: Tensor) -> None:
    """From padded rows [t, h + 2, w + 2, c] to `result` [t - 2, h, w, o]."""
    t, height, width, c = slab.shape
    y, x = height // 2 - 1, width // 2 - 1
    rows = _tiles(slab, 1, slab.new_empty(4, t, y, width, c))
    tiles = slab.new_empty(4, 4, t, y, x, c)
    _tiles(rows, 3, tiles.transpose(0, 1))
    flat = rearrange(tiles, "a b t y x c -> (a b) (t y x) c")
    frame, count = y * x, (t - 2) * y * x
    products = torch.bmm(flat[:, :count], taps[0])
    products.baddbmm_(flat[:, frame : frame + count], taps[1])
    products.baddbmm_(flat[:, 2 * frame :], taps[2])
    parts = rearrange(products, "(a b) (t y x) o -> a b t y x o", a=4, t=t - 2, y=y)
    halves = _sums(parts, parts.new_empty(2, *parts.shape[1:]))
    if bias is not None:
        halves[:, 1] += bias  # enters both outputs of a tile exactly once below
    cells = rearrange(result, "t (y p) (x q) o -> p q t y x o", p=2, q=2)
    _sums(halves.transpose(0, 1), cells.transpose(0, 1))


def _tiles(source: Tensor, axis: int, result: Tensor) -> Tensor:
    """Bᵀ of F(2, 3): from four neighbours, every second one, to the four factors, in front of the other axes."""
    length = source.shape[axis] // 2 - 1
    a, b, c, d = (source[(slice(None),) * axis + (slice(k, k + 2 * length - 1, 2),)] for k in range(4))
    torch.sub(a, c, out=result[0])
    torch.add(b, c, out=result[1])
    torch.sub(c, b, out=result[2])
    torch.sub(b, d, out=result[3])
    return result


def _sums(parts: Tensor, result: Tensor) -> Tensor:
    """Aᵀ of F(2, 3): from four products, in front of the other axes, to two outputs."""
    a, b, c, d = parts
    torch.add(torch.add(a, b), c, out=result[0])
    torch.sub(torch.sub(b, c), d, out=result[1])
    return result


def upsample(frames: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Double [n, c, h, w] in height and width by repeating cells, then convolve 3x3 with a padding of 1.

    Two of three taps along an axis fall on the same cell. Adding their weights first leaves a 2x2 kernel for each of
    the four outputs of a cell: four ninths of the work, and the doubled input is never made.
    """
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
            made = torch.mkldnn_convolution(part, kernel, bias, [0, 0], [1, 1], [1, 1], 1)
            result[:, p::2, q::2] = rearrange(made, "n o h w -> n h w o")
    return rearrange(result, "n h w o -> n o h w")
