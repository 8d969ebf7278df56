"""The loss of a tuning run: rectified flow on clean latents, with the conditions of the model's task.

What is drawn (times, noise, which captions and pictures are left out) comes from the caller or from a generator on the
processor, so that a step is the same on every device and after every restart.

Letters: b batch, c channels, t, h, w latent time, height and width.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lichtspiel import flow
from lichtspiel.inference.conditioning import known_frames
from lichtspiel.models.dit import DiT
from lichtspiel.spec import Model
from lichtspiel.tune.cache import Batch
from lichtspiel.tune.settings import RunOptions

__all__ = ["Draw", "draw", "draw_times", "leave_out", "loss", "velocity"]

CLOSEST = 1e-5
"""Times keep this distance from 0 and 1."""


class Draw(NamedTuple):
    """What is random in a step: times [b] in (0, 1), noise [b, c, t, h, w], and the task of each sample, 0 for text, 1
    for the first and 2 for the first and last frame."""

    times: Tensor
    noise: Tensor
    tasks: Tensor


def draw_times(count: int, options: RunOptions, generator: torch.Generator) -> Tensor:
    """Times [count]: the sigmoid of a normal variable, or uniform, shifted toward noise (arXiv 2403.03206)."""
    if options.times == "logit-normal":
        times = torch.randn(count, generator=generator).sigmoid()
    else:
        times = torch.rand(count, generator=generator)
    return flow.shifted(times, options.shift).clamp(CLOSEST, 1 - CLOSEST)


def draw(batch: Batch, row: Model, options: RunOptions, generator: torch.Generator) -> Draw:
    """What is random in a step on this batch."""
    count = len(batch)
    times = draw_times(count, options, generator)
    noise = torch.randn(batch.latents.shape, generator=generator)
    chance = torch.rand(count, generator=generator)
    tasks = torch.zeros(count, dtype=torch.long)
    if "text" in row.tasks and batch.bucket.frames > 1:  # a model of several tasks; others have one, see `condition`
        if "first-last" in row.tasks and batch.first_last is not None:
            tasks[chance < options.first_last] = 2
        if "image" in row.tasks and batch.first is not None:
            tasks[(chance >= options.first_last) & (chance < options.first_last + options.first)] = 1
    return Draw(times, noise, tasks)


def leave_out(batch: Batch, empty: Tensor, share: float, generator: torch.Generator) -> Batch:
    """The batch with a share of its captions replaced by the empty one, whose states are `empty` [1, l, d]; guidance
    needs a model that knows both (arXiv 2207.12598)."""
    chosen = torch.rand(len(batch), generator=generator) < share
    if not bool(chosen.any()):
        return batch
    length = max(batch.text.shape[1], empty.shape[1])
    text = F.pad(batch.text, (0, 0, 0, length - batch.text.shape[1]))
    blank = F.pad(empty, (0, 0, 0, length - empty.shape[1])).to(text)
    return replace(batch, text=torch.where(chosen.to(text.device)[:, None, None], blank, text))


def condition(batch: Batch, row: Model, tasks: Tensor) -> Tensor | None:
    """The known pictures [b, 4 + c, t, h, w] that are joined to the noisy latents; None for models that take none.

    A model that does nothing but animate pictures always gets its own: the first, or the first and the last.
    """
    spec = row.dit
    if spec.in_channels == spec.out_channels:
        return None
    if "text" not in row.tasks:
        tasks = torch.full_like(tasks, 2 if "first-last" in row.tasks else 1)
    stride = row.vae.stride[0]
    height, width = batch.latents.shape[3:]
    whole = batch.latents.new_zeros(len(batch), spec.in_channels - spec.out_channels, *batch.latents.shape[2:])
    for number, task in enumerate(tasks.tolist()):
        source = (None, batch.first, batch.first_last)[task]
        if source is None:
            assert task == 0, "the cache holds the pictures of every task of its model"
            continue
        mask = known_frames(batch.bucket.frames, task == 2, height, width, stride).to(whole)
        whole[number] = torch.cat([mask, source[number]])
    return whole


def velocity(dit: DiT, batch: Batch, row: Model, noisy: Tensor, drawn: Draw) -> Tensor:
    """The velocity [b, c, t, h, w] that a model predicts for noisy latents, given the batch's conditions."""
    known = condition(batch, row, drawn.tasks)
    latents = noisy if known is None else torch.cat([noisy, known], dim=1)
    timestep = drawn.times.to(noisy.device if noisy.device.type != "mps" else "cpu") * flow.TIMESTEPS
    predicted: Tensor = dit(latents, timestep, batch.text, image=batch.clip, vace=batch.vace)
    return predicted


def loss(dit: DiT, batch: Batch, row: Model, drawn: Draw) -> Tensor:
    """The mean squared error of the velocity, weighted where the batch has weights; batch and model on one device."""
    noise = drawn.noise.to(batch.latents)
    noisy, target = flow.training_pair(batch.latents, noise, drawn.times.to(batch.latents))
    return flow.loss(velocity(dit, batch, row, noisy, drawn), target, batch.weight)
