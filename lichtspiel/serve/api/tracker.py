"""The mask of an object in a clip that somebody sent, made in a child process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lichtspiel.serve.api.children import Limits, Turns, error_of, in_child, starting

__all__ = ["Tracker"]

LIMITS = Limits(1_500_000_000, 600.0, 240, "follow", "run `lichtspiel track`")


class Tracker:
    """Follows objects in child processes, one at a time. Threads may share one tracker."""

    def __init__(self) -> None:
        self._context = starting()
        self._turns = Turns(1, 2, "too many clips are being tracked")

    def track(self, clip: Path, box: str, at: float, consent: str | None) -> dict[str, Any]:
        """Follow what is in a box. Returns what `lichtspiel track --json` prints, with the file's bytes as `mask`.

        Raises TooBusy, TooLarge, and what `lichtspiel.workflows.track.track` raises.
        """
        with self._turns.one():
            kind, answer = in_child(self._context, _mask, (str(clip), box, at, consent), LIMITS)
        if kind == "report":
            report: dict[str, Any] = answer
            return report
        raise error_of(kind, answer)


def _mask(clip: str, box: str, at: float, consent: str | None) -> dict[str, Any]:
    """A report, with the file's bytes as `mask`."""
    from lichtspiel.footage.selection import Selection  # in the child only
    from lichtspiel.workflows.terms import Terms
    from lichtspiel.workflows.track import Look, track

    left, top, right, bottom = (int(part) for part in box.split(","))
    out = Path(clip).with_name("mask.mp4")
    chosen = [Selection(box=(left, top, right, bottom))]
    report = track(Path(clip), out, chosen, at=at, look=Look(keep_going=True), terms=Terms(consent=consent))
    return {**report, "mask": out.read_bytes()}
