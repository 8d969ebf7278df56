"""Speech: when somebody speaks, found by Silero's detector, and what they say, heard by PocketSphinx.

Both come with their models in their wheels (silero-vad, MIT; pocketsphinx, BSD). PocketSphinx hears English, and many
words wrongly; a better engine is one function, `Hear`.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from lichtspiel.understand.footage import SOUND_RATE, Finding
from lichtspiel.understand.shots import EXTRA

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lichtspiel.understand.footage import Footage

__all__ = ["Hear", "Heard", "Speech", "hear_english", "voiced"]

_FRAME, _CONTEXT, _BLOCK = 512, 64, 512  # samples of a frame and before it, and frames at once (silero_vad's own)
_ON, _OFF = 0.5, 0.35  # probabilities at which speech begins and ends (Silero's own)
_SHORTEST, _PAUSE, _PAD = 0.25, 0.5, 0.1  # seconds: of a piece of speech, of a gap that divides it, and around it
_LONGEST = 20.0  # seconds that are given to an engine at once


@dataclass(frozen=True)
class Heard:
    """What was said between two times, in seconds from the start of the samples, and how sure that is, from 0 to 1."""

    start: float
    end: float
    text: str
    score: float = 1.0


Hear: TypeAlias = "Callable[[NDArray[np.float32]], list[Heard]]"
"""Turns samples at 16 kHz, which hold speech, into what was said."""


class Speech:
    """Finds speech. Findings have the kind "speech"; their text is empty without an engine that hears words."""

    name = "speech"

    def __init__(self, hear: Hear | None = None, engine: str = "pocketsphinx") -> None:
        self._hear = hear
        self.version = f"1 silero {engine}"

    def missing(self) -> str | None:
        """The extra, unless the detector and an engine are installed."""
        packages = ["silero_vad", "onnxruntime", *(["pocketsphinx"] if self._hear is None else [])]
        return EXTRA if any(importlib.util.find_spec(package) is None for package in packages) else None

    def extract(self, footage: Footage) -> list[Finding]:
        """All speech, in the order of time; none in a video without sound."""
        sound = footage.sound
        findings: list[Finding] = []
        for start, end in voiced(sound) if sound is not None else ():
            piece = sound[round(start * SOUND_RATE) : round(end * SOUND_RATE)] if sound is not None else None
            assert piece is not None
            said = (self._hear or hear_english)(piece)
            for one in said or [Heard(0.0, end - start, "", 0.0)]:
                findings.append(Finding(start + one.start, start + one.end, "speech", one.text, one.score))
        return findings


def voiced(samples: NDArray[np.float32]) -> list[tuple[float, float]]:
    """When somebody speaks: starts and ends in seconds, of pieces of at most twenty seconds.

    A piece ends where the probability stays below 0.35 for half a second.
    """
    import numpy as np

    probabilities = _speech_probabilities(samples)
    step = _FRAME / SOUND_RATE
    pieces: list[list[float]] = []
    speaking = False
    for number, probability in enumerate(probabilities):
        time = number * step
        if probability >= _ON or (speaking and probability >= _OFF):
            if not speaking and (not pieces or time - pieces[-1][1] >= _PAUSE):
                pieces.append([time, time])
            pieces[-1][1] = time + step
            speaking = True
        else:
            speaking = False
    length = len(samples) / SOUND_RATE
    result: list[tuple[float, float]] = []
    for start, end in pieces:
        if end - start < _SHORTEST:
            continue
        padded = max(start - _PAD, 0.0), min(end + _PAD, length)
        edges = np.linspace(*padded, int(np.ceil((padded[1] - padded[0]) / _LONGEST)) + 1)
        result += itertools.pairwise(map(float, edges))
    return result


def _speech_probabilities(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """The probability of speech in each frame of 32 ms, by the network that reads half a thousand frames at once."""
    import numpy as np

    session = _detector()
    count = max(-(-len(samples) // _FRAME), 1)
    padded = np.zeros(_CONTEXT + count * _FRAME, np.float32)
    padded[_CONTEXT : _CONTEXT + len(samples)] = samples
    windows = np.lib.stride_tricks.sliding_window_view(padded, _CONTEXT + _FRAME)[::_FRAME]
    names = [one.name for one in session.get_inputs()]
    hidden = cell = np.zeros((1, 1, 128), np.float32)
    parts = [np.zeros(0, np.float32)]
    for start in range(0, count, _BLOCK):
        block = np.ascontiguousarray(windows[start : start + _BLOCK])
        found, hidden, cell = session.run(None, dict(zip(names, (block, hidden, cell), strict=True)))
        parts.append(np.asarray(found, np.float32).reshape(-1))
    return np.concatenate(parts)


@functools.cache
def _detector() -> Any:
    """Silero's network, by its path: importing its package would set the number of threads of the whole process."""
    import onnxruntime

    spec = importlib.util.find_spec("silero_vad")
    assert spec is not None
    assert spec.origin is not None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    path = Path(spec.origin).parent / "data" / "silero_vad_16k_sequence.onnx"
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def hear_english(samples: NDArray[np.float32]) -> list[Heard]:
    """What is said in English, by PocketSphinx with its own model; one piece, or none when it hears no word."""
    import numpy as np

    decoder = _decoder()
    decoder.start_utt()
    decoder.process_raw((samples * 32767).astype(np.int16).tobytes(), no_search=False, full_utt=True)
    decoder.end_utt()
    hypothesis = decoder.hyp()
    if hypothesis is None or not hypothesis.hypstr.strip():
        return []
    words = [one for one in decoder.seg() if not one.word.startswith(("<", "["))]
    if not words:
        return []
    rate = float(decoder.config["frate"])
    score = float(np.clip(decoder.get_logmath().exp(hypothesis.prob), 0, 1))
    return [Heard(words[0].start_frame / rate, words[-1].end_frame / rate, hypothesis.hypstr.strip(), score)]


@functools.cache
def _decoder() -> Any:
    from pocketsphinx import Config, Decoder, get_model_path

    config = Config(
        hmm=get_model_path("en-us/en-us"), lm=get_model_path("en-us/en-us.lm.bin"),
        dict=get_model_path("en-us/cmudict-en-us.dict"), samprate=float(SOUND_RATE), loglevel="FATAL",
    )  # fmt: skip
    return Decoder(config)
