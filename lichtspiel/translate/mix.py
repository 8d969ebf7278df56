"""Lay a voice over the sound of a video: resample, duck what is below, and match loudness as EBU R128 measures it.

Samples are float32 [samples, channels] from -1 to 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from lichtspiel.translate.lines import Line
from lichtspiel.translate.timing import Spoken

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Samples = npt.NDArray[np.float32]

__all__ = ["RATE", "Original", "dub", "laid", "loudness", "resampled"]

RATE = 48_000
Original: TypeAlias = Literal["duck", "remove", "keep"]

PROGRAM = -23.0
"""Loudness of a program in LUFS, where there was no speech to match (EBU R128)."""

PEAK = 10 ** (-1 / 20)
"""The highest true peak, -1 dBTP (EBU R128)."""

DUCKED = -15.0
"""How far the original goes down under a voice, in dB: it can be heard that somebody speaks, but not what."""

_ATTACK, _RELEASE = 0.15, 0.4  # seconds

_WINDOW, _HOLD = 0.02, 0.5
"""Seconds over which the side-chain measures the voice, and for which a pause in it, as between words, is no pause."""

_SOUNDS = 10 ** (-30 / 20)
"""How loud a part of the voice is, next to its loudest, for the side-chain to count it."""

_SPEECH = (150.0, 5000.0)
"""Hz between which speech is understood. Below it and above it, and beside the middle of a stereo picture, lies what
music has and speech has not; ducking leaves that alone."""
_QUIETEST, _LOUDEST = -40.0, -14.0  # LUFS between which a voice is matched to the speech it replaces


def dub(
    original: Samples | None, spoken: Sequence[Spoken], lines: Sequence[Line], length: int, *, under: Original = "duck"
) -> Samples:
    """The sound of the dubbed video, `length` samples at RATE.

    `original` is its old sound (None where it has none) and `lines` say when somebody speaks in it. "duck" lowers it by
    a side-chain, only while the voice sounds and only where speech is, so that music stays; "remove" takes all of it
    away under the voice and under the old speech; "keep" leaves it. Elsewhere, it stays as it is. The voice is as loud
    as the speech that it replaces.
    """
    import numpy as np

    channels = 1 if original is None else original.shape[1]
    base = np.zeros((length, channels), np.float32)
    if original is not None:
        base[: min(length, len(original))] = original[:length]
    voice = laid(spoken, length)
    gain = _gain(voice, base, lines)
    if under == "duck":
        base = _ducked(base, _envelope(_sounding(voice), length, 10 ** (DUCKED / 20)))
    elif under == "remove":
        spans = [(one.start, one.end) for one in spoken] + [(line.start, line.end) for line in lines]
        base = base * _envelope(spans, length, 0.0)[:, None]
    mixed = base + (voice * np.float32(gain))[:, None]
    return _limited(mixed)


def laid(spoken: Sequence[Spoken], length: int) -> Samples:
    """The voice alone, each line at its time: `length` samples at RATE."""
    import numpy as np

    voice = np.zeros(length, np.float32)
    for one in spoken:
        piece = resampled(one.sound, one.rate, RATE)
        start = round(one.start * RATE)
        piece = piece[: max(length - start, 0)]
        voice[start : start + len(piece)] += piece
    return voice


def loudness(sound: Samples) -> float:
    """Integrated loudness in LUFS of samples [n] or [n, channels] at RATE (ITU-R BS.1770-4, FFmpeg's ebur128); -70
    for silence."""
    import av
    import numpy as np

    planes = np.ascontiguousarray(np.atleast_2d(sound.T), np.float32)
    if planes.shape[1] < RATE // 2:  # a block of the measure lasts 0.4 s
        planes = np.pad(planes, ((0, 0), (0, RATE // 2 - planes.shape[1])), mode="wrap")
    layout = "mono" if planes.shape[0] == 1 else "stereo"
    graph = av.filter.Graph()
    source = graph.add_abuffer(sample_rate=RATE, format="fltp", layout=layout, time_base=Fraction(1, RATE))
    meter, sink = graph.add("ebur128", "metadata=1"), graph.add("abuffersink")
    source.link_to(meter)
    meter.link_to(sink)
    graph.configure()
    measured = -70.0
    for start in range(0, planes.shape[1], RATE):
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(planes[:, start : start + RATE]), "fltp", layout)
        frame.sample_rate, frame.pts, frame.time_base = RATE, start, Fraction(1, RATE)
        graph.push(frame)
        measured = _pulled(graph, measured)
    graph.push(None)
    return _pulled(graph, measured)


def _pulled(graph: Any, measured: float) -> float:
    import av

    while True:
        try:
            frame = graph.pull()
        except (av.BlockingIOError, av.EOFError):
            return measured
        measured = float(frame.metadata.get("lavfi.r128.I", measured))


def resampled(sound: npt.NDArray[np.float32], before: int, after: int) -> npt.NDArray[np.float32]:
    """Samples [n] at another rate, by FFmpeg's resampler."""
    import av
    import numpy as np

    if before == after or not len(sound):
        return sound
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=after)
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound[None], np.float32), format="fltp", layout="mono")
    frame.sample_rate = before
    pieces = [out.to_ndarray()[0] for given in (frame, None) for out in resampler.resample(given)]
    return np.concatenate(pieces).astype(np.float32, copy=False)


def _gain(voice: Samples, base: Samples, lines: Sequence[Line]) -> float:
    """What makes the voice as loud as the speech in the original, or as a program is."""
    import numpy as np

    heard = voice[np.abs(voice) > 0]
    own = loudness(np.repeat(heard[:, None], base.shape[1], 1)) if len(heard) else -70.0  # both channels sound
    if own <= -69:
        return 1.0
    old = [base[round(line.start * RATE) : round(line.end * RATE)] for line in lines]
    speech = loudness(np.concatenate(old)) if old and sum(map(len, old)) else -70.0
    wanted = PROGRAM if speech < _QUIETEST else min(speech, _LOUDEST)
    return float(10 ** ((wanted - own) / 20))


def _sounding(voice: Samples) -> list[tuple[float, float]]:
    """When the voice sounds, in seconds, by its level; this is the key of the side-chain."""
    import numpy as np

    step = round(_WINDOW * RATE)
    padded = np.pad(voice, (0, -len(voice) % step)).reshape(-1, step)
    levels = np.sqrt(np.mean(np.square(padded), axis=1))
    loud = np.flatnonzero(levels > _SOUNDS * levels.max(initial=0)) if levels.any() else np.zeros(0, int)
    spans = list[tuple[float, float]]()
    for at in loud * _WINDOW:
        if spans and at - spans[-1][1] <= _HOLD:
            spans[-1] = (spans[-1][0], float(at + _WINDOW))
        else:
            spans.append((float(at), float(at + _WINDOW)))
    return spans


def _ducked(base: Samples, gain: npt.NDArray[np.float32]) -> Samples:
    """The sound with this gain on what is speech by its place and pitch: the middle, within _SPEECH."""
    import numpy as np

    middle = base.mean(axis=1)
    quieter = np.zeros_like(middle)
    for first, last in _spans_below(gain):
        quieter[first:last] = _band(middle, first, last) * (gain[first:last] - 1)
    lowered: Samples = base + quieter[:, None]
    return lowered


def _spans_below(gain: npt.NDArray[np.float32]) -> list[tuple[int, int]]:
    """The stretches of samples whose gain is below 1."""
    import numpy as np

    edges = np.flatnonzero(np.diff(np.pad((gain < 1).astype(np.int8), 1)))
    return [(int(first), int(last)) for first, last in edges.reshape(-1, 2)]


def _band(sound: Samples, first: int, last: int) -> Samples:
    """The part of samples [first, last) that lies within _SPEECH, by a filter without delay; the edges of the band are
    cosines of half an octave. A second to both sides is looked at, so that no edge of the stretch is heard."""
    import numpy as np

    ahead = min(first, RATE)
    piece = sound[first - ahead : last + RATE]
    spectrum = np.fft.rfft(piece)
    octaves = np.log2(np.maximum(np.fft.rfftfreq(len(piece), 1 / RATE), 1e-3))
    low, high = (np.log2(edge) for edge in _SPEECH)
    inside = np.clip(np.minimum(octaves - low, high - octaves) * 2 + 0.5, 0, 1)
    shaped = np.fft.irfft(spectrum * (0.5 - 0.5 * np.cos(np.pi * inside)), len(piece))
    found: Samples = shaped[ahead : ahead + last - first].astype(np.float32)
    return found


def _envelope(spans: Sequence[tuple[float, float]], length: int, floor: float) -> npt.NDArray[np.float32]:
    """The gain of the original: `floor` within the spans, with ramps before and after them, and 1 elsewhere."""
    import numpy as np

    gain = np.ones(length, np.float32)
    for start, end in spans:
        first, last = round(start * RATE), min(round(end * RATE), length)
        ahead, after = round(_ATTACK * RATE), round(_RELEASE * RATE)
        begin, finish = max(first - ahead, 0), min(last + after, length)
        shape = np.full(max(finish - begin, 0), floor, np.float32)
        down = np.linspace(1, floor, ahead, dtype=np.float32)[ahead - (first - begin) :]
        up = np.linspace(floor, 1, after, dtype=np.float32)[: max(finish - last, 0)]
        shape[: len(down)] = down
        shape[len(shape) - len(up) :] = np.maximum(shape[len(shape) - len(up) :], up)
        gain[begin:finish] = np.minimum(gain[begin:finish], shape)
    return gain


def _limited(sound: Samples) -> Samples:
    """The sound with its peaks below PEAK, measured at four times the rate, as true peaks are; all of it is turned down
    by the same amount, at most a few dB."""
    import numpy as np

    highest = 0.0
    for channel in sound.T:
        for start in range(0, len(channel), 60 * RATE):
            piece = channel[start : start + 60 * RATE]
            if float(np.abs(piece).max(initial=0)) > 0.5 * PEAK:
                highest = max(highest, float(np.abs(resampled(piece, RATE, 4 * RATE)).max(initial=0)))
    return sound if highest <= PEAK else (sound * (PEAK / highest)).astype(np.float32)
