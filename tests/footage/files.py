"""A rendered clip with a known mask, and files of it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import av
import cv2
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


def large_file(folder: Path, *, width: int = 3840, height: int = 2160, frames: int = 3) -> Path:
    """The clip's first frames enlarged to 4K, as a camera's file: no seal, 25 frames per second."""
    path = folder / "large.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25, options={"preset": "ultrafast", "crf": "12"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in clip().frames[:frames]:
            large = cv2.resize(frame, (width, height), interpolation=cv2.INTER_LINEAR)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(large, format="rgb24")))
        file.mux(stream.encode(None))
    return path
