"""Reading a prompt for the policy: which of the rules' word lists it touches, however it is spelled.

It knows spelling and the file of rules (`lichtspiel/data/policy.toml`), in which the language of terms is explained. It
understands nothing: it does not parse, and a meaning that none of the words carries is not found. A prompt is folded
(case, accents, full-width and ornamental letters, invisible characters) and then read several ways at once: as it
stands, with look-alike letters of other scripts replaced, with letters that stand apart joined, and with digits as
letters. A word found in any reading counts.
"""

from __future__ import annotations

import functools
import importlib.resources
import re
import tomllib
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Rule", "counts", "read", "rules", "version"]

_BLANK = r"(?:[\s\-'’·./]{1,3})"
_GAP = r"(?:\W+\w+){0,5}\W+"
_CLOSE_GAP = ".{0,6}"  # in scripts without blanks
_SYNTAX = {"*": r"\w*", " ": _BLANK, "(": "(?:", **{sign: sign for sign in ")|?[]"}}

# Ornamental letters that no Unicode normalization turns into letters: negative circled, negative squared, flags.
_ORNAMENTS = {start + offset: ord("a") + offset for start in (0x1F150, 0x1F170, 0x1F1E6) for offset in range(26)}
_KANA_MARKS = "\u3099\u309a"  # part of the letter, unlike accents
_LEET = str.maketrans("0134578@$!€+|", "oieastbasieti")


@dataclass(frozen=True)
class Rule:
    """A line of the policy: when all the word lists named in `all` are touched, `decision` holds."""

    name: str
    all: tuple[str, ...]
    decision: Literal["allowed", "needs consent", "refused"]
    category: str
    says: str


def rules() -> tuple[Rule, ...]:
    """The rules in the order in which they are tried."""
    return tuple(Rule(**{**row, "all": tuple(row["all"])}) for row in _data()["rules"])


def version() -> str:
    """Which edition of the rules this is; recorded with a verdict, it says what was asked."""
    return str(_data()["version"])


def counts() -> dict[str, int]:
    """How many terms each language has."""
    return {language: sum(map(len, lists.values())) for language, lists in _data()["terms"].items()}


def read(text: str, *, has_image: bool) -> dict[str, str]:
    """The word lists that a prompt touches, each with the words that did it; "image" when there is a picture."""
    found: dict[str, str] = {"image": ""} if has_image else {}
    for rest in dict.fromkeys(map(_without_harmless, _readings(_without_harmless(_fold(text))))):
        for name in _names():
            if name not in found and (match := _pattern(name).search(rest)):
                found[name] = match.group().strip()
        if "named" not in found and (person := _named(rest)):
            found["named"] = person
    for group, parts in _data()["groups"].items():
        if touched := [part for part in parts if part in found]:
            found[group] = ", ".join(filter(None, (found[part] for part in touched)))
    return found


def _without_harmless(reading: str) -> str:
    return _pattern("harmless").sub(" ~ ", reading)


def _readings(plain: str) -> Iterator[str]:
    alike = plain.translate(_lookalikes())
    joined = re.sub(r"(?<!\w)\w(\W{1,3})\w(?:\1\w)+(?!\w)", lambda match: re.sub(r"\W", "", match.group()), alike)
    # An apostrophe after one letter is an article, as in l'enfant.
    solid = re.sub(r"(?<=\w)[^\w\s'’](?=\w)|(?<=\w\w)['’](?=\w)", "", joined)
    solid = re.sub(rf"(?<={_WIDE})[\W_]+(?={_WIDE})", "", solid)
    single = re.sub(r"([^\W\d])\1{2,}", r"\1", solid)
    yield from (plain, alike, joined, solid, single)
    yield from (_letters(reading) for reading in (alike, joined, single))


_WIDE = "[\u2e80-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"  # Han and kana


def _fold(text: str) -> str:
    text = unicodedata.normalize("NFKC", text.translate(_ORNAMENTS)).casefold()
    text = unicodedata.normalize("NFKD", text.replace("œ", "oe").replace("æ", "ae").replace("_", " "))
    kept = (sign for sign in text if sign in _KANA_MARKS or unicodedata.category(sign) not in ("Mn", "Me", "Cf"))
    return unicodedata.normalize("NFC", "".join(kept))


def _letters(reading: str) -> str:
    """Digits and signs as the letters they stand for, in words that have letters too."""
    words = re.split(r"(\s+)", reading)
    return "".join(word.translate(_LEET) if any(map(str.isalpha, word)) else word for word in words)


def _named(reading: str) -> str:
    """A given name and the word after it that may be a family name, or nothing."""
    given, others = _given()
    for match in given.finditer(reading):
        family = match.group(1)
        if family not in others and not any(_pattern(part).match(family) for part in _data()["groups"]["bare"]):
            return str(match.group())
    return ""


@functools.cache
def _data() -> dict[str, Any]:
    file = importlib.resources.files("lichtspiel") / "data" / "policy.toml"
    return tomllib.loads(file.read_text(encoding="utf-8"))


@functools.cache
def _names() -> tuple[str, ...]:
    lists = (name for terms in _data()["terms"].values() for name in terms)
    return tuple(name for name in dict.fromkeys(lists) if name != "harmless")


@functools.cache
def _lookalikes() -> dict[int, str]:
    pairs = _data()["confusables"].items()
    return {ord(other): letter for letter, others in pairs for other in _fold(others)}


@functools.cache
def _given() -> tuple[re.Pattern[str], frozenset[str]]:
    names = _data()["names"]
    given = "|".join(sorted(set(_fold(names["given"]).split())))
    return re.compile(rf"(?<!\w)(?:{given})\s+([^\W\d]\w+)"), frozenset(_fold(names["not_surnames"]).split())


@functools.cache
def _pattern(name: str) -> re.Pattern[str]:
    """One expression for a word list of all languages."""
    terms = [term for lists in _data()["terms"].values() for term in lists.get(name, ())]
    spaced = "|".join(_expression(term) for term in terms if not _wide(term))
    wide = "|".join(_expression(term) for term in terms if _wide(term))
    return re.compile(rf"(?<!\w)(?:{spaced})(?!\w)" + (rf"|(?:{wide})" if wide else ""))


def _wide(term: str) -> bool:
    return any(ord(sign) >= 0x2E80 for sign in term)


def _expression(term: str) -> str:
    """A term of the rules as a regular expression."""
    if term.startswith("~"):
        return term[1:]
    gap = _CLOSE_GAP if _wide(term) else _GAP
    parts = []
    for piece in re.split(r"(\{\w+\}|\s*\.\.\.\s*)", _fold(term.replace("_", "\0"))):
        if piece.startswith("{"):
            choices = "|".join(_expression(choice) for choice in _data()["lists"][piece[1:-1]])
            parts.append(f"(?:{choices})")
        elif piece.strip() == "...":
            parts.append(gap)
        else:
            parts.append("".join(_SYNTAX.get(sign, re.escape(sign)) for sign in piece))
    return "".join(parts)
