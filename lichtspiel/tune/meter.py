"""How much memory and time a piece of work takes, measured while it runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

__all__ = ["Measured", "measured"]

INTERVAL = 0.002
"""Seconds between two looks at the memory of the process."""


@dataclass
class Measured:
    """Bytes at the peak beyond `before`, those that were held at the start, and seconds."""

    before: int
    bytes: int = 0
    seconds: float = 0.0


@contextmanager
def measured(device: torch.device | str, *, before: int | None = None) -> Iterator[Measured]:
    """Measure what happens inside the block; the result is complete after it. `before` is that of an earlier measure,
    to count from there.

    On a GPU the allocator counts. On a processor the process is looked at every two milliseconds; weights that are
    mapped from their file do not count, because the system drops them when memory is short.
    """
    began = time.perf_counter()
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
        result = Measured(torch.cuda.memory_allocated(device) if before is None else before)
        torch.cuda.reset_peak_memory_stats(device)
        yield result
        torch.cuda.synchronize(device)
        result.bytes = torch.cuda.max_memory_allocated(device) - result.before
    else:
        done = threading.Event()
        result = Measured(own_memory() if before is None else before)
        watcher = threading.Thread(target=_watch, args=(result, done), daemon=True)
        watcher.start()
        try:
            yield result
        finally:
            done.set()
            watcher.join()
            result.bytes = max(result.bytes, own_memory() - result.before)
    result.seconds = time.perf_counter() - began


def _watch(result: Measured, done: threading.Event) -> None:
    while not done.wait(INTERVAL):
        result.bytes = max(result.bytes, own_memory() - result.before)


def own_memory() -> int:
    """Bytes that this process holds and that are not those of a file."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))
    except (OSError, StopIteration):  # not Linux
        return int(psutil.Process().memory_info().rss)
