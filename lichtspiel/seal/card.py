"""A report as a card of plain text for a terminal.

It knows layout only. Values come from a stranger's file, so whatever a terminal would obey instead of show (escape
sequences, characters that turn the writing direction) is taken out.
"""

from __future__ import annotations

import json
import textwrap
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from lichtspiel.seal.verify import SOURCES, Report

__all__ = ["card"]

_LABEL = 11
_MAX_VALUE = 400
_MAX_ROWS = 60


def card(report: Report, width: int = 100) -> str:
    """Lay out a report as lines of at most `width` columns, without a final newline."""
    lines = [f"{_clean(Path(report.path).name)}: {report.state.upper()}", *_wrap(report.verdict, width, "  ")]
    rows = list(_rows(report))
    if rows:
        lines.append("")
    if rows and report.state == "tampered":
        lines.append("  What the broken record claims:")
    for label, value in rows[:_MAX_ROWS]:
        lines += _wrap(_clean(value), width, f"  {_clean(label)[:_LABEL]:<{_LABEL}} ")
    if len(rows) > _MAX_ROWS:
        lines.append(f"  and {len(rows) - _MAX_ROWS} more; --json shows all")
    return "\n".join(lines)


def _rows(report: Report) -> Iterator[tuple[str, str]]:
    if report.source_type:
        yield "Source", f"{SOURCES.get(report.source_type, 'source type')} ({report.source_type})"
    if report.model:
        yield "Model", report.model
    if report.software:
        yield "Software", report.software
    if report.time:
        yield "Time", f"{report.time} (time stamp)"
    if report.created:
        yield "Created", f"{report.created} (stated by the signer)"
    if signer := report.signer:
        name = " / ".join(filter(None, (signer.name, signer.organisation))) or "unnamed"
        yield "Signer", name if report.state == "sealed here" else f"calls itself {name!r}, serial {signer.serial}"
    if report.id:
        yield "Id", report.id
    yield from _request(report)
    for entry in report.ingredients:
        said = {
            "none": "has no credentials of its own",
            "intact": "was sealed itself, and unchanged when it was used",
            "tampered": "WAS SEALED ITSELF AND CHANGED BEFORE IT WAS USED",
        }[entry.state]
        yield "Input", f"{entry.role}: {said}"
    for problem in report.problems:
        yield "Finding", problem


def _request(report: Report) -> Iterator[tuple[str, str]]:
    if not report.generation:
        return
    for name in ("prompt", "negative"):
        said = report.generation.get(name)
        if isinstance(said, dict):
            kept = said.get("text")
            yield name.capitalize(), str(kept) if kept is not None else f"not stored; digest {said.get('digest')}"
    parameters = report.generation.get("parameters")
    if isinstance(parameters, dict):
        for name, value in parameters.items():
            yield str(name), value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _clean(text: str) -> str:
    shown = "".join(" " if unicodedata.category(letter) in ("Cc", "Cf", "Zl", "Zp") else letter for letter in text)
    return shown if len(shown) <= _MAX_VALUE else f"{shown[:_MAX_VALUE]}… ({len(text):,} characters)"


def _wrap(text: str, width: int, lead: str) -> list[str]:
    lines = textwrap.wrap(text, max(width - len(lead), 20)) or [""]
    return [f"{lead if number == 0 else ' ' * len(lead)}{line}".rstrip() for number, line in enumerate(lines)]
