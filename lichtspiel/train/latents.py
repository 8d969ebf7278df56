"""Latents of a data set, cached in one file: what the DiT is trained on.

A clip's latents serve every task: whole as a target, and cut to their first frames as a shorter video, which is exact
because the VAE is causal. For some clips the conditions from the first, or the first and last, frame are cached, too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from lichtspiel.errors import InvalidInput
from lichtspiel.inference.conditioning import video_of
from lichtspiel.models.vae import VAE
from lichtspiel.storage import atomic_write
from lichtspiel.train.data import Dataset, Frames, of_length
from lichtspiel.train.vae import pixels, statistics

BATCH = 8
"""Clips encoded at once."""


@dataclass(frozen=True)
class LatentStore:
    """Normalized latents [n, c, t, h, w] of all clips and [m, c, 1, h, w] of all pictures.

    `coverage` and `picture_coverage` [., 1, t, h, w] are the fraction of each latent cell that the subject covers.
    `first` and `first_last` are condition latents; each exists for the first few clips only. `clips` [n] and
    `picture_items` [m] are item numbers in the data set; `mean` and `std` [c] are the statistics that normalized the
    latents, and `stride` is the number of frames per latent.
    """

    latents: Tensor
    coverage: Tensor
    clips: Tensor
    pictures: Tensor
    picture_coverage: Tensor
    picture_items: Tensor
    first: Tensor
    first_last: Tensor
    mean: Tensor
    std: Tensor
    stride: int

    def __len__(self) -> int:
        return len(self.latents)


def encode_dataset(vae: VAE, data: Dataset, path: Path, *, first: int, first_last: int, device: str) -> LatentStore:
    """Encode every item, and the conditions of the first `first` and `first_last` clips; `path` caches the result.

    `vae` must have neutral statistics, because the data set's own are measured here. Raises InvalidInput when there
    is no whole clip.
    """
    if path.is_file():
        return LatentStore(**load_file(path), stride=vae.spec.stride[0])
    assert not vae.mean.any()
    clips = list(of_length(data, data.shape.frames))
    pictures = [index for index in range(len(data)) if data.length(index) < data.shape.frames]
    if not clips:
        raise InvalidInput(f"none of the clips has {data.shape.frames} frames")

    @torch.no_grad()
    def encode(items: list[int], prepare: Callable[[Tensor], Tensor] = lambda video: video) -> Tensor:
        batches = [items[begin : begin + BATCH] for begin in range(0, len(items), BATCH)]
        videos = (pixels(np.stack([data.video(index) for index in batch]), device) for batch in batches)
        return torch.cat([vae.moments(prepare(video))[0].cpu() for video in videos])

    latents = encode(clips)
    mean, std = statistics(latents)
    tensors = {
        "latents": latents,
        "pictures": encode(pictures) if pictures else latents[:0, :, :1],
        "first": encode(clips[:first], partial(condition_video, last=False)),
        "first_last": encode(clips[:first_last], partial(condition_video, last=True)),
    }
    scale = (mean.view(1, -1, 1, 1, 1), std.view(1, -1, 1, 1, 1))
    tensors = {name: ((value - scale[0]) / scale[1]).contiguous() for name, value in tensors.items()}
    tensors |= {"clips": torch.tensor(clips), "picture_items": torch.tensor(pictures, dtype=torch.long)}
    tensors["coverage"] = torch.cat([coverage(data, index, vae.spec.stride) for index in clips])
    covered = [coverage(data, index, vae.spec.stride) for index in pictures]
    tensors["picture_coverage"] = torch.cat(covered) if covered else tensors["coverage"][:0, :, :1].contiguous()
    with atomic_write(path) as draft:
        save_file({**tensors, "mean": mean, "std": std}, draft)
    return LatentStore(**tensors, mean=mean, std=std, stride=vae.spec.stride[0])


def condition_video(video: Tensor, *, last: bool) -> Tensor:
    """Clips [b, 3, t, h, w] in which every frame but the first, and if wanted the last, is gray."""
    ends = video[:, :, -1] if last else [None] * len(video)
    return torch.cat([video_of(clip[:, 0], end, clip.shape[1]) for clip, end in zip(video, ends, strict=True)])


@torch.no_grad()
def first_frame_latents(vae: VAE, frames: Frames, store: LatentStore, device: str) -> Tensor:
    """Condition latents [b, c, t, h, w] from the first frames of clips uint8 [b, t, h, w, 3].

    They are normalized like those of `store`; `vae` has neutral statistics.
    """
    latents, _ = vae.moments(condition_video(pixels(np.array(frames), device), last=False))
    mean, std = (value.view(1, -1, 1, 1, 1).to(latents) for value in (store.mean, store.std))
    return (latents - mean) / std


def coverage(data: Dataset, index: int, stride: tuple[int, int, int]) -> Tensor:
    """The fraction of each latent cell of an item that the subject covers, [1, 1, 1 + t, h/8, w/8]; zeros without a
    mask."""
    mask = data.mask(index)
    if mask is None:
        mask = np.zeros((data.length(index), data.shape.height, data.shape.width), np.uint8)
    covered = torch.from_numpy(np.array(mask) > 0).float()[None, None]
    first, later = covered[:, :, :1], covered[:, :, 1:]
    cells = [F.avg_pool3d(first, (1, *stride[1:]))]
    if later.shape[2]:
        cells.append(F.avg_pool3d(later, stride))
    return torch.cat(cells, dim=2)
