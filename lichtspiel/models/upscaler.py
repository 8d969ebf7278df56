"""Larger frames, after decoding and before sealing: Real-ESRGAN's small video network, which ships with this package.

The network is the published realesr-animevideov3 (X. Wang et al., "Real-ESRGAN: Training Real-World Blind
Super-Resolution with Pure Synthetic Data", 2021): a chain of 3x3 convolutions on small pictures, whose output is added
to the picture magnified by repetition. It invents edges, no content, and suits drawn pictures best.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

__all__ = ["Upscaler"]

WEIGHTS = Path(__file__).parent.parent / "data" / "realesr_animevideov3.safetensors"
"""Made by `scripts/make_upscaler.py` from a published package."""

SCALE, WIDTH, LAYERS = 4, 64, 18
STRIP = 512 * 512
"""Pixels that are enlarged at once; all features of so many take 64 MB."""


class Network(nn.Module):
    """Takes pictures [b, 3, h, w] in RGB from 0 to 1, and gives [b, 3, 4h, 4w]."""

    def __init__(self) -> None:
        super().__init__()
        widths = [3, *[WIDTH] * (LAYERS - 1), 3 * SCALE**2]
        self.convolutions = nn.ModuleList(nn.Conv2d(before, after, 3, padding=1) for before, after in pairwise(widths))
        self.activations = nn.ModuleList(nn.PReLU(WIDTH) for _ in range(LAYERS - 1))

    def forward(self, pictures: Tensor) -> Tensor:
        """All layers, then every 48 channels become a block of 4x4 pixels."""
        x = pictures
        for convolution, activation in zip(self.convolutions[:-1], self.activations, strict=True):
            x = activation(convolution(x))
        x = F.pixel_shuffle(self.convolutions[-1](x), SCALE)
        return x + F.interpolate(pictures, scale_factor=SCALE, mode="nearest")


class Upscaler:
    """Makes frames 2 or 4 times as wide and high; twice is four times, halved by averaging."""

    def __init__(self, factor: int, device: torch.device) -> None:
        assert factor in {2, 4}
        self.factor, self.device = factor, device
        self.network = Network().to(device).eval()
        self.network.load_state_dict(load_file(WEIGHTS))
        for parameter in self.network.convolutions.parameters():
            if parameter.ndim == 4:  # the layout that convolutions run fastest in
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def __call__(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """One frame [h, w, 3] as [factor * h, factor * w, 3]; in strips, with the same result as at once."""
        picture = torch.from_numpy(frame).to(self.device).permute(2, 0, 1)[None].float() / 255
        height, rows = frame.shape[0], max(STRIP // frame.shape[1] - 2 * LAYERS, 16)
        strips = []
        for top in range(0, height, rows):
            bottom = min(top + rows, height)
            above, below = max(top - LAYERS, 0), min(bottom + LAYERS, height)  # what a pixel's neighbourhood reaches
            made = self.network(picture[:, :, above:below].contiguous(memory_format=torch.channels_last))
            strips.append(made[:, :, SCALE * (top - above) : SCALE * (bottom - above)])
        large = torch.cat(strips, dim=2)
        if self.factor == 2:
            large = F.avg_pool2d(large, 2)
        pixels: NDArray[np.uint8] = (large[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
        return np.ascontiguousarray(pixels)
