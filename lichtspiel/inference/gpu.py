"""How the VAE runs fast on a GPU, attached to it by `use_gpu_layout`.

A GPU's convolutions compute in the channels-last memory format; given another, they convert input, weight and result
every time. So weights and the first input are converted once, and the functions here keep the format: frames that a
layer remembers are put before its input, and padding is left to the convolution, without a copy in between. Norms are
those of `norms`. All this holds on every device and is compared with the plain VAE on a processor
(`tests/inference/test_gpu.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lichtspiel.inference.norms import fuse_norms, norm
from lichtspiel.models.vae import VAE, CausalConv3d, Downsample, RMSNorm, Upsample, upsample_conv2d

__all__ = ["channels_last", "exact_convolutions", "layout", "use_gpu_layout"]


def use_gpu_layout(vae: VAE, *, fused: bool = False) -> None:
    """Convert a VAE's weights to channels-last, and make its layers keep that format; with `fused`, also fuse norms
    (`norms.fuse_norms`)."""
    for module in layout(vae).modules():
        if isinstance(module, CausalConv3d):
            module.conv_fn = convolve
        elif isinstance(module, RMSNorm):
            module.norm_fn = norm
        elif isinstance(module, Upsample):
            module.upsample_fn = upsample
        elif isinstance(module, Downsample):
            module.resample.register_forward_pre_hook(lambda _, inputs: (pictures(inputs[0]),))
    if fused:
        fuse_norms(vae)
    channels_last(vae)


def channels_last(vae: VAE) -> None:
    """Convert what comes into a VAE to channels-last."""
    vae.encoder.register_forward_pre_hook(_channels_last)
    vae.conv2.register_forward_pre_hook(_channels_last)


def layout(vae: VAE) -> VAE:
    """Convert convolution weights to channels-last order, which CPUs and tensor cores read fastest."""
    for module in vae.modules():
        if isinstance(module, nn.Conv3d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last_3d)
        elif isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
    return vae


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """Inside the block, convolutions in float32 are not rounded to TF32, which PyTorch does by default and which puts
    decoded pixels off by 5e-3."""
    cudnn = torch.backends.cudnn
    with cudnn.flags(
        enabled=cudnn.enabled, benchmark=cudnn.benchmark, deterministic=cudnn.deterministic, allow_tf32=False
    ):
        yield


def _channels_last(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Convert a module's first input to channels-last memory format, which the layers preserve."""
    x, *rest = inputs
    return (x.contiguous(memory_format=torch.channels_last_3d), *rest)


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int, int], cached: Tensor | None = None
) -> Tensor:
    """The VAE's `conv3d` of [b, c, t, h, w], which follows the frames `cached`, both in channels-last."""
    if cached is not None:  # joined channels-last: otherwise an axis of length 1 can lose the memory format
        x = torch.cat([part.movedim(1, -1) for part in (cached, x)], dim=1).movedim(-1, 1)
    return F.conv3d(x, weight, bias, padding=padding)


def pictures(x: Tensor) -> Tensor:
    """The same pictures [n, c, h, w]. The first stride of a single one says nothing, but PyTorch looks at it to choose
    the format of a result, and a view may leave any number there."""
    _, c, h, w = x.shape
    behind = x.is_contiguous(memory_format=torch.channels_last)
    return x.as_strided(x.shape, (h * w * c, 1, w * c, c)) if behind else x


def upsample(frames: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The VAE's `upsample_conv2d`."""
    return upsample_conv2d(pictures(frames), weight, bias)
