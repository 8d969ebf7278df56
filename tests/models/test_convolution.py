"""Fast convolutions against PyTorch's in double precision."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lichtspiel.models import convolution
from lichtspiel.models.convolution import convolve, fast, upsample
from tests.golden import relative_error


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
        monkeypatch.setattr(convolution, "SLAB_BYTES", size)
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
