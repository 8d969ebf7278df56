"""Guidance: each variant against diffusers on shared tensors, when it acts, and how many evaluations it takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lichtspiel import flow
from lichtspiel.inference.guidance import MOMENTUM, NAG_LIMIT, NAG_SHARE, Guidance, normalized, projected, rescaled
from lichtspiel.inference.pipeline import load
from lichtspiel.request import Request

SHAPE = (2, 16, 3, 4, 6)


def drawn(number: int, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(number))


def asked(**options: Any) -> Request:
    chosen = {"frames": 5, "steps": 10, "seed": 3, "device": "cpu", "dtype": "float32", "guidance": 5.0}
    return Request.of(prompt="a turtle walks at night", **chosen | options)


class Network:
    """A velocity that depends on everything, and a log of the branches that were computed."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.without = False

    def __call__(self, latents: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        self.log.append("skipped" if self.without else "text" if text.mean() > 0 else "negative")
        return latents * text.mean() + timestep.view(-1, 1, 1, 1, 1) / 1000 + (0.5 if self.without else 0)

    @contextmanager
    def skip(self) -> Iterator[None]:
        self.without = True
        yield
        self.without = False


def run(request: Request) -> tuple[Tensor, Guidance, list[str]]:
    network = Network()
    text, negative = torch.full((1, 1, 1), 0.5), torch.full((1, 1, 1), -0.25)
    guidance = Guidance(network, text, None if request.guidance == 1 else negative, request, skip=network.skip)
    *_, (_, latents) = flow.sample(guidance, drawn(0), request.solver, request.steps, request.shift)
    return latents, guidance, network.log


def test_cfg_zero_agrees_with_diffusers() -> None:
    guiders = pytest.importorskip("diffusers.guiders", reason="peers are in lichtspiel[test-peers]")
    conditional, unconditional = drawn(1), drawn(2)
    theirs = guiders.ClassifierFreeZeroStarGuidance(guidance_scale=5.0, zero_init_steps=1)
    theirs.set_state(step=3, num_inference_steps=10, timestep=torch.tensor(500.0))
    expected = theirs.forward(conditional, unconditional).pred
    ours = flow.guide(conditional, rescaled(unconditional, conditional), 5.0)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_apg_agrees_with_diffusers() -> None:
    module = pytest.importorskip("diffusers.guiders.adaptive_projected_guidance", reason="in lichtspiel[test-peers]")
    buffer, momentum = module.MomentumBuffer(MOMENTUM), None
    for step in range(3):  # the norms of the differences, about 68, are above the limit
        conditional, unconditional = drawn(2 * step), drawn(2 * step + 1)
        expected = module.normalized_guidance(conditional, unconditional, 4.0, buffer, 0.0, 55.0, True)
        difference = conditional - unconditional
        momentum = difference if momentum is None else difference + MOMENTUM * momentum
        ours = conditional + 4.0 * projected(momentum, conditional)
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_skip_layer_guidance_agrees_with_diffusers() -> None:
    guiders = pytest.importorskip("diffusers.guiders", reason="peers are in lichtspiel[test-peers]")
    theirs = guiders.SkipLayerGuidance(guidance_scale=5.0, skip_layer_guidance_layers=[1])
    request = asked(skip_layers=(1,))
    network, latents = Network(), drawn(0)
    text, negative = torch.full((1, 1, 1), 0.5), torch.full((1, 1, 1), -0.25)
    guidance = Guidance(network, text, negative, request, skip=network.skip)
    for step in range(10):
        timestep = torch.full((2,), 900.0 - 90 * step)
        theirs.set_state(step=step, num_inference_steps=10, timestep=timestep)
        velocities = [Network()(latents, timestep, states) for states in (text, negative)]
        without = velocities[0] + 0.5 if theirs._is_slg_enabled() else None
        expected = theirs.forward(*velocities, without).pred
        torch.testing.assert_close(guidance(latents, timestep), expected, rtol=1e-5, atol=1e-5)
    assert network.log.count("skipped") == 1  # step 1 of 10, between 0.01 and 0.2 of the steps


def test_an_interval_takes_one_evaluation_outside() -> None:
    latents, guidance, log = run(asked(guidance_interval="0.2-0.5"))
    assert log == ["text", "text", *["text", "negative"] * 3, *["text"] * 5]
    assert (guidance.evaluations, guidance.full) == (13, 20)
    assert not torch.equal(latents, run(asked())[0])
    assert torch.equal(run(asked(guidance_interval="0-1.0"))[0], run(asked())[0])


def test_a_gate_keeps_the_last_correction() -> None:
    latents, guidance, log = run(asked(guidance_gate=0.4))
    assert log == [*["text", "negative"] * 4, *["text"] * 6]
    assert guidance.evaluations == 14
    assert guidance.correction is not None
    assert not torch.allclose(latents, run(asked())[0])


def test_cfg_zero_leaves_the_first_step_out() -> None:
    _, guidance, log = run(asked(guidance_kind="cfg-zero"))
    assert log == ["text", "negative"] * 9
    assert (guidance.evaluations, guidance.full) == (18, 20)


def test_normalized_attention_is_what_the_paper_says() -> None:
    toward, away = drawn(1, (1, 5, 2, 8)), 5 * drawn(2, (1, 5, 2, 8))
    ours = normalized(toward, away, 11.0)
    for token in range(5):
        positive, negative = toward[0, token].flatten(), away[0, token].flatten()
        guided = 11 * positive - 10 * negative
        ratio = guided.abs().sum() / positive.abs().sum()
        assert ratio > NAG_LIMIT
        guided = guided * NAG_LIMIT / ratio
        expected = NAG_SHARE * guided + (1 - NAG_SHARE) * positive
        torch.testing.assert_close(ours[0, token].flatten(), expected)
    torch.testing.assert_close(normalized(toward, toward, 11.0), toward)


def test_nag_steers_without_a_second_evaluation(random_nano: Path) -> None:
    request = asked(guidance=1.0, steps=3, negative="beach")
    pipeline = load(request, random_nano)

    def latents(request: Request) -> Tensor:
        *_, last = pipeline.denoise(pipeline.encode(request), request)
        return last.latents

    plain = latents(request)
    steered = latents(request.model_copy(update={"nag": 11.0}))
    assert pipeline.evaluations == (3, 3)
    assert not torch.allclose(steered, plain)
    toward_itself = request.model_copy(update={"nag": 11.0, "negative": request.prompt})
    torch.testing.assert_close(latents(toward_itself), plain, rtol=1e-3, atol=1e-3)
    assert torch.equal(latents(request), plain)  # nothing stays attached


def test_skipped_layers_are_not_computed(random_nano: Path) -> None:
    request = asked(steps=20, skip_layers=(1,), frames=1)
    pipeline = load(request, random_nano)
    *_, last = pipeline.denoise(pipeline.encode(request), request)
    assert pipeline.evaluations == (43, 40)
    *_, plain = pipeline.denoise(pipeline.encode(request), asked(steps=20, frames=1))
    assert not torch.equal(last.latents, plain.latents)
