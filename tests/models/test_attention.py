"""Attention against its formula, rotary positions against complex arithmetic in double precision."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lichtspiel.models.attention import attention, rotary_angles, rotate


def complex_reference(x: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """`rope_apply` of the official model: multiply pairs of channels, taken as complex128, by unit numbers."""
    width = x.shape[-1]
    spatial = 2 * (width // 6)
    axes = torch.meshgrid(*(torch.arange(size) for size in grid), indexing="ij")
    phases = []
    for positions, channels in zip(axes, (width - 2 * spatial, spatial, spatial), strict=True):
        frequencies = 1.0 / torch.pow(10000, torch.arange(0, channels, 2, dtype=torch.float64).div(channels))
        phases.append(torch.outer(positions.flatten(), frequencies))
    turn = torch.cat(phases, dim=1)
    pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(turn), turn)[:, None]).flatten(-2)


@pytest.mark.parametrize("width", [12, 32, 64, 128])
def test_rotation_agrees_with_complex_numbers(width: int) -> None:
    grid = (21, 5, 7)
    x = torch.randn(2, 21 * 5 * 7, 3, width, generator=torch.Generator().manual_seed(width))
    turned = rotate(x, rotary_angles(grid, width))
    assert turned.dtype == torch.float32
    torch.testing.assert_close(turned.double(), complex_reference(x, grid), atol=1e-6, rtol=1e-6)


def test_channels_are_shared_out_as_in_the_official_model() -> None:
    """Of 64 pairs, 22 turn with time, 21 with height and 21 with width; the first token does not turn."""
    angles = rotary_angles((2, 2, 2), 128)
    assert angles.shape == (2, 8, 64)
    assert angles.dtype == torch.float32
    moved = [(angles[1, token] != 0).nonzero().flatten().tolist() for token in (0, 4, 2, 1)]
    assert moved == [[], list(range(22)), list(range(22, 43)), list(range(43, 64))]


def test_only_distances_matter() -> None:
    """The product of a query and a key depends on how far apart they are, not on where."""
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 1, 1, 32, generator=generator).expand(1, 64, 1, 32) for _ in range(2))
    angles = rotary_angles((4, 4, 4), 32)
    products = torch.einsum("blnd,bmnd->lm", rotate(q, angles), rotate(k, angles))
    torch.testing.assert_close(products[0, 1 + 4], products[16 + 8, 16 + 8 + 1 + 4])
    assert not torch.isclose(products[0, 1], products[0, 2])


def test_sixteen_bit_inputs_are_turned_in_float32() -> None:
    x = torch.randn(1, 8, 1, 12, generator=torch.Generator().manual_seed(0)).bfloat16()
    angles = rotary_angles((2, 2, 2), 12)
    assert torch.equal(rotate(x, angles), rotate(x.float(), angles))


def test_attention_is_its_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, length, 3, 8, generator=generator) for length in (5, 7, 7))
    weights = torch.einsum("blnd,bmnd->bnlm", q, k).div(8**0.5).softmax(dim=-1)
    torch.testing.assert_close(attention(q, k, v), torch.einsum("bnlm,bmnd->blnd", weights, v))
