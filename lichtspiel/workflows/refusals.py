"""The log of refusals: what the policy refused on this machine, by which rule, and when.

    $LICHTSPIEL_HOME/refusals.jsonl     mode 0600, one JSON object per line, the newest last

An entry holds the time, the decision, the category, the rule and the edition of the rules, and whether the request or
the finished frames were judged. It does not contain the prompt or any of its words unless the operator asks for that.
When the log grows beyond MAX_BYTES, its older half is removed.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from lichtspiel.errors import LichtspielError
from lichtspiel.policy.verdict import Verdict
from lichtspiel.storage import atomic_write, home

__all__ = ["add", "entries"]

MAX_BYTES = 16 << 20

log = logging.getLogger("lichtspiel.policy")


def add(verdict: Verdict, *, stage: Literal["request", "frames"], policy: str, prompt: str | None) -> None:
    """Append a refusal; `prompt` is None if its text must not be kept. Failure to write goes to the program's own log,
    because it must not turn a refusal into another error."""
    entry: dict[str, Any] = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "stage": stage,
        "decision": verdict.decision,
        "category": verdict.category,
        "rule": verdict.rule,
        "policy": policy,
    }
    if prompt is not None:
        entry |= {"detail": verdict.detail, "prompt": prompt}
    path = _path()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with open(descriptor, "ab") as file:
            file.write(f"{json.dumps(entry)}\n".encode())
        if path.stat().st_size > MAX_BYTES:
            _halve(path)
    except OSError as error:
        log.error("the refusal could not be logged in %s: %s", path, error.strerror or error)


def entries() -> Iterator[dict[str, Any]]:
    """Yield the refusals, newest first, skipping damaged lines. Raises LichtspielError when the log cannot be read."""
    path = _path()
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    except OSError as error:
        raise LichtspielError(f"{path} cannot be read: {error.strerror or error}; make it readable for you") from error
    for line in reversed(lines):
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            if isinstance(entry, dict):
                yield entry


def _path() -> Path:
    return home() / "refusals.jsonl"


def _halve(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    with atomic_write(path, mode=0o600) as draft:
        draft.write_bytes(b"".join(lines[len(lines) // 2 :]))
