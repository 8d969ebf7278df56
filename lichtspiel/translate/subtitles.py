"""Subtitles as people can read them: lines cut into cues (`subtitle_files` reads and writes them).

The rules are those that broadcasters share (the BBC's subtitle guidelines, Netflix' timed text guides): two lines of 42
characters, 16 for Chinese, Japanese and Korean; 17 characters a second, 9 for those; at least 5/6 of a second and at
most 7; a gap of two frames between two cues; no cue that stays over a change of shot where it can end there.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from lichtspiel.translate import tongues
from lichtspiel.translate.lines import Line

__all__ = ["LEAST", "MOST", "Cue", "Rules", "cues", "joined", "wrapped"]

LEAST, MOST = 5 / 6, 7.0
"""How long a cue stays, in seconds."""

_GAP_FRAMES = 2
_NEAR_SHOT = 0.5  # seconds: a cue that starts or ends so close to a change of shot moves to it
_WIDE = frozenset(["zh", "yue", "ja", "ko"])
_BREAKS = re.compile(r"[,;:.!?…،؛؟]$")
_WIDE_BREAKS = frozenset("，。！？；：、…,!?;:")
_CLOSING = frozenset("，。！？；：、…,.!?;:）)」』”’》")


@dataclass(frozen=True)
class Cue:
    """One subtitle: its times in seconds, and its text with line breaks."""

    start: float
    end: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How many characters a line has, how many lines a cue, how many characters a second can be read, and the gap
    between two cues in seconds."""

    width: int = 42
    lines: int = 2
    speed: float = 17.0
    gap: float = _GAP_FRAMES / 25

    @classmethod
    def of(cls, language: str, fps: float = 25.0) -> Rules:
        """The rules for a language, and the frame rate of a video."""
        gap = _GAP_FRAMES / fps if fps > 0 else _GAP_FRAMES / 25
        return cls(width=16, speed=9.0, gap=gap) if language in _WIDE else cls(gap=gap)


def cues(
    lines: Sequence[Line], language: str, *, length: float, fps: float = 25.0, shots: Sequence[float] = ()
) -> list[Cue]:
    """Cut lines into cues. `length` is that of the video, `shots` are the times at which a new shot begins.

    Each cue has the share of its line's time that its text has of the line's text. It stays longer, into the pause
    after it, where it could not be read in time.
    """
    rules = Rules.of(language, fps)
    raw = list[tuple[float, float, str]]()
    for line in lines:
        parts = _parts(line.text, rules, language)
        total = sum(map(len, parts)) or 1
        at = line.start
        for part in parts:
            until = at + line.seconds * len(part) / total
            raw.append((at, until, part))
            at = until
    return _timed(raw, rules, language, length, sorted(shots))


def _timed(
    raw: Sequence[tuple[float, float, str]], rules: Rules, language: str, length: float, shots: Sequence[float]
) -> list[Cue]:
    done = list[Cue]()
    for number, (start, end, text) in enumerate(raw):
        following = raw[number + 1][0] if number + 1 < len(raw) else length + rules.gap
        earliest = done[-1].end + rules.gap if done else 0.0
        begins = max(start, earliest)
        near = [shot for shot in shots if abs(shot - begins) <= rules.gap * 3 and shot >= earliest]
        begins = near[0] if near else begins
        latest = min(following - rules.gap, begins + MOST, length)
        ends = min(max(end, begins + max(LEAST, _read_seconds(text, rules))), latest)
        ends = _within_shot(begins, ends, end, rules, shots)
        if ends - begins < 0.1:  # no room is left: the cue before gives some
            if done and begins - done[-1].start > 2 * LEAST:
                last = done.pop()
                middle = (last.start + max(ends, begins)) / 2
                done.append(Cue(last.start, middle - rules.gap, last.text))
                begins, ends = middle, _within_shot(middle, max(ends, middle + 0.1), end, rules, shots)
            else:
                continue
        done.append(Cue(round(begins, 3), round(ends, 3), wrapped(text, rules, language)))
    return done


def _within_shot(begins: float, ends: float, spoken: float, rules: Rules, shots: Sequence[float]) -> float:
    """Where a cue ends: at the first change of shot that it need not cross.

    Time that was only added for reading never crosses one, and speech that ends just after one gives the rest up.
    """
    for shot in shots:
        if begins + LEAST <= shot < ends and (spoken <= shot or spoken - shot <= _NEAR_SHOT):
            return shot - rules.gap if shot - rules.gap > begins + LEAST else shot
    return ends


def _read_seconds(text: str, rules: Rules) -> float:
    return len(text.replace("\n", " ")) / rules.speed


def _parts(text: str, rules: Rules, language: str) -> list[str]:
    """A line's text in pieces that fit into one cue each, parted after punctuation where that is near the middle."""
    if len(_filled(text, rules, language)) <= rules.lines:
        return [text]
    tokens = _tokens(text, language)
    best, found = 0.0, 1
    whole = len(text)
    for at in range(1, len(tokens)):
        head = _glued(tokens[:at], language)
        share = len(head) / whole
        score = min(share, 1 - share) + (0.3 if _ends_clause(tokens[at - 1], language) else 0)
        if len(_filled(head, rules, language)) > rules.lines and len(head) > whole / 2:
            score -= 1
        if score > best:
            best, found = score, at
    if len(tokens) < 2:
        return [text]
    head, tail = _glued(tokens[:found], language), _glued(tokens[found:], language)
    return _parts(head, rules, language) + _parts(tail, rules, language)


def wrapped(text: str, rules: Rules, language: str) -> str:
    """The text of a cue in lines of at most the width, about equally long, the upper rather shorter."""
    filled = _filled(text, rules, language)
    if len(filled) != 2:
        return "\n".join(filled)
    tokens = _tokens(text, language)
    best: tuple[float, str] | None = None
    for at in range(1, len(tokens)):
        upper, lower = _glued(tokens[:at], language), _glued(tokens[at:], language)
        if max(len(upper), len(lower)) > rules.width:
            continue
        score = abs(len(upper) - len(lower)) + (2 if len(upper) > len(lower) else 0)
        score -= 6 if _ends_clause(tokens[at - 1], language) else 0
        if best is None or score < best[0]:
            best = (score, f"{upper}\n{lower}")
    return best[1] if best else "\n".join(filled)


def _filled(text: str, rules: Rules, language: str) -> list[str]:
    """Lines filled one after the other; a word that is longer than a line is cut."""
    lines, current = list[str](), list[str]()
    for token in _tokens(text, language):
        if current and len(_glued([*current, token], language)) > rules.width:
            lines.append(_glued(current, language))
            current = []
        while len(token) > rules.width:
            lines.append(token[: rules.width])
            token = token[rules.width :]  # noqa: PLW2901  (what is left of the word)
        current.append(token)
    if current:
        lines.append(_glued(current, language))
    return lines


def _tokens(text: str, language: str) -> list[str]:
    """What stays together: words, or in languages without spaces single characters with their closing marks; Latin
    words and numbers among them stay whole."""
    if language not in tongues.UNSPACED:
        return text.split()
    tokens = list[str]()
    for piece in re.findall(r"[A-Za-z0-9À-ɏ'’.%-]+|\s+|.", text.strip()):
        closes = piece in _CLOSING or all(unicodedata.category(letter).startswith("M") for letter in piece)
        if tokens and closes and not tokens[-1].isspace():
            tokens[-1] += piece
        elif not piece.isspace():
            tokens.append(piece)
        elif tokens:
            tokens[-1] += " "
    return tokens


def _glued(tokens: Sequence[str], language: str) -> str:
    return ("" if language in tongues.UNSPACED else " ").join(tokens).strip()


def _ends_clause(token: str, language: str) -> bool:
    plain = token.strip()
    return plain[-1:] in _WIDE_BREAKS if language in tongues.UNSPACED else bool(_BREAKS.search(plain))


def joined(upper: Sequence[Cue], lower: Sequence[Cue]) -> list[Cue]:
    """Two languages at once: each cue of the first with what the second says in its time, below it."""
    done, used = list[Cue](), set[int]()
    for cue in upper:
        below = list[str]()
        for at, other in enumerate(lower):
            shared = min(cue.end, other.end) - max(cue.start, other.start)
            if at not in used and shared > 0.5 * min(cue.end - cue.start, other.end - other.start):
                below.append(other.text.replace("\n", " "))
                used.add(at)
        done.append(
            Cue(cue.start, cue.end, "\n".join([cue.text.replace("\n", " "), *([" ".join(below)] if below else [])]))
        )
    return done
