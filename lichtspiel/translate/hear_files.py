"""Engines for speech whose files the user has: faster-whisper and Vosk. Nothing is downloaded."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lichtspiel.errors import LichtspielError
from lichtspiel.translate import engines, tongues
from lichtspiel.translate.lines import Word
from lichtspiel.translate.protocols import Heard, Hearer
from lichtspiel.translate.voice_activity import RATE

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Samples = npt.NDArray[np.float32]

__all__ = ["MAKERS", "Vosk", "Whisper"]

_ENGLISH = frozenset(["en"])
_SURE = 0.5
"""Whisper's probability of a language below which it is told."""


class Whisper:
    """A Whisper model for faster-whisper (CTranslate2): multilingual, with punctuation."""

    def __init__(self, named: engines.Named) -> None:
        engines.undivided(named)
        path = engines.existing(named, "the folder of a model for faster-whisper", names=["model.bin", "config.json"])
        engines.needs(named, "faster_whisper", engines.MODELS)
        from faster_whisper import WhisperModel

        self._named, self.name = named, f"whisper {_name(path)}"
        try:
            self._model: Any = WhisperModel(str(path), device="cpu", compute_type="auto", local_files_only=True)
        except Exception as error:  # a damaged model can make the library raise anything
            raise engines.unreadable(named, error, "download it again") from None
        token = self._model.hf_tokenizer.token_to_id
        known = [code for code in self._model.supported_languages if token(f"<|{code}|>") is not None]
        several = self._model.model.is_multilingual
        self.languages: frozenset[str] | None = frozenset(map(tongues.canonical, known)) if several else _ENGLISH

    def hear(self, sound: Samples, spans: list[tuple[float, float]], language: str | None) -> Heard:
        """Words of the whole sound; what lies outside the spans is skipped, where Whisper invents text. Raises
        LichtspielError for a model that does not hold together."""
        try:
            return self._heard(sound, spans, {"nb": "no"}.get(language or "", language))
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            raise LichtspielError(f"--transcriber {self._named}: failed ({error}); download the model again") from None

    def _heard(self, sound: Samples, spans: list[tuple[float, float]], language: str | None) -> Heard:
        clips = [{"start": start, "end": end} for start, end in spans]
        segments, found = self._model.transcribe(
            sound, language=language, word_timestamps=True, beam_size=5, condition_on_previous_text=False,
            clip_timestamps=[time for clip in clips for time in (clip["start"], clip["end"])],
        )  # fmt: skip
        words = [
            Word(word.word.strip(), float(word.start), float(word.end), float(word.probability))
            for segment in segments
            for word in segment.words or ()
            if word.word.strip()
        ]
        unsure = language is None and found.language_probability < _SURE
        notes = (f"the language seems to be {found.language}, but not surely: say it with --from",) if unsure else ()
        return Heard(words, tongues.canonical(str(found.language)), punctuated=True, notes=notes)


class Vosk:
    """A model folder of Vosk (Kaldi), for the one language that its name says."""

    def __init__(self, named: engines.Named) -> None:
        engines.undivided(named)
        path = engines.existing(named, "the folder of a Vosk model", names=["am/final.mdl", "conf/model.conf"])
        engines.needs(named, "vosk", "pip install vosk")
        import vosk

        vosk.SetLogLevel(-1)
        try:
            self._model = vosk.Model(model_path=str(path))
        except Exception as error:  # the library raises plain exceptions
            raise engines.unreadable(named, error, "unpack it again") from None
        self._recognizer: Any = vosk.KaldiRecognizer
        self.name = f"vosk {_name(path)}"
        match = re.search(r"model(?:-small|-big)?-([a-z]{2})\b", _name(path))
        self.languages = frozenset([{"cn": "zh", "ua": "uk", "kz": "kk"}.get(match[1], match[1])]) if match else None

    def hear(self, sound: Samples, spans: list[tuple[float, float]], language: str | None) -> Heard:
        """Words of each span."""
        words = list[Word]()
        for start, end in spans:
            recognizer = self._recognizer(self._model, RATE)
            recognizer.SetWords(True)
            recognizer.AcceptWaveform(_pcm(sound[round(start * RATE) : round(end * RATE)]))
            for word in json.loads(recognizer.FinalResult()).get("result", ()):
                words.append(Word(word["word"], start + word["start"], start + word["end"], word["conf"]))
        spoken, notes = engines.spoken(language, self.languages)
        return Heard(words, spoken, punctuated=False, notes=notes)


def _name(path: Path) -> str:
    """The name of a folder as it was given, also of ".", without following links."""
    return Path(os.path.abspath(path)).name


def _pcm(sound: Samples) -> bytes:
    import numpy as np

    return bytes((np.clip(sound, -1, 1) * 32767).astype(np.int16).tobytes())


MAKERS: dict[str, Callable[[engines.Named], Hearer]] = {"whisper": Whisper, "vosk": Vosk}
