"""Text in the picture, read by PP-OCR, whose networks come with the wheel of rapidocr (Apache-2.0).

They read Chinese, Japanese and the languages in Latin letters.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib.util
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lichtspiel.understand.footage import Finding
from lichtspiel.understand.shots import EXTRA

if TYPE_CHECKING:
    from lichtspiel.frames import Frame
    from lichtspiel.understand.footage import Footage

__all__ = ["Text", "read_lines"]

_SIDE = 640  # pixels of a frame's longer side: text smaller than 10 of them is not read
_LEAST, _LEAST_ALONE = 0.6, 0.95  # scores below which a line, and a character alone, is more often texture
_SAME = 2.0  # mean difference, of 255, up to which two stills show the same
_OVERLAP, _ALIKE = 0.5, 0.7  # of their boxes and of their letters, for two readings to be of the same line


class Text:
    """Finds lines of text. Findings have the kind "text", the line, its score and its box.

    A line that stays is one finding from the first still that shows it to the last. `every` is how many seconds lie
    between stills that are read; stills that look like the one before are not read again.
    """

    name = "text"

    def __init__(self, every: float = 1.0) -> None:
        self.every = every
        self.version = f"1 PP-OCRv6 {every:g}"

    def missing(self) -> str | None:
        """The extra, unless it is installed."""
        return EXTRA if importlib.util.find_spec("rapidocr") is None else None

    def extract(self, footage: Footage) -> list[Finding]:
        """All lines of text, those that begin first coming first."""
        scan = footage.scan
        open_lines: list[Finding] = []
        done: list[Finding] = []
        for number, end, lines in self._readings(footage):
            start = float(scan.times[scan.still_frames[number]])
            still_open = []
            for line in lines:
                known = next((one for one in open_lines if _same(one, line)), None)
                if known is None:
                    still_open.append(Finding(start, end, "text", line.text, line.score, line.box))
                    continue
                open_lines.remove(known)
                best = known if known.score >= line.score else line
                still_open.append(Finding(known.start, end, "text", best.text, best.score, best.box))
            done += open_lines
            open_lines = still_open
        return sorted([*done, *open_lines], key=lambda one: (one.start, one.box or ()))

    def _readings(self, footage: Footage) -> Iterator[tuple[int, float, list[Finding]]]:
        """The numbers of stills, the seconds until which they count, and the lines on them."""
        import numpy as np

        scan = footage.scan
        times = scan.still_times
        chosen = [0]
        for number, time in enumerate(times):
            if time - times[chosen[-1]] >= self.every - 1e-6:
                chosen.append(number)
        last: Frame | None = None
        lines: list[Finding] = []
        for place, number in enumerate(chosen):
            end = times[chosen[place + 1]] if place + 1 < len(chosen) else scan.duration
            still = scan.stills[number]
            # Integers of 16 bits hold the difference of two bytes.
            if last is None or float(np.abs(still.astype(np.int16) - last).mean()) > _SAME:
                lines = read_lines(still)
                last = still.astype(np.int16)
            yield number, end, lines


def read_lines(frame: Frame) -> list[Finding]:
    """Read one picture, uint8 [height, width, 3]; findings last no time."""
    import numpy as np

    with _quiet():
        result = _reader()(np.ascontiguousarray(frame[..., ::-1]), use_cls=False)
    if result.boxes is None or result.txts is None:
        return []
    height, width = frame.shape[:2]
    lines = []
    for corners, text, score in zip(result.boxes, result.txts, result.scores, strict=True):
        if score < (_LEAST if len(text.strip()) > 1 else _LEAST_ALONE) or not text.strip():
            continue
        shares = np.asarray(corners, np.float64) / (width, height)
        left, top = (float(side) for side in shares.min(0).clip(0, 1))
        right, bottom = (float(side) for side in shares.max(0).clip(0, 1))
        lines.append(Finding(0.0, 0.0, "text", text.strip(), float(score), (left, top, right, bottom)))
    return lines


def _same(one: Finding, other: Finding) -> bool:
    """Whether two readings are of the same line at the same place."""
    assert one.box is not None
    assert other.box is not None
    width = min(one.box[2], other.box[2]) - max(one.box[0], other.box[0])
    height = min(one.box[3], other.box[3]) - max(one.box[1], other.box[1])
    if width <= 0 or height <= 0:
        return False
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one.box, other.box)]
    if width * height < _OVERLAP * min(areas):
        return False
    return difflib.SequenceMatcher(None, one.text.casefold(), other.text.casefold()).ratio() >= _ALIKE


@functools.cache
def _reader() -> Any:
    with _quiet():
        from rapidocr import RapidOCR

        # One thread each: several processes share the cores. Frames are not enlarged before text is looked for.
        settings = {
            "Global.log_level": "error",
            "Global.max_side_len": _SIDE,
            "Det.limit_type": "max",
            "Det.limit_side_len": _SIDE,
            "EngineConfig.onnxruntime.intra_op_num_threads": 1,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
        }
        return RapidOCR(params=settings)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep rapidocr's log lines, which say which file it reads, away from the terminal."""
    logger = logging.getLogger("RapidOCR")
    logger.addFilter(_drop)
    try:
        yield
    finally:
        logger.removeFilter(_drop)


def _drop(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR
