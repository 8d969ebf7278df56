"""The contact sheet, which shows a video at a glance, and how its frames are chosen.

Frames are uint8 arrays [height, width, 3], RGB.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from lichtspiel.errors import MediaError, OutputError
from lichtspiel.storage import atomic_write

if TYPE_CHECKING:
    from PIL import Image

    from lichtspiel.frames import Frame


__all__ = ["contact_sheet", "spread"]

Item = TypeVar("Item")

_SHEET_FRAMES = 12
_CELL = 320  # pixels along the longer side of a frame on the sheet
_GAP = 8


def contact_sheet(
    frames: Iterable[Frame], columns: int = 4, path: str | Path | None = None, most: int = _SHEET_FRAMES
) -> Image.Image:
    """Arrange at most `most` evenly spaced frames in one picture. With `path`, also save it as PNG.

    Frames are read one at a time, and only a few are kept. Small frames are enlarged by an integer factor without
    smoothing, so that the pixels of a 64x64 video stay visible; large frames are reduced. Raises MediaError when there
    are no frames and OutputError when the picture cannot be saved.
    """
    from PIL import Image

    chosen = spread(frames, most)
    if not chosen:
        raise MediaError("a contact sheet needs at least one frame")
    cells = [_cell(Image.fromarray(frame)) for frame in chosen]
    columns = min(columns, len(cells))
    rows = math.ceil(len(cells) / columns)
    width, height = max(cell.width for cell in cells) + _GAP, max(cell.height for cell in cells) + _GAP
    sheet = Image.new("RGB", (columns * width + _GAP, rows * height + _GAP), "white")
    for number, cell in enumerate(cells):
        row, column = divmod(number, columns)
        sheet.paste(cell, (_GAP + column * width, _GAP + row * height))
    if path is not None:
        _save(sheet, Path(path))
    return sheet


def spread(frames: Iterable[Item], count: int) -> list[Item]:
    """Pick at most `count` evenly spaced frames (or their numbers), including the first and the last.

    Holds at most 2 * count + 1 of them: it keeps every `stride`-th one, and doubles the stride when there are too many.
    """
    samples: list[Item] = []
    last: Item | None = None
    stride, number = 1, -1
    for number, frame in enumerate(frames):
        last = frame
        if number % stride == 0:
            samples.append(frame)
            if len(samples) > 2 * count:
                samples, stride = samples[::2], 2 * stride
    if last is not None and number % stride:
        samples.append(last)
    picks = min(count, len(samples))
    return [samples[round(index * (len(samples) - 1) / max(picks - 1, 1))] for index in range(picks)]


def _cell(frame: Image.Image) -> Image.Image:
    from PIL import Image

    side = max(frame.size)
    if factor := _CELL // side:
        return frame.resize((frame.width * factor, frame.height * factor), Image.Resampling.NEAREST)
    size = (max(1, round(frame.width * _CELL / side)), max(1, round(frame.height * _CELL / side)))
    return frame.resize(size, Image.Resampling.LANCZOS)


def _save(sheet: Image.Image, path: Path) -> None:
    try:
        with atomic_write(path) as draft:
            sheet.save(draft, format="PNG")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
