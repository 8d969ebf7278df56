"""Judge existing videos by the policy: pictures, speech and writing over time, with evidence, and calibrate thresholds.

It fails closed: what could not be looked at needs a person's review. Words are judged as `policy` judges prompts.
"""

from __future__ import annotations

import csv
import itertools
import json
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lichtspiel.errors import InvalidInput
from lichtspiel.policy.rules import EXPLICIT, REVIEW, judge_prompt
from lichtspiel.storage import atomic_write
from lichtspiel.understand.finding import Finding

if TYPE_CHECKING:
    from lichtspiel.policy.prompts import Policy
    from lichtspiel.understand.store import Index

__all__ = ["LOOKING", "Curve", "Judgment", "Objection", "Thresholds", "calibrate", "decide", "judge", "read_labels"]

Decision = Literal["allowed", "needs review", "refused"]

LOOKING = ("text", "speech", "nudity", "faces", "origin")
"""The extractors that a judgment needs."""

_ORDER: dict[Decision, int] = {"allowed": 0, "needs review": 1, "refused": 2}
_FROM_POLICY: dict[str, Decision] = {"allowed": "allowed", "needs consent": "needs review", "refused": "refused"}
_SOURCES = {"speech": "speech", "text": "writing", "prompt": "prompt"}
_TABLE = (
    "CREATE TABLE IF NOT EXISTS reviews (digest TEXT PRIMARY KEY, decision TEXT NOT NULL, note TEXT NOT NULL, "
    "time TEXT NOT NULL)"
)


@dataclass(frozen=True)
class Thresholds:
    """From which score on something needs review or is refused.

    `explicit_refused` and `explicit_review` are scores of stills, from 0 to 1. Two stills have to exceed the former to
    refuse a video; two that exceed the latter, or one that exceeds the former, need review.
    `faces_review` is the number of faces in one picture from which on a person should look; 0 means never.
    """

    explicit_refused: float = EXPLICIT
    explicit_review: float = REVIEW
    faces_review: int = 0

    @classmethod
    def read(cls, path: Path) -> Thresholds:
        """Read a TOML file. Raises InvalidInput for what is no threshold."""
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InvalidInput(f"{path}: cannot be read as thresholds: {error}") from error
        known = {one.name for one in fields(cls)}
        for name, value in values.items():
            if name not in known or isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
                raise InvalidInput(f"{path}: {name} = {value!r} is no threshold; known are {', '.join(sorted(known))}")
        return cls(**values)

    def write(self, path: Path) -> None:
        """Write the same as TOML."""
        lines = [f"{one.name} = {getattr(self, one.name):g}\n" for one in fields(self)]
        with atomic_write(path) as draft:
            draft.write_text("".join(lines), encoding="utf-8")


@dataclass(frozen=True)
class Objection:
    """One reason against a video: when, of which category, by which rule, and seen or heard where."""

    start: float
    end: float
    decision: Decision
    category: str
    rule: str
    source: str
    detail: str
    score: float = 1.0

    def to_json(self) -> dict[str, Any]:
        """The same as a plain dictionary."""
        return {**vars(self), "start": round(self.start, 3), "end": round(self.end, 3), "score": round(self.score, 4)}


@dataclass(frozen=True)
class Judgment:
    """The verdict on a video, with all objections in the order of time. `reviewed` is what a person decided."""

    path: str
    digest: str
    decision: Decision
    objections: tuple[Objection, ...] = ()
    reviewed: str | None = None
    checked: tuple[str, ...] = field(default=())

    @property
    def category(self) -> str:
        """The category of the strictest objection."""
        strictest = max(self.objections, key=lambda one: _ORDER[one.decision], default=None)
        return strictest.category if strictest else "none"

    def to_json(self) -> dict[str, Any]:
        """The same as a plain dictionary."""
        return {**vars(self), "category": self.category, "objections": [one.to_json() for one in self.objections]}


def judge(index: Index, path: str, thresholds: Thresholds | None = None, policy: Policy | None = None) -> Judgment:
    """Judge an indexed video. Raises InvalidInput for one that is not in the index.

    A file that could not be read, and one that an extractor could not look at, need review.
    """
    thresholds = thresholds or Thresholds()
    index.rows(_TABLE)
    rows = index.rows(
        "SELECT digest, used, missed, caption FROM paths JOIN contents USING (digest) WHERE path = ?", path
    )
    if not rows:
        failures = index.rows("SELECT reason FROM failures WHERE path = ?", path)
        if not failures:
            raise InvalidInput(f"{path}: is not in the index; add it: lichtspiel index {path}")
        unread = Objection(0, 0, "needs review", "unchecked", "file.unread", "file", failures[0][0])
        return Judgment(path, "", "needs review", (unread,))
    digest, used, missed, caption = rows[0]
    checked, reasons = json.loads(used), json.loads(missed)
    findings = index.finding_rows(digest)
    if caption:
        findings.append(Finding(0.0, 0.0, "prompt", caption))
    objections = [*_unchecked(checked, reasons), *_seen(findings, thresholds), *_said(findings, policy)]
    objections.sort(key=lambda one: (one.start, one.category, one.rule))
    decisions: list[Decision] = ["allowed", *(one.decision for one in objections)]
    decision = max(decisions, key=_ORDER.__getitem__)
    reviews = index.rows("SELECT decision FROM reviews WHERE digest = ?", digest)
    reviewed: Decision | None = reviews[0][0] if reviews else None
    if reviewed is not None and decision == "needs review":  # a person's word never lifts a refusal
        decision = reviewed
    names = tuple(name for name in LOOKING if name in checked)
    return Judgment(path, digest, decision, tuple(objections), reviewed, names)


def _unchecked(used: dict[str, str], missed: dict[str, str]) -> Iterable[Objection]:
    for name in LOOKING:
        if name not in used:
            reason = missed.get(name, "it was not looked for")
            yield Objection(0, 0, "needs review", "unchecked", f"{name}.unchecked", "file", f"{name}: {reason}")


def _seen(findings: Sequence[Finding], thresholds: Thresholds) -> Iterable[Objection]:
    scored = [one for one in findings if one.kind == "explicit"]
    # One still alone is too often a false alarm, as when frames are judged that leave.
    high = sorted((one.score for one in scored), reverse=True)
    second = high[min(1, len(high) - 1)] if high else 0.0
    certain = second > thresholds.explicit_refused
    doubtful = second > thresholds.explicit_review or (bool(high) and high[0] > thresholds.explicit_refused)
    for one in scored:
        if doubtful and one.score > thresholds.explicit_review:
            refused = certain and one.score > thresholds.explicit_refused
            decision: Decision = "refused" if refused else "needs review"
            detail = f"a still scores {one.score:.2f} as explicit"
            yield Objection(one.start, one.end, decision, "sexual", "frames.explicit", "picture", detail, one.score)
    for one in findings:
        count = int(one.values.get("count", 0))
        if one.kind == "faces" and thresholds.faces_review and count >= thresholds.faces_review:
            yield Objection(
                one.start, one.end, "needs review", "real person", "frames.faces", "picture", f"{count} face(s)"
            )


def _said(findings: Sequence[Finding], policy: Policy | None) -> Iterable[Objection]:
    """What the rules say of each line, and of all lines of a kind together, which may part a sentence."""
    for kind, source in _SOURCES.items():
        lines = [one for one in findings if one.kind == kind and one.text]
        told = set()
        whole = Finding(lines[0].start, lines[-1].end, kind, " ".join(one.text for one in lines)) if lines else None
        for one in [*lines, *([whole] if whole and len(lines) > 1 else [])]:
            verdict = judge_prompt(one.text, has_image=False, policy=policy)
            decision = _FROM_POLICY[verdict.decision]
            if decision == "allowed" or (one is whole and verdict.rule in told):
                continue
            told.add(verdict.rule)
            detail = verdict.detail.replace("the prompt", f"the {source}", 1)
            yield Objection(one.start, one.end, decision, verdict.category, verdict.rule, source, detail, one.score)


def decide(index: Index, judgments: Sequence[Judgment], decision: str, note: str) -> None:
    """Record what a person decided about videos that need review. Raises InvalidInput, and records nothing, when one of
    them is another video or could not be read, and for anything but "allowed" and "refused"."""
    if decision not in ("allowed", "refused"):
        raise InvalidInput(f"--decide {decision} is not valid; type --decide allowed or --decide refused")
    for one in judgments:
        if not one.digest:
            raise InvalidInput(f"{one.path}: could not be read, so there is nothing to decide about; mend or remove it")
        if one.decision != "needs review" and one.reviewed is None:
            raise InvalidInput(f"{one.path}: is {one.decision}; only what needs review is decided by a person")
    index.rows(_TABLE)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    with index.writing() as database:
        rows = [(one.digest, decision, note, now) for one in judgments]
        database.executemany("INSERT OR REPLACE INTO reviews VALUES (?, ?, ?, ?)", rows)


@dataclass(frozen=True)
class Curve:
    """How well a threshold tells labeled videos apart: precision and recall at each, and the best by F1."""

    points: tuple[tuple[float, float, float], ...]
    """Threshold, precision and recall."""
    best: float
    precision: float
    recall: float
    positives: int
    negatives: int

    def to_json(self) -> dict[str, Any]:
        """The same as a plain dictionary."""
        return dict(vars(self))


def read_labels(path: Path) -> dict[str, bool]:
    """Names of files and whether they are explicit, from a CSV file with the columns file and explicit (1 or 0)."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return {row["file"]: {"1": True, "0": False}[row["explicit"].strip()] for row in rows}
    except (OSError, KeyError, ValueError, AttributeError) as error:
        raise InvalidInput(f"{path}: needs the columns file and explicit, with 1 or 0 ({error})") from error


def calibrate(scores: Sequence[float], labels: Sequence[bool]) -> Curve:
    """Precision and recall of "the score exceeds the threshold", for every threshold that changes anything. Raises
    InvalidInput when there are not both kinds of labels."""
    positives, negatives = sum(labels), len(labels) - sum(labels)
    if not positives or not negatives:
        raise InvalidInput(f"the labels have {positives} explicit files and {negatives} others; both are needed")
    points = []
    edges = sorted(set(scores))
    middles = [(one + other) / 2 for one, other in itertools.pairwise(edges)]
    for threshold in [max(edges[0] - 0.01, 0.0), *middles]:
        hits = sum(label for score, label in zip(scores, labels, strict=True) if score > threshold)
        alarms = sum(score > threshold for score in scores)
        points.append((round(threshold, 4), hits / alarms if alarms else 1.0, hits / positives))
    best, precision, recall = max(points, key=lambda one: (2 * one[1] * one[2] / max(one[1] + one[2], 1e-9), one[0]))
    return Curve(tuple(points), best, precision, recall, positives, negatives)
