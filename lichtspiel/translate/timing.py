"""Fit spoken lines into their time.

A line may be spoken at 0.85 to 1.25 times its engine's normal rate, which people hardly notice. What is still too long
is said in fewer words where the translator can, and otherwise begins to push what follows; then it is told by how much.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lichtspiel.translate.lines import Line

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from lichtspiel.translate.protocols import Voice

__all__ = ["FASTEST", "SLOWEST", "Spoken", "fit", "trimmed"]

SLOWEST, FASTEST = 0.85, 1.25
GAP = 0.12
"""Seconds of quiet between two lines."""

_QUIET = 10 ** (-45 / 20)  # what is below is not heard as the beginning or end of a word
_NEAR = 0.03  # share of the time that a line may miss its length by without being spoken again


@dataclass(frozen=True)
class Spoken:
    """A line with its sound (float32 [n] at `rate`), the time in seconds at which it begins, the speed it was spoken
    at, and by how many seconds it is late or reaches beyond its time."""

    line: Line
    sound: npt.NDArray[np.float32]
    rate: int
    start: float
    speed: float
    over: float = 0.0

    @property
    def end(self) -> float:
        """When it ends."""
        return self.start + len(self.sound) / self.rate


def fit(
    lines: Sequence[Line],
    voices: Sequence[Voice],
    length: float,
    *,
    shorten: Callable[[str, float], str | None],
    progress: Callable[[float], None] = lambda done: None,
) -> list[Spoken]:
    """Speak each line with its speaker's voice, in its time; `length` is that of the video in seconds.

    The time of a line is its own, and the pause after it. A line that does not fit is spoken in the wording that
    `shorten(text, share)` gives, if any. One that still does not fit begins on time and ends late, and what follows
    waits for it; `over` says how long. Nothing sounds after the end of the video.
    """
    spoken, free = list[Spoken](), 0.0
    for number, line in enumerate(lines):
        voice = voices[line.speaker % len(voices)]
        until = (lines[number + 1].start if number + 1 < len(lines) else length) - GAP
        start = max(line.start, free)
        room = max(until - start, 0.3)
        sound, speed, text = _spoken(voice, line, room, shorten)
        last = max(round((length - start) * voice.rate), 0)
        cut = max(len(sound) - last, 0) / voice.rate
        over = max(start + len(sound) / voice.rate - max(until, line.end), start - line.start, cut, 0.0)
        fresh = Spoken(dataclasses.replace(line, text=text), _faded(sound, last), voice.rate, start, speed,
                       over if over > GAP else 0.0)  # fmt: skip
        spoken.append(fresh)
        free = fresh.end + GAP / 2
        progress((number + 1) / len(lines))
    return spoken


def _spoken(
    voice: Voice, line: Line, room: float, shorten: Callable[[str, float], str | None]
) -> tuple[npt.NDArray[np.float32], float, str]:
    """The sound of a line for the room it has, its speed and its wording."""
    text = line.text
    sound = trimmed(voice.speak(text, 1.0), voice.rate)
    natural = len(sound) / voice.rate
    if natural > room * FASTEST and (shorter := shorten(text, room * FASTEST / natural)):
        again = trimmed(voice.speak(shorter, 1.0), voice.rate)
        if len(again) < len(sound):
            text, sound, natural = shorter, again, len(again) / voice.rate
    wanted = min(room, line.seconds) if natural < room else room
    speed = min(max(natural / max(wanted, 0.1), SLOWEST), FASTEST)
    if natural > line.seconds and natural <= room:
        speed = min(max(natural / max(line.seconds, 0.1), 1.0), 1.1)  # a little faster, then into the pause
    if abs(speed - 1) > _NEAR:
        sound = trimmed(voice.speak(text, speed), voice.rate)
        if len(sound) / voice.rate > room and speed < FASTEST:  # engines follow a rate only roughly
            speed = min(speed * len(sound) / voice.rate / room, FASTEST)
            sound = trimmed(voice.speak(text, speed), voice.rate)
    else:
        speed = 1.0
    return sound, round(speed, 3), text


def trimmed(sound: npt.NDArray[np.float32], rate: int) -> npt.NDArray[np.float32]:
    """A sound without the silence before and after it, so that words begin when they should."""
    import numpy as np

    loud = np.flatnonzero(np.abs(sound) > _QUIET)
    if not len(loud):
        return sound[: rate // 10]
    return sound[max(int(loud[0]) - rate // 200, 0) : int(loud[-1]) + rate // 50]


def _faded(sound: npt.NDArray[np.float32], last: int) -> npt.NDArray[np.float32]:
    """The sound, faded out where it is cut after `last` samples."""
    import numpy as np

    if len(sound) <= last:
        return sound
    kept = sound[:last].copy()
    tail = min(len(kept), 800)
    if tail:
        kept[-tail:] *= np.linspace(1, 0, tail, dtype=np.float32)
    return kept
