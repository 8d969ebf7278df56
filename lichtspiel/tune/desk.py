"""Where the workers of a run leave what the one who asked is to know: an actor of Ray, in a process of its own.

Knows nothing of what they leave. How a run ended is kept packed, so that this process does not load PyTorch for it.
"""

from __future__ import annotations

__all__ = ["Desk"]


class Desk:
    """The news of one run, and how it ended."""

    def __init__(self) -> None:
        self.progress: tuple[str, float] | None = None
        self.notes: list[str] = []
        self.end: bytes | None = None
        self.failed = False

    def note(self, text: str) -> None:
        """Keep what a person should know."""
        self.notes.append(text)

    def report(self, stage: str, done: float) -> None:
        """Keep how far the work is."""
        self.progress = (stage, done)

    def finish(self, end: bytes, *, failed: bool) -> None:
        """Keep how the run ended, as `pickle` packs it; the first that failed counts."""
        if not self.failed:
            self.end, self.failed = end, failed

    def has_failed(self) -> bool:
        """Whether the run ended with an error."""
        return self.failed

    def ended(self) -> bytes | None:
        """How the run ended, or None."""
        return self.end

    def news(self) -> tuple[tuple[str, float] | None, list[str]]:
        """The progress, and the notes since the last look."""
        notes, self.notes = self.notes, []
        return self.progress, notes
