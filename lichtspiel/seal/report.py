"""Format a report as a plain-text card for a terminal.

Values come from untrusted files, so everything that a terminal would interpret instead of show (escape sequences,
characters that change the writing direction) is removed.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lichtspiel.errors import printable
from lichtspiel.seal.credentials import digest
from lichtspiel.seal.verify import SOURCES, Credentials, Report

__all__ = ["card"]

HIDDEN = frozenset({"model", "weights", "computed", "latents", "device", "attention", "compile"})
"""Recorded parameters that stand elsewhere on the card, or are for programs: `--json` has all."""

UNTRUSTED = "signingCredential.untrusted"
"""A finding that says what the verdict says in words: that nobody known vouches for the signer."""

_LABEL = 17
_MAX_VALUE = 400
_MAX_ROWS = 60


def card(report: Report, width: int = 100, usual: Mapping[str, Any] | None = None) -> str:
    """Lay out a report as lines of at most `width` columns, without a final newline.

    Recorded parameters that are empty, or as in `usual`, are left out.
    """
    lines = [f"{_shown(Path(report.path).name)}: {_title(report)}", *_wrap(_shown(report.verdict), width, "  ")]
    rows = list(_rows(report, usual or {}))
    if rows:
        lines.append("")
    if rows and report.credentials.state == "tampered":
        lines.append("  What the broken record claims:")
    for label, value in rows[:_MAX_ROWS]:
        lines += _wrap(_shown(value), width, f"  {_shown(label)[:_LABEL]:<{_LABEL}} ")
    if len(rows) > _MAX_ROWS:
        lines.append(f"  and {len(rows) - _MAX_ROWS} more; --json shows all")
    return "\n".join(lines)


def _title(report: Report) -> str:
    """One or two words that tell the cases apart at a glance."""
    credentials = report.credentials
    if credentials.state == "none":
        if report.record_match == "sha256":
            return "IN THE RECORD"
        return "WATERMARK FOUND" if report.watermark.found else "NOTHING FOUND"
    if credentials.state == "trusted":
        return "SEALED HERE" if credentials.here else "TRUSTED SIGNER"
    return {"intact": "INTACT, UNKNOWN SIGNER", "tampered": "TAMPERED"}[credentials.state]


def _rows(report: Report, usual: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    credentials = report.credentials
    if credentials.source_type:
        yield "Source", f"{SOURCES.get(credentials.source_type, 'source type')} ({credentials.source_type})"
    if credentials.model:
        yield (
            "Model",
            f"{credentials.model} (stated by whoever sealed it)" if _adopted(credentials) else credentials.model,
        )
    if credentials.software:
        yield "Software", credentials.software
    if credentials.time:
        yield "Time", f"{credentials.time} (time stamp)"
    if credentials.created:
        yield "Created", f"{credentials.created} (stated by the signer)"
    if signer := credentials.signer:
        name = " / ".join(filter(None, (signer.name, signer.organisation))) or "unnamed"
        yield "Signer", name if credentials.state == "trusted" else f"calls itself {name!r}, serial {signer.serial}"
    if credentials.id:
        yield "Id", credentials.id
    yield from _request(credentials, usual)
    for entry in credentials.ingredients:
        state = {
            "none": "has no credentials of its own",
            "intact": "was sealed itself, and unchanged when it was used",
            "tampered": "WAS SEALED ITSELF AND CHANGED BEFORE IT WAS USED",
        }[entry.state]
        yield "Input", f"{entry.role}: {state}"
    for problem in credentials.problems:
        if credentials.state != "intact" or not problem.startswith(UNTRUSTED):
            yield "Finding", problem
    yield from _unsigned(report)


def _adopted(credentials: Credentials) -> bool:
    """Whether another tool made the video, in which case the model is only the claim of whoever sealed it."""
    parameters = (credentials.generation or {}).get("parameters")
    return isinstance(parameters, dict) and parameters.get("adopted") is True


def _unsigned(report: Report) -> Iterator[tuple[str, str]]:
    """What stands outside the credentials: in the picture, in tags, and in this installation's record."""
    mark = report.watermark
    if mark.found:
        turned = ", left and right exchanged" if mark.mirrored else ""
        yield "Watermark", f"found, {f'id {mark.id}' if mark.id else 'id not readable'} (score {mark.score:g}{turned})"
    if report.labels.aigc:
        yield "AIGC label", ", ".join(f"{name} {value}" for name, value in report.labels.aigc.items())
    if report.labels.comment:
        yield "Comment", report.labels.comment
    if report.labels.source_type:
        yield "XMP", report.labels.source_type
    if entry := report.record:
        yield "Record", f"sealed here on {entry.created:%Y-%m-%d %H:%M} UTC with {entry.model}, id {entry.id}"
        if entry.prompt:
            yield "Prompt", f"{entry.prompt} (from the record on this machine)"
    for note in report.notes:
        yield "Note", note


def _request(credentials: Credentials, usual: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if not credentials.generation:
        return
    for name in ("prompt", "negative"):
        text = credentials.generation.get(name)
        if isinstance(text, dict):
            if text.get("text") is not None:
                yield name.capitalize(), str(text["text"])
            elif text.get("digest") != digest(credentials.id or "", ""):  # an empty text needs no line
                yield name.capitalize(), f"not stored; digest {text.get('digest')}"
    parameters = credentials.generation.get("parameters")
    if isinstance(parameters, dict):
        for name, value in parameters.items():
            empty = value is None or value is False or value in ("", [], {})
            if name not in HIDDEN and not empty and value != usual.get(name):
                yield str(name).replace("_", " ").capitalize(), _value(name, value)


def _value(name: str, value: Any) -> str:
    """A recorded parameter in the form in which it is typed."""
    if name == "size" and isinstance(value, list):
        return "x".join(map(str, value))
    if name == "lora" and isinstance(value, list):
        return f"strength {', '.join(map(str, value))}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _shown(text: str) -> str:
    text = printable(text)
    return text if len(text) <= _MAX_VALUE else f"{text[:_MAX_VALUE]}… ({len(text):,} characters)"


def _wrap(text: str, width: int, lead: str) -> list[str]:
    lines = textwrap.wrap(text, max(width - len(lead), 20)) or [""]
    return [f"{lead if number == 0 else ' ' * len(lead)}{line}".rstrip() for number, line in enumerate(lines)]
