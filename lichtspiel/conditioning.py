"""Turning given pictures into what a DiT is conditioned on: [mask 4 | latents 16] beside the noise.

Follows `wan/image2video.py` and `wan/first_last_frame2video.py`. It opens no files; pictures come as tensors in
[-1, 1].

Letters: c channels, t latent frames, n frames in a latent, h and w latent height and width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from lichtspiel.models.vae import VAE
from lichtspiel.spec import STRIDE

__all__ = ["condition", "fit", "known_frames", "video_of"]


def fit(image: Tensor, width: int, height: int, *, antialias: bool) -> Tensor:
    """Cut [3, H, W] to the aspect ratio of width to height around its centre and resize it bicubically to that size.

    The official code resizes without antialiasing; a picture that shrinks a lot looks better with it.
    """
    rows, columns = image.shape[1:]
    wide = min(columns, round(rows * width / height))
    tall = min(rows, round(columns * height / width))
    top, left = (rows - tall) // 2, (columns - wide) // 2
    cut = image[:, top : top + tall, left : left + wide]
    return resize(cut, width, height, antialias=antialias)


def resize(image: Tensor, width: int, height: int, *, antialias: bool) -> Tensor:
    """Resize [3, H, W] bicubically; what overshoots [-1, 1] stays, as in the official code."""
    return F.interpolate(image[None], (height, width), mode="bicubic", antialias=antialias)[0]


def video_of(first: Tensor, last: Tensor | None, frames: int) -> Tensor:
    """A video [1, 3, frames, H, W] of the known pictures [3, H, W] with mid-grey (zeros) where nothing is known."""
    video = first.new_zeros(1, 3, frames, *first.shape[1:])
    video[0, :, 0] = first
    if last is not None:
        video[0, :, -1] = last
    return video


def known_frames(frames: int, last: bool, height: int, width: int) -> Tensor:
    """The mask [4, t, h, w] that tells known frames (1) from unknown ones, for latents of `height` by `width` cells.

    The four channels are the four frames of a latent; the first latent holds one frame, counted four times.
    """
    known = torch.zeros(frames)
    known[0] = 1
    if last:
        known[-1] = 1
    four = torch.cat([known[:1].repeat(STRIDE[0]), known[1:]])
    mask = rearrange(four, "(t n) -> n t 1 1", n=STRIDE[0])
    return mask.expand(-1, -1, height, width)


def condition(vae: VAE, first: Tensor, last: Tensor | None, frames: int) -> Tensor:
    """The condition [1, 4 + c, t, h, w] of pictures [3, H, W] that have the video's size already."""
    latents = vae.encode(video_of(first, last, frames))
    mask = known_frames(frames, last is not None, *latents.shape[3:])
    return torch.cat([mask[None].to(latents), latents], dim=1)
