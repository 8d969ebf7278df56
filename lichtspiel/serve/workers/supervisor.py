"""The supervisor: keeps the desired number of workers running, each in its own process, on this machine or elsewhere.

A worker that exits for any reason is restarted, and the lease of its job ends at once, so that the job is claimed
again. If the maximum number of workers is above the minimum, waiting jobs start more of them, and idle ones are stopped
again.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any, Protocol

from lichtspiel.errors import OutOfMemory
from lichtspiel.serve.errors import GroupEnded
from lichtspiel.serve.logs import configure
from lichtspiel.serve.queue.jobs import Jobs
from lichtspiel.serve.queue.leases import new_name
from lichtspiel.serve.queue.storage import Files
from lichtspiel.serve.settings import Settings
from lichtspiel.storage import home, use_home

if TYPE_CHECKING:
    from lichtspiel.serve.workers.group import Group

__all__ = [
    "Backend", "Processes", "States", "WorkerHandle", "Workers", "desired_workers", "open_jobs",
    "run_worker", "starting",
]  # fmt: skip

PRELOADED = ["lichtspiel.serve.workers.worker"]
"""What the process has loaded of which workers are copies."""

RESTART = 1.0
"""Seconds before a worker is restarted; doubles each time it exits within a minute, up to 60."""

LOOK = 2.0
"""Seconds between two looks at the queue, when the number of workers depends on it."""

QUIET = 60.0
"""Seconds without a job after which an extra worker is stopped."""

NICE = 5
"""The niceness of workers: the API gets the processor first, because an answer is short and a video is not. Linux gives
a process at 5 a third of the time that it gives one at 0, and a process at 19 a seventieth, so that any other program
on the machine would bring the videos to a halt."""

log = logging.getLogger("lichtspiel.serve")


class WorkerHandle(Protocol):
    """A running worker on any backend; has the interface of `multiprocessing.Process`."""

    @property
    def exitcode(self) -> object:
        """How it exited."""

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has exited, for at most `timeout` seconds."""

    def is_alive(self) -> bool:
        """Whether it is still running."""

    def terminate(self) -> None:
        """Ask it to stop after its current step."""

    def kill(self) -> None:
        """Stop it at once."""


class States(Protocol):
    """The channel through which workers report their number and state to the server."""

    def put(self, item: tuple[int, str], /) -> None:
        """Report a state."""

    def get(self) -> tuple[int, str]:
        """Wait for the next report."""


class Backend(Protocol):
    """Where workers run."""

    @property
    def states(self) -> States:
        """The channel through which its workers report their states."""

    def start(self, settings: Settings, number: int, name: str) -> WorkerHandle:
        """Start the worker with this number. `name` stands with the jobs that it holds."""

    def close(self) -> None:
        """Release the backend; no more workers will be started."""


def open_jobs(settings: Settings) -> Jobs:
    """Open the queue of a server. Each worker opens it for itself."""
    return Jobs.open(settings.database, queue_limit=settings.queue_limit, keep_seconds=settings.keep_days * 86400)


def run_worker(settings: Settings, number: int, name: str, stop: threading.Event, states: States) -> None:
    """Run a worker in this process until `stop` is set or it runs out of memory."""
    from lichtspiel.serve.workers.worker import Worker  # imports torch, so only here

    configure(settings.log_json)
    jobs = open_jobs(settings)
    states.put((number, "loading"))
    device, files = settings.devices[number], Files(settings.storage)
    worker = Worker(settings, device, jobs, files, lambda state: states.put((number, state)), name)
    try:
        with _group(settings, number, worker.abandon) as worker.group:
            worker.run(stop)
    except OutOfMemory:
        log.warning("worker %s ran out of memory and starts anew", number)
    except GroupEnded as error:
        log.warning("worker %s starts anew: %s", number, error)
    finally:
        worker.tracing.close()
        jobs.close()


@contextmanager
def _group(settings: Settings, number: int, abandon: Callable[[], None]) -> Iterator[Group | None]:
    """The other processes of this worker, if it has more than one; see `Group` for `abandon`."""
    if settings.gpus_per_job == 1:
        yield None
        return
    from lichtspiel.serve.workers.group import Group

    group = Group(settings, number)
    group.abandon = abandon
    with group.at_work():
        yield group


class Processes:
    """Workers as processes on this machine."""

    def __init__(self) -> None:
        self.context = starting()
        self.states: States = self.context.SimpleQueue()

    def start(self, settings: Settings, number: int, name: str) -> WorkerHandle:
        """Start the worker with this number."""
        arguments = settings, number, name, self.states, str(home())
        process: BaseProcess = self.context.Process(target=_work, args=arguments, name=f"worker-{number}", daemon=True)
        process.start()
        return process

    def close(self) -> None:
        """Do nothing: processes that have exited leave nothing to release."""


def starting() -> Any:
    """The way in which processes with PyTorch start. On Linux they are copies of a process that has loaded it, so that
    a worker that is started again is there at once. Frameworks of macOS do not work in a copy."""
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def _work(settings: Settings, number: int, name: str, states: States, data_folder: str) -> None:
    # What it is a copy of has the environment of the moment at which it was started.
    use_home(data_folder)
    if hasattr(os, "nice"):
        os.nice(NICE)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the server too, which then stops its workers
    threading.Thread(target=_stop_with_server, args=(stop,), daemon=True).start()
    run_worker(settings, number, name, stop, states)


def _stop_with_server(stop: threading.Event) -> None:
    """Stop once the server process is gone. A killed server cannot stop its workers; the next one starts its own."""
    server = multiprocessing.parent_process()
    if server is not None:
        server.join()
        stop.set()


def desired_workers(least: int, most: int, busy: int, waiting: int) -> int:
    """How many workers there should be: one per running or waiting job, within the bounds."""
    return max(least, min(most, busy + waiting))


class Workers:
    """The workers of one server. `state` maps the number of a worker to its state; `waiting` counts waiting jobs, and
    `gone` is told the name of a worker that has ended."""

    def __init__(
        self,
        settings: Settings,
        state: dict[int, str],
        backend: Backend,
        waiting: Callable[[], int],
        gone: Callable[[str], None],
    ) -> None:
        self.settings, self.state, self.backend, self.waiting, self.gone = settings, state, backend, waiting, gone
        self.started: dict[int, WorkerHandle] = {}
        self.retired: set[int] = set()
        self.stopping = threading.Event()

    def start(self) -> None:
        """Start the minimum number of workers; if more are allowed, also start to follow the queue."""
        threading.Thread(target=self._listen, daemon=True).start()
        for number in range(self.settings.min_workers):
            self._add(number)
        if self.settings.min_workers < len(self.settings.devices):
            threading.Thread(target=self._follow, daemon=True).start()

    def stop(self, patience: float = 10.0) -> None:
        """Ask all workers to stop after their current step; after `patience` seconds, kill those still running."""
        self.stopping.set()
        for worker in [*self.started.values()]:
            worker.terminate()
        until = time.monotonic() + patience
        for worker in [*self.started.values()]:
            worker.join(max(until - time.monotonic(), 0.1))
            if worker.is_alive():
                worker.kill()
                worker.join()
        self.backend.states.put((-1, ""))
        self.backend.close()

    def _add(self, number: int) -> None:
        self.state[number] = "starting"
        threading.Thread(target=self._keep, args=(number,), daemon=True).start()

    def _keep(self, number: int) -> None:
        """Start a worker, and restart it whenever it exits."""
        pause = RESTART
        while not self.stopping.is_set() and number not in self.retired:
            began = time.monotonic()
            name = new_name(self.settings.devices[number])
            ended = self._run(number, name)
            if self.stopping.is_set():
                return
            try:
                self.gone(name)
            except Exception:  # the database is briefly unavailable; the leases run out by themselves
                log.exception("the jobs of worker %s could not be let go", number)
            if number not in self.retired:
                self.state[number] = "starting"
                pause = RESTART if time.monotonic() - began > 60 else min(2 * pause, 60.0)
                log.warning("worker %s ended with %s and starts anew in %.0f s", number, ended, pause)
                self.stopping.wait(pause)
        self.started.pop(number, None)
        self.retired.discard(number)
        del self.state[number]

    def _run(self, number: int, name: str) -> object:
        """Start a worker and wait until it exits; returns how it exited."""
        try:
            worker = self.started[number] = self.backend.start(self.settings, number, name)
            if self.stopping.is_set():
                worker.terminate()
            worker.join()
            return worker.exitcode
        except Exception as error:  # the backend, such as a cluster, cannot be reached
            return error

    def _follow(self) -> None:
        """Every `LOOK` seconds, start workers for waiting jobs and stop idle ones."""
        idle: dict[int, float] = {}
        while not self.stopping.wait(LOOK):
            try:
                waiting = self.waiting()
            except Exception:  # the database is briefly unavailable
                log.exception("the queue could not be counted")
                continue
            now, states = time.monotonic(), dict(self.state)
            idle = {number: idle.get(number, now) for number, state in states.items() if state == "ready"}
            count = desired_workers(
                self.settings.min_workers, len(self.settings.devices), len(states) - len(idle), waiting
            )
            free = (number for number in range(len(self.settings.devices)) if number not in states)
            for _ in range(count - len(states)):
                self._add(next(free))
            for number in sorted(idle, reverse=True)[: max(len(states) - count, 0)]:
                if now - idle[number] >= QUIET:
                    idle.pop(number)
                    self.retired.add(number)
                    self.started[number].terminate()

    def _listen(self) -> None:
        while not self.stopping.is_set():
            number, state = self.backend.states.get()
            if number in self.state:
                self.state[number] = state
