"""Eight-bit layers against exact ones."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lichtspiel.errors import RequestError
from lichtspiel.inference.quantize import Int8Linear, quantize
from lichtspiel.models.dit import Linear32
from tests.golden import relative_error
from tests.models.test_dit import TINY, build, inputs


@pytest.mark.parametrize("bias", [True, False])
@torch.inference_mode()
def test_a_layer_is_close_to_exact(bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(256, 128, bias=bias)
    x = torch.randn(2, 50, 256)
    assert 1e-4 < relative_error(Int8Linear(layer)(x), layer(x)) < 0.03


@torch.inference_mode()
def test_rows_have_scales_of_their_own_and_zeros_are_no_problem() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(64, 64)
    layer.weight[0] *= 1000
    layer.weight[1] = 0
    x = torch.randn(50, 64)
    quick, exact = Int8Linear(layer)(x), layer(x)
    assert relative_error(quick[:, 2:], exact[:, 2:]) < 0.03
    assert torch.allclose(quick[:, 1], exact[:, 1], atol=1e-6)


@torch.inference_mode()
def test_the_largest_numbers_do_not_overflow() -> None:
    layer = nn.Linear(512, 64, bias=False)
    layer.weight.fill_(1.0)
    x = torch.ones(4, 512)
    assert relative_error(Int8Linear(layer)(x), layer(x)) < 0.01


@torch.inference_mode()
def test_a_dit_is_close_to_exact_and_keeps_what_must_be_exact() -> None:
    spec = replace(TINY, width=128, ffn_width=256)
    model, given = build(spec), inputs(spec)
    exact = model(**given)
    assert quantize(model.blocks) == spec.layers * 10
    assert relative_error(model(**given), exact) < 0.05
    assert isinstance(model.time_projection[1], Linear32)
    assert isinstance(model.text_embedding[0], nn.Linear)


@torch.inference_mode()
def test_one_large_token_does_not_spoil_the_others() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(256, 128), torch.randn(50, 256)
    x[7] *= 1000
    x[8] = 0
    quick, exact = Int8Linear(layer)(x), layer(x)
    others = [token for token in range(50) if token != 7]
    assert relative_error(quick[others], exact[others]) < 0.03
    assert torch.equal(quick[8], exact[8])


def test_small_layers_stay() -> None:
    model = nn.Sequential(nn.Linear(8, 64), nn.Linear(64, 64))
    assert quantize(model) == 1
    assert isinstance(model[0], nn.Linear)


def test_a_build_without_kernels_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lichtspiel.inference.quantize.torch.ops", SimpleNamespace(onednn=object()))
    with pytest.raises(RequestError, match="eight-bit"):
        quantize(nn.Sequential(nn.Linear(64, 64)))
