"""Attention and rotary positions: the only two operations that mix or place tokens.

Knows nothing of models, masks, devices or process groups. A faster or a distributed attention has the signature of
`attention` and replaces a module's `attention_fn` from outside; so does a faster rotation its `rotate_fn`.

Letters: b batch, l tokens, n heads, d channels of a head; t, h, w tokens in time, height and width.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Protocol

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor

__all__ = ["AttentionFn", "attention", "rotary_angles", "rotate"]


class AttentionFn(Protocol):
    """What may replace `attention`; only cross-attention passes a bias."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, /) -> Tensor:
        """See `attention`."""


THETA = 10000.0
"""Base of the rotary frequencies (`rope_params` in `wan/modules/model.py`)."""

RIFLEX_PERIOD, RIFLEX_SHARE = 51, 0.9
"""RIFLEx (arXiv:2502.15894): the period, in latent frames, of the frequency that makes long videos repeat themselves,
and the share of a period that the whole video gets instead. In Wan's 22 frequencies in time, it is the sixth."""


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, /) -> Tensor:
    """Let every query see all keys: softmax(q kᵀ / √d + bias) v over [b, l, n, d] each; all three have one dtype.

    `bias` has a number for every key. The logarithm of m makes one key count as m that are equal to it.
    """
    mask = None if bias is None else bias.expand(len(q), 1, q.shape[1], -1)
    q, k, v = (rearrange(part, "b l n d -> b n l d") for part in (q, k, v))
    return rearrange(F.scaled_dot_product_attention(q, k, v, mask), "b n l d -> b l n d")


@lru_cache(maxsize=2)
@torch.inference_mode(False)
def rotary_angles(
    grid: tuple[int, int, int], width: int, device: torch.device | None = None, *, riflex: bool = False
) -> Tensor:
    """Cosines and sines of the rotary angles of a whole grid of tokens, [2, t·h·w, width / 2] in float32.

    `grid` counts tokens in time, height and width, positions start at 0, `width` is that of one head. The pairs of
    channels are shared out as in `wan/modules/model.py`: height and width get width // 6 each, time what is left.
    Angles are computed in float64 on the CPU, because not every device has it; only t + h + w rows are needed.
    With `riflex`, one frequency in time gets a period longer than the grid. The last two grids are cached, because
    every step of a run has the same one: do not write into the result.
    """
    spatial = 2 * (width // 6)
    tables = []
    for axis, (length, channels) in enumerate(zip(grid, (width - 2 * spatial, spatial, spatial), strict=True)):
        frequencies = THETA ** -(torch.arange(0, channels, 2, dtype=torch.float64) / channels)
        if riflex and axis == 0:
            number = (2 * math.pi / frequencies - RIFLEX_PERIOD).abs().argmin()
            frequencies[number] = RIFLEX_SHARE * 2 * math.pi / length
        angles = torch.outer(torch.arange(length, dtype=torch.float64), frequencies)
        tables.append(torch.stack([angles.cos(), angles.sin()]).to(device, torch.float32))
    t, h, w = grid
    time = repeat(tables[0], "two t d -> two (t h w) d", h=h, w=w)
    height = repeat(tables[1], "two h d -> two (t h w) d", t=t, w=w)
    across = repeat(tables[2], "two w d -> two (t h w) d", t=t, h=h)
    return torch.cat([time, height, across], dim=-1)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn adjacent pairs of channels of `x` [b, l, n, d] by `angles` [2, l, d / 2]; returns float32.

    The product (a + ib)(cos + i sin), written out in real numbers.
    """
    cos, sin = rearrange(angles, "two l d -> two l 1 d")
    a, b = rearrange(x.float(), "b l n (d two) -> two b l n d", two=2)
    return rearrange(torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1), "b l n d two -> b l n (d two)")
