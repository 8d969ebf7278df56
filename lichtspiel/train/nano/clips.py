"""Rendered clips of the toybox on disk, memory-mapped: nano's data set. Knows scenes, not networks.

A store is a folder with `frames.npy` (uint8 [n, t, h, w, 3]), `masks.npy` (uint8 [n, t, h, w]) and `scenes.jsonl`
(one scene per line, in the same order). An atomic rename puts it in place once every clip is rendered.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lichtspiel.errors import InvalidInput
from lichtspiel.storage import atomic_folder
from lichtspiel.toybox.captions import caption
from lichtspiel.toybox.sample import Vocabulary
from lichtspiel.toybox.scene import Actor, Scene
from lichtspiel.toybox.share import Share, render_share, use_one_thread
from lichtspiel.train.data import Frames, Shape
from lichtspiel.train.nano.captions import draw_caption, draw_prompt

SHARE = 64
"""How many clips a process renders in one piece."""


@dataclass(frozen=True)
class ClipStore:
    """All clips of one store, as a `Dataset`; `frames` and `masks` are read from disk as they are used.

    `short` is the share of texts that are short prompts instead of captions that say everything; `named` grows with
    the facts that each short prompt names, for a probe to ask for.
    """

    frames: Frames
    masks: Frames
    scenes: Sequence[Scene]
    short: float = 0.0
    named: dict[str, frozenset[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.scenes)

    @property
    def shape(self) -> Shape:
        """Size of every clip."""
        _, frames, height, width, _ = self.frames.shape
        return Shape(width=width, height=height, frames=frames)

    def length(self, index: int) -> int:
        """Frames of a clip."""
        return self.shape.frames

    def video(self, index: int) -> Frames:
        """The frames of a clip, uint8 [t, h, w, 3]."""
        clip: Frames = self.frames[index]
        return clip

    def mask(self, index: int) -> Frames:
        """Where the actors are, uint8 [t, h, w]."""
        mask: Frames = self.masks[index]
        return mask

    def text(self, index: int, generator: torch.Generator | None) -> str:
        """A random caption or short prompt of a clip, or the plain English caption without a generator."""
        scene = self.scenes[index]
        if generator is None:
            return caption(scene, "en", 0)
        if self.short and torch.rand((), generator=generator) < self.short:
            text, named = draw_prompt(scene, generator)
            self.named[text] = named
            return text
        return draw_caption(scene, generator)


def open_store(folder: Path) -> ClipStore:
    """Open a store; raises InvalidInput when `folder` is not one."""
    if not (folder / "scenes.jsonl").is_file():
        raise InvalidInput(f"{folder} holds no rendered clips; render some with `render_store` or the nano recipe")
    lines = (folder / "scenes.jsonl").read_text(encoding="utf-8").splitlines()
    frames = np.load(folder / "frames.npy", mmap_mode="r")
    masks = np.load(folder / "masks.npy", mmap_mode="r")
    return ClipStore(frames, masks, [scene_from_json(json.loads(line)) for line in lines])


def scene_from_json(fields: dict[str, Any]) -> Scene:
    """The inverse of `dataclasses.asdict` for a scene."""
    return Scene(**{**fields, "actors": tuple(Actor(**actor) for actor in fields["actors"])})


def render_store(
    folder: Path,
    vocabulary: Vocabulary,
    seeds: range,
    shape: Shape,
    *,
    held_out: bool | None,
    workers: int,
) -> ClipStore:
    """Render one clip per seed into `folder` and open it; an existing store is opened as it is.

    Shares of `SHARE` clips are rendered in up to `workers` processes; a single share in this one, because processes
    take longer to start.
    """
    if (folder / "scenes.jsonl").is_file():
        return open_store(folder)
    pixels = (len(seeds), shape.frames, shape.height, shape.width)
    with atomic_folder(folder) as draft:
        np.lib.format.open_memmap(draft / "frames.npy", mode="w+", dtype=np.uint8, shape=(*pixels, 3))
        np.lib.format.open_memmap(draft / "masks.npy", mode="w+", dtype=np.uint8, shape=pixels)
        shares = [
            Share(draft, start, seeds[start : start + SHARE], vocabulary, held_out)
            for start in range(0, len(seeds), SHARE)
        ]
        workers = min(workers, len(shares))
        if workers <= 1:
            lines = [line for share in shares for line in render_share(share)]
        else:
            # Spawn, because forking a process that already runs torch threads can hang.
            with ProcessPoolExecutor(workers, get_context("spawn"), use_one_thread) as pool:
                lines = [line for part in pool.map(render_share, shares) for line in part]
        (draft / "scenes.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return open_store(folder)
