"""A share of a set of clips, rendered into arrays on disk: the work of one process among several. Loads no PyTorch."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np

from lichtspiel.toybox.render import render
from lichtspiel.toybox.sample import Vocabulary, sample

__all__ = ["Share", "render_share", "use_one_thread"]


@dataclass(frozen=True)
class Share:
    """The clips of `seeds` of a world, the first of which is number `start` of the arrays in `folder`: `frames.npy`
    (uint8 [n, t, h, w, 3]) and `masks.npy` (uint8 [n, t, h, w]). `held_out` says which combinations they show."""

    folder: Path
    start: int
    seeds: range
    vocabulary: Vocabulary
    held_out: bool | None


def use_one_thread() -> None:
    """Leave the other cores to the other processes."""
    cv2.setNumThreads(1)


def render_share(share: Share) -> list[str]:
    """Render a share; returns its scenes as JSON lines."""
    frames = np.load(share.folder / "frames.npy", mmap_mode="r+")
    masks = np.load(share.folder / "masks.npy", mmap_mode="r+")
    _, length, height, width = masks.shape
    lines = []
    for index, seed in enumerate(share.seeds, share.start):
        scene = sample(seed, share.vocabulary, share.held_out)
        clip = render(scene, seed, width=width, height=height, frames=length)
        frames[index], masks[index] = clip.frames, clip.masks
        lines.append(json.dumps(asdict(scene)))
    return lines
