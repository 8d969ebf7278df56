"""Sound to timed words: a protocol, the engine that needs no download (PocketSphinx, English), and what chooses one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from lichtspiel.errors import InvalidInput, MediaError
from lichtspiel.translate import engines, tongues
from lichtspiel.translate.lines import Line, Word, sentences
from lichtspiel.translate.pitch import speakers
from lichtspiel.translate.protocols import Heard, Hearer
from lichtspiel.translate.voice_activity import INSTALL, PAD, RATE, speech_spans

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Samples = npt.NDArray[np.float32]

__all__ = ["KINDS", "PocketSphinx", "Transcript", "choose", "transcribe"]

KINDS = ("pocketsphinx", "whisper", "vosk", "sherpa")


@dataclass(frozen=True)
class Transcript:
    """The lines of a sound, their language, the engine's name, what the user should know, and the pitch of each
    speaker in Hz, as far as speakers can be told apart (`pitch`)."""

    lines: list[Line]
    language: str
    engine: str
    notes: tuple[str, ...] = ()
    pitches: tuple[float, ...] = ()


def transcribe(
    hearer: Hearer, sound: Samples, language: str | None, *, name: str, remedy: str = "choose one in which people speak"
) -> Transcript:
    """The sentences of a sound: float32 samples [n] at 16 kHz.

    Raises MediaError, which says what there is instead, when nothing is said: silence, or sound without speech.
    `name` is the file and `remedy` what its user can do, for messages.
    """
    import numpy as np

    loudest = float(np.abs(sound).max()) if len(sound) else 0.0
    if loudest < 10 ** (-60 / 20):
        raise MediaError(f"{name}: its sound track is silent, so nothing is said in it; {remedy}")
    spans = speech_spans(sound)
    if not spans:
        raise MediaError(
            f"{name}: no speech was found in {len(sound) / RATE:.0f} s of sound (music or noise only?); {remedy}"
        )
    heard = hearer.hear(sound, spans, language)
    if not heard.words:
        raise MediaError(f"{name}: somebody speaks, but {hearer.name} understood no word; try another --transcriber")
    english = heard.language == "en"
    lines = sentences(heard.words, punctuated=heard.punctuated, english=english)
    lines, pitches = speakers(lines, sound)
    return Transcript(lines, heard.language, hearer.name, heard.notes, pitches)


def choose(text: str | None, language: str | None) -> Hearer:
    """The engine that was named, or the default. Raises InvalidInput for an engine or a language that is not there."""
    named = engines.parse("--transcriber", "pocketsphinx" if text is None else text, KINDS, ["pocketsphinx"])
    hearer = _maker(named.kind)(named)
    if language is not None and hearer.languages is not None and language not in hearer.languages:
        if named.kind == "pocketsphinx":
            raise InvalidInput(
                f"--from {language}: PocketSphinx understands English only; for {tongues.name_of(language)}, bring the "
                "words with --transcript or --subtitles, or name another --transcriber (see `lichtspiel languages`)"
            )
        spoken = ", ".join(sorted(hearer.languages))
        raise InvalidInput(f"--from {language}: {named} understands {spoken}; name another --transcriber")
    return hearer


class PocketSphinx:
    """PocketSphinx with the American English model that is in its package (BSD): offline, small, and often wrong."""

    name = "pocketsphinx"
    languages: frozenset[str] | None = frozenset(["en"])

    def __init__(self, named: engines.Named) -> None:
        if find_spec("pocketsphinx") is None:
            raise InvalidInput(f"--transcriber pocketsphinx: it is not installed; {INSTALL}")
        if named.choice:
            raise InvalidInput(
                f"--transcriber pocketsphinx:{named.choice}: it has one model of its own; type --transcriber "
                f"pocketsphinx, or name what reads {named.choice}, such as --transcriber whisper:PATH"
            )

    def hear(self, sound: Samples, spans: list[tuple[float, float]], language: str | None) -> Heard:
        """Words of each span, which is an utterance of its own."""
        from pocketsphinx import Decoder

        decoder = Decoder(samprate=RATE, loglevel="FATAL")
        words = list[Word]()
        for start, end in spans:
            piece = sound[round(start * RATE) : round(end * RATE)]
            words += _snapped([_shifted(word, start) for word in _decoded(decoder, piece)], start, end)
        return Heard(words, "en", punctuated=False)


def _decoded(decoder: Any, sound: Samples) -> list[Word]:
    import numpy as np

    level = float(np.sqrt(np.mean(np.square(sound)))) or 1.0  # its models expect speech at a usual level
    loud = np.clip(sound * min(0.08 / level, 20.0), -1, 1)
    decoder.start_utt()
    decoder.process_raw((loud * 32767).astype(np.int16).tobytes(), full_utt=True)
    decoder.end_utt()
    words = list[Word]()
    for segment in decoder.seg():
        text = str(segment.word).partition("(")[0]  # "read(2)" is another pronunciation
        if not text or text[0] in "<[+":  # silence and noises
            continue
        words.append(Word(text, segment.start_frame / 100, (segment.end_frame + 1) / 100))
    return words


def _snapped(words: list[Word], start: float, end: float) -> list[Word]:
    """The words of a span, which begin and end with its speech also where the decoder missed a word there."""
    if words:
        words[0] = dataclasses.replace(words[0], start=min(start + PAD, words[0].end))
        words[-1] = dataclasses.replace(words[-1], end=max(end - PAD, words[-1].start))
    return words


def _shifted(word: Word, by: float) -> Word:
    return Word(word.text, word.start + by, word.end + by, word.confidence)


def _maker(kind: str) -> Callable[[engines.Named], Hearer]:
    if kind == "pocketsphinx":
        return PocketSphinx
    from lichtspiel.translate import hear_files, sherpa

    return sherpa.Sherpa if kind == "sherpa" else hear_files.MAKERS[kind]
