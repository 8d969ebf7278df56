"""Distillation: a student learns to do in one step without guidance what its teacher does in several guided steps.

This is progressive distillation (T. Salimans and J. Ho, arXiv 2202.00512) in one stage, with guidance folded in (C.
Meng et al., arXiv 2210.03142). From noisy latents the teacher takes a few guided steps, and the student learns the
single velocity that leads to the same point. The student therefore takes fewer steps, and evaluates its network once
per step where the teacher evaluates it twice. Only the DiT is trained; the text encoder stays as it is.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from lichtspiel import flow
from lichtspiel.train.dit import TrainingSet, draw_batch
from lichtspiel.train.optim import OptimizerFactory
from lichtspiel.train.state import Budget, Logger, Run

__all__ = ["DistilPlan", "distil"]

ON_GRID = 0.5
"""Fraction of training times that are exactly the student's own; the others lie between them, so that other numbers of
steps work, too."""


@dataclass(frozen=True, kw_only=True)
class DistilPlan:
    """Settings of a distillation run.

    The student takes `steps` steps. For each of them the teacher takes `parts` steps with `guidance`, on a schedule
    with `shift`. The last `held_out` clips are not used.
    """

    budget: Budget
    batch: int
    optimizer: OptimizerFactory
    steps: int
    parts: int
    guidance: float
    shift: float
    device: str
    seed: int
    held_out: int = 64


def distil(
    plan: DistilPlan, teacher: Mapping[str, nn.Module], training: TrainingSet, folder: Path, *, log: Logger = print
) -> nn.Module:
    """Train a student until the budget is spent, resuming from `folder`, and return its moving average.

    The teacher's networks are "umt5" and "dit".
    """
    torch.manual_seed(plan.seed)
    student = copy.deepcopy(teacher["dit"]).train().requires_grad_(True)
    run = Run({"dit": student}, plan.optimizer({"dit": student}), plan.budget, folder, plan.seed)
    run.resume()
    for step in run.steps():
        with torch.autocast(plan.device, torch.bfloat16, enabled=plan.device == "cuda"):
            loss = _loss(run, plan, teacher, training)
        run.backward(loss)
        run.update(decay_from=0.5)
        if step % 50 == 0:
            seconds = run.seconds / max(step, 1)
            log({"step": step, "progress": run.progress, "loss": float(loss.detach()), "seconds/step": seconds})
    return run.averages["dit"]


def _loss(run: Run, plan: DistilPlan, teacher: Mapping[str, nn.Module], training: TrainingSet) -> Tensor:
    generator, length = run.generator(), training.latents.latents.shape[2]
    batch = draw_batch(training, plan.batch, length, plan.held_out, generator=generator, device=plan.device)
    with torch.no_grad():
        states = training.prompts.encode(teacher["umt5"], [*batch.texts, *[""] * plan.batch], plan.device)
        line = _line(plan, generator)
        noise = torch.randn(batch.clean.shape, generator=generator).to(batch.clean)
        noisy, _ = flow.training_pair(batch.clean, noise, flow.shifted(line[0], plan.shift))
        target = guided_walk(plan, teacher["dit"], noisy, batch.conditions, states, line)
    time = flow.shifted(line[0], plan.shift).to(plan.device) * flow.TIMESTEPS
    velocity = run.modules["dit"](torch.cat([noisy, batch.conditions], dim=1), time, states[: plan.batch])
    return flow.loss(velocity, target, batch.weight)


def _line(plan: DistilPlan, generator: torch.Generator) -> Tensor:
    """The teacher's times before the shift, from the start of a student's step to its end, [parts + 1, b]."""
    grid = torch.randint(1, plan.steps + 1, (plan.batch,), generator=generator) / plan.steps
    between = torch.rand(plan.batch, generator=generator).clamp(min=flow.CLOSEST)
    chosen = torch.rand(plan.batch, generator=generator) < ON_GRID
    start = torch.where(chosen, grid, between)
    end = (start - 1 / plan.steps).clamp(min=0)
    share = torch.arange(plan.parts + 1)[:, None] / plan.parts
    return start + (end - start) * share


@torch.no_grad()
def guided_walk(
    plan: DistilPlan, teacher: nn.Module, noisy: Tensor, conditions: Tensor, states: Tensor, line: Tensor
) -> Tensor:
    """The single velocity that leads from `noisy`, at the first time of `line`, to where the teacher's Euler steps end.

    `states` [2b, l, w] are the text states of the captions, followed by those of empty prompts.
    """
    sigmas = flow.shifted(line, plan.shift).to(noisy)

    def network(latents: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        inputs = torch.cat([latents, conditions.repeat(len(latents) // len(noisy), 1, 1, 1, 1)], dim=1)
        return teacher(inputs, timestep, text).float()  # type: ignore[no-any-return]

    text, negative = states.chunk(2)
    velocity = flow.guided(network, text, negative, plan.guidance, batched=True)
    latents = noisy
    for sigma, following in itertools.pairwise(sigmas):
        latents = latents + (following - sigma).view(-1, 1, 1, 1, 1) * velocity(latents, sigma * flow.TIMESTEPS)
    return (latents - noisy) / (sigmas[-1] - sigmas[0]).view(-1, 1, 1, 1, 1)
