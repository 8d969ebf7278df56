"""Text to sound: a protocol, eSpeak NG as the engine that needs no further file, and what chooses one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lichtspiel.errors import InvalidInput
from lichtspiel.translate import engines, espeak, tongues
from lichtspiel.translate.protocols import Voice

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Samples = npt.NDArray[np.float32]

__all__ = ["KINDS", "EspeakVoice", "choose"]

KINDS = ("espeak", "piper", "kokoro")


def choose(text: str, language: str) -> Voice:
    """The voice that was named, for a language. Raises InvalidInput for an engine, a file or a language that is not
    there."""
    named = engines.parse("--voice", text, KINDS, ["espeak"])
    if named.kind == "espeak":
        return EspeakVoice(named, language)
    from lichtspiel.translate import voices

    return voices.MAKERS[named.kind](named, language)


class EspeakVoice:
    """One of eSpeak NG's voices. After the colon comes another voice or a variant: espeak:es-419, espeak:+f3."""

    trained = False

    def __init__(self, named: engines.Named, language: str) -> None:
        self._espeak = espeak.started()
        known = self._espeak.languages
        if language not in known:
            raise InvalidInput(
                f"--voice espeak: eSpeak NG does not speak {tongues.name_of(language)}; name a voice of your own, such "
                "as --voice piper:PATH"
            )
        chosen = named.choice or ""
        self._voice = f"{known[language]}{chosen}" if chosen.startswith("+") or not chosen else chosen
        try:
            self._espeak.speak("a", self._voice)  # a voice that does not exist is refused before any work
        except InvalidInput:
            raise InvalidInput(
                f"--voice espeak:{chosen}: eSpeak NG has no such voice; type --voice espeak, or a variant of it such "
                "as --voice espeak:+f3"
            ) from None
        self.name = f"espeak-ng {self._voice}"
        self.rate = self._espeak.rate

    def speak(self, text: str, speed: float) -> Samples:
        """See Voice."""
        return self._espeak.speak(text, self._voice, speed)
