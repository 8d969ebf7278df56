"""Verification of untrusted files, each in a child process with limited memory and time, and only a few at once.

A video of a few kilobytes can decode to gigabytes, so the process that serves the API must not read it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from lichtspiel.errors import LichtspielError, MediaError, OutOfMemory
from lichtspiel.serve.errors import TooBusy, TooLarge
from lichtspiel.storage import home, use_home

__all__ = ["Detector"]

MEMORY = 800_000_000
"""How many bytes one verification may take in addition to the libraries."""

SECONDS, CPU_SECONDS = 300.0, 60
"""How long one verification may take, by the clock and of a processor. On a busy machine the clock says little."""

AT_ONCE, WAITING = 1, 3
"""How many verifications run at once, and how many requests may wait. Each holds one of the eight threads that read
bodies, and half of these stay for jobs."""

PRELOADED = ["lichtspiel.seal.verify", "lichtspiel.seal.detect", "numpy", "cv2", "av", "PIL.Image"]


class Detector:
    """Runs `lichtspiel.seal.verify` in child processes. Threads may share one detector."""

    def __init__(self) -> None:
        forks = "forkserver" in multiprocessing.get_all_start_methods()
        self._context: Any = multiprocessing.get_context("forkserver" if forks else "spawn")
        if forks:
            self._context.set_forkserver_preload(PRELOADED)
        self._slots = threading.BoundedSemaphore(AT_ONCE)
        self._waiting = threading.BoundedSemaphore(AT_ONCE + WAITING)

    def verify(self, path: Path) -> dict[str, Any]:
        """The report on a file, without this installation's record of it.

        Raises TooBusy if too many requests wait, TooLarge if the file takes more memory or time than is allowed, and
        MediaError if it cannot be read.
        """
        if not self._waiting.acquire(blocking=False):
            raise TooBusy("too many files are being verified", retry_after=10)
        try:
            with self._slots:
                kind, answer = self._run(path)
        finally:
            self._waiting.release()
        if kind == "report":
            report: dict[str, Any] = answer
            return report
        raise TooLarge(str(answer)) if kind == "too large" else MediaError(str(answer))

    def _run(self, path: Path) -> tuple[str, Any]:
        receiver, sender = self._context.Pipe(duplex=False)
        child = self._context.Process(target=_verify, args=(str(path), str(home()), MEMORY, sender), daemon=True)
        child.start()
        sender.close()
        try:
            if receiver.poll(SECONDS):
                answer: tuple[str, Any] = receiver.recv()
                return answer
            return "too large", f"file: it takes more than {SECONDS:.0f} seconds to verify; run `lichtspiel verify`"
        except EOFError:  # it was killed, or a library crashed it
            child.join()
            if child.exitcode == -getattr(signal, "SIGXCPU", 0):
                return "too large", f"file: it takes more than {CPU_SECONDS} seconds to verify; run `lichtspiel verify`"
            return "too large", "file: verifying it failed for lack of memory; run `lichtspiel verify` on it"
        finally:
            receiver.close()
            child.kill()
            child.join()


def _verify(path: str, data_folder: str, memory: int, answer: Connection) -> None:
    from lichtspiel.seal.verify import verify  # in the child only

    # The server that forks the children has the environment of the moment at which it was started.
    use_home(data_folder)
    _limit(memory)
    outcome: tuple[str, Any]
    try:
        outcome = "report", verify(path, with_record=False).to_json()
    except LichtspielError as error:
        # FFmpeg reports these when it cannot allocate memory for a frame or a thread.
        words = ("Cannot allocate memory", "Resource temporarily unavailable")
        short = isinstance(error, OutOfMemory) or any(word in str(error) for word in words)
        text = f"file: it takes more than {memory // 1_000_000} MB of memory to verify; run `lichtspiel verify` on it"
        outcome = ("too large", text) if short else ("error", str(error))
    answer.send(outcome)


def _limit(memory: int) -> None:
    """Limit the memory and processor time of this process and lower its priority, to that of workers: at 10, other
    programs of a busy machine would leave it a tenth of a processor."""
    if hasattr(os, "nice"):
        os.nice(5)
    with contextlib.suppress(ImportError, OSError, StopIteration):  # not Linux
        import resource

        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        now = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:"))
        resource.setrlimit(resource.RLIMIT_DATA, (now + memory, now + memory))
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 5))
