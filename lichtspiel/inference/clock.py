"""A clock that measures how long each stage takes.

Exactly one stage runs at any moment: a stage that begins inside another one interrupts it. So the stages add up to the
total, and no time is counted twice or lost.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["STAGES", "Clock"]

STAGES = ("load", "encode", "denoise", "decode", "seal")
"""The stages that every result reports; others, such as "upscale", appear only if they ran."""


class Clock:
    """Seconds by stage. The clock starts in the stage "load".

    `since` is an earlier value of `time.perf_counter` to count from, such as the start of the process.
    """

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
        """Count the time spent inside the block as this stage, except for stages that interrupt it."""
        outer = self._switch(name)
        try:
            yield
        finally:
            self._switch(outer)

    def timings(self) -> dict[str, float]:
        """The seconds spent in each stage so far, and their total."""
        self._switch(self._current)
        return {**dict.fromkeys(STAGES, 0.0), **self.seconds, "total": sum(self.seconds.values())}

    def _switch(self, name: str) -> str:
        """Switch to another stage; returns the previous one."""
        now, before = time.perf_counter(), self._current
        self.seconds[before] = self.seconds.get(before, 0.0) + now - self._since
        self._current, self._since = name, now
        return before
