"""Training a text encoder and a DiT together, from scratch, with rectified flow on cached latents.

One network learns three tasks at once: in every batch some clips are conditioned on their caption alone, some also on
their first frame, and some on their first and last. Some batches consist of shorter videos, down to single pictures,
mostly early in the run, because pictures teach what things look like at a fraction of the cost: more of them fit into
a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from lichtspiel import flow
from lichtspiel.inference.conditioning import known_frames
from lichtspiel.inference.cpu import use_cpu_kernels
from lichtspiel.models.dit import DiT
from lichtspiel.models.umt5 import UMT5
from lichtspiel.spec import DiTSpec, Model
from lichtspiel.train.data import Dataset
from lichtspiel.train.latents import LatentStore
from lichtspiel.train.optim import OptimizerFactory
from lichtspiel.train.speed import Speed
from lichtspiel.train.state import Budget, Logger, Run, Weights
from lichtspiel.train.text import Prompts, draw_text, look_at_neighbors

TASKS = (0.7, 0.18, 0.12)
"""Shares of text, first picture, and first and last picture among whole clips."""

SUBJECT_WEIGHT = 3.0
"""How much more a latent cell filled by the subject counts in the loss: subjects are small, and people look at them."""

TEXT_BATCH = 128
"""Captions a step while the text encoder learns alone."""

VALIDATION_TIMES = (0.2, 0.5, 0.8, 0.95)


class AuxiliaryLoss(Protocol):
    """A loss on text states, added to that of the velocity; its module is trained along but not exported."""

    weight: float

    def __call__(self, states: Tensor, items: Sequence[int], texts: Sequence[str]) -> Tensor:
        """The loss of text states [b, l, w], those of the captions `texts` of items of the data set."""


@dataclass(frozen=True, kw_only=True)
class DiTPlan:
    """Settings of one DiT run.

    `batch` is the number of whole clips in each of a step's `accumulate` parts, `shift` moves training times toward
    noise, `pictures` is the fraction of the run, at its start, that trains mostly on single pictures, and the last
    `held_out` clips of the data set are for validation only. The first `text_steps` train the text encoder alone, with
    the auxiliary loss: they cost little, and the DiT starts on states that say something. `start` may hold weights of
    "umt5" and "dit" to begin from. With `compiled`, torch first compiles the DiT, which takes a minute or two and is
    meant for a GPU.
    """

    budget: Budget
    batch: int
    optimizer: OptimizerFactory
    shift: float
    pictures: float
    decay_from: float
    device: str
    seed: int
    held_out: int = 64
    accumulate: int = 1
    start: Weights = field(default_factory=dict)
    compiled: bool = False
    text_steps: int = 0


class TrainingSet(NamedTuple):
    """What a DiT is trained on: the latents of a data set, the data set itself for its captions, and its prompts."""

    latents: LatentStore
    data: Dataset
    prompts: Prompts


def train_dit(
    plan: DiTPlan,
    model: Model,
    training: TrainingSet,
    folder: Path,
    *,
    auxiliary: Callable[[int], nn.Module] | None = None,
    log: Logger = print,
    on_validation: Callable[[int, dict[str, nn.Module]], None] = lambda step, averages: None,
) -> tuple[UMT5, DiT]:
    """Train until the budget is spent, resuming from `folder`, and return the averaged text encoder and DiT.

    `auxiliary` builds a module that is an `AuxiliaryLoss` from the width of the text states. `on_validation` receives
    the step and the averaged networks at every validation.
    """
    torch.manual_seed(plan.seed)
    umt5, dit = UMT5(model.umt5).to(plan.device), DiT(model.dit)
    look_at_neighbors(umt5)
    dit.initialize()
    dit.to(plan.device)
    if plan.device == "cpu":
        use_cpu_kernels(dit)
    modules: dict[str, nn.Module] = {"umt5": umt5, "dit": dit}
    if auxiliary is not None:
        modules["auxiliary"] = auxiliary(model.umt5.width).to(plan.device)
    run = Run(modules, plan.optimizer(modules), plan.budget, folder, plan.seed, plan.accumulate)
    if not run.resume():
        run.start_from(plan.start)
    if plan.compiled:
        for block in dit.blocks:  # all share one code, so it compiles once; in place, and not their averages
            block.compile()
    speed = Speed(sum(parameter.numel() for parameter in dit.parameters()), plan.device)
    for step in run.steps():
        if step < plan.text_steps:
            for _ in run.parts():
                run.backward(text_loss(run, plan, training), kind="text")
            run.update(decay_from=plan.decay_from)
            continue
        for _ in run.parts():
            with torch.autocast(plan.device, torch.bfloat16, enabled=plan.device == "cuda"):
                losses = batch_loss(run, plan, model.dit, training)
            run.backward(losses.total, kind=str(losses.tokens))  # clips and pictures differ in size
            speed.add(losses.samples, losses.tokens)
        run.update(decay_from=plan.decay_from)
        if step % 50 == 0:
            scores = {}
            if step % 500 == 0:
                scores = validate(run.averages, training, plan)
                on_validation(step, run.averages)
            seconds = run.seconds / max(step, 1)
            metrics = {"step": step, "progress": run.progress} | losses.metrics() | {"seconds/step": seconds}
            log(metrics | speed.read() | scores)
    on_validation(run.step, run.averages)
    log({"step": run.step, "progress": 1.0, **validate(run.averages, training, plan)})
    averaged = run.averages["umt5"], run.averages["dit"]
    assert isinstance(averaged[0], UMT5)
    assert isinstance(averaged[1], DiT)
    return averaged[0], averaged[1]


def text_loss(run: Run, plan: DiTPlan, training: TrainingSet) -> Tensor:
    """The auxiliary loss on captions of random items that are not held out."""
    generator = run.generator()
    count = len(training.data) - plan.held_out
    items = torch.randint(count, (TEXT_BATCH,), generator=generator).tolist()
    texts = [draw_text(training.data, item, generator) for item in items]
    states = training.prompts.encode(run.modules["umt5"], texts, plan.device)
    error: Tensor = run.modules["auxiliary"](states, items, texts)
    return error


class Losses(NamedTuple):
    """The flow-matching loss of a batch, the auxiliary loss (None without one), their weighted sum, and the batch
    size."""

    velocity: Tensor
    auxiliary: Tensor | None
    total: Tensor
    samples: int
    tokens: int

    def metrics(self) -> dict[str, float]:
        """Both losses as numbers."""
        metrics = {"loss": float(self.velocity.detach())}
        return metrics if self.auxiliary is None else metrics | {"auxiliary": float(self.auxiliary.detach())}


class Batch(NamedTuple):
    """Videos of one length: item numbers, latents [b, c, t, h, w], conditions [b, 4 + c, t, h, w], the weight of each
    cell in the loss [b, 1, t, h, w], and captions."""

    items: list[int]
    clean: Tensor
    conditions: Tensor
    weight: Tensor
    texts: list[str]


def draw_batch(
    training: TrainingSet, count: int, length: int, held_out: int, *, generator: torch.Generator, device: str
) -> Batch:
    """`count` random videos of `length` latent frames, with random tasks and captions.

    Batches of one latent frame contain pictures and first frames of clips; the last `held_out` clips are never drawn.
    """
    store = training.latents
    full, clips = store.latents.shape[2], len(store) - held_out
    items, clean, coverage, conditions = [], [], [], []
    for _ in range(count):
        task = int(torch.multinomial(torch.tensor(TASKS), 1, generator=generator)) if length > 1 else 0
        task = task if length == full or task == 0 else 1
        pictures = len(store.pictures) if length == 1 else 0
        choices = (clips + pictures, len(store.first), len(store.first_last))[task]
        row = int(torch.randint(choices, (), generator=generator))
        if row >= clips and task == 0:
            row -= clips
            latents, covered, item = store.pictures[row], store.picture_coverage[row], store.picture_items[row]
        else:
            latents, covered, item = store.latents[row], store.coverage[row], store.clips[row]
        items.append(int(item))
        clean.append(latents[:, :length])
        coverage.append(covered[:, :length])
        source = (store.first, store.first_last)[task - 1][row] if task else latents
        conditions.append(conditioned(source, length, task, store.stride))
    batch = torch.stack(clean).to(device).float()
    weight = 1 + SUBJECT_WEIGHT * torch.stack(coverage).to(batch)
    texts = [draw_text(training.data, item, generator) for item in items]
    return Batch(items, batch, torch.stack(conditions).to(batch), weight, texts)


def batch_loss(run: Run, plan: DiTPlan, spec: DiTSpec, training: TrainingSet) -> Losses:
    """The losses on one random batch."""
    generator = run.generator()
    full = training.latents.latents.shape[2]
    length = _length(run.progress, plan, full, generator)
    count = plan.batch * full // length
    batch = draw_batch(training, count, length, plan.held_out, generator=generator, device=plan.device)
    states = training.prompts.encode(run.modules["umt5"], batch.texts, plan.device)
    module = run.modules.get("auxiliary")
    auxiliary = None if module is None else module(states, batch.items, batch.texts)
    times = flow.sample_times(count, plan.shift, generator)
    noise = torch.randn(batch.clean.shape, generator=generator).to(batch.clean)
    noisy, target = flow.training_pair(batch.clean, noise, times)
    velocity = run.modules["dit"](
        torch.cat([noisy, batch.conditions], dim=1), times.to(plan.device) * flow.TIMESTEPS, states
    )
    error = total = flow.loss(velocity, target, batch.weight)
    if module is not None and auxiliary is not None:
        total = error + module.weight * auxiliary
    return Losses(error, auxiliary, total, count, count * spec.tokens(batch.clean.shape[2:]))


def conditioned(latents: Tensor, length: int, task: int, stride: int) -> Tensor:
    """The condition [stride + c, length, h, w] of one clip: zeros for task 0, otherwise its mask and latents."""
    h, w = latents.shape[2:]
    if task == 0:
        return latents.new_zeros(latents.shape[0] + stride, length, h, w)
    frames = 1 + stride * (length - 1)
    return torch.cat([known_frames(frames, task == 2, h, w, stride).to(latents), latents[:, :length]])


def _length(progress: float, plan: DiTPlan, full: int, generator: torch.Generator) -> int:
    """Number of latent frames of this batch."""
    chance = float(torch.rand((), generator=generator))
    share = 0.7 if progress < plan.pictures else 0.25
    if chance < share:
        return 1
    if progress >= plan.pictures and chance < share + 0.1 and full > 2:
        return int(torch.randint(2, full, (), generator=generator))
    return full


@torch.no_grad()
def validate(modules: dict[str, nn.Module], training: TrainingSet, plan: DiTPlan) -> dict[str, float]:
    """Mean squared error of the velocity on held-out clips, for text to video, at fixed times and with fixed noise."""
    store, device = training.latents, plan.device
    generator = torch.Generator().manual_seed(0)
    clean = store.latents[-plan.held_out :].to(device).float()
    noise = torch.randn(clean.shape, generator=generator).to(clean)
    nothing = torch.stack([conditioned(latent, clean.shape[2], 0, store.stride) for latent in clean])
    texts = [training.data.text(item, None) for item in store.clips[-plan.held_out :].tolist()]
    states = training.prompts.encode(modules["umt5"], texts, device)
    errors = []
    for value in VALIDATION_TIMES:
        times = torch.full((len(clean),), value)
        noisy, target = flow.training_pair(clean, noise, times)
        velocity = modules["dit"](torch.cat([noisy, nothing], dim=1), times.to(device) * flow.TIMESTEPS, states)
        errors.append(float(flow.loss(velocity, target)))
    return {"validation": sum(errors) / len(errors)} | {
        f"validation at {time}": error for time, error in zip(VALIDATION_TIMES, errors, strict=True)
    }
