"""Caches made by hand: random latents and texts in the shapes of nano."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from lichtspiel.spec import MODELS
from lichtspiel.tune.cache import Cache, Facts, Row, open_cache, sample_path, text_path, write_index, write_tensors
from lichtspiel.tune.dataset import Bucket

NANO = MODELS["nano"]
SHORT = replace(
    NANO, dit=replace(NANO.dit, layers=2), sampling=replace(NANO.sampling, sizes=((64, 64),), steps=1, frames=5)
)
"""Nano with two blocks, for small and short clips: what tuning does with two blocks, it does with eight."""

MADE_BY = {"vae": "a", "umt5": "b"}


def make_cache(folder: Path, *, clips: int = 3, held_out: int = 1, frames: int = 5) -> Cache:
    """A cache of some clips, and some for validation, of one bucket, each with a caption of its own."""
    generator = torch.Generator().manual_seed(0)
    bucket = Bucket(width=64, height=64, frames=frames)
    rows = [
        Row(key=f"s{n}", bucket=bucket, caption=f"clip {n}", source=f"{n}.mp4", held_out=n >= clips)
        for n in range(clips + held_out)
    ]
    for row in rows:
        shape = (16, *NANO.latent_shape(frames, (64, 64)))
        names = ("latents", "first", "first_last")
        tensors = {name: torch.randn(shape, generator=generator) for name in names}
        write_tensors(sample_path(folder, row.key), tensors, MADE_BY)
    for caption in ["", *[row.caption for row in rows]]:
        states = torch.randn(1, 3 + len(caption), NANO.dit.text_width, generator=generator)
        write_tensors(text_path(folder, caption), {"states": states}, MADE_BY)
    write_index(folder, Facts(model="nano", made_by=MADE_BY, digest="d" * 32, triggers=("Tropo",)), rows)
    return open_cache(folder)
