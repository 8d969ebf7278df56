"""Make `lichtspiel/toybox/sprites.zip` from the published animations of Microsoft's Fluent characters.

    npm install @lobehub/fluent-emoji-anim-1 @lobehub/fluent-emoji-anim-2 \
                @lobehub/fluent-emoji-anim-3 @lobehub/fluent-emoji-anim-4
    python scripts/make_sprite_bank.py node_modules fluent_names.json

`fluent_names.json` is the list of Microsoft's own repository (microsoft/fluentui-emoji-animated, MIT): one object
with `cldr` and `unicode` a character, taken from its metadata files. A subject that is not in it is refused,
because the npm packages also hold drawings of other origin. The script knows the catalog; the catalog and the
renderer know nothing of the packages. A run writes the same bytes again from the same inputs.
"""

from __future__ import annotations

import argparse
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from lichtspiel.toybox.catalog import SUBJECTS, Subject

Floats = npt.NDArray[np.float32]

FRAMES = 12
CELL = 128
COLUMNS = 4
MARGIN = 4
QUALITY = 80
VISIBLE = 0.3

WINDOWS = {"turtle": (0, 26), "dolphin": (36, 71), "star": (4, 22), "pufferfish": (42, 60)}
"""Source frames to play forth and back where the whole loop would contradict the caption.

The turtle draws in its head and feet, the dolphin turns over, star and pufferfish shrink.
"""

TILTS = {"airplane": -45.0, "propeller-plane": -45.0, "rocket": -45.0}
"""Degrees counterclockwise that make a diagonal drawing fly level."""

ON_WATER = frozenset({"canoe", "motorboat", "sailboat", "ship", "speedboat"})
"""Drawings that come with a block of water, which is cut away: the sea belongs to the place."""

NOTICE = """The sprites in this archive are cut-outs of Microsoft's animated Fluent emoji
(https://github.com/microsoft/fluentui-emoji-animated), cropped, scaled and packed.

MIT License

Copyright (c) Microsoft Corporation.

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""


def code_point(text: str) -> str:
    """The code points of a file stem or a `unicode` field, joined by dashes, without FE0F."""
    return "-".join(part for part in text.lower().replace(" ", "-").split("-") if part != "fe0f")


def pick(key: str, count: int) -> list[int]:
    """The source frames of a subject: evenly spread over the loop, or forth and back over its window."""
    if key not in WINDOWS:
        return [k * count // FRAMES for k in range(FRAMES)]
    first, last = WINDOWS[key]
    half = FRAMES // 2
    forth = [round(first + (last - first) * k / half) for k in range(half + 1)]
    return forth + forth[-2:0:-1]


def read_frames(path: Path, key: str) -> Floats:
    """The picked frames as premultiplied RGBA in 0..1, [FRAMES, H, W, 4]."""
    frames = []
    with Image.open(path) as image:
        for index in pick(key, getattr(image, "n_frames", 1)):
            image.seek(index)
            frames.append(np.asarray(image.convert("RGBA"), dtype=np.float32) / 255)
    stack: Floats = np.stack(frames)
    stack[..., :3] *= stack[..., 3:]
    return stack


def without_water(frames: Floats) -> Floats:
    """The frames without their block of water: the strong blue below the highest row that it fills."""
    red, green, blue = frames[..., 0], frames[..., 1], frames[..., 2]
    water = ((blue > 0.6) & (blue - red > 0.3) & (blue - green > 0.15)).astype(np.float32)
    rows = water.mean(axis=2) > 0.3
    dry = np.cumsum(rows, axis=1) == 0
    # The crests of the waves stand a little above the first row that is mostly water.
    dry = np.concatenate([dry[:, 12:], np.repeat(dry[:, -1:], 12, axis=1)], axis=1)
    water *= ~dry[:, :, None]
    out = np.empty_like(frames)
    for index, frame in enumerate(frames):
        mask = cv2.dilate(water[index], np.ones((5, 5), np.uint8))
        mask = cv2.GaussianBlur(mask, (0, 0), 0.8)
        out[index] = frame * (1 - mask[..., None])
    return out


def tilted(frames: Floats, degrees: float) -> Floats:
    """The frames turned counterclockwise about their center on a canvas that is large enough."""
    size = frames.shape[1]
    canvas = int(size * 1.5)
    matrix = cv2.getRotationMatrix2D(((size - 1) / 2, (size - 1) / 2), degrees, 1.0)
    matrix[:, 2] += (canvas - size) / 2
    turned = [cv2.warpAffine(f, matrix, (canvas, canvas), flags=cv2.INTER_CUBIC) for f in frames]
    return np.stack(turned).clip(0, 1).astype(np.float32)


def crop_box(frames: Floats) -> tuple[int, int, int, int]:
    """Left, top, right and bottom pixel edges of everything that is visible in any frame."""
    seen = frames[..., 3].max(axis=0) > VISIBLE
    columns, rows = np.flatnonzero(seen.any(axis=0)), np.flatnonzero(seen.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def fit(frames: Floats) -> tuple[Floats, list[float]]:
    """The frames cropped together and centerd in square cells, and their box as fractions of the cell."""
    left, top, right, bottom = crop_box(frames)
    scale = (CELL - 2 * MARGIN) / max(right - left, bottom - top)
    matrix = np.array(
        [
            [scale, 0, CELL / 2 - scale * (left + right - 1) / 2 - 0.5],
            [0, scale, CELL / 2 - scale * (top + bottom - 1) / 2 - 0.5],
        ],
        np.float32,
    )
    # Twice the cell and then the mean of 2×2 pixels: warping alone would skip source pixels.
    double = matrix * 2
    double[:, 2] += 0.5
    big = [cv2.warpAffine(f, double, (2 * CELL, 2 * CELL), flags=cv2.INTER_LINEAR) for f in frames]
    cells = np.stack([cv2.resize(f, (CELL, CELL), interpolation=cv2.INTER_AREA) for f in big]).astype(np.float32)
    return cells, [round(edge / CELL, 4) for edge in crop_box(cells)]


def pack(cells: Floats) -> bytes:
    """One WebP sheet of all cells, row by row, with straight alpha."""
    rows = [np.concatenate(list(cells[k : k + COLUMNS]), axis=1) for k in range(0, FRAMES, COLUMNS)]
    sheet = np.concatenate(rows)
    sheet[..., :3] /= np.maximum(sheet[..., 3:], 1e-3)
    pixels = (sheet.clip(0, 1) * 255 + 0.5).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", quality=QUALITY, method=4)
    return buffer.getvalue()


def make(subject: Subject, path: Path) -> tuple[bytes, dict[str, Any]]:
    """The sheet of one subject and its entry in the index."""
    frames = read_frames(path, subject.key)
    if subject.key in ON_WATER:
        frames = without_water(frames)
    if subject.key in TILTS:
        frames = tilted(frames, TILTS[subject.key])
    cells, box = fit(frames)
    return pack(cells), {"frames": FRAMES, "columns": COLUMNS, "cell": CELL, "box": box, "feet": box[3]}


def main() -> None:
    """Read the packages, write the bank and print its size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("node_modules", type=Path)
    parser.add_argument("names", type=Path, help="fluent_names.json")
    parser.add_argument("--out", type=Path, default=Path("lichtspiel/toybox/sprites.zip"))
    options = parser.parse_args()

    allowed = {code_point(entry["unicode"]) for entry in json.loads(options.names.read_text(encoding="utf-8"))}
    pattern = "@lobehub/fluent-emoji-anim-[1-4]/assets/*.webp"
    files = {code_point(path.stem): path for path in sorted(options.node_modules.glob(pattern))}
    members: dict[str, bytes] = {"NOTICE": NOTICE.encode()}
    index: dict[str, Any] = {}
    for key, subject in SUBJECTS.items():
        if subject.code_point not in allowed:
            raise SystemExit(f"{key}: {subject.code_point} is not in Microsoft's list")
        if subject.code_point not in files:
            raise SystemExit(f"{key}: {subject.code_point} is not in the packages under {options.node_modules}")
        members[f"{key}.webp"], index[key] = make(subject, files[subject.code_point])
    members["index.json"] = json.dumps(index, indent=1).encode()
    with zipfile.ZipFile(options.out, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(members):
            archive.writestr(zipfile.ZipInfo(name), members[name])
    print(f"{len(index)} subjects, {options.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
