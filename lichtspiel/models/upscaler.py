"""Real-ESRGAN's small video network, which makes pictures four times as wide and high.

The network is the published realesr-animevideov3 (X. Wang et al., "Real-ESRGAN: Training Real-World Blind
Super-Resolution with Pure Synthetic Data", 2021): a chain of 3x3 convolutions on small pictures, whose output is added
to the picture magnified by repetition.
"""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["LAYERS", "SCALE", "RealESRGAN"]

SCALE, WIDTH, LAYERS = 4, 64, 18


class RealESRGAN(nn.Module):
    """Takes pictures [b, 3, h, w] in RGB from 0 to 1, and gives [b, 3, 4h, 4w]."""

    def __init__(self) -> None:
        super().__init__()
        widths = [3, *[WIDTH] * (LAYERS - 1), 3 * SCALE**2]
        self.convolutions = nn.ModuleList(nn.Conv2d(before, after, 3, padding=1) for before, after in pairwise(widths))
        self.activations = nn.ModuleList(nn.PReLU(WIDTH) for _ in range(LAYERS - 1))

    def forward(self, pictures: Tensor) -> Tensor:
        """All layers in the precision of their weights; then every 48 channels become a block of 4x4 pixels, which is
        added in that of the pictures."""
        x = pictures.to(next(self.parameters()).dtype)
        for convolution, activation in zip(self.convolutions[:-1], self.activations, strict=True):
            x = activation(convolution(x))
        x = F.pixel_shuffle(self.convolutions[-1](x), SCALE)
        return x.to(pictures) + F.interpolate(pictures, scale_factor=SCALE, mode="nearest")
