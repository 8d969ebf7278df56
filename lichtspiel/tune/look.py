"""Sheets of what a model will see of a data set: a picture per bucket, and a page with the captions beside the frames.

The frames are those that are encoded, at the size of their bucket and at the model's frame rate; below them are what
VACE sees, its mask, and the weights of the loss. Sheets are sealed, because frames leave in them.
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lichtspiel import __version__
from lichtspiel.errors import OutputError
from lichtspiel.frames import Frame
from lichtspiel.media.sheet import spread
from lichtspiel.seal import Marks, Provenance, seal_picture
from lichtspiel.spec import Model
from lichtspiel.storage import atomic_write
from lichtspiel.tune.dataset import Bucket, Sample
from lichtspiel.tune.prepare import Observe
from lichtspiel.tune.samples import by_bucket, read_sample

if TYPE_CHECKING:
    from PIL import Image, ImageFont

__all__ = ["look"]

SHOWN = 5
"""Frames of a sample on its row."""

MOST = 40
"""Samples on a sheet; of more, evenly spaced ones are shown."""

TALL, WIDE, GAP, TEXT, LETTER = 128, 240, 6, 460, 15
"""Pixels: height and largest width of a frame, the space between, the width of the caption, the size of a letter."""

OWN = replace(Marks.of("eu"), watermark=False, comment=False)
"""Signed, but not marked as made by a model: the frames are a person's own data."""


@dataclass(frozen=True)
class _Line:
    """One sample on a sheet: rows of frames, what they are, and the caption."""

    strips: list[list[Image.Image]]
    title: str
    caption: str


def look(samples: Sequence[Sample], row: Model, folder: Path, observe: Observe) -> list[Path]:
    """Write a sheet for each bucket into `folder`, and `index.html` with all of them; returns their paths.

    Raises OutputError if the folder cannot be written, and MediaError if a file cannot be read.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made: {error.strerror}; choose another with --out") from error
    paths, sections = [], []
    buckets = by_bucket(samples)
    for number, (bucket, inside) in enumerate(buckets.items()):
        observe.progress(f"drawing {bucket}", number / len(buckets))
        shown = spread(inside, MOST)
        lines = [_line(sample, row, place) for place, sample in enumerate(shown, 1)]
        sheet, places = _draw(bucket, len(inside), lines)
        provenance = Provenance(
            model="data sheet", version=__version__, source_type="algorithmicMedia", prompt="", negative="",
            parameters={"bucket": str(bucket), "samples": len(inside), "shown": len(shown)},
        )  # fmt: skip
        path = folder / f"{bucket}.png"
        seal_picture(np.asarray(sheet), provenance, path, marks=OWN)
        paths.append(path)
        sections.append(_section(path.name, bucket, len(inside), lines, places, sheet.width - TEXT))
    page = folder / "index.html"
    with atomic_write(page) as draft:
        draft.write_text(_PAGE.format(title=html.escape(row.title), sections="\n".join(sections)), encoding="utf-8")
    return [*paths, page]


def _line(sample: Sample, row: Model, number: int) -> _Line:
    item, bucket = sample.item, sample.bucket
    strips = [_strip(read_sample(sample, row, item.path))]
    for path in (item.control, item.mask, item.weight):
        if path is not None:
            strips.append(_strip(read_sample(sample, row, path, exact=path == item.mask)))
    if item.references:
        strips.append(_references(item.references))
    seconds = (bucket.frames - 1) / row.sampling.fps
    stretch = f", from frame {sample.start}, {seconds:.1f} s" if bucket.frames > 1 else ""
    often = f", {item.repeats} times an epoch" if item.repeats > 1 else ""
    aside = ", for validation" if sample.held_out else ""
    return _Line(strips, f"{number}. {item.path.name}{stretch}{often}{aside}", item.caption)


def _strip(frames: list[Frame]) -> list[Image.Image]:
    from PIL import Image

    return [_thumbnail(Image.fromarray(frame)) for frame in spread(frames, SHOWN)]


def _references(paths: Sequence[Path]) -> list[Image.Image]:
    from PIL import Image

    from lichtspiel.media.picture import load_image

    return [_thumbnail(Image.fromarray(load_image(path))) for path in paths[:SHOWN]]


def _thumbnail(frame: Image.Image) -> Image.Image:
    from PIL import Image

    scale = min(TALL / frame.height, WIDE / frame.width)
    size = max(round(frame.width * scale), 1), max(round(frame.height * scale), 1)
    method = Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.LANCZOS
    return frame.resize(size, method)


def _draw(bucket: Bucket, count: int, lines: list[_Line]) -> tuple[Image.Image, list[tuple[int, int]]]:
    """The sheet, and where each line begins and how high it is."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(LETTER)
    strips = [strip for line in lines for strip in line.strips]
    wide = GAP + max(map(len, strips)) * (cell := max(frame.width for strip in strips for frame in strip) + GAP)
    heights = [_height(line) for line in lines]
    head = 2 * GAP + LETTER
    sheet = Image.new("RGB", (wide + TEXT, head + sum(heights)), "white")
    pen = ImageDraw.Draw(sheet)
    shown = f", {len(lines)} shown" if len(lines) < count else ""
    pen.text((GAP, GAP), f"{bucket}, samples: {count}{shown}", fill="black", font=font)
    places, top = [], head
    for line, height in zip(lines, heights, strict=True):
        places.append((top, height))
        below = top
        for strip in line.strips:
            for number, frame in enumerate(strip):
                sheet.paste(frame, (GAP + number * cell, below))
            below += max(frame.height for frame in strip) + GAP
        text = [line.title, *_written(line.caption, font)]
        for number, words in enumerate(text):
            color = "gray" if number == 0 else "black"
            pen.text((wide + GAP, top + number * (LETTER + 4)), words, fill=color, font=font)
        top += height
    return sheet, places


def _height(line: _Line) -> int:
    frames = sum(max(frame.height for frame in strip) + GAP for strip in line.strips)
    return max(frames, (2 + len(line.caption) // 55) * (LETTER + 4)) + GAP


def _written(caption: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """The caption in lines; where the font lacks its letters, the page is where it can be read."""
    missing = font.getmask("\uffff").getbbox(), bytes(font.getmask("\uffff"))
    letters = {letter for letter in caption if not letter.isspace()}
    if any((font.getmask(one).getbbox(), bytes(font.getmask(one))) == missing for one in letters):
        return ["(its letters are not in the font of this picture;", "the caption is in index.html)"]
    return textwrap.wrap(caption, 55)


_PAGE = """<!doctype html>
<meta charset="utf-8">
<title>What {title} will see</title>
<style>
body {{ font: 16px/1.4 system-ui, sans-serif; margin: 2rem; color: #111; background: #fff; }}
.sample {{ display: flex; gap: 1rem; margin: 0 0 .75rem; }}
.frames {{ flex: none; background-repeat: no-repeat; }}
small {{ color: #666; }}
</style>
<h1>What {title} will see</h1>
{sections}
"""


def _section(
    name: str, bucket: Bucket, count: int, lines: list[_Line], places: list[tuple[int, int]], width: int
) -> str:  # fmt: skip
    """The part of the page about one bucket: the frames are cut from the sheet, the captions are text."""
    rows = [f"<h2>{bucket}, samples: {count}</h2>"]
    for line, (top, height) in zip(lines, places, strict=True):
        style = (
            f"width: {width}px; height: {height}px; background-image: url('{name}'); background-position: 0 -{top}px"
        )
        words = f"<small>{html.escape(line.title)}</small><br>{html.escape(line.caption)}"
        rows.append(f'<div class="sample"><div class="frames" style="{style}"></div><p>{words}</p></div>')
    return "\n".join(rows)
