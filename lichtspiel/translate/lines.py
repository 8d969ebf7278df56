"""Words with their times, the lines (sentences) that are made of them, and lines of text in the picture.

Engines that give no punctuation get theirs from pauses: a long pause ends a sentence, a short one is a comma.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Line", "Word", "Written", "sentences"]

PAUSE = 0.55
"""A pause of so many seconds ends a sentence; people pause for 0.2 to 0.5 s within one."""

COMMA = 0.25
MOST_SECONDS = 12.0
MOST_WORDS = 28

_END = re.compile(r"[.!?…。！？]['\")\]»”’」]*$")
_ASKING = frozenset("who what when where why how which whose whom".split())  # noqa: SIM905
_OPENING = frozenset("is are was were do does did can could will would should have has may might shall am".split())  # noqa: SIM905
_SUBJECTS = frozenset("i you he she it we they there this that these those the my your his her".split())  # noqa: SIM905


@dataclass(frozen=True)
class Word:
    """A word that was heard: its text, its times in seconds, and how sure the engine is, from 0 to 1 (None if it does
    not say)."""

    text: str
    start: float
    end: float
    confidence: float | None = None


@dataclass(frozen=True)
class Line:
    """A sentence, or a part of a long one: its times in seconds, its text, and the number of its speaker."""

    start: float
    end: float
    text: str
    speaker: int = 0

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return self.end - self.start


@dataclass(frozen=True)
class Written:
    """A text in the picture: when it is shown, in seconds, where, as left, top, right and bottom in shares of the
    picture, what it says, and its translation (None where nothing translates it)."""

    start: float
    end: float
    text: str
    box: tuple[float, float, float, float]
    translation: str | None = None

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> Written:
        """The one that `to_json` wrote down."""
        left, top, right, bottom = value["box"]
        return cls(value["start"], value["end"], value["text"], (left, top, right, bottom), value["translation"])

    def to_json(self) -> dict[str, Any]:
        """The same as a plain dictionary for `json.dumps`."""
        return {
            "start": round(self.start, 3), "end": round(self.end, 3), "text": self.text,
            "box": [round(side, 4) for side in self.box], "translation": self.translation,
        }  # fmt: skip


def sentences(words: Sequence[Word], *, punctuated: bool, english: bool = True) -> list[Line]:
    """Lines from words in their order.

    `punctuated` words bring their own full stops; others get capital letters, commas and full stops from pauses and,
    where they are `english`, question marks from their first words. A sentence that is longer than MOST_SECONDS or
    MOST_WORDS is parted at its longest pause.
    """
    lines = []
    for group in _groups(words, punctuated):
        for part in _parted(group):
            text = " ".join(word.text for word in part) if punctuated else _dressed(part, english)
            lines.append(Line(part[0].start, part[-1].end, _joined(text)))
    return lines


def _groups(words: Sequence[Word], punctuated: bool) -> Iterable[list[Word]]:
    group: list[Word] = []
    for word in words:
        if group:
            pause = word.start - group[-1].end
            ended = _END.search(group[-1].text) is not None if punctuated else pause >= PAUSE
            if ended or pause >= 4 * PAUSE:
                yield group
                group = []
        group.append(word)
    if group:
        yield group


def _parted(words: list[Word]) -> list[list[Word]]:
    if len(words) < 2 or (words[-1].end - words[0].start <= MOST_SECONDS and len(words) <= MOST_WORDS):
        return [words]
    # The longest pause, but rather in the middle than at an end.
    best = max(range(1, len(words)), key=lambda at: _pause(words, at) + 0.3 * min(at, len(words) - at) / len(words))
    return _parted(words[:best]) + _parted(words[best:])


def _pause(words: list[Word], at: int) -> float:
    return words[at].start - words[at - 1].end


def _dressed(words: list[Word], english: bool) -> str:
    """The words of a sentence with capital letter, commas and a mark at its end."""
    texts = [word.text for word in words]
    for at in range(1, len(words)):
        if _pause(words, at) >= COMMA:
            texts[at - 1] += ","
    if english:
        texts = [re.sub(r"^i(?=$|['’,])", "I", text) for text in texts]
    texts[0] = texts[0][:1].upper() + texts[0][1:]
    return " ".join(texts) + ("?" if english and _asks(words) else ".")


def _asks(words: list[Word]) -> bool:
    first = words[0].text.lower()
    second = words[1].text.lower() if len(words) > 1 else ""
    if first in _ASKING:
        return second not in _SUBJECTS  # "what is it" asks, "what he said is true" does not
    return first in _OPENING and second in _SUBJECTS


def _joined(text: str) -> str:
    """Chinese and Japanese are written without spaces."""
    return re.sub(
        r"(?<=[\u3040-\u30ff\u3400-\u9fff。，！？、]) (?=[\u3040-\u30ff\u3400-\u9fff。，！？、])", "", text
    ).strip()
