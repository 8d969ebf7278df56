"""Which marks a video gets, and the laws that require them.

This module knows which marks each profile needs and why (`data/marks.toml` cites a source for each rule). How the marks
are made is up to `watermark`, `credentials` and `labels`. A profile is a promise, so marks that it requires cannot be
turned off one by one. All marks can be turned off together, with a reason, which is recorded.

    watermark     an invisible id in the pixels; survives re-encoding
    credentials   the signed record of how the video was made (C2PA)
    comment       one line of text in the file that says what it is; survives remuxing
    aigc          the machine-readable label that GB 45438-2025 requires
    label         words in the picture, for people
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, NoReturn

from lichtspiel.errors import RequestError

__all__ = ["CORNERS", "LEAST_SECONDS", "PRODUCER", "TEXTS", "Marks", "rules"]

TEXTS = {
    "en": "AI-generated",
    "de": "KI-generiert",
    "zh": "AI生成",
    "fr": "Généré par IA",
    "es": "Generado por IA",
}
"""The text of the visible label by language; `data/labels.png` contains the texts as images, in this order."""

CORNERS = ("top-right", "top-left", "bottom-right", "bottom-left")

LEAST_SECONDS = 2.0
"""Minimum duration of the label in seconds, below which it is easily missed; GB 45438-2025 requires it at normal
speed."""

PRODUCER = "Lichtspiel"

_MOST_PRODUCER = 100  # characters: a name, or a code of 27 characters
_MOST_REASON = 500

_FLAGS = ("watermark", "credentials", "comment", "aigc", "label")


@dataclass(frozen=True, kw_only=True)
class Marks:
    """The marks of one video. Create it with `of` or `none`.

    `language`, `corner` and `seconds` (counted from the start; None means throughout) describe the visible label.
    `producer` is the ContentProducer of the AIGC label. `reason` is set if and only if all marks are off. Raises
    RequestError for invalid values.
    """

    profile: str
    watermark: bool
    credentials: bool
    comment: bool
    aigc: bool
    label: bool
    language: str = "en"
    corner: str = CORNERS[0]
    seconds: float | None = None
    producer: str = PRODUCER
    reason: str | None = None

    def __post_init__(self) -> None:
        _check_choice("language", self.language, TEXTS)
        _check_choice("corner", self.corner, CORNERS)
        _check_seconds(self.seconds)
        _check_line("producer", self.producer, _MOST_PRODUCER, "a name or code that says who made the video")
        if any(getattr(self, flag) for flag in _FLAGS):
            if self.reason is not None:
                raise RequestError("reason", self.reason, "it is recorded only when all marks are off")
        else:
            _check_line("reason", self.reason, _MOST_REASON, "a reason is recorded in place of the marks")

    @classmethod
    def of(
        cls,
        profile: str = "eu",
        *,
        label: bool | None = None,
        language: str | None = None,
        corner: str | None = None,
        seconds: float | None = None,
        producer: str | None = None,
    ) -> Marks:
        """The marks of a profile, optionally with changes to the visible label.

        Arguments that are None keep the profile's value; for `seconds` that is the whole video. Raises RequestError for
        a value that is unknown, that the profile does not allow, or that would have no effect.
        """
        _check_choice("profile", profile, _profiles())
        row = _profiles()[profile]
        if row["label"] and label is False:
            raise RequestError("label", label, f"the profile {profile} asks for the visible label", True)
        shown = row["label"] or bool(label)
        for name, value in (("language", language), ("corner", corner), ("seconds", seconds)):
            if value is not None and not shown:
                raise RequestError(name, value, "it describes the visible label, which is off: add <label> or drop it")
        if producer is not None and not row["aigc"]:
            having = " or ".join(name for name, other in _profiles().items() if other["aigc"])
            raise RequestError("producer", producer, f"it goes into the AIGC entry, which only {having} has")
        if language is not None:
            _check_choice("language", language, TEXTS)
            _check_choice("language", language, row["languages"], f"for the profile {profile} ")
        return cls(
            profile=profile,
            **{flag: row[flag] for flag in _FLAGS if flag != "label"},
            label=shown,
            language=language or row["languages"][0],
            corner=corner if corner is not None else CORNERS[0],
            seconds=seconds,
            producer=producer if producer is not None else PRODUCER,
        )

    def of_edits(self) -> Marks:
        """The marks of a video in which nothing was generated: credentials alone, or none as before."""
        return dataclasses.replace(self, watermark=False, comment=False, aigc=False, label=False)

    @classmethod
    def none(cls, reason: str) -> Marks:
        """No marks at all. The reason is recorded in their place, so it must not be blank."""
        off: dict[str, Any] = dict.fromkeys(_FLAGS, False)
        return cls(profile="none", reason=reason, **off)


def rules() -> list[dict[str, Any]]:
    """The profiles as plain data.

    Each has a name, a summary, the marks that are on, the label's languages (the first is the default) and its rules.
    A rule has the law, the article, what it says, how we comply, its source and where we read it.
    """
    listed = []
    for name, row in _profiles().items():
        having = [dict(rule) for other in row.get("includes", [name]) for rule in _profiles()[other]["rules"]]
        flags = {key: row[key] for key in ("summary", *_FLAGS)}
        listed.append({"profile": name, **flags, "languages": list(row["languages"]), "rules": having})
    return listed


@cache
def _profiles() -> dict[str, Any]:
    return tomllib.loads(files("lichtspiel").joinpath("data", "marks.toml").read_text(encoding="utf-8"))


def _check_choice(field: str, value: object, choices: Iterable[str], when: str = "") -> None:
    names = list(choices)
    if value not in names:
        near = difflib.get_close_matches(str(value).lower(), names, n=1)
        raise RequestError(field, value, f"{when}it is one of {', '.join(names)}", near[0] if near else names[0])


def _check_seconds(seconds: object) -> None:
    rule = f"the visible label stays for at least {LEAST_SECONDS:g} seconds, or throughout when none are given"
    if seconds is None:
        return
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not math.isfinite(seconds):
        raise RequestError("seconds", seconds, rule)
    if seconds < LEAST_SECONDS:
        raise RequestError("seconds", seconds, rule, LEAST_SECONDS)


def _check_line(field: str, value: object, most: int, what: str) -> None:
    def refuse(rule: str) -> NoReturn:
        raise RequestError(field, value, f"{what}: {rule}")

    if not isinstance(value, str) or not value.strip():
        refuse("it cannot be empty")
    if len(value) > most:
        refuse(f"it has at most {most} characters")
    if not value.isprintable():
        refuse("it is one line of text that can be printed")
