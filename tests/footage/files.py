"""A rendered clip with a known mask, and files of it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from lichtspiel.seal import Marks, Provenance, seal
from lichtspiel.toybox.render import Clip, render
from lichtspiel.toybox.scene import Actor, Scene

WIDTH, HEIGHT, FRAMES = 208, 120, 13


@cache
def clip() -> Clip:
    """A leopard walks through a room."""
    actor = Actor(subject="leopard", size="big", action="walk", direction="right")
    scene = Scene(actors=(actor,), place="room", time="day", weather="clear", camera="still")
    return render(scene, 5, width=WIDTH, height=HEIGHT, frames=FRAMES)


def clip_file(folder: Path, *, frames: int = FRAMES, then_empty: int = 0, name: str = "clip.mp4") -> Path:
    """The clip as a file of 8 frames per second, followed by gray frames."""
    provenance = Provenance(
        model="toybox", version="1", source_type="algorithmicMedia", prompt="a leopard", negative="", parameters={}
    )
    gray = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    shown = [*clip().frames[:frames], *[gray] * then_empty]
    seal(shown, provenance, folder / name, fps=8, marks=Marks.none("a test"))
    return folder / name
