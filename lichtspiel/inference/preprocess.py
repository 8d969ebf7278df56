"""From the files of a request to tensors of its size: what a model will see, and a contact sheet of it.

It loads no weights, so that a look at it costs seconds. What is encoded of it, and how, is told in `conditioning`.

Letters: f frames, h and w height and width.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from lichtspiel.errors import RequestError
from lichtspiel.inference import inputs
from lichtspiel.inference.conditioning import fit_frame, letterbox, match_aspect, resize
from lichtspiel.media.picture import load_image
from lichtspiel.media.sheet import contact_sheet
from lichtspiel.request import Request
from lichtspiel.spec import model

__all__ = ["Film", "film_of", "pictures_of", "preview"]

SHOWN = 6
"""Frames of a video in a row of the preview."""


@dataclass(frozen=True)
class Film:
    """What VACE is given, at the request's size: a video [3, f, h, w] in [-1, 1], a mask [f, h, w] in [0, 1], where 1
    is made anew, and references [3, h, w]."""

    video: Tensor
    mask: Tensor
    references: list[Tensor]


def pictures_of(request: Request) -> list[Tensor]:
    """First and last picture as far as they are given, [3, H, W] at their own resolution and the request's aspect
    ratio."""
    row = model(request.model)
    slack = row.grid if row.sampling.free_size else 0
    paths = [path for path in (request.image, request.last_image) if path is not None]
    return [match_aspect(_tensor(load_image(path)), *request.size, request.fit, slack) for path in paths]


def film_of(request: Request) -> Film:
    """Video, mask and references. Without a mask all of the video is made anew; without a video that is mid-grey
    (zeros), as in `prepare_source` of `wan/vace.py`."""
    width, height = request.size
    video = torch.zeros(3, request.frames, height, width)
    mask = torch.ones(request.frames, height, width)
    if request.video is not None:
        video = torch.stack([fit_frame(_tensor(it), width, height, request.fit) for it in inputs.film(request)], dim=1)
    if request.mask is not None:
        frames = [fit_frame(_tensor(it), width, height, request.fit) for it in inputs.mask_of(request)]
        mask = torch.stack([(it[0] + 1) / 2 for it in frames]).clamp(0, 1)
    return Film(video, mask, [letterbox(_tensor(load_image(path)), width, height) for path in request.references])


def preview(request: Request, path: Path) -> None:
    """Write a PNG of what the model will see: first and last picture; or what stays of the video, what is made anew and
    the mask (white is made anew), a row each, and the references. Raises RequestError when nothing is given."""
    if request.task == "text":
        raise RequestError("preview", str(path), "there is nothing to see: give an image, a video or references")
    if request.task != "edit":
        width, height = request.size
        shown = [resize(it, width, height, antialias=True) for it in pictures_of(request)]
        contact_sheet(_arrays(shown), path=path)
        return
    given = film_of(request)
    anew = (given.mask > 0.5).to(given.video)
    rows = [given.video * (1 - anew), given.video * anew, (given.mask * 2 - 1).expand_as(given.video)]
    columns = min(request.frames, SHOWN)
    picks = [round(number * (request.frames - 1) / max(columns - 1, 1)) for number in range(columns)]
    shown = [row[:, pick] for row in rows for pick in picks] if request.video else []
    shown += given.references
    contact_sheet(_arrays(shown), columns=columns if request.video else SHOWN, path=path, most=len(shown))


def _tensor(array: NDArray[np.uint8]) -> Tensor:
    """Pixels [h, w, 3] as [3, h, w] in [-1, 1]."""
    return rearrange(torch.from_numpy(array), "h w c -> c h w").float() / 127.5 - 1


def _arrays(images: Iterable[Tensor]) -> Iterable[NDArray[np.uint8]]:
    for image in images:
        pixels = (image.clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8)
        yield rearrange(pixels, "c h w -> h w c").contiguous().numpy()
