"""The time of the queue, although the clock of a machine can be set wrong for a while, and jumps when it wakes up.

Times in the database are UTC seconds, so that machines can share them. Two clocks are kept apart. Leases follow the
wall clock, because other processes read them within seconds; after a jump, nobody is taken for dead until everybody who
lives has renewed their lease. All other times (when a job was made, ended and expires, whose turn it is, quotas) follow
a steady time, which goes on as before when the wall clock jumps, and takes the new time for the true one only when that
has lasted for `SETTLED` seconds. What a server finds when it starts it believes at once, but removes nothing before.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

__all__ = ["JUMP", "SETTLED", "Watch"]

JUMP = 5.0
"""Seconds by which the wall clock must leave the monotonic one, between two looks, to have jumped."""

SETTLED = 600.0
"""Seconds after which a new time counts as the true one."""


class Watch:
    """Watches a wall clock by a monotonic one. Threads may share it; each process has its own."""

    def __init__(self, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._wall, self._monotonic, self._lock = wall, monotonic, threading.Lock()
        self._offset = self._steady = wall() - monotonic()
        self._since = monotonic()  # the start, or the last jump
        self._jumped: float | None = None

    def now(self) -> float:
        """The steady time."""
        return self._look() + self._steady

    def jumped_within(self, seconds: float) -> bool:
        """Whether the wall clock jumped in these last seconds, or is still where it jumped to."""
        now = self._look()
        return self._jumped is not None and now - self._jumped < seconds

    def settled(self) -> bool:
        """Whether the wall clock has not jumped for `SETTLED` seconds, all of them since this process started."""
        return self._look() - self._since >= SETTLED

    def _look(self) -> float:
        """Compare the clocks; returns the monotonic time."""
        with self._lock:
            now = self._monotonic()
            offset = self._wall() - now
            if abs(offset - self._offset) > JUMP:
                self._since = self._jumped = now
            self._offset = offset
            if self._jumped is None or now - self._jumped >= SETTLED:
                self._steady, self._jumped = offset, None
            return now
