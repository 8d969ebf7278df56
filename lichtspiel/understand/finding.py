"""One thing that an extractor saw or heard in a video. Times are seconds from the start of the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Finding"]


@dataclass(frozen=True)
class Finding:
    """One thing that was seen or heard between two times.

    `kind` says what it is, such as "shot", "text" or "speech". `score` is how sure the extractor is, from 0 to 1. `box`
    is where in the picture it is: left, top, right and bottom as shares of width and height. `values` are numbers that
    belong to the kind.
    """

    start: float
    end: float
    kind: str
    text: str = ""
    score: float = 1.0
    box: tuple[float, float, float, float] | None = None
    values: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The finding as a plain dictionary for `json.dumps`, without what is not there."""
        full = {
            "start": round(self.start, 3), "end": round(self.end, 3), "kind": self.kind, "text": self.text,
            "score": round(self.score, 4), "box": self.box and [round(side, 4) for side in self.box],
            "values": {name: round(float(value), 5) for name, value in self.values.items()},
        }  # fmt: skip
        return {name: value for name, value in full.items() if value not in ("", None, {})}
