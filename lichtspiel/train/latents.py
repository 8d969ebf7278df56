"""Latents of rendered clips, cached in one file: what the DiT learns from.

A clip's latents serve every task: as the target, and shortened to their first frames as a shorter video, which is
exact because the VAE is causal. Conditions from a first, or a first and a last, picture are cached for a share of the
clips.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from lichtspiel.inference.conditioning import video_of
from lichtspiel.models.vae import VAE
from lichtspiel.storage import atomic_write
from lichtspiel.train.nano.clips import ClipStore
from lichtspiel.train.vae import pixels, statistics

BATCH = 8
"""Clips encoded at once."""


@dataclass(frozen=True)
class LatentStore:
    """Normalized latents [n, c, t, h, w] of all clips, the share of each cell that an actor covers [n, 1, t, h, w], the
    latents of conditions for the first clips, the statistics that normalized them, and the frames per latent."""

    latents: Tensor
    actors: Tensor
    first: Tensor
    first_last: Tensor
    mean: Tensor
    std: Tensor
    stride: int

    def __len__(self) -> int:
        return len(self.latents)


def encode_store(vae: VAE, store: ClipStore, path: Path, *, first: int, first_last: int, device: str) -> LatentStore:
    """Encode every clip, and conditions for the first `first` and `first_last` clips; kept in `path` and read again.

    `vae` must have neutral statistics: the store's own are measured here.
    """
    if path.is_file():
        return LatentStore(**load_file(path), stride=vae.spec.stride[0])
    assert not vae.mean.any()

    @torch.no_grad()
    def encode(count: int, known: str) -> Tensor:
        parts = []
        for begin in range(0, count, BATCH):
            video = pixels(np.array(store.frames[begin : min(begin + BATCH, count)]), device)
            if known != "all":
                video = known_video(video, last=known == "first-last")
            parts.append(vae.moments(video)[0].cpu())
        return torch.cat(parts)

    latents = encode(len(store), "all")
    mean, std = statistics(latents)
    scale = (mean.view(1, -1, 1, 1, 1), std.view(1, -1, 1, 1, 1))
    tensors = {"latents": latents, "first": encode(first, "first"), "first_last": encode(first_last, "first-last")}
    tensors = {name: ((value - scale[0]) / scale[1]).contiguous() for name, value in tensors.items()}
    tensors["actors"] = covered(store.masks, vae.spec.stride)
    with atomic_write(path) as draft:
        save_file({**tensors, "mean": mean, "std": std}, draft)
    return LatentStore(**tensors, mean=mean, std=std, stride=vae.spec.stride[0])


def known_video(video: Tensor, *, last: bool) -> Tensor:
    """What of clips [b, 3, t, h, w] is told: their first picture, perhaps their last, and grey between."""
    ends = video[:, :, -1] if last else [None] * len(video)
    return torch.cat([video_of(clip[:, 0], end, clip.shape[1]) for clip, end in zip(video, ends, strict=True)])


@torch.no_grad()
def told_latents(vae: VAE, frames: NDArray[np.uint8], store: LatentStore, device: str) -> Tensor:
    """Latents [b, c, t, h, w] of what the first picture tells of clips uint8 [b, t, h, w, 3], normalised as those of
    `store` are; `vae` has neutral statistics."""
    latents, _ = vae.moments(known_video(pixels(np.array(frames), device), last=False))
    mean, std = (value.view(1, -1, 1, 1, 1).to(latents) for value in (store.mean, store.std))
    return (latents - mean) / std


def covered(masks: NDArray[np.uint8], stride: tuple[int, int, int]) -> Tensor:
    """The share of each latent cell that an actor covers [n, 1, 1 + t, h/8, w/8], from masks [n, 1 + 4t, h, w]."""
    parts = []
    for begin in range(0, len(masks), 64):
        mask = torch.from_numpy(np.array(masks[begin : begin + 64]) > 0).float()[:, None]
        first, later = mask[:, :, :1], mask[:, :, 1:]
        cells = [F.avg_pool3d(first, (1, *stride[1:]))]
        if later.shape[2]:
            cells.append(F.avg_pool3d(later, stride))
        parts.append(torch.cat(cells, dim=2))
    return torch.cat(parts)
