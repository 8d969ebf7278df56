"""Few steps without guidance: a student learns to do in one step what its teacher does in several, with guidance.

Progressive distillation (T. Salimans and J. Ho, arXiv 2202.00512) in one stage, with guidance folded in (C. Meng et
al., arXiv 2210.03142). From noisy latents the teacher walks a few guided steps; the student is to name the one
velocity that leads to the same place. So the student's walk asks its network once a step where the teacher's asks
twice, and takes fewer steps. Only the DiT learns; the text encoder stays as it is.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from lichtspiel import flow
from lichtspiel.toybox.scene import Scene
from lichtspiel.train.dit import draw_batch
from lichtspiel.train.latents import LatentStore
from lichtspiel.train.nano.captions import Captions
from lichtspiel.train.optim import split
from lichtspiel.train.state import Budget, Run

__all__ = ["DistilPlan", "distil"]

ON_GRID = 0.5
"""Share of training times that are exactly those at which the student will be asked; the others lie between them, so
that other numbers of steps work, too."""


@dataclass(frozen=True, kw_only=True)
class DistilPlan:
    """How a student is taught: it is to take `steps` steps, the teacher takes `parts` for each of them, with `guidance`
    on a time grid with `shift`; `rates` are those of Muon and of Adam."""

    budget: Budget
    batch: int
    rates: tuple[float, float]
    steps: int
    parts: int
    guidance: float
    shift: float
    device: str
    seed: int


def distil(
    plan: DistilPlan,
    teacher: Mapping[str, nn.Module],
    latents: LatentStore,
    scenes: Sequence[Scene],
    captions: Captions,
    folder: Path,
    *,
    report: Callable[[dict[str, float]], None] = print,
) -> nn.Module:
    """Train a student of a teacher ("umt5" and "dit") until the budget is spent, resuming from `folder`; returns its
    moving average."""
    torch.manual_seed(plan.seed)
    student = copy.deepcopy(teacher["dit"]).train().requires_grad_(True)
    run = Run({"dit": student}, split({"dit": student}, plan.rates), plan.budget, folder, plan.seed)
    run.resume()
    for step in run.steps():
        with torch.autocast(plan.device, torch.bfloat16, enabled=plan.device == "cuda"):
            loss = _loss(run, plan, teacher, latents, scenes, captions)
        run.update(loss, decay_from=0.5)
        if step % 50 == 0:
            seconds = run.seconds / max(step, 1)
            report({"step": step, "progress": run.progress, "loss": float(loss.detach()), "seconds/step": seconds})
    return run.averages["dit"]


def _loss(
    run: Run, plan: DistilPlan, teacher: Mapping[str, nn.Module], latents: LatentStore, scenes: Sequence[Scene],
    captions: Captions,
) -> Tensor:  # fmt: skip
    generator, length = run.generator(), latents.latents.shape[2]
    batch = draw_batch(latents, scenes, captions, plan.batch, length, generator=generator, device=plan.device)
    with torch.no_grad():
        states = captions.encode(teacher["umt5"], [*batch.texts, *[""] * plan.batch], plan.device)
        line = _line(plan, generator)
        noise = torch.randn(batch.clean.shape, generator=generator).to(batch.clean)
        noisy, _ = flow.training_pair(batch.clean, noise, flow.shifted(line[0], plan.shift))
        target = guided_walk(plan, teacher["dit"], noisy, batch.conditions, states, line)
    time = flow.shifted(line[0], plan.shift).to(plan.device) * flow.TIMESTEPS
    told = states[: plan.batch]
    velocity = run.modules["dit"](torch.cat([noisy, batch.conditions], dim=1), time, told)
    return flow.loss(velocity, target, batch.weight)


def _line(plan: DistilPlan, generator: torch.Generator) -> Tensor:
    """The teacher's times before the shift, from where the student is asked to where its step ends, [parts + 1, b]."""
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
    """The one velocity that leads from `noisy` at the first time of `line` to where the teacher's Euler steps end.

    `states` [2b, l, w] are those of the captions, then of empty ones.
    """
    sigmas = flow.shifted(line, plan.shift).to(noisy)
    latents = noisy
    for here, there in itertools.pairwise(sigmas):
        both = torch.cat([latents, conditions], dim=1).repeat(2, 1, 1, 1, 1)
        told, untold = teacher(both, here.repeat(2) * flow.TIMESTEPS, states).float().chunk(2)
        latents = latents + (there - here).view(-1, 1, 1, 1, 1) * flow.guide(told, untold, plan.guidance)
    return (latents - noisy) / (sigmas[-1] - sigmas[0]).view(-1, 1, 1, 1, 1)
