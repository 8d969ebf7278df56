"""Verification of untrusted files, each in a child process, and only a few at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lichtspiel.serve.api.children import Limits, Turns, error_of, in_child, starting

__all__ = ["Detector"]

MEMORY = 800_000_000
SECONDS, CPU_SECONDS = 300.0, 60

AT_ONCE, WAITING = 1, 3
"""How many verifications run at once, and how many requests may wait. Each holds one of the eight threads that read
bodies, and half of these stay for jobs."""


class Detector:
    """Runs `lichtspiel.seal.verify` in child processes. Threads may share one detector."""

    def __init__(self) -> None:
        self._context = starting()
        self._turns = Turns(AT_ONCE, WAITING, "too many files are being verified")

    def verify(self, path: Path) -> dict[str, Any]:
        """The report on a file, without this installation's record of it.

        Raises TooBusy if too many requests wait, TooLarge if the file takes more memory or time than is allowed, and
        MediaError if it cannot be read.
        """
        with self._turns.one():
            kind, answer = self._run(path)
        if kind == "report":
            report: dict[str, Any] = answer
            return report
        raise error_of(kind, answer)

    def _run(self, path: Path) -> tuple[str, Any]:
        limits = Limits(MEMORY, SECONDS, CPU_SECONDS, "verify", "run `lichtspiel verify`")
        return in_child(self._context, _report, (str(path),), limits)


def _report(path: str) -> dict[str, Any]:
    from lichtspiel.seal.verify import verify  # in the child only

    return verify(path, with_record=False).to_json()
