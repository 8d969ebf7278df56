"""Who speaks, as far as pitch tells: a man and a woman are told apart, two people with like voices are not."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lichtspiel.translate.lines import Line
from lichtspiel.translate.voice_activity import RATE

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["pitch", "speakers"]

_LOWEST, _HIGHEST = 65.0, 400.0  # Hz: what voices have
_FRAME, _STEP = 0.064, 0.032  # seconds
_VOICED = 0.6  # share of a frame's power that repeats after one period
_APART = 5.0  # semitones between two speakers; one who speaks lively moves by three from sentence to sentence


def speakers(lines: Sequence[Line], sound: npt.NDArray[np.float32]) -> tuple[list[Line], tuple[float, ...]]:
    """Lines with the numbers of their speakers, in the order in which these begin, and the pitch of each in Hz.

    There are two where the pitches of the lines fall into two groups with a gap between them, otherwise one. `sound` is
    float32 [n] at 16 kHz.
    """
    found = [pitch(sound[round(line.start * RATE) : round(line.end * RATE)]) for line in lines]
    known = sorted(one for one in found if one is not None)
    gaps = [(12 * math.log2(upper / lower), lower, upper) for lower, upper in itertools.pairwise(known)]
    widest = max(gaps, default=(0.0, 0.0, 0.0))
    if widest[0] < _APART:
        return [*lines], (known[len(known) // 2],) if known else ()
    border = math.sqrt(widest[1] * widest[2])
    first = next(one for one in found if one is not None) > border
    last, numbered = 0, list[Line]()
    for line, one in zip(lines, found, strict=True):
        last = last if one is None else int((one > border) != first)
        numbered.append(dataclasses.replace(line, speaker=last))
    groups = [[one for one in known if (one > border) == high] for high in (first, not first)]
    return numbered, tuple(group[len(group) // 2] for group in groups)


def pitch(sound: npt.NDArray[np.float32]) -> float | None:
    """The median pitch of a voice in Hz, by autocorrelation; None where nothing is voiced."""
    import numpy as np

    size, step = round(_FRAME * RATE), round(_STEP * RATE)
    shortest, longest = round(RATE / _HIGHEST), round(RATE / _LOWEST)
    floor = 0.1 * float(np.sqrt(np.mean(np.square(sound)))) if len(sound) else 0.0
    found = list[float]()
    for start in range(0, len(sound) - size, step):
        frame = sound[start : start + size] - sound[start : start + size].mean()
        if float(np.sqrt(np.mean(np.square(frame)))) <= floor:
            continue
        power = np.abs(np.fft.rfft(frame, 2 * size)) ** 2
        repeats = np.fft.irfft(power)[: longest + 1]
        repeats = repeats / repeats[0] * size / (size - np.arange(longest + 1))  # fewer samples overlap at longer lags
        best = float(repeats[shortest:].max())
        if best < _VOICED:
            continue
        # The first lag that repeats nearly as well as the best: a voice repeats after two periods, too.
        lag = shortest + int(np.flatnonzero(repeats[shortest:] >= 0.9 * best)[0])
        while lag < longest and repeats[lag + 1] > repeats[lag]:
            lag += 1
        found.append(RATE / lag)
    return float(np.median(found)) if len(found) >= 3 else None
