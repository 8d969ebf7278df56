"""The engine for models of sherpa-onnx, whose files the user has; nothing is downloaded.

The library ends the process in which it meets files that it did not expect. So a process of its own reads a model
first, and hears a second of silence with it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lichtspiel.errors import InvalidInput
from lichtspiel.translate import engines, tongues
from lichtspiel.translate.lines import Word
from lichtspiel.translate.protocols import Heard
from lichtspiel.translate.voice_activity import RATE

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Samples = npt.NDArray[np.float32]

__all__ = ["INSTALL", "Sherpa"]

INSTALL = "pip install sherpa-onnx"

_TOKEN = 0.4  # seconds: how long the last token of a word sounds at most; models say only when it begins
_PATIENCE = 600  # seconds for the largest model on a slow disk

_TRIAL = """
import json, sys
import numpy, sherpa_onnx
kind, options = json.load(sys.stdin)
recognizer = getattr(sherpa_onnx.OfflineRecognizer, kind)(**options)
stream = recognizer.create_stream()
stream.accept_waveform(16000, numpy.zeros(16000, numpy.float32))
recognizer.decode_stream(stream)
"""

_WHISPER = frozenset([
    "af", "am", "ar", "as", "az", "ba", "be", "bg", "bn", "bo", "br", "bs", "ca", "cs", "cy", "da", "de", "el", "en",
    "es", "et", "eu", "fa", "fi", "fo", "fr", "gl", "gu", "ha", "haw", "he", "hi", "hr", "ht", "hu", "hy", "id",
    "is", "it", "ja", "jw", "ka", "kk", "km", "kn", "ko", "la", "lb", "ln", "lo", "lt", "lv", "mg", "mi", "mk", "ml",
    "mn", "mr", "ms", "mt", "my", "ne", "nl", "nn", "no", "oc", "pa", "pl", "ps", "pt", "ro", "ru", "sa", "sd", "si",
    "sk", "sl", "sn", "so", "sq", "sr", "su", "sv", "sw", "ta", "te", "tg", "th", "tk", "tl", "tr", "tt", "uk", "ur",
    "uz", "vi", "yi", "yo", "zh",
])  # fmt: skip
"""Whisper's languages (whisper/tokenizer.py); the third generation also has Cantonese."""

_SENSE_VOICE = frozenset(["zh", "en", "ja", "ko", "yue"])


class Sherpa:
    """A model folder of sherpa-onnx: Moonshine, Whisper, SenseVoice, or a transducer (Zipformer, Parakeet).

    Moonshine and Whisper give text without times; their words are spread over the span by their length. Whisper and
    SenseVoice say the language that they hear; that of others is what the folder's name says.
    """

    def __init__(self, named: engines.Named) -> None:
        engines.undivided(named)
        path = engines.existing(named, "the folder of a sherpa-onnx model")
        self._kind, self._options = _files(named, path)
        engines.needs(named, "sherpa_onnx", INSTALL)
        self.name = f"sherpa-onnx {Path(os.path.abspath(path)).name}"
        _try(named, self._kind, self._options)
        self.languages = _languages(self._kind, self._options)
        self._punctuates = self._kind != "from_transducer"

    def hear(self, sound: Samples, spans: list[tuple[float, float]], language: str | None) -> Heard:
        """Words of each span, which is at most half a minute long for models that hear no more at once."""
        recognizer, words, told = self._recognizer(language), list[Word](), None
        for start, end in (piece for span in spans for piece in _pieces(*span)):
            stream = recognizer.create_stream()
            stream.accept_waveform(RATE, sound[round(start * RATE) : round(end * RATE)])
            recognizer.decode_stream(stream)
            found = stream.result
            words += _timed(found, start, end) or _spread(str(found.text), start, end)
            told = told or str(getattr(found, "lang", "")).strip("<|>") or None
        spoken, notes = engines.spoken(told or language, self.languages)
        return Heard(words, spoken, punctuated=self._punctuates, notes=notes)

    def _recognizer(self, language: str | None) -> Any:
        """The model, told the language where it can be; otherwise it finds it."""
        import sherpa_onnx

        options = dict(self._options)
        if self._kind == "from_whisper":
            options["language"] = {None: "", "nb": "no"}.get(language, language)
        if self._kind == "from_sense_voice":
            options["language"] = language or "auto"
        return getattr(sherpa_onnx.OfflineRecognizer, self._kind)(**options)


def _try(named: engines.Named, kind: str, options: dict[str, Any]) -> None:
    """Raise InvalidInput for a model that the library cannot read."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", _TRIAL], input=json.dumps([kind, options]), capture_output=True, text=True,
        timeout=_PATIENCE, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()] or ["it ended unexpectedly"]
        reason = re.sub(r"^(\S*/csrc/\S* |\w+Error: )", "", said[-1])  # where in its code
        raise engines.unreadable(named, reason, "unpack it again")


def _files(named: engines.Named, path: Path) -> tuple[str, dict[str, Any]]:
    """Which of the library's makers a folder is for, by its file names, and its arguments."""

    def find(*patterns: str) -> str | None:
        found = [
            file for pattern in patterns for file in sorted(path.glob(pattern), key=lambda one: "int8" not in one.name)
        ]
        return str(found[0]) if found else None

    tokens = find("tokens.txt", "*-tokens.txt")
    if tokens is None:
        engines.existing(named, "the folder of a sherpa-onnx model", names=["tokens.txt"])
    encoder = find("*encoder*.onnx", "encode*.onnx", "encoder_model*.ort")
    decoder, joiner = find("*decoder*.onnx"), find("*joiner*.onnx")
    if pre := find("preprocess*.onnx"):
        uncached, cached = find("uncached_decode*.onnx"), find("cached_decode*.onnx")
        if not (encoder and uncached and cached):
            rule = "a Moonshine has preprocess, encode, uncached_decode and cached_decode"
            raise InvalidInput(f"--transcriber {named}: {path} lacks a part: {rule}; unpack it again")
        return "from_moonshine", {"preprocessor": pre, "encoder": encoder, "uncached_decoder": uncached,
                                  "cached_decoder": cached, "tokens": tokens}  # fmt: skip
    if encoder and (merged := find("decoder_model_merged*.onnx", "decoder_model_merged*.ort")):
        return "from_moonshine_v2", {"encoder": encoder, "decoder": merged, "tokens": tokens}
    if encoder and decoder and joiner:
        return "from_transducer", {"encoder": encoder, "decoder": decoder, "joiner": joiner, "tokens": tokens}
    if encoder and decoder:
        return "from_whisper", {"encoder": encoder, "decoder": decoder, "tokens": tokens, "language": ""}
    if model := find("model*.onnx"):
        return "from_sense_voice", {"model": model, "tokens": tokens, "use_itn": True}
    raise InvalidInput(
        f"--transcriber {named}: {path} holds no Moonshine, Whisper, SenseVoice or transducer; type "
        "--transcriber sherpa:PATH, where PATH is the folder that the archive of a model unpacks to"
    )


def _languages(kind: str, options: dict[str, Any]) -> frozenset[str] | None:
    """What a model understands: by its kind, or by the codes in the name of its folder; None where neither says."""
    folder = Path(os.path.abspath(Path(options["tokens"]).parent)).name
    if kind == "from_sense_voice":
        return _SENSE_VOICE
    if kind == "from_whisper":
        if re.search(r"\.en\b", f"{folder} {Path(options['encoder']).name}"):
            return frozenset(["en"])
        known = frozenset(map(tongues.canonical, _WHISPER))
        return known | {"yue"} if re.search(r"v3|turbo", folder) else known
    said = [part for part in re.split(r"[-_.]", folder) if part in tongues.NAMES]
    return frozenset(said) or None


def _pieces(start: float, end: float, most: float = 25.0) -> list[tuple[float, float]]:
    count = max(int((end - start) // most) + 1, 1)
    step = (end - start) / count
    return [(start + number * step, start + (number + 1) * step) for number in range(count)]


def _timed(found: Any, start: float, end: float) -> list[Word]:
    """Words by the times of their first tokens; none where the model gives no times, or its tokens are no words."""
    try:
        tokens, times = [str(token) for token in found.tokens], [start + float(time) for time in found.timestamps]
    except UnicodeDecodeError:  # a token can be a part of a letter
        return []
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
