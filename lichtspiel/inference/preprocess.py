"""Preprocessing: turn the files of a request into tensors of its size, and preview them on a contact sheet.

This module loads no weights, so a preview takes seconds. `conditioning` describes what is encoded, and how.

Letters: f frames, h and w height and width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lichtspiel.errors import RequestError
from lichtspiel.frames import Frame
from lichtspiel.inference.conditioning import fit_frame, letterbox, match_aspect, resize
from lichtspiel.inference.inputs import Inputs
from lichtspiel.inference.pixels import from_pixels, to_pixels
from lichtspiel.media.sheet import contact_sheet
from lichtspiel.request import Request
from lichtspiel.spec import model

__all__ = ["VACEInputs", "given_video", "pictures_of", "preview", "shown_numbers", "vace_inputs", "vace_rows"]

SHOWN = 6
"""How many frames of a video one row of the preview shows."""


@dataclass(frozen=True)
class VACEInputs:
    """The inputs of VACE at the request's size.

    A video [3, f, h, w] in [-1, 1], a mask [f, h, w] in [0, 1], where 1 means "generate this", and references
    [3, h, w] in [-1, 1].
    """

    video: Tensor
    mask: Tensor
    references: list[Tensor]


def pictures_of(request: Request, inputs: Inputs) -> list[Tensor]:
    """The first and the last picture of a request, each [3, H, W].

    They keep their own resolution but get the aspect ratio of the request.
    """
    row = model(request.model)
    slack = row.grid if row.sampling.free_size else 0
    frames = [media.frames[0] for media in (inputs.image, inputs.last_image) if media is not None]
    return [match_aspect(from_pixels(frame), *request.size, request.fit, slack) for frame in frames]


def given_video(request: Request, inputs: Inputs) -> Tensor:
    """The frames that are used of the video [3, f, h, w], at the request's size."""
    pictures = [from_pixels(frame) for frame in inputs.video_frames(request)]
    return torch.stack([fit_frame(picture, *request.size, request.fit) for picture in pictures], dim=1)


def given_parts(request: Request, inputs: Inputs, stride: int) -> Iterator[Tensor]:
    """The same in parts [1, 3, n, h, w] of 1, then `stride` frames, so that a long clip is never held as a whole."""
    part: list[Tensor] = []
    for number, frame in enumerate(inputs.video_frames(request)):
        part.append(fit_frame(from_pixels(frame), *request.size, request.fit))
        if number % stride == 0:
            yield torch.stack(part, dim=1)[None]
            part = []


def vace_inputs(request: Request, inputs: Inputs) -> VACEInputs:
    """Video, mask and references as tensors.

    Without a mask, the whole video is generated. Without a video, the video is mid-gray (zeros), as in
    `prepare_source` of `wan/vace.py`.
    """
    width, height = request.size

    video = torch.zeros(3, request.frames, height, width)
    mask = torch.ones(request.frames, height, width)
    if inputs.video is not None:
        video = given_video(request, inputs)
    if inputs.mask is not None:
        pictures = [fit_frame(from_pixels(frame), width, height, request.fit) for frame in inputs.mask_frames(request)]
        mask = torch.stack([(picture[0] + 1) / 2 for picture in pictures]).clamp(0, 1)
    references = [letterbox(from_pixels(media.frames[0]), width, height) for media in inputs.references]
    return VACEInputs(video, mask, references)


def preview(request: Request, inputs: Inputs, path: Path) -> None:
    """Write a PNG that shows what the model will see.

    That is the first and the last picture; the frames of a video to start from; or, for VACE, one row each for the part
    of the video that is kept, the part that is replaced and the mask (white is replaced), and then the references.
    Raises RequestError if the request has no files.
    """
    if request.task == "text" and request.video is None:
        raise RequestError("preview", str(path), "there is nothing to preview: set <image>, <video> or <references>")
    if request.task == "text":
        video = given_video(request, inputs)
        contact_sheet((to_pixels(video[:, number]) for number in shown_numbers(request.frames)), path=path)
        return
    if request.task != "edit":
        width, height = request.size
        shown = [resize(picture, width, height, antialias=True) for picture in pictures_of(request, inputs)]
        contact_sheet(map(to_pixels, shown), path=path)
        return
    rows = vace_rows(request, inputs)
    columns = min(request.frames, SHOWN) if request.video else SHOWN
    contact_sheet(rows, columns=columns, path=path, most=len(rows))


def vace_rows(request: Request, inputs: Inputs) -> list[Frame]:
    """What VACE will see, for a sheet of `min(frames, SHOWN)` columns: a row each for what is kept of the video, what
    is replaced, and the mask, and then the references."""
    vace = vace_inputs(request, inputs)
    replaced = (vace.mask > 0.5).to(vace.video)
    rows = [vace.video * (1 - replaced), vace.video * replaced, (vace.mask * 2 - 1).expand_as(vace.video)]
    shown = [row[:, pick] for row in rows for pick in shown_numbers(request.frames)] if request.video else []
    return [to_pixels(picture) for picture in (*shown, *vace.references)]


def shown_numbers(frames: int) -> list[int]:
    """The numbers of the frames that a row shows of a video."""
    columns = min(frames, SHOWN)
    return [round(number * (frames - 1) / max(columns - 1, 1)) for number in range(columns)]
