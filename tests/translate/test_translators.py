from __future__ import annotations

import stat
from collections.abc import Sequence
from pathlib import Path

import pytest

from lichtspiel.errors import InvalidInput, LichtspielError
from lichtspiel.translate import translators
from lichtspiel.translate.glossary import Glossary, lost_numbers
from lichtspiel.translate.lines import Line
from lichtspiel.translate.translators import Apertium, choose, translate

GLOSSARY = """# names
Ada Lovelace
engine = máquina analítica   # her own word
"""


class Upper:
    """A translator that shouts, drops what it is told to drop, and gives nothing for an empty line."""

    name = "upper"

    def __init__(self, drop: str = "") -> None:
        self.drop = drop

    def check(self, source: str, target: str) -> None:
        pass

    def translate(self, texts: Sequence[str], source: str, target: str, terms: dict[str, str]) -> list[str]:
        return [text.upper().replace(self.drop, "") if self.drop else text.upper() for text in texts]

    def shorten(self, text: str, language: str, share: float) -> str | None:
        return None


@pytest.fixture
def glossary(tmp_path: Path) -> Glossary:
    path = tmp_path / "words.txt"
    path.write_text(GLOSSARY, encoding="utf-8")
    return Glossary.read(path)


def test_names_and_terms_are_kept(glossary: Glossary) -> None:
    lines = [Line(0, 1, "Ada Lovelace wrote for the Engine in 1,843."), Line(1, 2, "Engines are not in it.")]
    done = translate(Upper(), lines, "en", "es", glossary)
    assert [line.text for line in done.lines] == [
        "Ada Lovelace WROTE FOR THE máquina analítica IN 1,843.", "ENGINES ARE NOT IN IT.",
    ]  # fmt: skip
    assert done.notes == ()


def test_what_is_lost_is_told(glossary: Glossary) -> None:
    lines = [Line(0, 1, "Ada Lovelace wrote in 1843.")]
    done = translate(Upper("1843"), lines, "en", "es", glossary)
    assert done.notes == ("line 1: the translation lost 1843; write it in with --subtitles",)
    done = translate(Upper("XQAQ"), lines, "en", "es", glossary)
    assert done.notes == ("line 1: the translation lost Ada Lovelace; write it in with --subtitles",)
    assert lost_numbers("1,000 of 5.5", "1.000 y 5,5") == []


def test_a_line_without_translation_stays(glossary: Glossary) -> None:
    done = translate(Upper("HM."), [Line(0, 1, "Hm.")], "en", "es", glossary)
    assert done.lines[0].text == "Hm."
    assert "gave no translation of 'Hm.'" in done.notes[0]


def test_a_glossary_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"--glossary .*none\.txt: cannot be read"):
        Glossary.read(tmp_path / "none.txt")
    (tmp_path / "bad.txt").write_text("a = b\n= c\n")
    with pytest.raises(InvalidInput, match="line 2 is no 'word = translation'"):
        Glossary.read(tmp_path / "bad.txt")


PROGRAM = """#!/bin/sh
# Speaks the command line of Apertium: -l lists the modes, otherwise the last argument is one.
if [ "$1" = -l ]; then printf '  eng-spa\\n  spa-eng\\n  spa-eng_US\\n  hbs-eng\\n'; exit; fi
for mode; do :; done
if [ "$mode" = hbs-eng ]; then echo "Error: mode is broken" >&2; exit 1; fi
sed "s/^\\(..*\\)$/$mode: \\1/"
"""


@pytest.fixture
def apertium(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "apertium"
    program.write_text(PROGRAM)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")


@pytest.mark.usefixtures("apertium")
def test_lines_go_through_the_program_and_come_back_in_order() -> None:
    engine = choose(None, "en", "es")
    assert engine.translate(["One.\nTwo", "Three"], "en", "es", {}) == ["eng-spa: One. Two", "eng-spa: Three"]
    assert translators.apertium_pairs() == [("en", "es", "eng-spa"), ("es", "en", "spa-eng"), ("hr", "en", "hbs-eng")]
    with pytest.raises(LichtspielError, match="Apertium failed: Error: mode is broken"):
        choose("apertium", "hr", "en").translate(["Ja"], "hr", "en", {})


@pytest.mark.usefixtures("apertium")
def test_a_pair_that_is_not_there_is_named() -> None:
    with pytest.raises(
        InvalidInput, match=r"--to de: Apertium does not translate from English to German here \(en to es"
    ):
        choose(None, "en", "de")
    with pytest.raises(InvalidInput, match="it takes no file"):
        choose("apertium:models", "en", "es")


def test_without_the_program_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InvalidInput, match=r"nothing here translates from English to Spanish: apt install apertium"):
        choose(None, "en", "es")
    with pytest.raises(InvalidInput, match=r"--translator 'deepl' is not known"):
        choose("deepl", "en", "es")


@pytest.mark.skipif(
    not any(pair[:2] == ("en", "es") for pair in translators.apertium_pairs()), reason="no Apertium here"
)
def test_the_real_apertium_translates() -> None:
    done = translate(choose(None, "en", "es"), [Line(0, 1, "The house is red."), Line(1, 2, "Ada sings.")], "en", "es",
                     Glossary((("Ada", "Ada"),)))  # fmt: skip
    assert done.lines[0].text == "La casa es roja."
    assert done.lines[1].text.startswith("Ada")
    assert isinstance(choose("apertium", "es", "en"), Apertium)
