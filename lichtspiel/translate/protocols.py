"""What an engine is that hears, and one that speaks; their makers are in `hear` and `speak`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from lichtspiel.translate.lines import Word

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Samples = npt.NDArray[np.float32]

__all__ = ["Heard", "Hearer", "Voice"]


@dataclass(frozen=True)
class Heard:
    """What an engine heard: words in order, the language that it found or was told, whether the words bring their own
    punctuation, and what the user should know."""

    words: list[Word]
    language: str
    punctuated: bool
    notes: tuple[str, ...] = ()


class Hearer(Protocol):
    """An engine for speech. `name` is for records; `languages` is None where it depends on the sound."""

    name: str
    languages: frozenset[str] | None

    def hear(self, sound: Samples, spans: list[tuple[float, float]], language: str | None) -> Heard:
        """Words in float32 samples [n] at 16 kHz, of which `spans` are speech (seconds)."""
        ...


class Voice(Protocol):
    """An engine that speaks. `name` is for records, `rate` is its sample rate; `trained` says whether a trained model
    makes the sound, which the seal records."""

    name: str
    rate: int
    trained: bool

    def speak(self, text: str, speed: float) -> Samples:
        """Sound for one line, float32 [n], at `speed` times the engine's normal rate."""
        ...
