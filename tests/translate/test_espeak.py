from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("espeakng_loader", reason="espeakng-loader is in the extra espeak")

from lichtspiel.errors import InvalidInput
from lichtspiel.translate import espeak, espeak_process, speak
from lichtspiel.translate.inventory import inventory


def test_its_rate_follows_the_speed() -> None:
    voice = speak.choose("espeak", "en")
    lengths = [len(voice.speak("A small town near the river.", speed)) for speed in (0.85, 1.0, 1.25)]
    assert lengths[1] / lengths[0] == pytest.approx(0.85, abs=0.1)
    assert lengths[1] / lengths[2] == pytest.approx(1.25, abs=0.15)
    assert (voice.name, voice.trained) == ("espeak-ng en-us", False)


@pytest.mark.parametrize(("language", "text"), [("zh", "你好，世界"), ("ar", "مرحبا"), ("de", "Grüß Gott")])
def test_it_speaks_many_languages(language: str, text: str) -> None:
    sound = speak.choose("espeak", language).speak(text, 1.0)
    assert sound.dtype == np.float32
    assert 0.05 < np.abs(sound).max() <= 1
    assert len(sound) > 8000


def test_variants_are_other_voices() -> None:
    plain, other = speak.choose("espeak", "es"), speak.choose("espeak:+f3", "es")
    assert other.name == "espeak-ng es+f3"
    assert not np.array_equal(plain.speak("Hola", 1.0), other.speak("Hola", 1.0))


def test_what_it_cannot_is_refused() -> None:
    with pytest.raises(InvalidInput, match="does not speak Breton"):
        speak.choose("espeak", "br")
    with pytest.raises(InvalidInput, match="--voice espeak:nobody: eSpeak NG has no such voice"):
        speak.choose("espeak:nobody", "es")


def test_without_the_library_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(espeak, "find_library", lambda: None)
    with pytest.raises(InvalidInput, match="pip install espeakng-loader"):
        espeak.Espeak()
    assert not inventory()["speak"][0]["here"]


def test_words_become_phonemes() -> None:
    clauses = espeak.started().phonemes("Hello world, how are you?", "en-us")
    assert clauses == ["həlˈoʊ wˈɜːld", "hˈaʊ ɑːɹ juː"]


def test_the_library_stays_out_of_this_process() -> None:
    code = (
        "from lichtspiel.translate import speak; voice = speak.choose('espeak', 'en'); voice.speak('a', 1.0);"
        "import pathlib; assert 'libespeak' not in pathlib.Path('/proc/self/maps').read_text()"
    )
    if sys.platform == "linux":
        subprocess.run([sys.executable, "-c", code], check=True)
    imported = set(vars(espeak_process)) & {"lichtspiel", "numpy"}
    assert not imported, "the program knows nothing of the package"
