"""Trainable adapters: their gradients against PEFT on Diffusers' model and against autograd on the official one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from lichtspiel import flow
from lichtspiel.errors import InvalidInput
from lichtspiel.lora import apply
from lichtspiel.lora.adapter import LoRA
from lichtspiel.lora.names import to_diffusers
from lichtspiel.models.dit import DiT
from lichtspiel.spec import MODELS, DiTSpec
from lichtspiel.tune.adapter import Adapter, check_start, chosen_layers, linear_layers
from lichtspiel.tune.settings import AdapterPlan
from tests.golden import golden, relative_error
from tests.lora.files import IMAGE, TINY, VACE, build, inputs, run
from tests.lora.test_against_diffusers import reference
from tests.models.test_dit import official

PLAN = AdapterPlan(rank=4, alpha=6)


def adapted(dit: DiT, plan: AdapterPlan = PLAN) -> Adapter:
    """An adapter whose matrices are all drawn, so that every gradient differs from zero."""
    adapter = Adapter(dit, plan, seed=3)
    adapter.measure(dit.get_parameter)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for _, pair in adapter.named_pairs():
            pair.up.copy_(0.1 * torch.randn(pair.up.shape, generator=generator))
            if pair.magnitude is not None:
                pair.magnitude.mul_(1 + 0.1 * torch.randn(pair.magnitude.shape, generator=generator))
    return adapter.train()


def target(given: dict[str, Tensor]) -> Tensor:
    return torch.randn(given["latents"][:, :16].shape, generator=torch.Generator().manual_seed(5))


def gradients(adapter: Adapter) -> dict[str, Tensor]:
    found = {name: parameter.grad for name, parameter in adapter.named_parameters()}
    return {name: grad for name, grad in found.items() if grad is not None}


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("spec", [TINY, IMAGE], ids=["text", "image"])
def test_gradients_are_those_of_peft(spec: DiTSpec, dora: bool) -> None:
    peft = pytest.importorskip("peft", reason="peft is in the extra test-peers")
    dit, given = build(spec), inputs(spec)
    plan = AdapterPlan(rank=4, alpha=6, dora=dora)
    adapter = adapted(dit, plan)
    flow.loss(dit(**given), target(given)).backward()

    model = reference(spec).requires_grad_(False)
    configure: Callable[..., Any] = peft.LoraConfig
    names = [to_diffusers(name) for name in adapter.names]
    model.add_adapter(configure(r=4, lora_alpha=6, target_modules=names, use_dora=dora))
    with torch.no_grad():
        for name, pair in adapter.named_pairs():
            layer = model.get_submodule(to_diffusers(name))
            layer.lora_A["default"].weight.copy_(pair.down)
            layer.lora_B["default"].weight.copy_(pair.up)
            if pair.magnitude is not None:
                layer.lora_magnitude_vector["default"].weight.copy_(pair.magnitude)
    velocity = model(
        given["latents"], given["timestep"], given["text"], encoder_hidden_states_image=given.get("image"),
        return_dict=False,
    )[0]  # fmt: skip
    flow.loss(velocity, target(given)).backward()
    assert len(adapter.names) == (24 if spec is IMAGE else 20)
    for name, pair in adapter.named_pairs():
        layer = model.get_submodule(to_diffusers(name))
        theirs = [layer.lora_A["default"].weight.grad, layer.lora_B["default"].weight.grad]
        ours = [pair.down.grad, pair.up.grad]
        if pair.magnitude is not None:
            theirs.append(layer.lora_magnitude_vector["default"].weight.grad)
            ours.append(pair.magnitude.grad)
        for own, other in zip(ours, theirs, strict=True):
            assert own is not None
            assert float(own.abs().max()) > 0
            assert relative_error(own, other) < 2e-4


def test_gradients_of_vace_are_those_of_autograd_through_the_official_weights() -> None:
    # The golden's velocity is the official code's; the pairs are folded into its weights, whose gradients give theirs.
    recorded = golden("dit_vace_scale1.0")
    dit = DiT(official(recorded.config))
    dit.load_state_dict(recorded.weights, strict=True)
    dit.requires_grad_(False)
    given = {
        "latents": recorded.inputs["latents"], "timestep": recorded.inputs["timestep"],
        "text": recorded.inputs["text_states"], "vace": recorded.inputs["vace_context"],
    }  # fmt: skip
    assert relative_error(dit(**given), recorded.outputs["velocity"]) < 1e-5
    adapter = adapted(dit)
    assert any(name.startswith("vace_blocks.") for name in adapter.names)
    wanted = torch.randn(recorded.outputs["velocity"].shape, generator=torch.Generator().manual_seed(5))
    flow.loss(dit(**given), wanted).backward()
    ours = gradients(adapter)

    matrices = {name: [value.detach().clone().requires_grad_() for value in (pair.down, pair.up)]
                for name, pair in adapter.named_pairs()}  # fmt: skip
    merged = {
        f"{name}.weight": dit.get_parameter(f"{name}.weight") + PLAN.alpha / PLAN.rank * up @ down
        for name, (down, up) in matrices.items()
    }
    adapter.detach()
    flow.loss(functional_call(dit, merged, (), given), wanted).backward()
    for name, (down, up) in matrices.items():
        key = name.replace(".", "/")
        for kind, value in (("down", down), ("up", up)):
            assert value.grad is not None
            assert relative_error(ours[f"pairs.{key}.{kind}"], value.grad) < 1e-4


def test_a_new_adapter_changes_nothing_and_neither_does_one_that_is_disabled() -> None:
    for plan in (PLAN, AdapterPlan(rank=4, alpha=6, dora=True)):
        dit, given = build(TINY), inputs(TINY)
        before = run(dit, given)
        fresh = Adapter(dit, plan, seed=3)
        fresh.measure(dit.get_parameter)
        assert relative_error(run(dit, given), before) < 1e-6
        fresh.detach()
        adapter = adapted(dit, plan)
        changed = run(dit, given)
        assert relative_error(changed, before) > 0.01
        with adapter.disabled():
            assert torch.equal(run(dit, given), before)
        assert torch.equal(run(dit, given), changed)
        adapter.detach()
        assert torch.equal(run(dit, given), before)


def test_what_was_trained_is_what_is_exported() -> None:
    dit, given = build(IMAGE), inputs(IMAGE)
    adapter = adapted(dit)
    trained = run(dit, given)
    lora = finished(adapter)
    adapter.detach()
    for merge in (True, False):
        again = build(IMAGE)
        reported = apply_changes(again, lora, merge)
        assert reported == len(adapter.names)
        assert relative_error(run(again, given), trained) < 1e-5


def apply_changes(dit: DiT, lora: LoRA, merge: bool) -> int:
    (report,) = apply(dit, [(lora, 1.0)], merge=merge)
    return len(report.matched)


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_a_run_can_begin_with_what_another_has_learned(dora: bool) -> None:
    dit, given = build(TINY), inputs(TINY)
    adapter = adapted(dit, AdapterPlan(rank=4, alpha=6, dora=dora))
    trained, lora = run(dit, given), finished(adapter)
    adapter.detach()
    plan = AdapterPlan(rank=4, alpha=2, dora=dora)  # the scale of the file goes into the pairs
    check_start(lora, TINY, plan)
    other = Adapter(dit, plan, seed=9)
    other.start(lora)
    assert relative_error(run(dit, given), trained) < 1e-5
    other.detach()
    for wrong, told in (
        (replace(plan, rank=8), "has pairs of rank 4, not 8; type --rank 4"),
        (replace(plan, dora=not dora), "leave out --dora" if not dora else "add --dora"),
        (replace(plan, layers=("*self_attn*",)), "is in the file and not in --layers"),
    ):
        with pytest.raises(InvalidInput, match=told):
            check_start(lora, TINY, wrong)
    with pytest.raises(InvalidInput, match=r"the pair makes .* it is for another model"):
        check_start(lora, MODELS["t2v-1.3b"].dit, plan)


def finished(adapter: Adapter) -> LoRA:
    return LoRA(
        path=Path("trained.safetensors"), dialect="comfy", layers=adapter.deltas(), foreign=(), text_encoder=(),
        metadata={},
    )  # fmt: skip


def test_dropout_only_drops_while_training() -> None:
    dit, given = build(TINY), inputs(TINY)
    adapter = adapted(dit, AdapterPlan(rank=4, alpha=6, dropout=0.5))
    torch.manual_seed(0)
    assert not torch.equal(run(dit, given), run(dit, given))
    adapter.eval()
    assert torch.equal(run(dit, given), run(dit, given))


def test_layers_are_the_linear_layers_of_the_blocks_unless_patterns_say_otherwise() -> None:
    vace = chosen_layers(VACE, AdapterPlan().layers)
    assert set(vace) == {name for name in linear_layers(VACE) if "blocks." in name}
    assert "vace_blocks.0.before_proj" in vace
    assert chosen_layers(TINY, ("*.self_attn.q", "text_embedding.*")) == (
        "text_embedding.0", "text_embedding.2", "blocks.0.self_attn.q", "blocks.1.self_attn.q",
    )  # fmt: skip
    counts = {name: len(chosen_layers(MODELS[name].dit, AdapterPlan().layers)) for name in MODELS}
    assert counts == {
        "nano": 80, "t2v-1.3b": 300, "t2v-14b": 400, "t2i-14b": 400, "i2v-14b-480p": 480, "i2v-14b-720p": 480,
        "flf2v-14b": 480, "vace-1.3b": 466, "vace-14b": 489,
    }  # fmt: skip
    with pytest.raises(InvalidInput, match=r"--layers \*\.attn\.q matches no linear layer.*blocks\.\*\.self_attn\.q"):
        chosen_layers(TINY, ("*.attn.q",))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rank": 0}, "--rank 0 is not valid"),
        ({"alpha": 0.0}, "--alpha 0 is not valid"),
        ({"alpha": float("nan")}, "--alpha nan is not valid"),
        ({"dropout": 1.0}, "--dropout 1 is not valid"),
    ],
)
def test_impossible_adapters_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        AdapterPlan(**wrong)
