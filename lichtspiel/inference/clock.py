"""How long each stage of the work takes.

At every moment exactly one stage is running: a stage that begins inside another one interrupts it. So the stages add up
to the total, and no second is counted twice or lost.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["STAGES", "Clock"]

STAGES = ("load", "encode", "denoise", "decode", "seal")
"""What every result reports; others, such as "upscale", appear where they ran."""


class Clock:
    """Seconds by stage. It starts in the stage "load"; `since` is an earlier moment of `time.perf_counter` to count
    from, such as the start of the process."""

    def __init__(self, since: float | None = None) -> None:
        self.seconds: dict[str, float] = {}
        self._current = "load"
        self._since = time.perf_counter() if since is None else since

    @classmethod
    def of_process(cls) -> Clock:
        """A clock that counts from the start of this process, imports included."""
        import psutil

        return cls(since=time.perf_counter() - (time.time() - psutil.Process().create_time()))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time spent inside for a stage, except for the stages that interrupt it."""
        outer = self._switch(name)
        try:
            yield
        finally:
            self._switch(outer)

    def timings(self) -> dict[str, float]:
        """The seconds of each stage until now, and their total."""
        self._switch(self._current)
        return {**dict.fromkeys(STAGES, 0.0), **self.seconds, "total": sum(self.seconds.values())}

    def _switch(self, name: str) -> str:
        """Make another stage the current one; returns the one before."""
        now, before = time.perf_counter(), self._current
        self.seconds[before] = self.seconds.get(before, 0.0) + now - self._since
        self._current, self._since = name, now
        return before
