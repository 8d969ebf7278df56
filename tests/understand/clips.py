"""Clips whose truth is known, for the tests of this room: drawn, cut together, and with text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from lichtspiel.frames import Frame
from lichtspiel.seal import Marks, Provenance, seal
from lichtspiel.seal.sound import Sound
from lichtspiel.toybox.render import render
from lichtspiel.toybox.sample import FULL, sample


def drawn(seed: int, frames: int = 17, size: int = 128) -> list[Frame]:
    """The frames of a toybox scene."""
    return list(render(sample(seed, FULL), seed, width=size, height=size, frames=frames).frames)


def dissolved(first: list[Frame], second: list[Frame], frames: int) -> list[Frame]:
    """Two clips, of which the last and first `frames` overlap."""
    both = zip(first[-frames:], second[:frames], strict=True)
    mixed = [cv2.addWeighted(one, 1 - share, other, share, 0)
             for (one, other), share in zip(both, np.linspace(0, 1, frames + 2)[1:-1], strict=True)]  # fmt: skip
    return [*first[:-frames], *(np.asarray(frame, np.uint8) for frame in mixed), *second[frames:]]


def captioned(frames: list[Frame], text: str) -> list[Frame]:
    """The same frames, large, with a line of text."""
    result = []
    for frame in frames:
        large = cv2.resize(frame, (640, 360))
        large[140:220] = 0
        cv2.putText(large, text, (20, 200), cv2.FONT_HERSHEY_SIMPLEX, 1.5, (255, 255, 255), 3)
        result.append(np.asarray(large, np.uint8))
    return result


def write(frames: list[Frame], path: Path, fps: int = 8, sound: Path | None = None) -> Path:
    """Write a clip through the door, without marks in the picture."""
    provenance = Provenance(
        model="test", version="1", source_type="algorithmicMedia", prompt="", negative="", parameters={}
    )
    marks = replace(Marks.of("eu"), watermark=False, comment=False)
    seal(frames, provenance, path, fps=fps, marks=marks, sound=None if sound is None else Sound(sound))
    return path
