"""Starting it: one process for the API and the page, one for each worker, and what keeps them running.

A worker that ends, whatever ended it, is started again; its job is taken up when its lease runs out. The API is open
while a model loads.
"""

from __future__ import annotations

import logging
import multiprocessing
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import uvicorn

from lichtspiel.errors import OutOfMemory
from lichtspiel.serve.app import create_app
from lichtspiel.serve.files import Files
from lichtspiel.serve.jobs import Jobs
from lichtspiel.serve.keys import Keys
from lichtspiel.serve.settings import Settings
from lichtspiel.serve.state import Server

__all__ = ["Workers", "open_server", "serve", "work"]

RESTART = 1.0
"""Seconds before a worker that ended is started again; twice as long each time it ends within a minute, up to 60."""

SWEEP = 60.0
"""Seconds between two looks for jobs whose time is over."""

log = logging.getLogger("lichtspiel.serve")

States = SimpleQueue[tuple[int, str]]


def work(settings: Settings, number: int, states: States | None = None) -> None:
    """The life of a worker process; ends when it is told to (SIGTERM), or after it ran out of memory."""
    from lichtspiel.serve.worker import Worker  # torch: only here

    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the server, which then tells its workers
    threading.Thread(target=_stop_with_server, args=(stop,), daemon=True).start()
    jobs = Jobs.open(settings.database, queue_limit=settings.queue_limit)
    say: Callable[[str], None] = (lambda state: states.put((number, state))) if states else lambda state: None
    say("loading")
    worker = Worker(settings, settings.devices[number], jobs, Files(settings.storage), say)
    try:
        worker.run(stop)
    except OutOfMemory:
        log.warning("worker %s ran out of memory and starts anew", number)
    finally:
        jobs.close()


def _stop_with_server(stop: threading.Event) -> None:
    """A server that was killed tells nobody; the next one has workers of its own."""
    server = multiprocessing.parent_process()
    if server is not None:
        server.join()
        stop.set()


class Workers:
    """The worker processes of one machine. `state` tells what each is doing, by its number."""

    def __init__(self, settings: Settings, state: dict[int, str]) -> None:
        self.settings, self.state = settings, state
        self.context = multiprocessing.get_context("spawn")
        self.states: States = self.context.SimpleQueue()
        self.processes: dict[int, BaseProcess] = {}
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=self._listen, daemon=True)]
        numbers = range(len(settings.devices))
        self.threads += [threading.Thread(target=self._keep, args=(number,), daemon=True) for number in numbers]

    def start(self) -> None:
        """Start all of them."""
        for number in range(len(self.settings.devices)):
            self.state[number] = "starting"
        for thread in self.threads:
            thread.start()

    def stop(self, patience: float = 10.0) -> None:
        """Tell all of them to stop after the step they are in, and end those that do not."""
        self.stopping.set()
        for process in [*self.processes.values()]:
            process.terminate()
        until = time.monotonic() + patience
        for process in [*self.processes.values()]:
            process.join(max(until - time.monotonic(), 0.1))
            if process.is_alive():
                process.kill()
                process.join()
        self.states.put((-1, ""))

    def _keep(self, number: int) -> None:
        """Start a worker, and start it again whenever it ends."""
        pause = RESTART
        while not self.stopping.is_set():
            began = time.monotonic()
            process = self.context.Process(
                target=work, args=(self.settings, number, self.states), name=f"worker-{number}", daemon=True
            )
            process.start()
            self.processes[number] = process
            if self.stopping.is_set():
                process.terminate()
            process.join()
            self.state[number] = "starting"
            if self.stopping.is_set():
                return
            pause = RESTART if time.monotonic() - began > 60 else min(2 * pause, 60.0)
            log.warning("worker %s ended with %s and starts anew in %.0f s", number, process.exitcode, pause)
            self.stopping.wait(pause)

    def _listen(self) -> None:
        while not self.stopping.is_set():
            number, state = self.states.get()
            if number >= 0:
                self.state[number] = state


def open_server(settings: Settings) -> Server:
    """Everything that the API needs, without a worker."""
    database = settings.database
    if database.startswith("sqlite:///"):
        Path(database.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    jobs = Jobs.open(database, queue_limit=settings.queue_limit, keep_seconds=settings.keep_days * 86400)
    return Server(settings, jobs, Files(settings.storage), Keys(jobs))


def sweep(server: Server) -> int:
    """Remove jobs whose time is over, files first; returns how many."""
    gone = server.jobs.expired()
    for job in gone:
        server.remove(job)
        server.jobs.forget(job.id)
    return len(gone)


def serve(settings: Settings) -> None:
    """Serve until Ctrl-C or SIGTERM."""
    server = open_server(settings)
    workers = Workers(settings, server.workers)
    over = threading.Event()

    def sweeping() -> None:
        while not over.wait(SWEEP):
            try:
                sweep(server)
            except Exception:  # tried again in a minute
                log.exception("jobs whose time is over could not be removed")

    workers.start()
    threading.Thread(target=sweeping, daemon=True).start()
    try:
        uvicorn.run(
            create_app(server), host=settings.host, port=settings.port, log_level="warning", access_log=False,
            server_header=False, timeout_graceful_shutdown=5,
        )  # fmt: skip
    finally:
        over.set()
        workers.stop()
        server.jobs.close()
