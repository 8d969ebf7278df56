"""Engines for speech whose files the user has: faster-whisper, Vosk and sherpa-onnx. Nothing is downloaded."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lichtspiel.errors import InvalidInput
from lichtspiel.translate import engines
from lichtspiel.translate.lines import Word
from lichtspiel.translate.protocols import Heard, Hearer
from lichtspiel.translate.voice_activity import RATE

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Samples = npt.NDArray[np.float32]

__all__ = ["MAKERS", "Sherpa", "Vosk", "Whisper"]

_TOKEN = 0.4  # seconds: how long the last token of a word sounds at most; models say only when it begins
_SURE = 0.5
"""Whisper's probability of a language below which it is told."""


class Whisper:
    """A Whisper model for faster-whisper (CTranslate2): multilingual, with punctuation."""

    languages: frozenset[str] | None = None

    def __init__(self, named: engines.Named) -> None:
        path = engines.existing(named, "the folder of a model for faster-whisper", names=["model.bin", "config.json"])
        engines.needs(named, "faster_whisper", "faster-whisper")
        from faster_whisper import WhisperModel

        self.name = f"whisper {_name(path)}"
        try:
            self._model: Any = WhisperModel(str(path), device="cpu", compute_type="auto", local_files_only=True)
        except Exception as error:  # a damaged model can make the library raise anything
            raise InvalidInput(f"--transcriber {named}: cannot be read ({error}); download it again") from None
        if not self._model.model.is_multilingual:
            self.languages = frozenset(["en"])

    def hear(self, sound: Samples, spans: list[tuple[float, float]], language: str | None) -> Heard:
        """Words of the whole sound; what lies outside the spans is skipped, where Whisper invents text."""
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
        return Heard(words, str(found.language), punctuated=True, notes=notes)


class Vosk:
    """A model folder of Vosk (Kaldi), for the one language that its name says."""

    def __init__(self, named: engines.Named) -> None:
        path = engines.existing(named, "the folder of a Vosk model", names=["am", "conf"])
        engines.needs(named, "vosk", "vosk")
        import vosk

        vosk.SetLogLevel(-1)
        try:
            self._model = vosk.Model(model_path=str(path))
        except Exception as error:  # the library raises plain exceptions
            raise InvalidInput(f"--transcriber {named}: cannot be read ({error}); unpack it again") from None
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
        known = next(iter(self.languages)) if self.languages else "en"
        return Heard(words, language or known, punctuated=False)


class Sherpa:
    """A model folder of sherpa-onnx: Moonshine, Whisper, SenseVoice, or a transducer (Zipformer, Parakeet).

    Moonshine and Whisper give text without times; their words are spread over the span by their length. SenseVoice
    says the language that it hears.
    """

    languages: frozenset[str] | None = None

    def __init__(self, named: engines.Named) -> None:
        path = engines.existing(named, "the folder of a sherpa-onnx model")
        engines.needs(named, "sherpa_onnx", "sherpa-onnx")
        import sherpa_onnx

        self.name = f"sherpa-onnx {_name(path)}"
        kind, options = _sherpa_files(named, path)
        try:
            self._recognizer: Any = getattr(sherpa_onnx.OfflineRecognizer, kind)(**options)
        except Exception as error:
            raise InvalidInput(f"--transcriber {named}: cannot be read ({error}); unpack it again") from None
        self._punctuates = kind != "from_transducer"

    def hear(self, sound: Samples, spans: list[tuple[float, float]], language: str | None) -> Heard:
        """Words of each span, which is at most half a minute long for models that hear no more at once."""
        words, told = list[Word](), None
        for start, end in (piece for span in spans for piece in _pieces(*span)):
            stream = self._recognizer.create_stream()
            stream.accept_waveform(RATE, sound[round(start * RATE) : round(end * RATE)])
            self._recognizer.decode_stream(stream)
            found = stream.result
            words += _timed(found, start, end) or _spread(str(found.text), start, end)
            told = told or str(getattr(found, "lang", "")).strip("<|>") or None
        return Heard(words, told or language or "en", punctuated=self._punctuates)


def _sherpa_files(named: engines.Named, path: Path) -> tuple[str, dict[str, Any]]:
    """Which of the library's makers a folder is for, by its file names, and its arguments."""

    def find(*patterns: str) -> str | None:
        found = [
            file for pattern in patterns for file in sorted(path.glob(pattern), key=lambda one: "int8" not in one.name)
        ]
        return str(found[0]) if found else None

    tokens = find("tokens.txt", "*-tokens.txt")
    if tokens is None:
        raise InvalidInput(f"--transcriber {named}: {path} has no tokens.txt; it is the folder of a sherpa-onnx model")
    encoder, decoder, joiner = find("*encoder*.onnx", "encode*.onnx"), find("*decoder*.onnx"), find("*joiner*.onnx")
    if pre := find("preprocess*.onnx"):
        uncached, cached = find("uncached_decode*.onnx"), find("cached_decode*.onnx")
        return "from_moonshine", {"preprocessor": pre, "encoder": encoder, "uncached_decoder": uncached,
                                  "cached_decoder": cached, "tokens": tokens}  # fmt: skip
    if encoder and decoder and joiner:
        return "from_transducer", {"encoder": encoder, "decoder": decoder, "joiner": joiner, "tokens": tokens}
    if encoder and decoder:
        return "from_whisper", {"encoder": encoder, "decoder": decoder, "tokens": tokens}
    if model := find("model*.onnx"):
        return "from_sense_voice", {"model": model, "tokens": tokens, "use_itn": True}
    raise InvalidInput(f"--transcriber {named}: {path} holds no model that is known: Moonshine, Whisper, SenseVoice, "
                       "transducer")  # fmt: skip


def _name(path: Path) -> str:
    """The name of a folder as it was given, also of ".", without following links."""
    return Path(os.path.abspath(path)).name


def _pieces(start: float, end: float, most: float = 25.0) -> list[tuple[float, float]]:
    count = max(int((end - start) // most) + 1, 1)
    step = (end - start) / count
    return [(start + number * step, start + (number + 1) * step) for number in range(count)]


def _timed(found: Any, start: float, end: float) -> list[Word]:
    """Words by the times of their first tokens; none where the model gives no times, or its tokens are no words."""
    tokens, times = [str(token) for token in found.tokens], [start + float(time) for time in found.timestamps]
    begins = [at for at, token in enumerate(tokens) if token.startswith((" ", "▁"))]
    if len(times) != len(tokens) or len(begins) != len(str(found.text).split()):
        return []
    words = list[Word]()
    for text, at, after in zip(str(found.text).split(), begins, [*begins[1:], len(tokens)], strict=True):
        until = times[after] if after < len(times) else end
        words.append(Word(text, times[at], min(max(until, times[at]), times[after - 1] + _TOKEN, end)))
    return words


def _spread(text: str, start: float, end: float) -> list[Word]:
    """Words with times in proportion to their letters."""
    found = text.split()
    total, at, words = sum(len(word) + 1 for word in found) or 1, start, list[Word]()
    for word in found:
        until = at + (end - start) * (len(word) + 1) / total
        words.append(Word(word, at, until))
        at = until
    return words


def _pcm(sound: Samples) -> bytes:
    import numpy as np

    return bytes((np.clip(sound, -1, 1) * 32767).astype(np.int16).tobytes())


MAKERS: dict[str, Callable[[engines.Named], Hearer]] = {"whisper": Whisper, "vosk": Vosk, "sherpa": Sherpa}
