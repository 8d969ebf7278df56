"""LoRAs on a model: merged and unmerged ones agree, all kinds of layers count, and what does not fit is an error."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lichtspiel.errors import RequestError, WeightsError
from lichtspiel.lora import Delta, LoRA, apply, match, read_lora, remove
from lichtspiel.models import shapes
from lichtspiel.spec import MODELS, DiTSpec
from tests.lora.files import IMAGE, TINY, VACE, build, inputs, keys, linear_layers, pairs, run, save


def everything(spec: DiTSpec, path: Path, seed: int = 2) -> LoRA:
    """A LoRA with a pair wherever one can be, and differences of every other parameter."""
    generator = torch.Generator().manual_seed(seed)
    tensors = keys("comfy", pairs(spec, linear_layers(spec, everywhere=True), ranks=(2, 3), alphas=(4.0, 1.0, None),
                                  seed=seed))  # fmt: skip
    for name, shape in shapes(spec).items():
        drawn = torch.randn(shape, generator=generator) * 0.1
        if name.endswith(".bias"):
            tensors[f"diffusion_model.{name.removesuffix('.bias')}.diff_b"] = drawn
        elif not name.endswith(".weight") or len(shape) == 1:
            tensors[f"diffusion_model.{name.removesuffix('.weight')}.diff"] = drawn
    tensors["diffusion_model.blocks.0.ffn.0.diff"] = torch.randn(48, 32, generator=generator) * 0.05
    tensors["diffusion_model.patch_embedding.diff"] = (
        torch.randn(shapes(spec)["patch_embedding.weight"], generator=generator) * 0.05
    )
    return read_lora(save(path, tensors))


@pytest.mark.parametrize("spec", [TINY, IMAGE, VACE], ids=["text", "image", "vace"])
def test_merged_and_unmerged_agree_on_every_kind_of_layer(spec: DiTSpec, tmp_path: Path) -> None:
    loras = [
        (everything(spec, tmp_path / "a.safetensors"), 0.7),
        (everything(spec, tmp_path / "b.safetensors", 3), -0.4),
    ]
    given = inputs(spec)
    merged, model = build(spec), build(spec)
    before, names = run(model, given), list(model.state_dict())
    reports = apply(merged, loras, merge=True)
    assert [report.whole for report in reports] == [True, True]
    assert set(loras[0][0].layers) == {name.removesuffix(".weight").removesuffix(".bias") for name in shapes(spec)}, (
        "every parameter of the model is meant to be changed here"
    )
    apply(model, loras[:1], merge=False)
    run(model, given)
    apply(model, loras[1:], merge=False)
    run(model, given)
    expected, found = run(merged, given), run(model, given)
    assert float((expected - before).abs().mean() / before.abs().mean()) > 0.05
    assert float((expected - found).norm() / expected.norm()) < 1e-6
    assert list(model.state_dict()) == names
    remove(model)
    assert torch.equal(run(model, given), before)
    remove(model)


def test_merging_rounds_once(tmp_path: Path) -> None:
    made = pairs(TINY, ["blocks.0.ffn.0"], ranks=(3,), alphas=(2.0,), dtype=torch.bfloat16)
    lora = read_lora(save(tmp_path / "a.safetensors", keys("plain", made)))
    model = build(TINY, torch.bfloat16)
    weight = model.blocks[0].ffn[0].weight
    down, up, _ = made["blocks.0.ffn.0"]
    expected = (weight.double() + (0.5 + 0.25) * 2 / 3 * up.double() @ down.double()).to(torch.bfloat16)
    apply(model, [(lora, 0.5), (lora, 0.25)], merge=True)
    after = model.blocks[0].ffn[0].weight
    assert after is weight, "in place"
    assert after.dtype == torch.bfloat16
    assert (after != expected).float().mean() < 0.01  # ties that float32 decides otherwise than float64


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_unmerged_beside_16_bit_weights(dtype: torch.dtype, tmp_path: Path) -> None:
    lora = everything(TINY, tmp_path / "a.safetensors")
    given = inputs(TINY)
    merged, model = build(TINY), build(TINY, dtype)
    plain = run(build(TINY), given)
    apply(merged, [(lora, 0.5)], merge=True)
    apply(model, [(lora, 0.5)], merge=False)
    expected = run(merged, given)
    assert float((run(model, given) - expected).norm() / (expected - plain).norm()) < 0.05


class Quantized(nn.Module):
    """A linear layer in 8 bit, of a class that LoRA knows nothing of."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.scale = linear.weight.abs().amax() / 127
        self.codes = (linear.weight / self.scale).round().to(torch.int8)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.codes * self.scale, self.bias)


def test_unmerged_beside_quantized_weights(tmp_path: Path) -> None:
    made = pairs(TINY, linear_layers(TINY), alphas=(2.0,))
    lora = read_lora(save(tmp_path / "a.safetensors", keys("kohya", made)))
    given = inputs(TINY)
    expected, model = build(TINY), build(TINY)
    for block, other in zip(model.blocks, expected.blocks, strict=True):
        block.ffn[0] = Quantized(block.ffn[0])
        other.ffn[0].weight.copy_(block.ffn[0].codes * block.ffn[0].scale)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(WeightsError, match=r"blocks\.0\.ffn\.0\.weight is not there.*merge=False"):
        apply(model, [(lora, 1.0)], merge=True)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    apply(model, [(lora, 1.0)], merge=False)
    apply(expected, [(lora, 1.0)], merge=True)
    assert float((run(model, given) - run(expected, given)).abs().max()) < 1e-5
    with pytest.raises(WeightsError, match="remove them first"):
        apply(model, [(lora, 1.0)], merge=True)


def test_unmerged_when_weights_come_and_go(tmp_path: Path) -> None:
    lora, given = everything(TINY, tmp_path / "a.safetensors"), inputs(TINY)
    model, expected = build(TINY), build(TINY)
    full = {name: value.clone() for name, value in model.blocks[0].state_dict().items()}

    def come(block: nn.Module, inputs: object) -> None:
        for name, value in full.items():
            owner, _, last = name.rpartition(".")
            setattr(block.get_submodule(owner), last, nn.Parameter(value, requires_grad=False))

    def go(block: nn.Module, inputs: object, output: object) -> None:
        for name, value in full.items():
            owner, _, last = name.rpartition(".")
            setattr(block.get_submodule(owner), last, nn.Parameter(value.to("meta"), requires_grad=False))

    go(model.blocks[0], None, None)
    model.blocks[0].register_forward_pre_hook(come)
    model.blocks[0].register_forward_hook(go)
    before = run(model, given)
    apply(model, [(lora, 1.0)], merge=False)
    apply(expected, [(lora, 1.0)], merge=True)
    for _ in range(2):
        found, wanted = run(model, given), run(expected, given)
        assert float((found - wanted).norm() / wanted.norm()) < 1e-6
    with pytest.raises(WeightsError, match="remove them first"):
        apply(model, [(lora, 1.0)], merge=True)
    remove(model)
    with pytest.raises(WeightsError, match="is not there"):
        apply(model, [(lora, 1.0)], merge=True)
    assert torch.equal(run(model, given), before)


def test_no_match_is_an_error_and_a_partial_one_has_to_be_allowed(tmp_path: Path) -> None:
    image = read_lora(save(tmp_path / "i.safetensors", keys("comfy", pairs(IMAGE, linear_layers(IMAGE)))))
    given, model = inputs(TINY), build(TINY)
    before = run(model, given)
    with pytest.raises(WeightsError, match=r"matched 20/24 .*k_img \(no such layer\) and 1 more.*pass --lora-partial"):
        apply(model, [(image, 1.0)], merge=False)
    assert torch.equal(run(model, given), before)
    (report,) = apply(model, [(image, 1.0)], merge=False, partial=True)
    assert len(report.unmatched) == 4
    assert not torch.equal(run(model, given), before)
    other = read_lora(save(tmp_path / "o.safetensors", {"blocks.7.ffn.0.diff_b": torch.ones(48)}))
    for partial in (False, True):
        with pytest.raises(WeightsError, match=r"matched 0/1 layers"):
            apply(model, [(other, 1.0)], merge=False, partial=partial)
    with pytest.raises(RequestError, match="finite"):
        apply(model, [(image, math.inf)], merge=False, partial=True)


def big(path: Path, model: str, layers: list[str], rank: int = 2) -> LoRA:
    made = pairs(MODELS[model].dit, layers, ranks=(rank,))
    return read_lora(save(path, keys("diffsynth", made)))


def test_a_lora_of_another_size_says_which_model_it_belongs_to(tmp_path: Path) -> None:
    layers = ["blocks.0.self_attn.q", "blocks.39.ffn.2"]
    lora = big(tmp_path / "big.safetensors", "t2v-14b", layers)
    assert lora.fits() == ("t2v-14b", "t2i-14b", "i2v-14b-480p", "i2v-14b-720p", "flf2v-14b", "vace-14b")
    report = match(lora, MODELS["t2v-1.3b"])
    assert (report.matched, report.unmatched) == ((), ("blocks.39.ffn.2",))
    assert report.wrong_shape == {"blocks.0.self_attn.q": "the pair makes 5120 x 5120, the model has 1536 x 1536"}
    with pytest.raises(WeightsError, match=r"matched 0/2 .*5120 x 5120.*it belongs to t2v-14b, .*choose one of these"):
        report.check(partial=True)
    image = big(tmp_path / "image.safetensors", "i2v-14b-480p", [*layers, "blocks.3.cross_attn.k_img"])
    assert image.fits() == ("i2v-14b-480p", "i2v-14b-720p", "flf2v-14b")
    small = big(tmp_path / "small.safetensors", "vace-1.3b", ["vace_blocks.3.after_proj", "blocks.29.ffn.0"])
    assert small.fits() == ("vace-1.3b",)
    assert "rank 2, alpha none, fits vace-1.3b" in str(match(small, MODELS["vace-1.3b"]))


def test_the_nearest_models_are_named_when_none_has_every_layer(tmp_path: Path) -> None:
    tensors = keys("plain", pairs(MODELS["vace-1.3b"].dit, ["vace_blocks.0.before_proj", "blocks.1.ffn.0"]))
    tensors["audio.lora_down.weight"] = torch.ones(1, 1)
    report = match(read_lora(save(tmp_path / "a.safetensors", tensors)), MODELS["t2v-1.3b"])
    with pytest.raises(WeightsError, match=r"no known model has all of its layers; vace-1.3b has the most, or pass"):
        report.check(partial=False)
    report.check(partial=True)


@pytest.mark.parametrize(
    ("tensors", "why"),
    [
        ({"blocks.0.norm3.lora_down.weight": torch.ones(1, 1), "blocks.0.norm3.lora_up.weight": torch.ones(32, 1)},
         "the pair makes 32 x 1"),
        ({"blocks.0.ffn.0.diff": torch.ones(48, 31)}, "the difference is 48 x 31"),
        ({"blocks.0.ffn.0.diff_b": torch.ones(47)}, "the bias difference is 47"),
        ({"blocks.0.self_attn.norm_q.diff_b": torch.ones(32)}, "has no bias"),
    ],
)  # fmt: skip
def test_wrong_shapes_say_what_differs(tensors: dict[str, Tensor], why: str, tmp_path: Path) -> None:
    report = match(read_lora(save(tmp_path / "a.safetensors", tensors)), build(TINY))
    (found,) = report.wrong_shape.values()
    assert why in found
    with pytest.raises(WeightsError, match="no known model has its layers"):
        report.check(partial=False)


@pytest.mark.parametrize("zero", ["up", "alpha", "nothing"])
def test_a_lora_without_effect_is_said(zero: str) -> None:
    up, alpha = torch.ones(32, 2) * (zero != "up"), 0.0 if zero == "alpha" else 2.0
    delta = Delta(down=torch.ones(2, 32), up=up, alpha=alpha)
    lora = LoRA(
        path=Path("a.safetensors"), dialect="plain", layers={"blocks.0.self_attn.q": delta}, foreign=(),
        text_encoder=(), metadata={},
    )  # fmt: skip
    assert ("it changes nothing" in str(match(lora, TINY))) == (zero != "nothing")
