"""Files of every format that `verify` takes, for whoever mutates them. They are unmarked, so they are made here and not
by a program that leaves with the package."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image


def samples_of(folder: Path, sealed: Iterable[Path]) -> list[tuple[str, bytes]]:
    """Suffix and content of sealed files, and of one of each format. Videos are made in `folder`."""
    draw = np.random.default_rng(2)
    picture = Image.fromarray(draw.integers(0, 256, (24, 40, 3), np.uint8).repeat(2, 0).repeat(2, 1))
    found = [(path.suffix, path.read_bytes()) for path in sealed]
    for form in ("JPEG", "WEBP", "BMP", "TIFF", "GIF", "PNG"):
        content = io.BytesIO()
        picture.save(content, form, save_all=form in {"WEBP", "GIF", "PNG"}, append_images=[picture.rotate(9)])
        found.append((f".{form.lower()}", content.getvalue()))
    for suffix, codec in ((".mp4", "libx264"), (".mkv", "libx264"), (".webm", "libvpx-vp9"), (".avi", "mpeg4")):
        path = folder / f"sample{suffix}"
        with av.open(str(path), "w") as container:
            stream: Any = container.add_stream(codec, rate=8)
            stream.width, stream.height, stream.pix_fmt = 80, 48, "yuv420p"
            for turn in range(3):
                frame = av.VideoFrame.from_ndarray(np.asarray(picture.rotate(turn)), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        found.append((suffix, path.read_bytes()))
    return found
