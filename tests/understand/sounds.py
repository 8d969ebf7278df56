"""Spoken words for tests: eSpeak NG, where its library is installed, and a WAV file of samples."""

from __future__ import annotations

import ctypes
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

RATE = 16000


def spoken(text: str) -> NDArray[np.float32]:
    """A sentence in English at 16 kHz, with a second of silence before and after."""
    loader = pytest.importorskip("espeakng_loader", reason="espeakng-loader is in the extra espeak")
    library: Any = ctypes.CDLL(loader.get_library_path())
    parts: list[NDArray[np.int16]] = []
    callback_type = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)

    def take(samples: Any, count: int, _: Any) -> int:
        if count > 0:
            parts.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    callback = callback_type(take)
    rate = library.espeak_Initialize(1, 0, loader.get_data_path().encode(), 0)
    library.espeak_SetSynthCallback(callback)
    library.espeak_SetVoiceByName(b"en-us")
    library.espeak_SetParameter(1, 140, 0)  # words per minute
    content = text.encode()
    library.espeak_Synth(content, len(content) + 1, 0, 1, 0, 1, None, None)
    library.espeak_Synchronize()
    said = np.concatenate(parts).astype(np.float32) / 32768
    said = np.interp(np.arange(0, len(said), rate / RATE), np.arange(len(said)), said).astype(np.float32)
    silence = np.zeros(RATE, np.float32)
    return np.concatenate([silence, said, silence])


def flac(samples: NDArray[np.float32], path: Path) -> Path:
    """A Matroska file with FLAC, which MP4 can hold, of samples at 16 kHz."""
    import av

    with wave.open(str(path.with_suffix(".wav")), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((samples * 32767).astype(np.int16).tobytes())
    with av.open(str(path.with_suffix(".wav"))) as source, av.open(str(path), "w", format="matroska") as target:
        stream: Any = target.add_stream("flac", rate=RATE)
        stream.layout = "mono"
        for frame in source.decode(source.streams.audio[0]):
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    return path
