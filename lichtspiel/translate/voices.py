"""Voices whose files the user has: Piper and Kokoro, both run by onnxruntime. Phonemes come from eSpeak NG.

The networks are called directly: the packages piper-tts (GPL) and kokoro-onnx are not needed.
"""

from __future__ import annotations

import json
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lichtspiel.errors import InvalidInput
from lichtspiel.translate import engines, espeak, tongues
from lichtspiel.translate.protocols import Voice
from lichtspiel.translate.voice_activity import INSTALL

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Samples = npt.NDArray[np.float32]

__all__ = ["MAKERS", "Kokoro", "Piper"]

_PAUSE = 0.15  # seconds between two clauses
_SCALES = {"noise_scale": 0.667, "length_scale": 1.0, "noise_w": 0.8}
"""What Piper's settings are where a voice does not say them."""

_STYLE = 256  # numbers in a style of Kokoro
_KOKORO = {"a": "en", "b": "en", "e": "es", "f": "fr", "h": "hi", "i": "it", "p": "pt"}  # Japanese, Chinese: no eSpeak


class Piper:
    """A voice of Piper: NAME.onnx, with NAME.onnx.json beside it; #N chooses one of its speakers."""

    trained = True

    def __init__(self, named: engines.Named, language: str) -> None:
        path = _voice_file(named, engines.existing(named, "a voice of Piper, NAME.onnx"))
        engines.needs(named, "onnxruntime", INSTALL)
        said = _settings(named, path)
        spoken = str(said["espeak"]["voice"]).partition("-")[0]
        spoken = {"cmn": "zh"}.get(spoken, spoken)
        if spoken != language:
            raise InvalidInput(
                f"{named.field} {named}: speaks {tongues.name_of(spoken)}, not {tongues.name_of(language)}; name a "
                f"voice for it, or another engine, such as {named.field} espeak"
            )
        self._phonemes = str(said["espeak"]["voice"])
        self._espeak = _phonemes(named, self._phonemes)
        self._ids: dict[str, list[int]] = said["phoneme_id_map"]
        self.rate = int(said["audio"]["sample_rate"])
        scales = said.get("inference") or {}
        self._noise, self._length, self._width = (float(scales.get(name, default)) for name, default in _SCALES.items())
        speakers = int(said.get("num_speakers") or 1)
        self._speaker = _speaker(named, speakers)
        takes = {"input", "input_lengths", "scales", *(["sid"] if speakers > 1 else [])}
        self._session = _session(named, path, takes)
        self.name = f"piper {path.stem}"

    def speak(self, text: str, speed: float) -> Samples:
        """See Voice. Piper's length scale is the inverse of the speed."""
        import numpy as np

        pieces = list[Any]()
        for clause in self._espeak.phonemes(text, self._phonemes):
            if ids := self._sequence(clause):
                pieces += [self._clause(ids, speed), np.zeros(round(_PAUSE * self.rate / speed), np.float32)]
        return np.concatenate(pieces[:-1]) if pieces else np.zeros(self.rate // 10, np.float32)

    def _clause(self, ids: list[int], speed: float) -> Samples:
        import numpy as np

        scales = np.array([self._noise, self._length / speed, self._width], np.float32)
        given = {"input": np.array([ids], np.int64), "input_lengths": np.array([len(ids)], np.int64), "scales": scales}
        if self._speaker is not None:
            given["sid"] = np.array([self._speaker], np.int64)
        sound: Samples = np.asarray(self._session.run(None, given)[0], np.float32).reshape(-1)
        return np.clip(sound, -1, 1)

    def _sequence(self, clause: str) -> list[int]:
        """Ids of phonemes: start, each one followed by a pad, end. Those that the voice does not have are left out."""
        pad, ids = self._ids.get("_", [0]), list[int](self._ids.get("^", [1]))
        ids += pad
        known = [letter for letter in unicodedata.normalize("NFD", clause) if letter in self._ids]
        for letter in known:
            ids += [*self._ids[letter], *pad]
        return ids + self._ids.get("$", [2]) if known else []


class Kokoro:
    """A folder with Kokoro-82M: kokoro*.onnx, voices*.bin and the config.json of hexgrad/Kokoro-82M; #NAME chooses a
    voice, such as ef_dora. The first letter of a voice says its language."""

    trained = True
    rate = 24_000

    def __init__(self, named: engines.Named, language: str) -> None:
        import numpy as np

        wanted = "a folder with kokoro*.onnx, voices*.bin and config.json"
        path = engines.existing(named, wanted, names=["config.json"])
        engines.needs(named, "onnxruntime", INSTALL)
        models, voices = sorted(path.glob("kokoro*.onnx")), sorted(path.glob("voices*.bin"))
        if not models or not voices:
            lacks = "kokoro*.onnx" if not models else "voices*.bin"
            raise InvalidInput(f"{named.field} {named}: {path} has no {lacks}; PATH is {wanted}")
        try:
            self._ids: dict[str, int] = json.loads((path / "config.json").read_text(encoding="utf-8"))["vocab"]
            with np.load(voices[0], allow_pickle=False) as stored:
                fitting = [name for name in stored.files if _KOKORO.get(name[:1]) == language]
                chosen = named.choice or next(iter(fitting), "")
                if chosen not in fitting:
                    shown = ", ".join(fitting[:8]) or "none"
                    raise InvalidInput(
                        f"{named.field} {named}: its voices for {tongues.name_of(language)} are: {shown}; name one as "
                        f"{named.field} kokoro:PATH#VOICE, or another engine, such as {named.field} espeak"
                    )
                self._styles: Samples = np.asarray(stored[chosen], np.float32)
            if self._styles.ndim < 2 or self._styles.shape[-1] != _STYLE:
                raise ValueError(f"the styles of {chosen} are {self._styles.shape}, not [n, {_STYLE}]")
        except InvalidInput:
            raise
        except (OSError, ValueError, LookupError, TypeError, AttributeError, zipfile.BadZipFile) as error:
            raise engines.unreadable(named, error, "download its files again") from None
        self._phonemes = {"en": "en-gb" if chosen[:1] == "b" else "en-us", "fr": "fr-fr", "pt": "pt-br"}.get(
            language, language
        )
        self._espeak = _phonemes(named, self._phonemes)
        self._session = _session(named, models[0], {"style", "speed"})
        self.name = f"kokoro {chosen}"

    def speak(self, text: str, speed: float) -> Samples:
        """See Voice."""
        import numpy as np

        pieces = list[Any]()
        for clause in self._espeak.phonemes(text, self._phonemes):
            ids = [self._ids[letter] for letter in clause if letter in self._ids][: len(self._styles) - 1]
            if ids:
                given = {"tokens": np.array([[0, *ids, 0]], np.int64), "speed": np.array([speed], np.float32)}
                given["style"] = self._styles[len(ids)].reshape(1, -1)
                names = {
                    one.name: "tokens" if one.name == "input_ids" else one.name for one in self._session.get_inputs()
                }
                sound = self._session.run(None, {name: given[plain] for name, plain in names.items()})[0]
                pieces += [
                    np.asarray(sound, np.float32).reshape(-1),
                    np.zeros(round(_PAUSE * self.rate / speed), np.float32),
                ]
        return np.concatenate(pieces[:-1]) if pieces else np.zeros(self.rate // 10, np.float32)


def _settings(named: engines.Named, path: Path) -> dict[str, Any]:
    beside = path.with_name(f"{path.name}.json")
    try:
        said = json.loads(beside.read_text(encoding="utf-8"))
        if not (said["phoneme_id_map"] and int(said["audio"]["sample_rate"]) and said["espeak"]["voice"]):
            raise ValueError("it lacks a value")
        if (kind := said.get("phoneme_type", "espeak")) != "espeak":
            raise InvalidInput(f"{named.field} {named}: reads {kind}, not eSpeak NG's phonemes; name another voice")
    except InvalidInput:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InvalidInput(
            f"{named.field} {named}: the settings {beside} cannot be read ({reason}); they belong beside the voice, so "
            "download them again"
        ) from None
    return dict(said)


def _voice_file(named: engines.Named, path: Path) -> Path:
    """The file of a voice; of a folder with one, that one."""
    if not path.is_dir():
        return path
    found = sorted(path.glob("*.onnx"))
    if len(found) == 1:
        return found[0]
    shown = (
        f"name one of them, such as {named.field} piper:{found[0]}" if found else "PATH is a voice of Piper, NAME.onnx"
    )
    raise InvalidInput(f"{named.field} {named}: {path} holds {len(found) or 'no'} .onnx files; {shown}")


def _phonemes(named: engines.Named, voice: str) -> espeak.Espeak:
    """eSpeak NG, which reads the words to a network. Raises InvalidInput where it is missing or lacks the voice."""
    if espeak.find_library() is None:
        raise InvalidInput(
            f"{named.field} {named}: eSpeak NG, which has its phonemes, is not installed; {espeak.INSTALL}"
        )
    started = espeak.started()
    try:
        started.phonemes("a", voice)
    except InvalidInput:
        raise InvalidInput(
            f"{named.field} {named}: eSpeak NG has no phonemes for its language, {voice}; name another voice"
        ) from None
    return started


def _speaker(named: engines.Named, count: int) -> int | None:
    if named.choice is None:
        return 0 if count > 1 else None
    if count < 2:
        raise InvalidInput(f"{named.field} {named}#{named.choice}: it has one speaker; drop #{named.choice}")
    if not named.choice.isdecimal() or int(named.choice) >= count:
        raise InvalidInput(f"{named.field} {named}#{named.choice}: its speakers are #0 to #{count - 1}")
    return int(named.choice)


def _session(named: engines.Named, path: Path, takes: set[str]) -> Any:
    """The network of a file, which has the inputs `takes`."""
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common base
        raise engines.unreadable(named, f"{path.name}: {error}", "download it again") from None
    has = {one.name for one in session.get_inputs()}
    if missing := takes - has:
        raise InvalidInput(
            f"{named.field} {named}: {path.name} is another kind of network (it takes {', '.join(sorted(has))}, not "
            f"{', '.join(sorted(missing))}); name a voice"
        )
    return session


MAKERS: dict[str, Callable[[engines.Named, str], Voice]] = {"piper": Piper, "kokoro": Kokoro}
