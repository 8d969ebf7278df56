"""Distillation: the target is the teacher's own walk, and a student that learns comes closer to it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lichtspiel import flow
from lichtspiel.models.dit import DiT
from lichtspiel.models.umt5 import UMT5
from lichtspiel.spec import model
from lichtspiel.tokenizer import Tokenizer
from lichtspiel.toybox.captions import caption
from lichtspiel.toybox.sample import sample
from lichtspiel.train.distil import DistilPlan, distil, guided_walk
from lichtspiel.train.dit import TrainingSet
from lichtspiel.train.latents import LatentStore
from lichtspiel.train.nano.clips import ClipStore
from lichtspiel.train.nano.stages import captions_of
from lichtspiel.train.nano.variants import STANDARD
from lichtspiel.train.optim import muon_adamw
from lichtspiel.train.state import Budget
from lichtspiel.train.text import Prompts, vocabulary

SPEC = replace(model("nano").dit, width=64, ffn_width=128, heads=2, layers=2, text_width=32)
PLAN = DistilPlan(
    budget=Budget(steps=150), batch=4, optimizer=partial(muon_adamw, learning_rates=(0.01, 0.001)),
    steps=4, parts=2, guidance=3.0, shift=3.0, device="cpu",
    seed=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def teacher() -> DiT:
    torch.manual_seed(0)
    dit = DiT(SPEC)
    dit.initialize()
    nn.init.normal_(dit.head.head.weight, std=0.3)  # else its velocity is zero everywhere
    for layer in dit.text_embedding[::2]:
        nn.init.normal_(layer.weight, std=0.3)  # else it hardly hears the text
    return dit.eval().requires_grad_(False)


def test_the_target_leads_where_generation_with_guidance_leads(teacher: DiT) -> None:
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(1, 16, 2, 4, 4, generator=generator)
    conditions = torch.zeros(1, 20, 2, 4, 4)
    states = torch.randn(2, 5, 32, generator=generator)

    def velocity(latents: Tensor, timestep: Tensor) -> Tensor:
        inputs = torch.cat([latents, conditions], dim=1)
        told, untold = (teacher(inputs, timestep, states[i : i + 1]) for i in range(2))
        return flow.guide(told, untold, PLAN.guidance)

    walk = [latents for _, latents in flow.sample(velocity, noise, "euler", PLAN.steps * PLAN.parts, PLAN.shift)]
    line = torch.tensor([[1.0], [1 - 1 / 8], [1 - 2 / 8]])
    target = guided_walk(PLAN, teacher, noise, conditions, states, line)
    begin, end = flow.schedule("euler", PLAN.steps, PLAN.shift)[:2].tolist()
    torch.testing.assert_close(noise + (end - begin) * target, walk[PLAN.parts - 1], rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def lesson(teacher: DiT, tmp_path_factory: pytest.TempPathFactory) -> tuple[UMT5, TrainingSet]:
    world = replace(STANDARD.world, subjects=("taxi", "turtle"), places=("road", "meadow"))
    scenes = [sample(seed, world) for seed in range(80)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lichtspiel.train.nano.stages.CAPTION_SEEDS", range(80))
        rows = vocabulary(captions_of(world, short=False))
    torch.manual_seed(0)
    umt5 = UMT5(
        replace(model("nano").umt5, vocabulary=len(rows), width=32, attention_width=32, ffn_width=64, heads=2, layers=1)
    )
    latents = torch.randn(80, 16, 2, 4, 4)
    coverage = torch.rand(80, 1, 2, 4, 4)
    store = LatentStore(
        latents=latents, coverage=coverage, clips=torch.arange(80), pictures=latents[:0, :, :1],
        picture_coverage=coverage[:0, :, :1], picture_items=torch.arange(0), first=latents[:20].clone(),
        first_last=latents[:10].clone(), mean=torch.zeros(16), std=torch.ones(16), stride=4,
    )  # fmt: skip
    clips = ClipStore(np.zeros((80, 5, 32, 32, 3), np.uint8), np.zeros((80, 5, 32, 32), np.uint8), scenes)
    training = TrainingSet(store, clips, Prompts(Tokenizer.umt5(SPEC.text_length, rows)))
    return umt5.eval().requires_grad_(False), training


def test_a_student_does_in_one_step_what_took_several_with_guidance(
    teacher: DiT, lesson: tuple[UMT5, TrainingSet], tmp_path: Path
) -> None:
    umt5, training = lesson
    networks: dict[str, nn.Module] = {"umt5": umt5, "dit": teacher}
    student = distil(PLAN, networks, training, tmp_path, log=lambda values: None)
    noise, nothing = torch.randn(8, 16, 2, 4, 4), torch.zeros(8, 20, 2, 4, 4)
    texts = [caption(scene, "en", 0) for scene in training.data.scenes[:8]]
    line = torch.tensor([[1.0], [1 - 1 / 8], [1 - 2 / 8]]).expand(3, 8)
    with torch.no_grad():
        states = training.prompts.encode(umt5, [*texts, *[""] * 8], "cpu")
        wanted = guided_walk(PLAN, teacher, noise, nothing, states, line)
        inputs, time = torch.cat([noise, nothing], dim=1), torch.full((8,), 1000.0)
        before, after = (float(flow.loss(dit(inputs, time, states[:8]), wanted)) for dit in (teacher, student))
    assert after < 0.5 * before
    again = distil(PLAN, networks, training, tmp_path, log=lambda values: None)
    for one, other in zip(student.parameters(), again.parameters(), strict=True):  # its budget is spent
        torch.testing.assert_close(one, other, rtol=0, atol=0)
