"""The input files of a request: the defaults they provide, and whether they fit together.

`resolve_request` builds a request and takes the size and the number of frames from its files where they are not set, as
the official code does. Every file is opened and decoded once, into `Inputs`, so the policy judges exactly what a model
sees. This module knows files and rules, but no tensors or networks; `preprocess` turns frames into tensors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lichtspiel.errors import RequestError
from lichtspiel.inference.footage import check_footage, choose_frames, footage_notes
from lichtspiel.media.media import Choose, Media
from lichtspiel.request import Request
from lichtspiel.spec import model

if TYPE_CHECKING:
    from lichtspiel.frames import Frame

__all__ = ["Inputs", "check_mask", "picture_size", "read_inputs", "resolve_request", "video_size"]

JUDGED_EVERY = 8
"""The policy judges every eighth frame of an input video: two per second at Wan's frame rate."""


@dataclass(frozen=True)
class Inputs:
    """The decoded files of one request; of a video, only the frames that are used.

    If only every `every`-th frame of a video was kept, the policy can judge it, but no model can use it.
    """

    image: Media | None = None
    last_image: Media | None = None
    video: Media | None = None
    mask: Media | None = None
    references: list[Media] = field(default_factory=list)
    every: int = 1

    @property
    def by_role(self) -> dict[str, Media]:
        """All files, by the role names that the record uses."""
        named = {"first-frame": self.image, "last-frame": self.last_image, "video": self.video, "mask": self.mask}
        numbered = {f"reference-{number}": media for number, media in enumerate(self.references, start=1)}
        return {role: media for role, media in {**named, **numbered}.items() if media is not None}

    @property
    def digests(self) -> dict[str, str]:
        """The digests of all files, by role."""
        return {role: media.sha256 for role, media in self.by_role.items()}

    def judged(self, request: Request) -> Iterator[Frame]:
        """What the policy judges: the pictures, every `JUDGED_EVERY`-th used frame of the video, and the references."""
        yield from (media.frames[0] for media in (self.image, self.last_image) if media is not None)
        if self.video is not None:
            used = self.video.frames[: -(-request.frames // self.every)]
            yield from used[:: JUDGED_EVERY // self.every]
        yield from (media.frames[0] for media in self.references)

    def video_frames(self, request: Request) -> list[Frame]:
        """The frames of the video that are used."""
        assert self.video is not None
        assert self.every == 1
        return self.video.frames[: request.frames]

    def mask_frames(self, request: Request) -> list[Frame]:
        """One mask per frame that is used; a single picture serves for all frames."""
        assert self.mask is not None
        assert self.every == 1
        return self.mask.frames[:1] * request.frames if self.mask.still else self.mask.frames[: request.frames]

    def check(self, request: Request) -> list[str]:
        """Check that lengths and sizes agree; returns notes for the user. Raises RequestError."""
        notes = []
        size = f"{request.size[0]}x{request.size[1]}"
        for media in (self.image, self.last_image):
            if media is not None and media.size != request.size:
                media_size = f"{media.size[0]}x{media.size[1]}"
                notes.append(f"{media.path} is {media_size}, the video {size} (fit: {request.fit})")
        if self.image is not None and self.last_image is not None and _same(self.image, self.last_image):
            notes.append("first and last image are the same: the video may stand still")
        if self.video is not None:
            check_footage(request, self.video)
            notes += footage_notes(request, self.video)
            if self.mask is not None:
                check_mask(self.video, self.mask)
        return notes


def resolve_request(*, seconds: float | None = None, judge_only: bool = False, **fields: Any) -> tuple[Request, Inputs]:
    """Build a request, taking the size and the number of frames from its files where they are not set.

    Returns the request and its decoded files. The size follows from the checkpoint's area and the aspect ratio of the
    first picture (`picture_size`) or the video (`video_size`); the number of frames is that of the video. Checkpoints
    with fixed sizes keep theirs. With `judge_only`, only the few frames of a video that the policy needs are kept.
    Raises MediaError for a file that cannot be read, and RequestError if no valid request results.
    """
    row = model(fields.get("model") or "nano")
    request = Request.of(seconds=seconds, **fields)  # before reading any file, check what does not depend on them
    open_length = fields.get("frames") is None and seconds is None
    inputs = _read(request, None if open_length else request.frames, JUDGED_EVERY if judge_only else 1)
    area = math.prod(row.sampling.sizes[0])
    if row.sampling.free_size and not fields.get("size"):
        if inputs.image is not None:
            fields["size"] = picture_size(area, *inputs.image.size, row.grid)
        elif inputs.video is not None:
            fields["size"] = video_size(area, *inputs.video.size, row.grid)
    if inputs.video is not None and open_length:
        fields["frames"] = len(inputs.video.picks)
    return Request.of(seconds=seconds, **{**fields, "seed": request.seed}), inputs


def read_inputs(request: Request) -> Inputs:
    """Read and decode the files of a request. Raises MediaError for a file that cannot be read."""
    return _read(request, request.frames, 1)


def _read(request: Request, frames: int | None, every: int) -> Inputs:
    """Read the files of a request. `frames` is None where the video decides how many there are."""

    def picture(path: Path | None) -> Media | None:
        return None if path is None else Media.read_picture(path)

    def video(path: Path | None, choose: Choose) -> Media | None:
        return None if path is None else Media.read_video(path, choose, fps=request.fps, every=every)

    film = video(request.video, lambda timeline: choose_frames(request, timeline, frames))
    picks = [] if film is None else film.picks
    mask = video(request.mask, lambda timeline: [min(pick, timeline.count - 1) for pick in picks])
    references = [Media.read_picture(path) for path in request.references]
    return Inputs(picture(request.image), picture(request.last_image), film, mask, references, every)


def picture_size(area: int, width: int, height: int, grid: int) -> tuple[int, int]:
    """The size with about `area` pixels and a picture's aspect ratio, rounded down to tokens (`wan/image2video.py`).

    This multiplies before it divides. The official order loses a bit to rounding, which costs a picture of 832x480
    16 rows.
    """
    sides = math.sqrt(area * width / height), math.sqrt(area * height / width)
    columns, rows = (round(side // (grid // 2) // 2 * 2) * (grid // 2) for side in sides)
    return _checked_size(columns, rows, f"{width}x{height}")


def video_size(area: int, width: int, height: int, grid: int) -> tuple[int, int]:
    """The same for a video that goes to VACE. It is never enlarged (`VaceVideoProcessor` in
    `wan/utils/vace_processor.py`)."""
    tokens = min(area // grid**2, (height // grid) * (width // grid))
    rows = round(math.sqrt(tokens * height / width))
    columns = int(tokens / rows) if rows else 0
    return _checked_size(columns * grid, rows * grid, f"{width}x{height}")


def _checked_size(width: int, height: int, value: str) -> tuple[int, int]:
    if not width or not height:
        raise RequestError("size", value, "this file is too small or too narrow to take the size from; set <size>")
    return width, height


def check_mask(video: Media, mask: Media) -> None:
    """Raise RequestError for a mask that differs from its video in size or number of frames."""
    if mask.size != video.size:
        sizes = f"{mask.size[0]}x{mask.size[1]} and the video {video.size[0]}x{video.size[1]}"
        raise RequestError("mask", str(mask.path), f"it is {sizes}; export the mask at the video's size")
    if mask.count != video.count and not mask.still:
        rule = f"it has {mask.count} frames and the video {video.count}; give it as many, or one picture for all frames"
        raise RequestError("mask", str(mask.path), rule)


def _same(one: Media, other: Media) -> bool:
    first, last = one.frames[0], other.frames[0]
    return first.shape == last.shape and bool((first == last).all())
