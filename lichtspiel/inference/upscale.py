"""Upscaling of decoded frames, before sealing, with a network that ships with this package.

It sharpens edges, adds no content, and works best on drawn pictures.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file

from lichtspiel.host import computing_dtype
from lichtspiel.models.upscaler import LAYERS, SCALE, RealESRGAN

__all__ = ["Upscaler"]

WEIGHTS = Path(__file__).parent.parent / "data" / "realesr_animevideov3.safetensors"
"""Created by `scripts/make_upscaler.py` from a published package."""

STRIP = 512 * 512
"""How many pixels are upscaled at once; their features take 64 MB."""


class Upscaler:
    """Makes frames 2 or 4 times as wide and high. A factor of 2 upscales by 4, then halves by averaging.

    It computes in the precision that the device is fastest in: bfloat16 takes half of the time, and pixels are off by a
    fifth of a level of 255.
    """

    def __init__(self, factor: int, device: torch.device) -> None:
        assert factor in {2, 4}
        self.factor, self.device = factor, device
        self.network = RealESRGAN().to(device).eval()
        self.network.load_state_dict(load_file(WEIGHTS))
        for parameter in self.network.convolutions.parameters():
            if parameter.ndim == 4:  # convolutions are fastest in this layout
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        self.network.to(computing_dtype(device.type))

    @torch.inference_mode()
    def __call__(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Upscale a frame [h, w, 3] to [factor * h, factor * w, 3], in strips. The result is the same as in one go."""
        picture = torch.from_numpy(frame).to(self.device).permute(2, 0, 1)[None].float() / 255
        height, rows = frame.shape[0], max(STRIP // frame.shape[1] - 2 * LAYERS, 16)
        strips = []
        for top in range(0, height, rows):
            bottom = min(top + rows, height)
            above, below = max(top - LAYERS, 0), min(bottom + LAYERS, height)  # the receptive field of a pixel
            strip = self.network(picture[:, :, above:below].contiguous(memory_format=torch.channels_last))
            strips.append(strip[:, :, SCALE * (top - above) : SCALE * (bottom - above)])
        large = torch.cat(strips, dim=2)
        if self.factor == 2:
            large = F.avg_pool2d(large, 2)
        pixels: NDArray[np.uint8] = (large[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
        return np.ascontiguousarray(pixels)
