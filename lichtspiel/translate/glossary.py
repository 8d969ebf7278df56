"""Words that keep their translation: a glossary file, and the check that numbers came through.

A line of the file is "source = translation", or a word alone, which stays as it is (a name). # begins a comment.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lichtspiel.errors import InvalidInput

__all__ = ["Glossary", "lost_numbers"]

_MOST_BYTES = 1 << 20
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")


@dataclass(frozen=True)
class Glossary:
    """Terms and what they become, longest first."""

    terms: tuple[tuple[str, str], ...] = ()

    @classmethod
    def read(cls, path: Path) -> Glossary:
        """Read a glossary file. Raises InvalidInput for one that cannot be read, or a line without a term."""
        try:
            if path.stat().st_size > _MOST_BYTES:
                raise InvalidInput(f"--glossary {path}: has more than {_MOST_BYTES >> 20} MiB; it is a list of words")
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput(f"--glossary {path}: cannot be read as UTF-8 text: {error}") from None
        terms = list[tuple[str, str]]()
        for number, line in enumerate(text.splitlines(), 1):
            plain = line.partition("#")[0].strip()
            if not plain:
                continue
            term, equals, becomes = (part.strip() for part in plain.partition("="))
            if not term or (equals and not becomes):
                raise InvalidInput(f"--glossary {path}: line {number} is no 'word = translation': {plain[:60]!r}")
            terms.append((term, becomes or term))
        return cls(tuple(sorted(terms, key=lambda pair: -len(pair[0]))))

    def hide(self, text: str) -> tuple[str, list[str]]:
        """The text with placeholders for its terms, and what these stand for. Engines pass such words through."""
        kept = list[str]()
        for term, becomes in self.terms:
            edges = (r"\b" if term[0].isalnum() else "", r"\b" if term[-1].isalnum() else "")
            if term[0] > "\u2e7f":  # Chinese and Japanese have no word boundaries
                edges = ("", "")

            def take(_: re.Match[str], becomes: str = becomes) -> str:
                kept.append(becomes)
                return _placeholder(len(kept) - 1)

            text = re.sub(edges[0] + re.escape(term) + edges[1], take, text, flags=re.IGNORECASE)
        return text, kept

    @staticmethod
    def show(text: str, kept: Sequence[str]) -> tuple[str, list[str]]:
        """The text with its terms again, and the terms that the engine lost."""
        lost = []
        for at, becomes in enumerate(kept):
            pattern = rf"\*?{_placeholder(at)}"
            if re.search(pattern, text, re.IGNORECASE) is None:
                lost.append(becomes)
            text = re.sub(pattern, lambda _, becomes=becomes: becomes, text, flags=re.IGNORECASE)  # type: ignore[misc]
        return text, lost

    def used(self, text: str) -> dict[str, str]:
        """The terms that occur in a text, for engines that can be told."""
        lower = text.lower()
        return {term: becomes for term, becomes in self.terms if term.lower() in lower}


def _placeholder(at: int) -> str:
    """A name that is no word of any language: Xqa, Xqb, ... Xqba."""
    letters = ""
    while True:
        letters = chr(ord("a") + at % 26) + letters
        at = at // 26 - 1
        if at < 0:
            return f"Xq{letters}q"


def lost_numbers(before: str, after: str) -> list[str]:
    """The numbers of a text that its translation lacks; 1,000 and 1.000 are the same."""

    def digits(text: str) -> set[str]:
        return {re.sub(r"\D", "", number) for number in _NUMBER.findall(text)}

    return sorted(digits(before) - digits(after))
