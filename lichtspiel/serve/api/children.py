"""Work on untrusted files, each in a child process with limited memory and time, and only a few at once.

A video of a few kilobytes can decode to gigabytes, so the process that serves the API must not read it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from lichtspiel.errors import LichtspielError, MediaError, OutOfMemory, Refused, RequestError
from lichtspiel.serve.errors import TooBusy, TooLarge
from lichtspiel.storage import home, use_home

__all__ = ["Limits", "Turns", "error_of", "in_child", "starting"]

PRELOADED = ["lichtspiel.seal.verify", "lichtspiel.seal.detect", "numpy", "cv2", "av", "PIL.Image"]


@dataclass(frozen=True)
class Limits:
    """What a child may take: `memory` in bytes in addition to the libraries, `seconds` by the clock and `cpu_seconds`
    of a processor. On a busy machine the clock says little. `doing` and `instead` are the words for who exceeds it."""

    memory: int
    seconds: float
    cpu_seconds: int
    doing: str
    instead: str


class Turns:
    """Lets only a few work at once, and a few more wait for that. Threads may share one."""

    def __init__(self, at_once: int, waiting: int, busy: str) -> None:
        self._slots = threading.BoundedSemaphore(at_once)
        self._waiting = threading.BoundedSemaphore(at_once + waiting)
        self._busy = busy

    @contextmanager
    def one(self) -> Iterator[None]:
        """Wait for a turn. Raises TooBusy if too many wait."""
        if not self._waiting.acquire(blocking=False):
            raise TooBusy(self._busy, retry_after=10)
        try:
            with self._slots:
                yield
        finally:
            self._waiting.release()


def starting() -> Any:
    """The way in which children start."""
    forks = "forkserver" in multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("forkserver" if forks else "spawn")
    if forks:
        context.set_forkserver_preload(PRELOADED)
    return context


def in_child(context: Any, work: Callable[..., Any], arguments: tuple[Any, ...], limits: Limits) -> tuple[str, Any]:
    """Call `work` in a process of its own: "report" and what it returned, "error" or "too large" and the reason."""
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_work, args=(work, arguments, limits, str(home()), sender), daemon=True)
    child.start()
    sender.close()
    try:
        if receiver.poll(limits.seconds):
            answer: tuple[str, Any] = receiver.recv()
            return answer
        return "too large", f"file: it takes more than {limits.seconds:.0f} seconds to {limits.doing}; {limits.instead}"
    except EOFError:  # it was killed, or a library crashed it
        child.join()
        if child.exitcode == -getattr(signal, "SIGXCPU", 0):
            too_long = f"file: it takes more than {limits.cpu_seconds} seconds to {limits.doing}; {limits.instead}"
            return "too large", too_long
        return "too large", f"file: there is too little memory to {limits.doing} it; {limits.instead} on it"
    finally:
        receiver.close()
        child.kill()
        child.join()


def _work(
    work: Callable[..., Any], arguments: tuple[Any, ...], limits: Limits, data_folder: str, answer: Connection
) -> None:
    # The server that forks the children has the environment of the moment at which it was started.
    use_home(data_folder)
    _limit(limits)
    outcome: tuple[str, Any]
    try:
        outcome = "report", work(*arguments)
    except LichtspielError as error:
        # FFmpeg reports these when it cannot allocate memory for a frame or a thread.
        words = ("Cannot allocate memory", "Resource temporarily unavailable")
        short = isinstance(error, OutOfMemory) or any(word in str(error) for word in words)
        most = f"{limits.memory // 1_000_000} MB of memory"
        text = f"file: it takes more than {most} to {limits.doing}; {limits.instead} on it"
        outcome = ("too large", text) if short else _told(error)
    answer.send(outcome)


def _told(error: LichtspielError) -> tuple[str, Any]:
    """An error in parts that can be sent: exceptions with arguments of their own cannot."""
    if isinstance(error, RequestError):
        value = error.value if isinstance(error.value, int | float) else str(error.value)
        return "request", (error.field, value, error.rule, error.nearest)
    return ("refused", (str(error), error.rule)) if isinstance(error, Refused) else ("error", str(error))


def error_of(kind: str, answer: Any) -> LichtspielError:
    """The error that a child told of."""
    if kind == "too large":
        return TooLarge(str(answer))
    if kind == "request":
        return RequestError(*answer)
    return Refused(*answer) if kind == "refused" else MediaError(str(answer))


def _limit(limits: Limits) -> None:
    """Limit the memory and processor time of this process and lower its priority, to that of workers: at 10, other
    programs of a busy machine would leave it a tenth of a processor."""
    if hasattr(os, "nice"):
        os.nice(5)
    with contextlib.suppress(ImportError, OSError, StopIteration):  # not Linux
        import resource

        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        now = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:"))
        resource.setrlimit(resource.RLIMIT_DATA, (now + limits.memory, now + limits.memory))
        resource.setrlimit(resource.RLIMIT_CPU, (limits.cpu_seconds, limits.cpu_seconds + 5))
