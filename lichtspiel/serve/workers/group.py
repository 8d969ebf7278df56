"""A worker of several processes, each with a GPU of its own: the first claims jobs, the others denoise with it.

The first starts the others and hands them their work through their standard input. Its end tells them that the first is
gone, however that ended, and they end at once. If one of the others ends, the group is over: what the first waits for
fails, it gives its job back and ends, and the supervisor starts a new group. A first process that cannot be woken, as
when NCCL waits for a GPU that is gone, gives its job back from another thread and ends all the same.

    python -m lichtspiel.serve.workers.group      # one of the others, which the first starts
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from typing import IO, Any, TypeVar

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from lichtspiel.errors import LichtspielError
from lichtspiel.inference.follow import follow
from lichtspiel.inference.parallel import PATIENCE, Team, formed
from lichtspiel.serve.errors import GroupEnded
from lichtspiel.serve.logs import configure
from lichtspiel.serve.settings import Settings

__all__ = ["Group"]

Item = TypeVar("Item")

NOTICE = 5.0
"""Seconds in which the end of another process is noticed after what it was to compute failed."""

GRACE = 20.0
"""Seconds after which the first process ends without being asked, when another one is gone and it has not noticed."""

FAREWELL = 10.0
"""Seconds that the others have to end when they are sent home."""

HOST = "127.0.0.1"
"""All processes of a group are on one machine."""

log = logging.getLogger("lichtspiel.serve")


class Led(Team):
    """The team as its first process sees it. `torn` says that a video has begun and that not all processes have come to
    its end together, so that the next one would find them at different places."""

    def __init__(self, others: list[subprocess.Popen[bytes]]) -> None:
        super().__init__(0, 1 + len(others))
        self.others, self.torn = others, False

    def hand_out(self, work: object) -> None:
        """Give every other process the same work; None sends them home."""
        if self.torn:
            raise GroupEnded("its processes are not at the same place")
        self.torn = work is not None
        for other in self.others:
            assert other.stdin is not None
            pickle.dump(work, other.stdin)
            other.stdin.flush()

    def together(self, items: Iterable[Item]) -> Iterator[Item]:
        """See `Team.together`."""
        try:
            yield from super().together(items)
        except GeneratorExit:
            self.torn = False  # the others were told to stop
            raise
        self.torn = False


class Following(Team):
    """The team as the others see it. A thread reads what the first process writes, so that its end is noticed while
    something is computed, too."""

    def __init__(self, rank: int, size: int, source: IO[bytes]) -> None:
        super().__init__(rank, size)
        self.source, self.inbox = source, SimpleQueue[Any]()
        threading.Thread(target=self._read, daemon=True).start()

    def receive(self) -> Any:
        """The next work from the process that leads, or None if there is no more."""
        return self.inbox.get()

    def _read(self) -> None:
        while True:
            try:
                work = pickle.load(self.source)
            except (EOFError, pickle.UnpicklingError):  # it is gone, maybe in the middle of a sentence
                os._exit(1)
            self.inbox.put(work)
            if work is None:
                return


class Group:
    """The other processes of the worker with this number. `abandon` is called when the first process does not notice
    that one of them is gone, before it ends."""

    def __init__(self, settings: Settings, number: int) -> None:
        self.settings, self.number, self.size = settings, number, settings.gpus_per_job
        self.gpu = first_gpu(settings, number)
        self.abandon: Callable[[], None] = lambda: None
        self.ended, self.closing = threading.Event(), threading.Event()
        self.team = Led([])

    @contextmanager
    def at_work(self) -> Iterator[Group]:
        """Inside the block, the processes of the group are there, and pipelines that are loaded share the work."""
        store = TCPStore(HOST, 0, self.size, is_master=True, wait_for_workers=False, timeout=PATIENCE)
        others = [self._start(rank, store.port) for rank in range(1, self.size)]
        self.team = Led(others)
        for other in others:
            threading.Thread(target=self._watch, args=(other,), daemon=True).start()
        try:
            with formed(self.team, store, self.gpu):
                try:
                    yield self
                finally:
                    self._send_home()
        finally:
            self.closing.set()
            for other in others:
                with suppress(subprocess.TimeoutExpired):
                    other.wait(FAREWELL)
                other.kill()
                other.wait()
                assert other.stdin is not None
                with suppress(OSError):  # what is not sent is of no use
                    other.stdin.close()

    def check(self) -> None:
        """Raise GroupEnded if the next job could not be shared."""
        if self.ended.is_set() or self.team.torn:
            raise GroupEnded("a process of its group is gone, or not at the same place")

    def caused(self, error: BaseException) -> bool:
        """Whether an error comes from a process that is gone. It takes a moment until that is noticed."""
        if isinstance(error, LichtspielError):
            return isinstance(error, GroupEnded)
        return self.team.torn and self.ended.wait(NOTICE)

    def _start(self, rank: int, port: int) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-m", __name__], stdin=subprocess.PIPE)
        assert process.stdin is not None
        gpu = None if self.gpu is None else self.gpu + rank
        pickle.dump((self.settings, rank, port, gpu), process.stdin)
        process.stdin.flush()
        return process

    def _watch(self, other: subprocess.Popen[bytes]) -> None:
        """Wait for the end of another process. If it comes too early, wait for the first one to notice."""
        code = other.wait()
        if self.closing.is_set():
            return
        log.warning("a process of worker %s ended with %s, and so does its group", self.number, code)
        self.ended.set()
        if not self.closing.wait(GRACE):
            with suppress(Exception):
                self.abandon()
            for each in self.team.others:
                each.kill()
            os._exit(1)

    def _send_home(self) -> None:
        """Let the others end by themselves, if they can be told."""
        if self.ended.is_set() or self.team.torn:
            for other in self.team.others:
                other.kill()
            return
        self.closing.set()
        with suppress(OSError):
            self.team.hand_out(None)


def first_gpu(settings: Settings, number: int) -> int | None:
    """The GPU of the first process of a worker; the others have those behind it. None on processors. A cluster shows
    each worker only its own GPUs, so that counting begins anew there."""
    if settings.devices[number] == "cpu" or not torch.cuda.is_available():
        return None
    return number * settings.gpus_per_job % torch.cuda.device_count()


def main() -> None:
    """One of the others: denoise with the first process until it sends this one home."""
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)  # the first process decides
    source = sys.stdin.buffer
    settings, rank, port, gpu = pickle.load(source)
    configure(settings.log_json)
    team = Following(rank, settings.gpus_per_job, source)
    store = TCPStore(HOST, port, team.size, is_master=False, timeout=PATIENCE)
    try:
        with formed(team, store, gpu):
            follow(team, settings.weights or None, swappable=settings.loras is not None)
    except Exception:
        log.exception("process %s of a group cannot go on", rank)
        os._exit(1)  # without waiting for the others, who wait for this one


if __name__ == "__main__":
    main()
