"""Text to text: a protocol, Apertium where the system has it, and what chooses an engine.

Every engine gets all lines of a video at once, in order, so that one that can reads them in their context.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from lichtspiel.errors import InvalidInput, LichtspielError
from lichtspiel.translate import engines, tongues
from lichtspiel.translate.glossary import Glossary, lost_numbers
from lichtspiel.translate.lines import Line

__all__ = ["APERTIUM", "KINDS", "Apertium", "Translated", "Translator", "apertium_pairs", "choose", "translate"]

KINDS = ("apertium", "argos", "opus", "nllb", "chat")
APERTIUM = "apt install apertium apertium-eng-spa (Debian, Ubuntu; one package for each pair)"
_SECONDS = 120


class Translator(Protocol):
    """An engine for text. `name` is for records."""

    name: str

    def check(self, source: str, target: str) -> None:
        """Raise InvalidInput, with the remedy, unless it translates from one language to the other."""
        ...

    def translate(self, texts: Sequence[str], source: str, target: str, terms: dict[str, str]) -> list[str]:
        """One translation for each text. `terms` are those of the glossary that occur, as source and translation, for
        engines that can be told; they may stand in the texts as placeholders already."""
        ...

    def shorten(self, text: str, language: str, share: float) -> str | None:
        """The same in fewer words, about `share` of the length; None from an engine that cannot."""
        ...


@dataclass(frozen=True)
class Translated:
    """The lines in the other language, and what the user should know."""

    lines: list[Line]
    notes: tuple[str, ...] = ()


def translate(
    translator: Translator, lines: Sequence[Line], source: str, target: str, glossary: Glossary
) -> Translated:
    """Translate lines; the glossary's terms and numbers are kept, or it is told which were not."""
    hidden = [glossary.hide(line.text) for line in lines]
    terms = glossary.used(" ".join(line.text for line in lines))
    texts = translator.translate([text for text, _ in hidden], source, target, terms)
    if len(texts) != len(lines):
        raise LichtspielError(f"{translator.name} gave {len(texts)} translations of {len(lines)} lines; try again")
    done, notes = list[Line](), list[str]()
    for number, (line, text, (_, kept)) in enumerate(zip(lines, texts, hidden, strict=True), 1):
        shown, lost = glossary.show(text.strip(), kept)
        lost += lost_numbers(line.text, shown)
        if lost:
            notes.append(f"line {number}: the translation lost {', '.join(lost)}; write it in with --subtitles")
        if not shown:
            notes.append(f"line {number}: {translator.name} gave no translation of {line.text!r}; it stays as it was")
        done.append(dataclasses.replace(line, text=shown or line.text))
    return Translated(done, tuple(notes))


def choose(text: str | None, source: str, target: str) -> Translator:
    """The engine that was named, or the default, for two languages. Raises InvalidInput where it cannot."""
    named = engines.parse("--translator", "apertium" if text is None else text, KINDS, ["apertium"])
    translator = _maker(named.kind)(named)
    translator.check(source, target)
    return translator


def _maker(kind: str) -> Callable[[engines.Named], Translator]:
    if kind == "apertium":
        return Apertium
    from lichtspiel.translate import chat, neural

    return chat.Chat if kind == "chat" else neural.MAKERS[kind]


def apertium_pairs() -> list[tuple[str, str, str]]:
    """What Apertium translates here: source, target and the name of the mode, such as ("en", "es", "eng-spa")."""
    program = shutil.which("apertium")
    if program is None:
        return []
    listed = _output([program, "-l"], "")
    pairs = list[tuple[str, str, str]]()
    for mode in listed.split():
        source, _, target = mode.partition("-")
        codes = [_code(source), _code(target)]
        if all(codes) and (codes[0], codes[1]) not in {(one, other) for one, other, _ in pairs}:
            pairs.append((codes[0], codes[1], mode))
    return pairs


class Apertium:
    """The rule-based translator of Debian and Ubuntu, called as a program (GPL): offline, a few pairs of languages."""

    name = "apertium"

    def __init__(self, named: engines.Named) -> None:
        if named.choice:
            raise InvalidInput(
                f"--translator apertium:{named.choice}: it takes no file; type --translator apertium, or name what "
                f"reads {named.choice}, such as --translator argos:PATH"
            )
        self._pairs = apertium_pairs()

    def check(self, source: str, target: str) -> None:
        """See Translator."""
        if any((source, target) == (one, other) for one, other, _ in self._pairs):
            return
        wanted = f"from {tongues.name_of(source)} to {tongues.name_of(target)}"
        other = "or name another engine with --translator (see `lichtspiel languages`), or bring the words: --subtitles"
        if not self._pairs:
            raise InvalidInput(f"--to {target}: nothing here translates {wanted}: {APERTIUM}, {other}")
        here = ", ".join(f"{one} to {to}" for one, to, _ in self._pairs)
        raise InvalidInput(
            f"--to {target}: Apertium does not translate {wanted} here ({here}); install its pair, {other}"
        )

    def translate(self, texts: Sequence[str], source: str, target: str, terms: dict[str, str]) -> list[str]:
        """See Translator. Unknown words stay as they are."""
        mode = next(mode for one, other, mode in self._pairs if (source, target) == (one, other))
        program = shutil.which("apertium") or "apertium"
        plain = "\n\n".join(re.sub(r"\s+", " ", text) for text in texts)
        answer = _output([program, "-u", mode], plain + "\n")
        return [re.sub(r" {2,}", " ", line.strip()) for line in answer.split("\n")[: 2 * len(texts) : 2]]

    def shorten(self, text: str, language: str, share: float) -> str | None:
        """See Translator: rules do not shorten."""
        return None


def _code(three: str) -> str:
    """The two-letter code of one of Apertium's, "" for variants such as spa_US and languages without a code."""
    for code, (_, iso) in tongues.NAMES.items():
        if three in (iso, code):
            return code
    return {"hbs": "hr"}.get(three, "")


def _output(command: list[str], text: str) -> str:
    try:
        done = subprocess.run(command, input=text.encode(), capture_output=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LichtspielError(f"Apertium failed: {error}") from error
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise LichtspielError(f"Apertium failed: {said[-1] if said else f'exit code {done.returncode}'}")
    return done.stdout.decode(errors="replace")
