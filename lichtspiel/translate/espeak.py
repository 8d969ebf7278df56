"""eSpeak NG in a process of its own: where its library is, its voices, its sound, and phonemes for other engines.

The library is the user's: from the package espeakng-loader or from the system. It is under the GNU General Public
License, so it is not loaded into this process (see `espeak_process`).
"""

from __future__ import annotations

import atexit
import ctypes.util
import importlib.util
import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lichtspiel.errors import InvalidInput, LichtspielError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["INSTALL", "NORMAL", "Espeak", "find_library", "started"]

INSTALL = "pip install espeakng-loader (eSpeak NG, under the GPL; a hundred languages)"

NORMAL = 175
"""Words a minute that eSpeak NG speaks by default."""

_PITCH = 50
_PACKAGE = "espeakng_loader"
_NAMES = ("libespeak-ng.so", "libespeak-ng.dylib", "espeak-ng.dll")


def find_library() -> tuple[str, str] | None:
    """The library and its data folder ("" for the library's own), or None where there is none."""
    spec = importlib.util.find_spec(_PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for name in _NAMES:
            if (path := Path(folder, name)).is_file():
                return str(path), str(Path(folder, "espeak-ng-data"))
    system = ctypes.util.find_library("espeak-ng")
    return (system, "") if system else None


class Espeak:
    """A running eSpeak NG. Raises InvalidInput where there is no library, LichtspielError where it does not start."""

    def __init__(self) -> None:
        found = find_library()
        if found is None:
            raise InvalidInput(f"--voice espeak: eSpeak NG is not installed; {INSTALL}")
        program = Path(__file__).with_name("espeak_process.py")
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(program), *found], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        listed = self._ask({"do": "voices"})[0]
        self.rate = int(listed["rate"])
        self.voices: list[dict[str, Any]] = listed["voices"]

    @property
    def languages(self) -> dict[str, str]:
        """The best voice by language code, such as {"zh": "cmn"}."""
        named: dict[str, str] = {}
        for voice in self.voices:
            tag = str(voice["language"])
            code = {"cmn": "zh"}.get(tag.partition("-")[0], tag.partition("-")[0])
            if code not in named or tag == code:
                named[code] = tag
        return {**named, "en": "en-us"} if "en" in named else named

    def speak(self, text: str, voice: str, speed: float = 1.0) -> npt.NDArray[np.float32]:
        """Sound [samples] at `rate` for a text, at `speed` times the normal rate. Raises InvalidInput for a voice that
        it does not have."""
        import numpy as np

        request = {"do": "speak", "voice": voice, "text": text, "rate": round(NORMAL * speed), "pitch": _PITCH}
        _, sound = self._ask(request)
        return np.frombuffer(sound, np.int16).astype(np.float32) / np.float32(32768)

    def phonemes(self, text: str, voice: str) -> list[str]:
        """The International Phonetic Alphabet for a text, clause by clause, stress marks included."""
        clauses: list[str] = self._ask({"do": "phonemes", "voice": voice, "text": text})[0]["clauses"]
        return clauses

    def _ask(self, request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        source, target = self._process.stdout, self._process.stdin
        assert source is not None
        assert target is not None
        try:
            target.write(json.dumps(request).encode() + b"\n")
            target.flush()
            line = source.readline()
            answer: dict[str, Any] = json.loads(line) if line else {"error": "it ended unexpectedly"}
            sound = source.read(int(answer.get("bytes", 0)))
        except (OSError, ValueError) as error:
            raise LichtspielError(f"eSpeak NG failed: {error}") from error
        if "error" in answer:
            raise InvalidInput(f"--voice espeak: eSpeak NG says: {answer['error']}; see `lichtspiel languages`")
        return answer, sound

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait(timeout=10)


@cache
def started() -> Espeak:
    """The one that everything in this process shares; it ends with it."""
    espeak = Espeak()
    atexit.register(espeak.close)
    return espeak
