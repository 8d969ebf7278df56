"""The processor's functions against PyTorch's, and against the plain networks that they are attached to."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lichtspiel.inference import cpu
from lichtspiel.inference.cpu import convolve, fast, norm, rotate, upsample, use_cpu_kernels
from lichtspiel.models import attention
from lichtspiel.models.dit import DiT, SelfAttention
from lichtspiel.models.vae import VAE, CausalConv3d, RMSNorm, Upsample, rms_norm
from lichtspiel.spec import MODELS
from tests.golden import relative_error
from tests.models.test_dit import TINY
from tests.sources import PACKAGE, ROOT


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def layer(inputs: int, outputs: int, *kernel: int) -> tuple[Tensor, Tensor]:
    weight = draw(outputs, inputs, *kernel)
    return weight / weight[0].numel() ** 0.5, draw(outputs)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize(
    ("inputs", "outputs", "kernel", "size"),
    [
        (3, 8, (3, 3, 3), (1, 3, 6, 10)),
        (16, 16, (3, 1, 1), (1, 5, 4, 4)),
        (8, 4, (1, 1, 1), (2, 1, 3, 5)),
        (64, 96, (3, 3, 3), (1, 4, 48, 46)),
        (96, 64, (3, 3, 3), (2, 3, 64, 64)),
        (64, 64, (3, 3, 3), (1, 4, 47, 46)),
    ],
    ids=["thin", "time", "point", "winograd", "winograd of two videos", "winograd of odd height"],
)
@torch.inference_mode()
def test_a_convolution_is_the_sum_it_says(
    inputs: int, outputs: int, kernel: tuple[int, int, int], size: tuple[int, ...], layout: torch.memory_format
) -> None:
    x = draw(size[0], inputs, *size[1:]).contiguous(memory_format=layout)
    weight, bias = layer(inputs, outputs, *kernel)
    padding = (0, kernel[1] // 2, kernel[2] // 2)
    assert fast(x)
    for given in (bias, None):
        exact = F.conv3d(x.double(), weight.double(), None if given is None else given.double(), padding=padding)
        assert relative_error(convolve(x, weight, given, padding), exact) < 3e-6


@torch.inference_mode()
def test_winograd_does_not_care_where_slabs_end(monkeypatch: pytest.MonkeyPatch) -> None:
    x, (weight, bias) = draw(1, 64, 3, 64, 64), layer(64, 64, 3, 3, 3)
    whole = convolve(x, weight, bias, (0, 1, 1))
    for size in (1, 9 * 3 * 64 * 64 * 12, 10**12):  # four rows, twelve, all
        monkeypatch.setattr(cpu, "SLAB_BYTES", size)
        assert relative_error(convolve(x, weight, bias, (0, 1, 1)), whole) < 1e-6


@torch.inference_mode()
def test_channels_stay_together_in_memory() -> None:
    """Also where an axis has length 1, whose stride says nothing; in the other order all that follows is slow."""
    seen = draw(1, 64, 2, 64, 64).contiguous(memory_format=torch.channels_last_3d)
    x = draw(1, 64, 1, 64, 64).contiguous(memory_format=torch.channels_last_3d)
    for outputs in (64, 3):  # by Winograd, and what comes of it by the library
        x = convolve(x, *layer(x.shape[1], outputs, 3, 3, 3), (0, 1, 1), seen)
        assert x.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("size", [(1, 6, 4, 5), (3, 16, 7, 8)])
@torch.inference_mode()
def test_upsampling_is_repeating_and_convolving(size: tuple[int, ...]) -> None:
    x, (weight, bias) = draw(*size), layer(size[1], 5, 3, 3)
    doubled = F.interpolate(x.double(), scale_factor=2.0, mode="nearest-exact")
    for given in (bias, None):
        exact = F.conv2d(doubled, weight.double(), None if given is None else given.double(), padding=1)
        assert relative_error(upsample(x, weight, given), exact) < 1e-6


def test_training_and_other_precisions_are_left_alone() -> None:
    x, (weight, bias) = draw(1, 4, 3, 4, 4), layer(4, 4, 3, 3, 3)
    assert not fast(x)
    assert torch.equal(convolve(x, weight, bias, (0, 1, 1)), F.conv3d(x, weight, bias, padding=(0, 1, 1)))
    with torch.inference_mode():
        assert not fast(x.double())
        assert not fast(x.to("meta"))
        pixels = x.movedim(1, -1).double()
        assert torch.equal(norm(pixels, bias.double()), rms_norm(pixels, bias.double()))


@torch.inference_mode()
def test_a_rotation_is_a_product_of_complex_numbers() -> None:
    x, angles = draw(2, 6, 3, 8), attention.rotary_angles((1, 2, 3), 8)
    assert relative_error(rotate(x, angles), attention.rotate(x.double(), angles)) < 1e-6


@torch.inference_mode()
def test_the_functions_are_attached_to_every_layer_and_change_no_number() -> None:
    torch.manual_seed(0)
    vae = VAE(replace(MODELS["t2v-14b"].vae, width=32)).eval()
    latents = draw(1, 16, 2, 12, 12)
    plain = torch.cat(list(vae.decode(latents)), dim=2)
    use_cpu_kernels(vae)
    assert relative_error(torch.cat(list(vae.decode(latents)), dim=2), plain) < 1e-5
    assert relative_error(vae.encode(plain), vae.encode(plain.contiguous())) < 1e-6
    dit = DiT(TINY)
    use_cpu_kernels(dit)
    for module in (*vae.modules(), *dit.modules()):
        used = {CausalConv3d: "conv_fn", RMSNorm: "norm_fn", Upsample: "upsample_fn", SelfAttention: "rotate_fn"}
        if type(module) in used:
            assert getattr(module, used[type(module)]).__module__ == "lichtspiel.inference.cpu"


def test_models_know_no_device() -> None:
    for name in PACKAGE:
        if name.startswith("lichtspiel/models/"):
            text = (ROOT / name).read_text(encoding="utf-8")
            assert "device.type" not in text, name
            assert "mkldnn" not in text, name
