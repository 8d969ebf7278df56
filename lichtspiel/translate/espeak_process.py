"""The program that calls eSpeak NG's library. It runs as a process of its own and knows nothing of Lichtspiel.

eSpeak NG is free software under the GNU General Public License, which the package around this file is not. So its
library is never loaded into Lichtspiel: this program is, when a voice is wanted, started with the path of a library
that the user installed. It reads one JSON object a line on standard input and answers each with one line of JSON, after
which come as many bytes as its "bytes" says.
"""

from __future__ import annotations

import ctypes
import json
import sys
from typing import Any, BinaryIO

RETRIEVAL, UTF8, IPA = 2, 1, 2  # AUDIO_OUTPUT_SYNCHRONOUS, espeakCHARS_UTF8, phonememode bit 1 (speak_lib.h)
RATE, PITCH = 1, 3  # espeak_PARAMETER
DONT_EXIT = 0x8000  # espeakINITIALIZE_DONT_EXIT


class Voice(ctypes.Structure):
    """espeak_VOICE of speak_lib.h."""

    _fields_ = [
        ("name", ctypes.c_char_p), ("languages", ctypes.c_void_p), ("identifier", ctypes.c_char_p),
        ("gender", ctypes.c_ubyte), ("age", ctypes.c_ubyte), ("variant", ctypes.c_ubyte), ("xx1", ctypes.c_ubyte),
        ("score", ctypes.c_int), ("spare", ctypes.c_void_p),
    ]  # fmt: skip


class Library:
    """eSpeak NG's library, initialized. `rate` is the sample rate of its sound."""

    def __init__(self, path: str, data: str) -> None:
        self.library = ctypes.CDLL(path)
        self.rate = self.library.espeak_Initialize(RETRIEVAL, 0, data.encode() or None, DONT_EXIT)
        if self.rate <= 0:
            raise OSError("its data cannot be read")
        self.library.espeak_ListVoices.restype = ctypes.POINTER(ctypes.POINTER(Voice))
        self.library.espeak_TextToPhonemes.restype = ctypes.c_char_p
        self.library.espeak_TextToPhonemes.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int]
        kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
        self.heard: list[bytes] = []
        self.callback = kind(self._hear)
        self.library.espeak_SetSynthCallback(self.callback)

    def _hear(self, samples: int | None, count: int, events: int | None) -> int:
        if samples and count > 0:
            self.heard.append(ctypes.string_at(samples, 2 * count))
        return 0

    def voices(self) -> list[dict[str, Any]]:
        """Every voice with its language and its gender (1 male, 2 female, 0 not said)."""
        listed, found, at = self.library.espeak_ListVoices(None), list[dict[str, Any]](), 0
        while listed[at]:
            voice = listed[at].contents
            language = ctypes.string_at(voice.languages + 1).decode("utf-8", "replace")  # after a byte of priority
            found.append({"name": voice.name.decode(), "language": language, "gender": voice.gender})
            at += 1
        return found

    def choose(self, voice: str) -> None:
        """Use a voice from now on. Raises ValueError for one that does not exist."""
        if self.library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ValueError(f"no voice {voice!r}")

    def speak(self, text: str, rate: int, pitch: int) -> bytes:
        """Sound for a text: 16 bit, one channel."""
        self.library.espeak_SetParameter(RATE, rate, 0)
        self.library.espeak_SetParameter(PITCH, pitch, 0)
        self.heard.clear()
        said = text.encode()
        self.library.espeak_Synth(said, len(said) + 1, 0, 1, 0, UTF8, None, None)
        self.library.espeak_Synchronize()
        return b"".join(self.heard)

    def phonemes(self, text: str) -> list[str]:
        """The International Phonetic Alphabet for a text, clause by clause."""
        said = ctypes.c_char_p(text.encode())
        left = ctypes.cast(ctypes.pointer(said), ctypes.POINTER(ctypes.c_void_p))
        clauses = list[str]()
        while left[0]:
            clauses.append(self.library.espeak_TextToPhonemes(left, UTF8, IPA).decode("utf-8", "replace"))
        return clauses


def answer(library: Library, request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """What a request gets: an object for the line, and bytes."""
    if request["do"] == "voices":
        return {"voices": library.voices(), "rate": library.rate}, b""
    library.choose(request["voice"])
    if request["do"] == "phonemes":
        return {"clauses": library.phonemes(request["text"])}, b""
    return {"rate": library.rate}, library.speak(request["text"], request["rate"], request["pitch"])


def run(path: str, data: str, source: BinaryIO, target: BinaryIO) -> None:
    """Answer requests until there are none."""
    try:
        library = Library(path, data)
    except OSError as error:
        target.write(json.dumps({"error": f"{path}: {error}"}).encode() + b"\n")
        return
    for line in source:
        sound = b""
        try:
            said, sound = answer(library, json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            said = {"error": str(error)}
        target.write(json.dumps({**said, "bytes": len(sound)}).encode() + b"\n" + sound)
        target.flush()


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2], sys.stdin.buffer, sys.stdout.buffer)
