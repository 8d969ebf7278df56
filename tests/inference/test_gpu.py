"""The VAE as a GPU likes it against the plain one, on a processor: values, and the memory format on its way."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lichtspiel.inference.gpu import exact_convolutions, norm, use_gpu_layout
from lichtspiel.models.vae import VAE, CausalConv3d, rms_norm
from tests.golden import relative_error
from tests.models.test_vae import TINY


@pytest.fixture(scope="module")
def plain() -> VAE:
    torch.manual_seed(0)
    return VAE(TINY).eval().requires_grad_(False)


def pixels(frames: int = 9) -> Tensor:
    return torch.rand((1, 3, frames, 16, 24), generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("chunk_frames", [4, 1])
@torch.inference_mode()
def test_the_layout_changes_no_value(plain: VAE, chunk_frames: int) -> None:
    vae = deepcopy(plain)
    use_gpu_layout(vae)
    plain.chunk_frames = vae.chunk_frames = chunk_frames
    latents = plain.encode(pixels())
    assert relative_error(vae.encode(pixels()), latents) < 1e-5
    exact, ours = (torch.cat(list(one.decode(latents)), dim=2) for one in (plain, vae))
    assert exact.shape == (1, 3, 9, 16, 24)
    assert relative_error(ours, exact) < 1e-5


FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


@pytest.fixture
def wrong(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Inputs and weights of convolutions in another format, as they come. Convolutions return the format that cuDNN
    returns, which a processor's small ones do not."""
    found: list[str] = []

    def looked(convolve: Callable[..., Tensor], x: Tensor, weight: Tensor, *more: Any, **named: Any) -> Tensor:
        for name, value in (("input", x), ("weight", weight)):
            if not value.is_contiguous(memory_format=FORMATS[value.dim()]):
                found.append(f"{name} {tuple(value.shape)} {value.stride()}")
        return convolve(x, weight, *more, **named).contiguous(memory_format=FORMATS[x.dim()])

    for name in ("conv2d", "conv3d"):
        monkeypatch.setattr(F, name, partial(looked, getattr(F, name)))
    return found


@torch.inference_mode()
def test_no_convolution_gets_another_format(plain: VAE, wrong: list[str]) -> None:
    vae = deepcopy(plain)
    use_gpu_layout(vae)
    vae.chunk_frames = 1  # single frames lose it most easily
    list(vae.decode(vae.encode(pixels())))
    assert wrong == []
    plain.encode(pixels(1))
    assert wrong  # so this test can fail


@torch.inference_mode()
def test_remembered_frames_keep_the_format(plain: VAE, wrong: list[str]) -> None:
    vae = deepcopy(plain)
    use_gpu_layout(vae)
    cache: dict[nn.Module, Tensor] = {}
    for _ in range(2):
        vae.decoder(vae.conv2(torch.randn(1, TINY.latent_channels, 1, 2, 3)), cache)
    remembered = [value for module, value in cache.items() if isinstance(module, CausalConv3d)]
    assert remembered
    assert all(value.is_contiguous(memory_format=torch.channels_last_3d) for value in remembered)
    assert wrong == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_norm_is_that_of_the_model(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((2, 3, 5, 96), generator=generator).to(dtype)
    gamma = torch.randn(96, generator=generator).to(dtype)
    ours = norm(x, gamma)
    assert ours.dtype == dtype
    exact = rms_norm(x.double(), gamma.double())
    assert relative_error(ours.double(), exact) < (1e-6 if dtype == torch.float32 else 3e-3)
    assert torch.equal(norm(torch.zeros(1, 96, dtype=dtype), gamma), torch.zeros(1, 96, dtype=dtype))


def test_float32_is_not_rounded_to_tf32() -> None:
    before = torch.backends.cudnn.allow_tf32
    with exact_convolutions():
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32 == before
