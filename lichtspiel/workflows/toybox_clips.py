"""Export captioned toybox clips as files, sealed like generated video, for `toybox render`.

The seal says `algorithmicMedia`: drawn by a program, not by a model and not from a recording.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from lichtspiel import __version__
from lichtspiel.errors import OutputError, RequestError
from lichtspiel.seal import Marks, Provenance, check_output, seal
from lichtspiel.storage import atomic_write
from lichtspiel.toybox.captions import LANGUAGES, caption
from lichtspiel.toybox.motion import SECONDS
from lichtspiel.toybox.render import render
from lichtspiel.toybox.sample import FULL, Vocabulary, sample

__all__ = ["export_clips"]

DRAWN = replace(Marks.of("eu"), watermark=False, comment=False)
"""Drawings are signed but not labeled as AI-generated, and have no watermark, because a model trained on them would
learn it."""

LARGEST = 1024
"""The most pixels along a clip's longer side; the drawings are 128 pixels wide and gain nothing from more."""


def export_clips(
    folder: Path, *, count: int, seed: int, size: str, frames: int, progress: Callable[[str, float], None],
    world: Vocabulary = FULL,
) -> list[dict[str, Any]]:  # fmt: skip
    """Render `count` clips of a world into `folder`, describe them in `captions.jsonl`, and return its rows.

    Seeds count up from `seed`; a seed shows the same event at every size. Raises RequestError for a size that is not
    two even numbers within the limits, and OutputError when the folder cannot be written.
    """
    width, height = _size(size)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made: {error.strerror}; choose another folder") from error
    rows = []
    for number in range(count):
        out = check_output(folder / f"{seed + number:08d}.mp4", pixels=width * height * frames)
        scene = sample(seed + number, world)
        clip = render(scene, seed + number, width=width, height=height, frames=frames)
        captions = {language: caption(scene, language, 0) for language in LANGUAGES}
        provenance = Provenance(
            model="toybox", version=__version__, source_type="algorithmicMedia", prompt=captions["en"], negative="",
            parameters={"seed": seed + number, "size": [width, height], "frames": frames},
        )  # fmt: skip
        seal(clip.frames, provenance, out, fps=max(round(frames / SECONDS), 1), marks=DRAWN)
        rows.append({"path": out.name, "seed": seed + number, "captions": captions, "scene": asdict(scene)})
        progress(f"rendering, clip {number + 1} of {count}", (number + 1) / count)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    with atomic_write(folder / "captions.jsonl") as draft:
        draft.write_text(lines, encoding="utf-8")
    return rows


def _size(size: str) -> tuple[int, int]:
    width, _, height = size.lower().partition("x")
    if not (width.isdigit() and height.isdigit()):
        raise RequestError("size", size, "a size is WIDTHxHEIGHT in pixels, for example 128x128")
    sides = int(width), int(height)
    nearest = tuple(min(max(side // 2 * 2, 16), LARGEST) for side in sides)
    if nearest != sides:
        rule = f"both sides are even, from 16 to {LARGEST}"
        raise RequestError("size", size, rule, f"{nearest[0]}x{nearest[1]}")
    return sides
