"""The words in the picture: the visible label, drawn in a corner of each frame.

This module knows their size, position and duration; `marks` knows which videos need them. The words are images in
`data/labels.png`, so no font on the user's machine is needed.
"""

from __future__ import annotations

import math
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

import cv2
import numpy as np

from lichtspiel.errors import RequestError
from lichtspiel.seal.marks import TEXTS, Marks

if TYPE_CHECKING:
    from fractions import Fraction

    import numpy.typing as npt

    from lichtspiel.frames import Frame

    Plane = npt.NDArray[np.float32]

__all__ = ["CAPITAL", "VisibleLabel"]

# Legal: the least height of a capital is 5 % of the short side. Legible: 8 pixels, where the width allows it, and with
# less than 4.5 (an x of 3.3) letters run together. Title-safe: 5 % at each edge (SMPTE ST 2046-1).
_LEGAL, _LEGIBLE, _LEAST, _MARGIN = 0.05, 8, 4.5, 0.05
_PADDING, _RADIUS = 0.55, 0.4  # of a capital
_DARKNESS, _SHADE = 0.65, 16.0  # white on it has a contrast of at least 6 : 1, on whatever it lies (WCAG asks 4.5)

CAPITAL = 64
"""The height of a capital in `data/labels.png`, in pixels; a row is three times as high, the baseline at two thirds."""


class VisibleLabel:
    """The visible label of one video of one size: white words on a dark, translucent plate in a corner, inside the
    title-safe area. Computed once; `draw` then takes a fraction of a millisecond.

    Capitals are at least 5 % of the short side high, and 8 pixels where the frame is wide enough for the text. At 64
    pixels that is so for Chinese only; the others' capitals are 5 to 6 pixels high there. They can be read, also after
    the door's compression, but strokes are soft, accents and dots run into their letters, and the plate covers nearly
    the whole width and a fifth of the height. Raises RequestError when it could not be read at all.
    """

    def __init__(self, marks: Marks, height: int, width: int, fps: int | Fraction) -> None:
        assert marks.label, "these marks have no visible label"
        text = _text(marks.language)
        margins = [math.ceil(side * _MARGIN) for side in (height, width)]
        ratio = text.shape[1] / CAPITAL + 2 * _PADDING
        wanted = max(math.ceil(min(height, width) * _LEGAL), _LEGIBLE)
        capital = min(wanted, (width - 2 * margins[1]) / ratio, (height - 2 * margins[0]) / (1 + 2 * _PADDING))
        least = max(_LEAST, min(height, width) * _LEGAL)
        if capital < least:
            needed = math.ceil(least * ratio / (1 - 2 * _MARGIN)) + 2
            rule = f"the visible label {TEXTS[marks.language]!r} needs at least {needed} pixels of width to be read"
            raise RequestError("size", f"{width}x{height}", rule)
        keep, add = _plate(text, capital)
        vertical, horizontal = marks.corner.split("-")
        top = margins[0] if vertical == "top" else height - margins[0] - keep.shape[0]
        left = margins[1] if horizontal == "left" else width - margins[1] - keep.shape[1]
        self._shape = (height, width, 3)
        self._area = np.s_[top : top + keep.shape[0], left : left + keep.shape[1]]
        # In 256ths and rounded down, so that no sum leaves 16 bits; one value for each channel, because that is faster.
        self._keep = np.repeat(np.floor(keep * 256).astype(np.uint16)[..., None], 3, -1)
        self._add = np.repeat(np.round(add * 256 + 128).astype(np.uint16)[..., None], 3, -1)
        self._frames = math.inf if marks.seconds is None else math.ceil(marks.seconds * fps)

    def draw(self, frame: Frame, index: int) -> Frame:
        """A copy of the frame (uint8 [height, width, 3]) with the label; the frame itself once the label's time is
        over. `index` counts from the start of the video."""
        assert frame.shape == self._shape, (frame.shape, self._shape)
        assert frame.dtype == np.uint8, frame.dtype
        if index >= self._frames:
            return frame
        frame = frame.copy()
        frame[self._area] = frame[self._area] * self._keep + self._add >> 8
        return frame


@cache
def _text(language: str) -> Plane:
    """The words in white, 0 to 1, [3 * CAPITAL, width]."""
    content = np.frombuffer(files("lichtspiel").joinpath("data", "labels.png").read_bytes(), np.uint8)
    sheet = cv2.imdecode(content, cv2.IMREAD_GRAYSCALE)
    assert sheet is not None
    assert sheet.shape[0] == 3 * CAPITAL * len(TEXTS), sheet.shape
    start = 3 * CAPITAL * list(TEXTS).index(language)
    row = sheet[start : start + 3 * CAPITAL]
    columns = np.flatnonzero(row.any(axis=0))
    return np.asarray(row[:, columns[0] : columns[-1] + 1] / 255, np.float32)


def _plate(text: Plane, capital: float) -> tuple[Plane, Plane]:
    """What of a picture under the label is kept, and what is added to it, both [height, width]: first a rounded plate
    with smooth corners, then the words."""
    letter = round(capital)  # whole, so that letters begin and end on a row of pixels; the width makes up for it
    across = math.floor(text.shape[1] * capital / CAPITAL)
    words = np.clip(cv2.resize(text, (across, 3 * letter), interpolation=cv2.INTER_AREA), 0, 1)
    padding = max(math.floor(capital * _PADDING), 2)
    words = np.pad(words[letter - padding : 2 * letter + padding], ((0, 0), (padding, padding)))
    rows, columns = (np.abs(np.arange(side) - (side - 1) / 2) for side in words.shape)
    radius = letter * _RADIUS
    outside = [np.maximum(at - (side / 2 - radius), 0) for at, side in zip((rows, columns), words.shape, strict=True)]
    dark = _DARKNESS * np.clip(radius + 0.5 - np.hypot(outside[0][:, None], outside[1]), 0, 1)
    keep, add = (1 - words) * (1 - dark), (1 - words) * dark * _SHADE + words * 255
    return keep.astype(np.float32), add.astype(np.float32)
