"""Contact sheets of fixed prompts during training, because metrics alone do not show what goes wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lichtspiel import flow
from lichtspiel.inference.conditioning import held
from lichtspiel.media.sheet import contact_sheet
from lichtspiel.models.vae import VAE
from lichtspiel.spec import Sampling
from lichtspiel.train.data import Frames
from lichtspiel.train.text import Prompts
from lichtspiel.train.vae import frames_of

PROMPTS = (
    "a big turtle walks to the right on a beach at sunset",
    "a taxi drives to the left on a road at night",
    "a big tropical fish swims to the left under water",
    "a helicopter flies to the right over a snowy field on a sunny day",
    "ein großer Elefant geht auf einer grünen Wiese nach links",
    "一只大企鹅在雪地里向右跳",
)


@dataclass(frozen=True)
class Sampler:
    """The networks "umt5" and "dit", and how to sample clips from them."""

    modules: Mapping[str, nn.Module]
    prompts: Prompts
    sampling: Sampling

    @torch.no_grad()
    def generate(
        self,
        texts: Sequence[str],
        shape: tuple[int, ...],
        device: str,
        *,
        image_conditions: Tensor | None = None,
        seed: int = 0,
    ) -> Tensor:
        """Normalized latents [n, c, t, h, w] for prompts, from noise with a fixed seed.

        `shape` is (c, t, h, w); `image_conditions`, if given, are [n, 4 + c, t, h, w].
        """
        count, dit, sampling = len(texts), self.modules["dit"], self.sampling
        noise = torch.randn((count, *shape), generator=torch.Generator().manual_seed(seed)).to(device)
        conditions = (
            noise.new_zeros(count, shape[0] + 4, *shape[1:]) if image_conditions is None else image_conditions.to(noise)
        )
        states = self.prompts.encode(self.modules["umt5"], [*texts, *[""] * count], device)
        negative = None if sampling.guidance == 1 else states[count:]

        def network(latents: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
            known = conditions.repeat(len(latents) // count, 1, 1, 1, 1)
            velocity: Tensor = dit(torch.cat([latents, known], dim=1), timestep, text)
            return held(velocity, latents, timestep, known)

        velocity = flow.guided(network, states[:count], negative, sampling.guidance, batched=True)
        *_, (_, latents) = flow.sample(velocity, noise, sampling.solver, sampling.steps, sampling.shift)
        return latents


@torch.no_grad()
def decoded(vae: VAE, latents: Tensor, mean: Tensor, std: Tensor) -> Frames:
    """Clips uint8 [n, t, h, w, 3] decoded from normalized latents; `vae` has neutral statistics."""
    raw = latents * std.view(1, -1, 1, 1, 1).to(latents) + mean.view(1, -1, 1, 1, 1).to(latents)
    return frames_of(vae.reconstruct(raw))


def sheet(frames: Frames, path: Path) -> None:
    """Write a sheet with five frames of each clip, one row per clip."""
    rows = [clip[index] for clip in frames for index in np.linspace(0, len(clip) - 1, 5).astype(int)]
    path.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(rows, columns=5, path=path, most=len(rows))
