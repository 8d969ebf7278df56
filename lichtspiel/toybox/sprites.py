"""The sprite bank: animated cut-outs of all subjects, read from the packaged `sprites.zip`.

The file is not opened before the first call of `sprite`; `scripts/make_sprite_bank.py` creates it. Knows neither what
subjects are called nor where a sprite is drawn.
"""

from __future__ import annotations

import difflib
import io
import json
import zipfile
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from lichtspiel.errors import InvalidInput
from lichtspiel.toybox.catalog import SUBJECTS, Faces

__all__ = ["Sprite", "UnknownSubject", "sprite"]


class UnknownSubject(InvalidInput):
    """There is no subject with this key; the message lists the closest ones."""

    def __init__(self, key: str) -> None:
        self.key = key
        near = difflib.get_close_matches(key, SUBJECTS, n=3, cutoff=0.4)
        hint = f"nearest: {', '.join(near)}" if near else "see lichtspiel.toybox.catalog.SUBJECTS"
        super().__init__(f"subject: {key!r} is not in the sprite bank; {hint}")


@dataclass(frozen=True, kw_only=True, eq=False)
class Sprite:
    """One subject in motion.

    `frames` is uint8 RGBA [12, S, S, 4], premultiplied and read-only; the frames loop. `box` is left, top, right and
    bottom of everything that is visible in any frame, as fractions of the cell; its bottom is where the feet stand.
    `faces` is the direction in which the drawing faces; planes and rockets fly level.
    """

    frames: npt.NDArray[np.uint8]
    box: tuple[float, float, float, float]
    faces: Faces


@cache
def _archive() -> zipfile.ZipFile:
    # Read into memory, so that it works whether the package is in a folder or in a zip file.
    data = (resources.files("lichtspiel.toybox") / "sprites.zip").read_bytes()
    return zipfile.ZipFile(io.BytesIO(data))


@cache
def _index() -> dict[str, Any]:
    index: dict[str, Any] = json.loads(_archive().read("index.json"))
    return index


@cache
def sprite(key: str) -> Sprite:
    """The sprite of one subject of the catalog, decoded once and then cached.

    Raises `UnknownSubject` for any other key.
    """
    if key not in SUBJECTS:
        raise UnknownSubject(key)
    entry = _index()[key]
    count, columns, cell = entry["frames"], entry["columns"], entry["cell"]
    with Image.open(io.BytesIO(_archive().read(f"{key}.webp"))) as image:
        sheet = np.asarray(image.convert("RGBA"))
    cells = sheet.reshape(count // columns, cell, columns, cell, 4).swapaxes(1, 2).reshape(count, cell, cell, 4)
    frames = cells.copy()
    alpha = frames[..., 3:].astype(np.uint16)
    frames[..., :3] = (frames[..., :3] * alpha + 127) // 255
    frames.setflags(write=False)
    left, top, right, bottom = entry["box"]
    return Sprite(frames=frames, box=(left, top, right, bottom), faces=SUBJECTS[key].faces)
