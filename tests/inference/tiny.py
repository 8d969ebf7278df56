"""Tiny checkpoints of the kinds that nano is not: their rows, and folders of random weights for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lichtspiel.config import remember_weights
from lichtspiel.models.clip import CLIPVision
from lichtspiel.models.dit import DiT
from lichtspiel.spec import MODELS, CLIPSpec

NANO = MODELS["nano"]
SAMPLING = replace(
    NANO.sampling,
    sizes=((64, 48), (48, 64)),
    free_size=True,
    max_frames=17,
    frames=9,
    steps=1,
    upscale=1,
    holds_pictures=False,
)
CLIP = CLIPSpec(image_size=224, patch=14, width=16, mlp_ratio=2, heads=2, layers=3, used_layers=2, eps=1e-5)
NARROW = replace(NANO.dit, layers=3, in_channels=16)
ROWS = {
    "tiny-vace": replace(
        NANO, name="tiny-vace", tasks=frozenset({"text", "edit"}), sampling=SAMPLING,
        dit=replace(NARROW, vace_layers=(0, 2), vace_channels=96),
    ),
    "tiny-i2v": replace(
        NANO, name="tiny-i2v", tasks=frozenset({"image"}), sampling=SAMPLING, clip=CLIP,
        dit=replace(NARROW, in_channels=36, image_tokens=257, image_width=16),
        files=NANO.files | {"clip": "clip.safetensors"},
    ),
    "tiny-flf2v": replace(
        NANO, name="tiny-flf2v", tasks=frozenset({"first-last"}), sampling=SAMPLING, clip=CLIP,
        dit=replace(NARROW, in_channels=36, image_tokens=514, image_width=16),
        files=NANO.files | {"clip": "clip.safetensors"},
    ),
    "tiny-t2i": replace(NANO, name="tiny-t2i", sampling=replace(SAMPLING, frames=1, max_frames=1)),
}  # fmt: skip


def brief(patch: pytest.MonkeyPatch, random_nano: Path) -> None:
    """Makes what nobody asked for as small as tests need it: nano is random weights, whose VAE is faster, and makes
    five frames in one step."""
    remember_weights("nano", [random_nano])
    row = MODELS["nano"]
    patch.setitem(MODELS, "nano", replace(row, sampling=replace(row.sampling, steps=1, frames=5)))


@contextmanager
def registered(random_nano: Path, folder_for: Callable[[str], Path], names: Iterable[str]) -> Iterator[dict[str, Path]]:
    """A folder of random weights for each name in `ROWS`, which are registered meanwhile."""
    folders = {}
    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            row = ROWS[name]
            patch.setitem(MODELS, name, row)
            folders[name] = folder = folder_for(name)
            for file in random_nano.iterdir():
                (folder / file.name).symlink_to(file)
            if row.dit == NANO.dit:
                continue
            torch.manual_seed(1)
            (folder / "dit.safetensors").unlink()
            dit = DiT(row.dit)
            for parameter in dit.parameters():  # none stays zero, as hints and heads of fresh models are
                torch.nn.init.normal_(parameter, std=0.05)
            save_file(dit.state_dict(), folder / "dit.safetensors")
            if row.clip:
                tower = {f"visual.{key}": value for key, value in CLIPVision(row.clip).state_dict().items()}
                save_file(tower, folder / "clip.safetensors")
        yield folders
