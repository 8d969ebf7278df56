"""The files that a request brings: what they decide where nothing was asked for, and whether they fit together.

`ask` makes a request and lets the given files decide size and number of frames, as the official code does; `look` reads
everything once before any weights load. It knows files and rules, no tensors and no models: `prepare` turns what is
given into what a model sees.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lichtspiel.errors import MediaError, RequestError
from lichtspiel.media.media import read_frames
from lichtspiel.media.picture import is_picture, load_image
from lichtspiel.media.video import video_info
from lichtspiel.request import Request
from lichtspiel.spec import Model, model

if TYPE_CHECKING:
    from lichtspiel.frames import Frame


__all__ = ["Seen", "ask", "film", "film_size", "look", "mask_of", "picture_size"]

SAMPLED = 8
"""Every so many frames of a given video are judged by the policy: two a second at Wan's rate."""


@dataclass(frozen=True)
class Seen:
    """What was given, as far as others want to know: pictures and some frames of the video, for the policy, and what
    the requester should be told."""

    pictures: list[Frame]
    notes: list[str]


def ask(*, seconds: float | None = None, **fields: Any) -> Request:
    """`Request.of`, with size and number of frames taken from the given files where they are not asked for.

    The first picture's aspect ratio and the checkpoint's area give the size (`picture_size`), a video's likewise
    (`film_size`); a video has as many frames as are made from it. Checkpoints of one size keep it. Raises MediaError
    for a file that cannot be read and RequestError for one that leads to no valid request.
    """
    row = model(fields.get("model") or "nano")
    given = {name: Path(fields[name]) for name in ("image", "video") if fields.get(name)}
    area = math.prod(row.sampling.sizes[0])
    if row.sampling.free_size and not fields.get("size"):
        if "image" in given:
            height, width = load_image(given["image"]).shape[:2]
            fields["size"] = picture_size(area, width, height, row.grid)
        elif "video" in given:
            height, width = next(read_frames(given["video"])).shape[:2]
            fields["size"] = film_size(area, width, height, row.grid)
    if "video" in given and fields.get("frames") is None and seconds is None:
        fields["frames"] = _length(given["video"], row)
    return Request.of(seconds=seconds, **fields)


def picture_size(area: int, width: int, height: int, grid: int) -> tuple[int, int]:
    """The size of about `area` pixels with a picture's aspect ratio, rounded down to tokens as `wan/image2video.py`
    does. It multiplies before it divides: the official order loses a bit, and with it 16 rows of a picture of 832x480.
    """
    sides = math.sqrt(area * width / height), math.sqrt(area * height / width)
    across, down = (round(side // (grid // 2) // 2 * 2) * (grid // 2) for side in sides)
    return _there(across, down, f"{width}x{height}")


def film_size(area: int, width: int, height: int, grid: int) -> tuple[int, int]:
    """The same for a video that VACE is given, which is never enlarged (`VaceVideoProcessor` in
    `wan/utils/vace_processor.py`)."""
    tokens = min(area // grid**2, (height // grid) * (width // grid))
    down = round(math.sqrt(tokens * height / width))
    across = int(tokens / down) if down else 0
    return _there(across * grid, down * grid, f"{width}x{height}")


def _there(width: int, height: int, given: str) -> tuple[int, int]:
    if not width or not height:
        raise RequestError("size", given, "what is given is too small or too narrow to take the size from; set --size")
    return width, height


def _length(video: Path, row: Model) -> int:
    """The number of frames of a video, if the checkpoint can make as many."""
    count = sum(1 for _ in read_frames(video))
    if row.nearest_frames(count) != count:
        limits = f"{row.frame_rule}, from 1 to {row.sampling.max_frames}"
        rule = f"so many has {video}, and {row.name} makes {limits}; ask for its first"
        raise RequestError("frames", count, rule, _most_frames(count, row))
    return count


def _most_frames(count: int, row: Model) -> int:
    """The largest valid number of frames that a video of `count` frames has."""
    nearest = row.nearest_frames(count)
    return nearest if nearest <= count else nearest - row.vae.stride[0]


def look(request: Request) -> Seen:
    """Read what a request brings, and check that lengths and sizes agree. Raises MediaError or RequestError."""
    seen = Seen([], [])
    first = load_image(request.image) if request.image else None
    last = load_image(request.last_image) if request.last_image else None
    width, height = request.size
    for picture, path in ((first, request.image), (last, request.last_image)):
        if picture is not None:
            seen.pictures.append(picture)
            if picture.shape[:2] != (height, width):
                size = f"{picture.shape[1]}x{picture.shape[0]}"
                seen.notes.append(f"{path} is {size}, the video {width}x{height} (fit: {request.fit})")
    if first is not None and last is not None and first.shape == last.shape and (first == last).all():
        seen.notes.append("first and last image are the same: the video may stand still")
    _look_at_film(request, seen)
    seen.pictures.extend(load_image(reference) for reference in request.references)
    return seen


def _look_at_film(request: Request, seen: Seen) -> None:
    """The video and the mask: every frame is read, few are kept."""
    if request.video is None:
        return
    count, shape = 0, (0, 0)
    for frame in _alike(request.video):
        shape = frame.shape[:2]
        if count % SAMPLED == 0 and count < request.frames:
            seen.pictures.append(frame)
        count += 1
    if count < request.frames:
        row = model(request.model)
        rule = f"the video has {count}, and as many are made from it at most"
        raise RequestError("frames", request.frames, rule, _most_frames(count, row))
    if count > request.frames:
        seen.notes.append(f"of {request.video} the first {request.frames} of {count} frames are used")
    if not (request.video.is_dir() or is_picture(request.video)):
        rate = video_info(request.video).fps
        if round(rate) != request.fps:
            seen.notes.append(f"{request.video} has {rate:g} frames a second, what is made plays at {request.fps}")
    if request.mask is None:
        return
    masks = 0
    for frame in _alike(request.mask):
        if frame.shape[:2] != shape:
            sizes = f"{frame.shape[1]}x{frame.shape[0]} and the video {shape[1]}x{shape[0]}"
            raise RequestError("mask", str(request.mask), f"it is {sizes}; export the mask at the video's size")
        masks += 1
    if masks != count and not is_picture(request.mask):
        rule = f"it has {masks} frames and the video {count}; give it as many, or one picture for all of them"
        raise RequestError("mask", str(request.mask), rule)


def _alike(path: Path) -> Iterator[Frame]:
    """The frames of a video or folder, which have to be of one size."""
    shape = None
    for number, frame in enumerate(read_frames(path)):
        shape = shape or frame.shape
        if frame.shape != shape:
            sizes = f"{frame.shape[1]}x{frame.shape[0]}, the first is {shape[1]}x{shape[0]}"
            raise MediaError(f"{path}: frame {number} is {sizes}; export all of them at one size")
        yield frame


def film(request: Request) -> Iterator[Frame]:
    """The frames of the video that are used."""
    assert request.video is not None
    return (frame for _, frame in zip(range(request.frames), read_frames(request.video), strict=False))


def mask_of(request: Request) -> Iterator[Frame]:
    """The mask, a frame for each frame that is used."""
    assert request.mask is not None
    if is_picture(request.mask):
        picture = load_image(request.mask)
        return (picture for _ in range(request.frames))
    return (frame for _, frame in zip(range(request.frames), read_frames(request.mask), strict=False))
