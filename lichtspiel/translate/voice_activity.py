"""Where in a sound somebody speaks: Silero's network, whose weights are in the package silero-vad (MIT)."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lichtspiel.errors import InvalidInput

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["INSTALL", "PAD", "RATE", "installed", "speech_spans"]

RATE = 16_000
INSTALL = "pip install 'lichtspiel[translate]'"

# As in silero-vad's get_speech_timestamps: windows of 512 samples with the 64 before them; speech begins at a
# probability of 0.5 and ends below 0.35.
_WINDOW, _BEFORE, _ON, _OFF = 512, 64, 0.5, 0.35
_LEAST, _SILENCE = 0.2, 0.3  # seconds: shortest speech, silence that ends it
PAD = 0.06
"""The margin in seconds that a span has before and after the speech."""

_PACKAGE, _FILE = "silero_vad", "data/silero_vad_16k_op15.onnx"


def installed() -> bool:
    """Whether the network is there."""
    return _weights() is not None and importlib.util.find_spec("onnxruntime") is not None


def speech_spans(sound: npt.NDArray[np.float32]) -> list[tuple[float, float]]:
    """When somebody speaks, in seconds, in float32 samples [n] at RATE. Raises InvalidInput without the network."""
    chances = _chances(sound)
    spans, start, quiet = list[tuple[float, float]](), None, 0
    patience = round(_SILENCE * RATE / _WINDOW)
    for at, chance in enumerate(chances):
        if start is None:
            if chance >= _ON:
                start, quiet = at, 0
            continue
        quiet = quiet + 1 if chance < _OFF else 0
        if quiet >= patience:
            spans.append((start, at - quiet + 1))
            start = None
    if start is not None:
        spans.append((start, len(chances) - quiet))
    step, length = _WINDOW / RATE, len(sound) / RATE
    timed = [(first * step, last * step) for first, last in spans if (last - first) * step >= _LEAST]
    return [(max(first - PAD, 0.0), min(last + PAD, length)) for first, last in timed]


def _chances(sound: npt.NDArray[np.float32]) -> list[float]:
    """The probability of speech in each window."""
    import numpy as np

    session = _session()
    state, rate = np.zeros((2, 1, 128), np.float32), np.array(RATE, np.int64)
    padded = np.concatenate([np.zeros(_BEFORE, np.float32), sound, np.zeros(-len(sound) % _WINDOW, np.float32)])
    found = []
    for start in range(0, len(padded) - _BEFORE, _WINDOW):
        window = padded[None, start : start + _BEFORE + _WINDOW]
        chance, state = session.run(None, {"input": window, "state": state, "sr": rate})
        found.append(float(chance[0, 0]))
    return found


def _weights() -> Path | None:
    spec = importlib.util.find_spec(_PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (path := Path(folder, _FILE)).is_file():
            return path
    return None


@cache
def _session() -> Any:
    path = _weights()
    if path is None or not installed():
        raise InvalidInput(f"hearing speech needs silero-vad and onnxruntime; {INSTALL}")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.inter_op_num_threads = options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
