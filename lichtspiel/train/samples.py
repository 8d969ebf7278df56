"""Videos of fixed prompts while training goes on, as contact sheets: numbers alone do not show what goes wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from lichtspiel import flow
from lichtspiel.media import contact_sheet
from lichtspiel.models.vae import VAE
from lichtspiel.train.captions import Captions

STEPS, GUIDANCE, SHIFT = 12, 3.0, 3.0
"""How samples are drawn: few steps, since they are only looked at."""

PROMPTS = (
    "a big turtle walks to the right on a beach at sunset",
    "a taxi drives to the left on a road at night",
    "a big tropical fish swims to the left under water",
    "a helicopter flies to the right over a snowy field on a sunny day",
    "ein großer Elefant geht auf einer grünen Wiese nach links",
    "一只大企鹅在雪地里向右跳",
)


@torch.no_grad()
def generate(
    modules: dict[str, nn.Module], captions: Captions, prompts: Sequence[str], shape: tuple[int, ...], device: str
) -> Tensor:
    """Normalised latents [n, c, t, h, w] for prompts, from noise of a fixed seed; `shape` is (c, t, h, w)."""
    count = len(prompts)
    noise = torch.randn((count, *shape), generator=torch.Generator().manual_seed(0)).to(device)
    nothing = noise.new_zeros(count, shape[0] + 4, *shape[1:])
    texts = captions.encode(modules["umt5"], [*prompts, *[""] * count], device)

    def velocity(latents: Tensor, timestep: Tensor) -> Tensor:
        both = torch.cat([latents, nothing], dim=1).repeat(2, 1, 1, 1, 1)
        positive, negative = modules["dit"](both, timestep.repeat(2), texts).chunk(2)
        return flow.guide(positive, negative, GUIDANCE)

    *_, (_, latents) = flow.solve(velocity, noise, "euler", STEPS, SHIFT)
    return latents


@torch.no_grad()
def sheet(vae: VAE, latents: Tensor, mean: Tensor, std: Tensor, path: Path) -> None:
    """Decode latents and write five frames of each clip, one clip a row."""
    raw = latents * std.view(1, -1, 1, 1, 1).to(latents) + mean.view(1, -1, 1, 1, 1).to(latents)
    video = rearrange(vae.reconstruct(raw).clamp(-1, 1), "b c t h w -> b t h w c").cpu().numpy()
    frames = ((video + 1) * 127.5).round().astype(np.uint8)
    rows = [clip[index] for clip in frames for index in np.linspace(0, len(clip) - 1, 5).astype(int)]
    path.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(rows, columns=5, path=path, most=len(rows))
