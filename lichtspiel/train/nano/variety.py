"""Whether seeds differ: clips of one prompt with several seeds, against renders of its scene with several seeds.

A model that has learnt one clip a prompt scores well with any judge. So the distance between the latents of one
prompt's clips is set beside that between renders of one scene, whose backdrop, course and pose are drawn by chance as
well. It does not know where clips come from.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lichtspiel.models.vae import VAE
from lichtspiel.toybox.render import render
from lichtspiel.toybox.scene import Scene
from lichtspiel.train.data import Frames, Shape
from lichtspiel.train.vae import pixels

__all__ = ["SEEDS", "rendered", "spread", "variety"]

SEEDS = 6
"""Clips of each prompt that are compared with each other."""


def spread(latents: Tensor) -> float:
    """Mean over all pairs of the root-mean-square distance between latents [n, ...]."""
    flat = latents.float().flatten(1)
    return float(torch.pdist(flat).mean() / flat.shape[1] ** 0.5)


def rendered(scene: Scene, seeds: Sequence[int], shape: Shape) -> Frames:
    """The scene as the renderer draws it with each seed, uint8 [n, t, h, w, 3]."""
    size = {"width": shape.width, "height": shape.height, "frames": shape.frames}
    return np.stack([render(scene, seed, **size).frames for seed in seeds])


@torch.no_grad()
def variety(vae: VAE, made: Sequence[Frames], real: Sequence[Frames]) -> float:
    """How much the clips of one prompt differ, as a share of how much renders of its scene do: 1 is as much, 0 not at
    all. `made` and `real` hold one array [n, t, h, w, 3] a prompt; both go through the encoder."""
    device = str(next(vae.parameters()).device)

    def mean(groups: Sequence[Frames]) -> float:
        return float(np.mean([spread(vae.encode(pixels(group, device))) for group in groups]))

    return mean(made) / mean(real)
