"""Clips and pictures to tune on, drawn in milliseconds."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["drawn", "half_mask", "write_clip", "write_frames", "write_picture"]

COLORS = ((220, 60, 40), (40, 190, 90), (60, 80, 220), (230, 200, 60))


def drawn(number: int, width: int, height: int, look: int = 0, *, moves: bool = True) -> NDArray[np.uint8]:
    """A frame: a striped ground that differs by `look`, and a square that moves a little further in each frame."""
    rows, columns = np.mgrid[:height, :width]
    ground = 60 + 40 * ((columns // (4 + look) + rows // (9 - look % 5)) % 2)
    frame = np.repeat(ground[..., None], 3, axis=2).astype(np.uint8)
    left, side = (2 * number if moves else 3) % (width // 2), height // 3
    frame[side : 2 * side, left : left + side] = COLORS[look % len(COLORS)]
    return frame


def write_clip(
    path: Path, frames: int = 20, *, fps: int = 8, size: tuple[int, int] = (128, 128), look: int = 0, moves: bool = True
) -> Path:
    """A clip of `drawn` frames."""
    write_frames(path, [drawn(number, *size, look, moves=moves) for number in range(frames)], fps=fps)
    return path


def write_frames(path: Path, frames: list[NDArray[np.uint8]], *, fps: int = 8) -> Path:
    """A clip of given frames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "10", "preset": "ultrafast"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_picture(path: Path, size: tuple[int, int] = (128, 128), look: int = 0) -> Path:
    """A picture of one drawn frame."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(drawn(0, *size, look)).save(path)
    return path


def half_mask(size: tuple[int, int] = (128, 128), level: int = 255) -> NDArray[np.uint8]:
    """A mask that is white (or of another level) on its right half."""
    mask = np.zeros((size[1], size[0], 3), np.uint8)
    mask[:, size[0] // 2 :] = level
    return mask
