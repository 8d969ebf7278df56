"""Turn pictures and videos into the conditions of a DiT.

    first and last picture     [mask 4 | latents 16], concatenated to the noise
    VACE                       [inactive 16 | reactive 16 | mask 64], for the blocks of its second stream

Follows `wan/image2video.py`, `wan/first_last_frame2video.py`, `wan/vace.py` and `wan/utils/vace_processor.py`. This
module opens no files; pictures are tensors in [-1, 1], masks are in [0, 1], where 1 means "generate this".

Letters: c channels, t latent frames, n frames in a latent, f frames, h and w latent height and width, y and x pixels
along a latent's sides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from lichtspiel import flow
from lichtspiel.models.vae import VAE
from lichtspiel.spec import FitMode

__all__ = [
    "fit_frame",
    "held",
    "image_condition",
    "known_frames",
    "letterbox",
    "match_aspect",
    "parts_of",
    "resize",
    "vace_context",
    "video_of",
]

WHITE, BLACK = 1.0, -1.0


def match_aspect(image: Tensor, width: int, height: int, fit: FitMode, slack: int = 0) -> Tensor:
    """Bring [3, H, W] to the aspect ratio of width to height, at its own resolution.

    "crop" cuts around the center, "pad" adds black bars, and "stretch" leaves the picture as it is. So does "crop" if
    fewer than `slack` pixels of the result would be lost: sizes are rounded down to a grid, and the official code
    squeezes a picture by that small difference in aspect ratio instead of cropping it.
    """
    rows, columns = image.shape[1:]
    scale = max(width / columns, height / rows)
    lost = max(scale * columns - width, scale * rows - height)
    if fit == "stretch" or (fit == "crop" and lost < slack):
        return image
    most = min if fit == "crop" else max
    wide = most(columns, max(round(rows * width / height), 1))
    tall = most(rows, max(round(columns * height / width), 1))
    if fit == "crop":
        return center_crop(image, wide, tall)
    return _paste_centered(image, wide, tall, BLACK)


def center_crop(image: Tensor, width: int, height: int) -> Tensor:
    """Crop [3, H, W] to a size around its center."""
    top, left = (image.shape[1] - height) // 2, (image.shape[2] - width) // 2
    return image[:, top : top + height, left : left + width]


def _paste_centered(image: Tensor, width: int, height: int, color: float) -> Tensor:
    """Paste [3, H, W] into the middle of a canvas of one color."""
    rows, columns = image.shape[1:]
    top, left = (height - rows) // 2, (width - columns) // 2
    canvas = image.new_full((3, height, width), color)
    canvas[:, top : top + rows, left : left + columns] = image
    return canvas


def fit_frame(image: Tensor, width: int, height: int, fit: FitMode) -> Tensor:
    """Fit a frame [3, H, W] of VACE's video or mask to a size, as `resize_crop` of `VaceVideoProcessor` does."""
    if image.shape[1:] == (height, width):
        return image
    if fit == "crop":
        scale = max(width / image.shape[2], height / image.shape[1])
        image = resize(image, round(scale * image.shape[2]), round(scale * image.shape[1]), antialias=True)
        image = center_crop(image, width, height)
    else:
        image = resize(match_aspect(image, width, height, fit), width, height, antialias=True)
    return image.clamp(-1, 1)


def letterbox(image: Tensor, width: int, height: int) -> Tensor:
    """Fit a whole reference [3, H, W] onto a white canvas of a size, as `prepare_source` in `wan/vace.py` does."""
    rows, columns = image.shape[1:]
    if (rows, columns) == (height, width):
        return image
    scale = min(height / rows, width / columns)
    small = max(int(rows * scale), 1), max(int(columns * scale), 1)
    resized = F.interpolate(image[None], small, mode="bilinear", align_corners=False)[0]
    return _paste_centered(resized, width, height, WHITE)


def resize(image: Tensor, width: int, height: int, *, antialias: bool) -> Tensor:
    """Resize [3, H, W] bicubically; values that overshoot [-1, 1] are not clipped, as in the official code."""
    return F.interpolate(image[None], (height, width), mode="bicubic", antialias=antialias)[0]


def video_of(first: Tensor, last: Tensor | None, frames: int) -> Tensor:
    """A video [1, 3, frames, H, W] of the known pictures [3, H, W]; all other frames are mid-gray (zeros)."""
    video = first.new_zeros(1, 3, frames, *first.shape[1:])
    video[0, :, 0] = first
    if last is not None:
        video[0, :, -1] = last
    return video


def parts_of(first: Tensor, last: Tensor | None, frames: int, stride: int) -> Iterator[Tensor]:
    """The same video in parts of 1, then `stride` frames: of a minute, only the frames at hand are held."""
    yield first[None, :, None]
    for end in range(1 + stride, frames + 1, stride):
        part = first.new_zeros(1, 3, stride, *first.shape[1:])
        if last is not None and end == frames:
            part[0, :, -1] = last
        yield part


def known_frames(frames: int, last: bool, height: int, width: int, stride: int) -> Tensor:
    """The mask [stride, t, h, w] of known frames (1) and unknown ones (0), for latents of `height` by `width` cells.

    Its channels are the `stride` frames of a latent frame; the first latent frame holds one frame, which is repeated.
    """
    is_known = torch.zeros(frames)
    is_known[0] = 1
    if last:
        is_known[-1] = 1
    whole = torch.cat([is_known[:1].repeat(stride), is_known[1:]])
    mask = rearrange(whole, "(t n) -> n t 1 1", n=stride)
    return mask.expand(-1, -1, height, width)


def image_condition(vae: VAE, first: Tensor, last: Tensor | None, frames: int) -> Tensor:
    """The condition [1, 4 + c, t, h, w] for pictures [3, H, W] that already have the size of the video."""
    latents = vae.encode_parts(parts_of(first, last, frames, vae.spec.stride[0]))
    height, width = latents.shape[3:]
    mask = known_frames(frames, last is not None, height, width, vae.spec.stride[0])
    return torch.cat([mask[None].to(latents), latents], dim=1)


def held(velocity: Tensor, latents: Tensor, timestep: Tensor, known: Tensor) -> Tensor:
    """The velocity [b, c, t, h, w], but the true one in latent frames all of whose pictures are given.

    The first latent frame is that of the first picture alone, so its velocity is no guess: noisy latents are
    (1 - s) x + s n at time s, the velocity is n - x, and that is the way from x to the latents divided by s. `timestep`
    is 1000 s, and `known` [1 or b, m + c, t, h, w] holds m channels that say which pictures are given, then their
    latents.
    """
    given, clean = known.to(latents).tensor_split((known.shape[1] - latents.shape[1],), dim=1)
    whole = (given == 1).all(dim=1, keepdim=True)
    time = (timestep / flow.TIMESTEPS).to(latents).reshape(-1, 1, 1, 1, 1)
    return torch.where(whole, (latents - clean) / time, velocity.to(latents))


def vace_context(vae: VAE, video: Tensor, mask: Tensor, references: Sequence[Tensor]) -> Tensor:
    """VACE's context [1, 2c + 64, r + t, h, w].

    It is made from a video [1, 3, f, H, W], a mask [f, H, W] and r references [3, H, W]. Its channels are the inactive
    and the reactive part of the video, encoded separately, and the mask. Each reference becomes one inactive latent
    frame; they precede the video's, in order.
    """

    def masked(kept: bool) -> Iterator[Tensor]:
        """The video where the mask is off, or on, and mid-gray elsewhere, in parts."""
        begin = 0
        for end in range(1, video.shape[2] + 1, vae.spec.stride[0]):
            reactive = (mask[begin:end] > 0.5).to(video)[None, None]
            yield video[:, :, begin:end] * ((1 - reactive) if kept else reactive)
            begin = end

    latents = torch.cat([vae.encode_parts(masked(True)), vae.encode_parts(masked(False))], dim=1)
    cells = mask_cells(mask, vae.spec.stride)[None].to(latents)
    if references:
        reference_latents = torch.cat([vae.encode(reference[None, :, None]) for reference in references], dim=2)
        latents = torch.cat(
            [torch.cat([reference_latents, torch.zeros_like(reference_latents)], dim=1), latents], dim=2
        )
        cells = F.pad(cells, (0, 0, 0, 0, len(references), 0))
    return torch.cat([latents, cells], dim=1)


def mask_cells(mask: Tensor, stride: tuple[int, int, int]) -> Tensor:
    """Turn a mask [f, H, W] into [64, t, h, w]: the pixels of a cell become channels; one in four frames is kept."""
    cells = rearrange(mask, "f (h y) (w x) -> (y x) f h w", y=stride[1], x=stride[2])
    size = ((mask.shape[0] + stride[0] - 1) // stride[0], *cells.shape[2:])
    return F.interpolate(cells[None], size, mode="nearest-exact")[0]
