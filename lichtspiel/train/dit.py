"""Training a text encoder and a DiT together, from scratch, with rectified flow on cached latents.

One network learns three tasks at once: in every batch some clips come with only their caption, some with their first
picture and some with their first and last. Some batches hold shorter videos, down to single pictures, mostly early,
because a picture teaches what things look like at a fifth of the price: as many more of them fill a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lichtspiel import flow
from lichtspiel.inference.conditioning import known_frames
from lichtspiel.inference.cpu import use_cpu_kernels
from lichtspiel.models.dit import DiT
from lichtspiel.models.umt5 import UMT5
from lichtspiel.spec import DiTSpec, Model
from lichtspiel.toybox.captions import caption
from lichtspiel.toybox.scene import Scene
from lichtspiel.train.latents import LatentStore
from lichtspiel.train.nano.captions import Captions
from lichtspiel.train.nano.probe import Reader
from lichtspiel.train.optim import split
from lichtspiel.train.speed import Speed
from lichtspiel.train.state import Budget, Run, Weights

TASKS = (0.7, 0.18, 0.12)
"""Shares of text, first picture, and first and last picture among whole clips."""

ACTOR_WEIGHT = 3.0
"""How much more a latent cell counts in the loss that an actor fills: small, and what a person looks at."""

READING_WEIGHT = 0.1
"""How much the error counts with which facts are read from text states, beside the velocity's."""

VALIDATION_TIMES = (0.2, 0.5, 0.8, 0.95)


@dataclass(frozen=True, kw_only=True)
class DiTPlan:
    """How one DiT run goes; `batch` counts whole clips, `shift` moves training times toward noise, `pictures` is how
    much of the run comes first with mostly single pictures, `start` may hold weights of "umt5" and "dit" to begin from.
    `compiled` lets torch write kernels for the DiT first, which takes a minute or two and is meant for a GPU."""

    budget: Budget
    batch: int
    rates: tuple[float, float]
    shift: float
    pictures: float
    decay_from: float
    device: str
    seed: int
    start: Weights = field(default_factory=dict)
    compiled: bool = False


def train_dit(
    plan: DiTPlan,
    model: Model,
    latents: LatentStore,
    scenes: Sequence[Scene],
    captions: Captions,
    folder: Path,
    *,
    report: Callable[[dict[str, float]], None] = print,
    look: Callable[[int, dict[str, nn.Module]], None] = lambda step, averages: None,
) -> tuple[UMT5, DiT]:
    """Train until the budget is spent, resuming from `folder`; returns the averaged encoder and DiT.

    The last 64 clips are kept aside for the validation loss. `look` is handed the averaged networks whenever they
    are measured.
    """
    torch.manual_seed(plan.seed)
    umt5, dit = UMT5(model.umt5).to(plan.device), DiT(model.dit)
    dit.initialize()
    dit.to(plan.device)
    if plan.device == "cpu":
        use_cpu_kernels(dit)
    reader = Reader(model.umt5.width, scenes).to(plan.device)
    modules: dict[str, nn.Module] = {"umt5": umt5, "dit": dit, "reader": reader}
    run = Run(modules, split(modules, plan.rates), plan.budget, folder, plan.seed)
    if not run.resume():
        run.start_from(plan.start)
    if plan.compiled:
        for block in dit.blocks:  # all have one code, so it is compiled once; in place, and not their averages
            block.compile()
    speed = Speed(sum(parameter.numel() for parameter in dit.parameters()), plan.device)
    for step in run.steps():
        with torch.autocast(plan.device, torch.bfloat16, enabled=plan.device == "cuda"):
            losses = batch_loss(run, plan, model.dit, latents, scenes, captions)
        run.update(losses.velocity + READING_WEIGHT * losses.reading, decay_from=plan.decay_from)
        speed.add(losses.samples, losses.tokens)
        if step % 50 == 0:
            scores = {}
            if step % 500 == 0:
                scores = validate(run.averages, latents, scenes, captions, plan.device)
                look(step, run.averages)
            seconds = run.seconds / max(step, 1)
            now = {"loss": float(losses.velocity.detach()), "reading": float(losses.reading.detach())}
            report({"step": step, "progress": run.progress, **now, "seconds/step": seconds} | speed.read() | scores)
    look(run.step, run.averages)
    scores = validate(run.averages, latents, scenes, captions, plan.device)
    report({"step": run.step, "progress": 1.0, **scores})
    averaged = run.averages["umt5"], run.averages["dit"]
    assert isinstance(averaged[0], UMT5)
    assert isinstance(averaged[1], DiT)
    return averaged[0], averaged[1]


HELD_BACK = 64


class Losses(NamedTuple):
    """The flow-matching loss of a batch, the error of reading its scenes from its text states, and its size."""

    velocity: Tensor
    reading: Tensor
    samples: int
    tokens: int


class Batch(NamedTuple):
    """Clips of one length, and what is told of them: `rows` in the store, latents [b, c, t, h, w], conditions
    [b, 4 + c, t, h, w], how much cells count in the loss [b, 1, t, h, w], and captions."""

    rows: list[int]
    clean: Tensor
    conditions: Tensor
    weight: Tensor
    texts: list[str]


def draw_batch(
    latents: LatentStore, scenes: Sequence[Scene], captions: Captions, count: int, length: int, *,
    generator: torch.Generator, device: str,
) -> Batch:  # fmt: skip
    """So many random clips of `length` latent frames, with tasks and captions by chance."""
    full = latents.latents.shape[2]
    rows, conditions = [], []
    for _ in range(count):
        task = int(torch.multinomial(torch.tensor(TASKS), 1, generator=generator)) if length > 1 else 0
        task = task if length == full or task == 0 else 1
        source = (latents.latents[:-HELD_BACK], latents.first, latents.first_last)[task]
        row = int(torch.randint(len(source), (), generator=generator))
        rows.append(row)
        conditions.append(conditioned(source[row], length, task, latents.stride))
    clean = latents.latents[rows, :, :length].to(device).float()
    weight = 1 + ACTOR_WEIGHT * latents.actors[rows, :, :length].to(clean)
    texts = [captions.draw(scenes[row], generator) for row in rows]
    return Batch(rows, clean, torch.stack(conditions).to(clean), weight, texts)


def batch_loss(
    run: Run, plan: DiTPlan, spec: DiTSpec, latents: LatentStore, scenes: Sequence[Scene], captions: Captions
) -> Losses:
    """What one random batch costs."""
    generator = run.generator()
    full = latents.latents.shape[2]
    length = _length(run.progress, plan, full, generator)
    count = plan.batch * full // length
    batch = draw_batch(latents, scenes, captions, count, length, generator=generator, device=plan.device)
    states = captions.encode(run.modules["umt5"], batch.texts, plan.device)
    told = [scenes[row] if text else None for row, text in zip(batch.rows, batch.texts, strict=True)]
    reading = run.modules["reader"](states, told)
    times = flow.sample_times(count, plan.shift, generator)
    noise = torch.randn(batch.clean.shape, generator=generator).to(batch.clean)
    noisy, target = flow.training_pair(batch.clean, noise, times)
    velocity = run.modules["dit"](
        torch.cat([noisy, batch.conditions], dim=1), times.to(plan.device) * flow.TIMESTEPS, states
    )
    error = flow.loss(velocity, target, batch.weight)
    return Losses(error, reading, count, count * spec.tokens(batch.clean.shape[2:]))


def conditioned(latents: Tensor, length: int, task: int, stride: int) -> Tensor:
    """The condition [stride + c, length, h, w] of one clip: nothing known for task 0, else its mask and latents."""
    h, w = latents.shape[2:]
    if task == 0:
        return latents.new_zeros(latents.shape[0] + stride, length, h, w)
    frames = 1 + stride * (length - 1)
    return torch.cat([known_frames(frames, task == 2, h, w, stride).to(latents), latents[:, :length]])


def _length(progress: float, plan: DiTPlan, full: int, generator: torch.Generator) -> int:
    """Latent frames of this batch."""
    chance = float(torch.rand((), generator=generator))
    share = 0.7 if progress < plan.pictures else 0.25
    if chance < share:
        return 1
    if progress >= plan.pictures and chance < share + 0.1 and full > 2:
        return int(torch.randint(2, full, (), generator=generator))
    return full


@torch.no_grad()
def validate(
    modules: dict[str, nn.Module], latents: LatentStore, scenes: Sequence[Scene], captions: Captions, device: str
) -> dict[str, float]:
    """Mean squared error of the velocity on clips kept aside, text to video, at fixed times with fixed noise."""
    generator = torch.Generator().manual_seed(0)
    clean = latents.latents[-HELD_BACK:].to(device).float()
    noise = torch.randn(clean.shape, generator=generator).to(clean)
    nothing = torch.stack([conditioned(latent, clean.shape[2], 0, latents.stride) for latent in clean])
    states = captions.encode(modules["umt5"], [caption(scene, "en", 0) for scene in scenes[-HELD_BACK:]], device)
    errors = []
    for value in VALIDATION_TIMES:
        times = torch.full((len(clean),), value)
        noisy, target = flow.training_pair(clean, noise, times)
        velocity = modules["dit"](torch.cat([noisy, nothing], dim=1), times.to(device) * flow.TIMESTEPS, states)
        errors.append(float(flow.loss(velocity, target)))
    return {"validation": sum(errors) / len(errors)} | {
        f"validation at {time}": error for time, error in zip(VALIDATION_TIMES, errors, strict=True)
    }
