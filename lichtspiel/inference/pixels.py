"""Conversion between pixels as bytes and the numbers from -1 to 1 that the VAE takes and returns.

Letters: c channels, h and w height and width.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from lichtspiel.frames import Frame

__all__ = ["from_pixels", "normalize", "to_bytes", "to_pixels"]


def normalize(levels: Tensor) -> Tensor:
    """Convert uint8 levels of any shape to float32 in [-1, 1]."""
    return levels.float() / 127.5 - 1


def to_bytes(values: Tensor) -> Tensor:
    """The inverse of `normalize`; values outside [-1, 1] are clipped."""
    return (values.clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8)


def from_pixels(frame: Frame) -> Tensor:
    """Convert a frame [h, w, 3] to [3, h, w] in [-1, 1]."""
    return normalize(rearrange(torch.from_numpy(frame), "h w c -> c h w"))


def to_pixels(image: Tensor) -> Frame:
    """Convert an image [3, h, w] to a frame [h, w, 3]; values outside [-1, 1] are clipped."""
    pixels: Frame = rearrange(to_bytes(image), "c h w -> h w c").contiguous().cpu().numpy()
    return pixels
