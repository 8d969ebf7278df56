"""Match a prompt against the word lists of the policy's rules, however it is spelled.

This module knows spelling and rule files (the one we ship is `lichtspiel/data/policy.toml`, which explains the syntax).
It matches words, not meaning: it does not parse sentences, and misses anything that no listed word expresses. A prompt
is folded (case, accents, full-width and ornamental letters, invisible characters) and then read in several ways: as it
is, with look-alike letters from other scripts replaced, with spaced-out letters joined, and with digits as letters. A
word counts if it occurs in any of these readings. A word list can also be filled by pairs: a word of one list close to
a word of another, in the same clause, such as a garment and a word for taking off.
"""

from __future__ import annotations

import bisect
import functools
import importlib.resources
import re
import tomllib
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from lichtspiel.errors import InvalidInput

__all__ = ["HARD_LINES", "Policy", "Rule", "load", "shipped"]

Decision = Literal["allowed", "needs consent", "refused"]

HARD_LINES = frozenset({"minors", "real person"})
"""The categories that no rule file can relax."""

_BLANK = r"(?:[\s\-'./]{1,3})"
_GAP = r"(?:\W+\w+){0,5}\W+"
_INNER_GAP = r"(?:[^\w.!?;]+\w+){0,5}[^\w.!?;]+"  # within a sentence
_CLAUSE = re.compile(r"[.,!?;:](?=\s|$)|[。，、！？；：\n]")
_WORD = re.compile(r"\w+")
_SPACED = re.compile(r"(?<!\w)\w(\W{1,3})\w(?:\1\w)+(?!\w)")
_LONGEST = 24  # characters of a word and the blank before it; longer words do not matter
_BEFORE = 24  # characters before a pair in which `unless` is looked for, too
_VERBS = re.compile(r"\(([\w |]+)\)\+|(\w+)\+")
_CLOSE_GAP = ".{0,6}"  # in scripts without spaces
_SYNTAX = {"*": r"\w*", " ": _BLANK, "(": "(?:", **{sign: sign for sign in ")|?[]"}}
_WIDE = "[\u2e80-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"  # Han and kana

# Ornamental letters that no Unicode normalization turns into letters: negative circled, negative squared, flags.
_ORNAMENTS = {start + offset: ord("a") + offset for start in (0x1F150, 0x1F170, 0x1F1E6) for offset in range(26)}
# Signs between words, as others that count as much. They would stand 3,600 times in the expressions, and those of
# Latin-1 compile in half the time, which is what the first prompt of every process waits for.
_SIGNS = str.maketrans("’·", "'/")
_KANA_MARKS = "\u3099\u309a"  # part of the letter, unlike accents
_LEET = str.maketrans("0134578@$!€+|", "oieastbasieti")


@dataclass(frozen=True)
class Rule:
    """A rule of the policy: if the prompt matches all the word lists named in `all`, `decision` applies."""

    name: str
    all: tuple[str, ...]
    decision: Decision
    category: str
    says: str


@dataclass(frozen=True)
class Pair:
    """A way to touch the word list `list`: a match of each list in `near` with at most `within` words between them.

    They belong to one clause, with no punctuation between them. With `ordered`, the second list's match begins after
    the first's has ended. A match of the list `unless` among them or shortly before them makes the pair void.
    """

    list: str
    near: tuple[str, str]
    within: int = 4
    ordered: bool = False
    unless: str = ""


class Policy:
    """Rules with their word lists, compiled on first use.

    `data` is the content of a rule file.
    """

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.data = data

    @functools.cached_property
    def rules(self) -> tuple[Rule, ...]:
        """The rules in file order, each with the decision that [categories] sets for its category."""
        switches = self.data.get("categories", {})
        rows = (Rule(**{**row, "all": tuple(row["all"])}) for row in self.data["rules"])
        return tuple(replace(rule, decision=switches.get(rule.category, rule.decision)) for rule in rows)

    @functools.cached_property
    def pairs(self) -> tuple[Pair, ...]:
        """The pairs in file order."""
        return tuple(Pair(**{**row, "near": tuple(row["near"])}) for row in self.data["pairs"])

    @property
    def version(self) -> str:
        """The edition of the rules, which is recorded with each verdict."""
        return str(self.data["version"])

    def counts(self) -> dict[str, int]:
        """The number of terms in each language."""
        return {language: sum(map(len, lists.values())) for language, lists in self.data["terms"].items()}

    def read(self, text: str, *, has_image: bool, negative: str = "") -> dict[str, str]:
        """The word lists that a prompt matches, each with the words that matched; also "image" if there is a picture,
        and "negative clothing" if the negative prompt mentions clothes."""
        touched: dict[str, str] = {"image": ""} if has_image else {}
        for reading in self._readings(text):
            spared = self._pattern("own harmless").sub(" ~ ", reading)
            for name in self._names:
                where = reading if name in self._fixed else spared
                if name not in touched and (match := self._pattern(name).search(where)):
                    touched[name] = match.group().strip()
            for pair in self.pairs:
                if pair.list not in touched and (words := self._close(pair, reading, spared)):
                    touched[pair.list] = words
            if "named" not in touched and (person := self._named(reading)):
                touched["named"] = person
        for reading in self._readings(negative) if negative else ():
            if match := self._pattern("clothing").search(reading):
                touched["negative clothing"] = match.group().strip()
                break
        for group, parts in self.data["groups"].items():
            if hits := [part for part in parts if part in touched]:
                touched[group] = ", ".join(filter(None, (touched[part] for part in hits)))
        return touched

    def _readings(self, text: str) -> list[str]:
        plain = self._without_harmless(_fold(text))
        return list(dict.fromkeys(map(self._without_harmless, self._spellings(plain))))

    def _without_harmless(self, reading: str) -> str:
        return self._pattern("harmless").sub(" ~ ", reading)

    def _spellings(self, plain: str) -> Iterator[str]:
        alike = plain.translate(self._lookalikes)
        joined = _SPACED.sub(lambda match: _joined(match.group()), alike)
        # Of "a c h i l d", the first letter may be an article.
        after = _SPACED.sub(lambda match: f"{match.group()[0]} {_joined(match.group()[1:])}", alike)
        # An apostrophe after one letter is an article, as in l'enfant.
        solid = re.sub(r"(?<=\w)[^\w\s'](?=\w)|(?<=\w\w)'(?=\w)", "", joined)
        solid = re.sub(rf"(?<={_WIDE})[\W_]+(?={_WIDE})", "", solid)
        single = re.sub(r"([^\W\d])\1{2,}", r"\1", solid)
        yield from (plain, alike, joined, after, solid, single)
        yield from (_letters(reading) for reading in (alike, joined, after, single))

    def _close(self, pair: Pair, reading: str, spared: str) -> str:
        """The words between the ends of a pair in a reading, or an empty string if they are not close."""
        where = reading if pair.list in self._fixed else spared
        first, second = (self._spans(name, where) for name in pair.near)
        starts, reach = [start for start, _ in second], _LONGEST * (pair.within + 1)
        for start, end in first:
            begin = bisect.bisect_left(starts, end if pair.ordered else start - reach)
            for other, last in second[begin : bisect.bisect_right(starts, end + reach)]:
                span = min(start, other), max(end, last)
                between = where[min(end, last) : max(start, other)]
                if _CLAUSE.search(between) or _distance(between) > pair.within:
                    continue
                if pair.unless and self._pattern(pair.unless).search(where, max(span[0] - _BEFORE, 0), span[1]):
                    continue
                return where[slice(*span)]
        return ""

    def _spans(self, name: str, reading: str) -> list[tuple[int, int]]:
        """Where a word list, or a list of a group, matches."""
        parts = self.data["groups"].get(name, (name,))
        return sorted(match.span() for part in parts for match in self._pattern(part).finditer(reading))

    def _named(self, reading: str) -> str:
        """A first name followed by a word that may be a family name, or an empty string."""
        pattern, not_surnames = self._first_names
        for match in pattern.finditer(reading):
            family = match.group(1)
            if family not in not_surnames and not any(
                self._pattern(part).match(family) for part in self.data["groups"]["bare"]
            ):
                return str(match.group())
        return ""

    @functools.cached_property
    def _names(self) -> tuple[str, ...]:
        lists = (name for terms in self.data["terms"].values() for name in terms)
        helpers = {"harmless", "own harmless", "clothing"}
        for pair in self.data["pairs"]:
            for name in (*pair["near"], pair.get("unless", "")):
                helpers |= {name, *self.data["groups"].get(name, ())}
        used = {name for rule in self.data["rules"] for name in rule["all"]}
        used |= {part for name in used for part in self.data["groups"].get(name, ())}
        return tuple(name for name in dict.fromkeys(lists) if name not in helpers - used)

    @functools.cached_property
    def _fixed(self) -> frozenset[str]:
        """The word lists used by the HARD_LINES rules, to which a custom file's harmless phrases do not apply."""
        names = {name for rule in self.rules if rule.category in HARD_LINES for name in rule.all}
        for group, parts in self.data["groups"].items():
            names |= set(parts) if group in names else set()
        return frozenset(names)

    @functools.cached_property
    def _lookalikes(self) -> dict[int, str]:
        pairs = self.data["confusables"].items()
        return {ord(other): letter for letter, lookalikes in pairs for other in _fold(lookalikes)}

    @functools.cached_property
    def _first_names(self) -> tuple[re.Pattern[str], frozenset[str]]:
        names = self.data["names"]
        first_names = "|".join(sorted(set(_fold(names["given"]).split())))
        return re.compile(rf"(?<!\w)(?:{first_names})\s+([^\W\d]\w+)"), frozenset(_fold(names["not_surnames"]).split())

    @functools.cached_property
    def _patterns(self) -> dict[str, re.Pattern[str]]:
        return {}

    def _pattern(self, name: str) -> re.Pattern[str]:
        """One regular expression for a word list in all languages."""
        if name not in self._patterns:
            terms = [term for lists in self.data["terms"].values() for term in lists.get(name, ())]
            gap = _GAP if name in self._fixed else _INNER_GAP  # hard lines also match across sentences
            spaced = "|".join(self._expression(term, gap) for term in terms if not _wide(term)) or "(?!)"
            wide = "|".join(self._expression(term, _CLOSE_GAP) for term in terms if _wide(term))
            pattern = rf"(?<!\w)(?:{spaced})(?!\w)" + (rf"|(?:{wide})" if wide else "")
            self._patterns[name] = re.compile(pattern)
        return self._patterns[name]

    def _expression(self, term: str, gap: str) -> str:
        """The regular expression for a term of the rules."""
        if term.startswith("~"):
            return term[1:].translate(_SIGNS)
        parts = []
        for piece in re.split(r"(\{\w+\}|\s*\.\.\.\s*)", _fold(term.replace("_", "\0"))):
            if piece.startswith("{"):
                choices = "|".join(self._expression(choice, gap) for choice in self.data["lists"][piece[1:-1]])
                parts.append(f"(?:{choices})")
            elif piece.strip() == "...":
                parts.append(gap)
            else:
                parts.append(self._words(piece))
        return "".join(parts)

    def _words(self, piece: str) -> str:
        """The regular expression for a piece of a term without gaps and choices from lists."""
        parts, done = [], 0
        for match in _VERBS.finditer(piece):
            verbs = (match[1] or match[2]).split("|")
            parts += [self._signs(piece[done : match.start()]), f"(?:{'|'.join(map(_inflected, verbs))})"]
            done = match.end()
        return "".join([*parts, self._signs(piece[done:])])

    @staticmethod
    def _signs(piece: str) -> str:
        return "".join(_SYNTAX.get(sign, re.escape(sign)) for sign in piece)


@functools.cache
def shipped() -> Policy:
    """The rules shipped with the package."""
    file = importlib.resources.files("lichtspiel") / "data" / "policy.toml"
    return Policy(tomllib.loads(file.read_text(encoding="utf-8")))


def load(path: Path) -> Policy:
    """Load the shipped rules with the changes in a file.

    [categories] sets the decision for a category, [terms] extends word lists or adds new ones, [lists] adds new
    choices, and [[rules]] adds rules. Raises InvalidInput, with the remedy, for a file that cannot be read, that has
    unknown content, or that relaxes one of HARD_LINES.
    """
    try:
        own = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{path}: cannot be read as rules: {error}") from error
    base = shipped().data
    try:
        merged = _merged(base, own)
        policy = Policy(merged)
        _check(policy)
    except (ValueError, TypeError, KeyError, AttributeError, re.error) as error:
        raise InvalidInput(f"{path}: {error}; see lichtspiel/data/policy.toml for an example") from error
    return policy


def _merged(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    keys = {"version", "categories", "terms", "lists", "pairs", "rules"}
    if unknown := sorted(set(own) - keys):
        raise ValueError(f"{', '.join(unknown)}: is not known; a file of rules has {', '.join(sorted(keys))}")
    terms = {language: dict(lists) for language, lists in base["terms"].items()}
    for language, own_lists in own.get("terms", {}).items():
        for name, words in own_lists.items():
            if not (isinstance(words, list) and all(isinstance(word, str) and word.strip() for word in words)):
                raise ValueError(f"terms.{language}.{name}: a list of texts belongs here")
            if name == "harmless" and any("..." in word or word[:1] in "~*" for word in words):
                raise ValueError(f"terms.{language}.harmless: spell phrases out, or other words could hide in the gap")
            target = "own harmless" if name == "harmless" else name
            lists = terms.setdefault(language, {})
            lists[target] = [*lists.get(target, ()), *words]
    version = f"{base['version']}+{own['version']}" if "version" in own else f"{base['version']}+own"
    return {
        **base,
        "version": version,
        "categories": {**base["categories"], **own.get("categories", {})},
        "terms": terms,
        "lists": {**base["lists"], **own.get("lists", {})},
        "pairs": [*base["pairs"], *own.get("pairs", ())],
        "rules": [*base["rules"], *own.get("rules", ())],
    }


def _check(policy: Policy) -> None:
    """Raise ValueError for rules that cannot be applied. Compiles every word list."""
    known = {name for lists in policy.data["terms"].values() for name in lists} | {*policy.data["groups"]}
    for pair in policy.pairs:
        if missing := sorted({*pair.near, *filter(None, [pair.unless])} - known):
            raise ValueError(f"pair for {pair.list}: there is no word list {', '.join(missing)}")
    names = {*policy._names, *policy.data["groups"], *(pair.list for pair in policy.pairs)}
    names |= {"image", "named", "negative clothing"}
    for rule in policy.rules:
        if missing := sorted(set(rule.all) - names) or ([] if rule.all else ["(none)"]):
            raise ValueError(f"rule {rule.name}: there is no word list {', '.join(missing)}")
        if rule.decision not in get_args(Decision):
            raise ValueError(f"rule {rule.name}: {rule.decision!r} is not one of {', '.join(get_args(Decision))}")
    categories = {rule.category for rule in policy.rules}
    for category, decision in policy.data["categories"].items():
        if category not in categories:
            alternatives = ", ".join(sorted(categories - HARD_LINES))
            raise ValueError(f"categories.{category}: no rule has this category; there are {alternatives}")
        if decision not in get_args(Decision):
            raise ValueError(f"categories.{category}: {decision!r} is not one of {', '.join(get_args(Decision))}")
        if category in HARD_LINES:
            raise ValueError(f"categories.{category}: the rules of this category are fixed")
    for name in known - {*policy.data["groups"]}:
        policy._pattern(name)


def _fold(text: str) -> str:
    text = unicodedata.normalize("NFKC", text.translate(_ORNAMENTS)).casefold()
    text = unicodedata.normalize("NFKD", text.replace("œ", "oe").replace("æ", "ae").replace("_", " "))
    letters = (sign for sign in text if sign in _KANA_MARKS or unicodedata.category(sign) not in ("Mn", "Me", "Cf"))
    return unicodedata.normalize("NFC", "".join(letters)).translate(_SIGNS)


def _joined(text: str) -> str:
    return re.sub(r"\W", "", text)


def _letters(reading: str) -> str:
    """Replace digits and symbols with the letters they stand for, in words that also contain letters."""
    words = re.split(r"(\s+)", reading)
    return "".join(word.translate(_LEET) if any(map(str.isalpha, word)) else word for word in words)


def _inflected(verb: str) -> str:
    """The regular expression for an English verb in all its regular forms; of several words, the first is the verb."""
    verb, blank, rest = verb.strip().partition(" ")
    stem, last = verb[:-1], verb[-1]
    if last == "e":
        forms = rf"{stem}(?:e|es|ed|ing)"
    elif last == "y":
        forms = rf"{stem}(?:y|ys|ies|ied|yed|ying)"
    else:
        forms = rf"{verb}(?:s|es|{last}?ed|{last}?ing)?"
    return forms + (_BLANK + _BLANK.join(rest.split()) if blank else "")


def _distance(between: str) -> int:
    """The number of words in a text; two characters of a script without spaces count as a word."""
    return sum(-(-len(word) // 2) if _wide(word) else 1 for word in _WORD.findall(between))


def _wide(term: str) -> bool:
    return any(ord(sign) >= 0x2E80 for sign in term)
