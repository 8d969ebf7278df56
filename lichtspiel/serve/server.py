"""Starting it: one process for the API and the page, and workers beside it. The API is open while a model loads."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from lichtspiel.policy import judge_prompt
from lichtspiel.serve.api.app import create_app
from lichtspiel.serve.api.state import Server
from lichtspiel.serve.queue.api_keys import Keys
from lichtspiel.serve.queue.jobs import Jobs
from lichtspiel.serve.queue.storage import Files
from lichtspiel.serve.settings import Settings
from lichtspiel.serve.workers.supervisor import Backend, Processes, Workers

__all__ = ["open_server", "serve", "sweep"]

SWEEP = 60.0
"""Seconds between two looks for jobs whose time is over."""

log = logging.getLogger("lichtspiel.serve")


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


def serve(settings: Settings, backend: Backend | None = None) -> None:
    """Serve until Ctrl-C or SIGTERM, with workers on this machine if no other backend is given."""
    server = open_server(settings)
    workers = Workers(settings, server.workers, backend or Processes(), lambda: server.jobs.counts()["queued"])
    over = threading.Event()

    def sweeping() -> None:
        while not over.wait(SWEEP):
            try:
                sweep(server)
            except Exception:  # tried again in a minute
                log.exception("jobs whose time is over could not be removed")

    app = create_app(server)
    _warm(server, app)
    workers.start()
    threading.Thread(target=sweeping, daemon=True).start()
    try:
        uvicorn.run(
            app, host=settings.host, port=settings.port, log_level="warning", access_log=False,
            server_header=False, timeout_graceful_shutdown=5,
        )  # fmt: skip
    finally:
        over.set()
        workers.stop()
        server.jobs.close()


def _warm(server: Server, app: FastAPI) -> None:
    """What is done at first use, the first clients need not wait for: reading the rules, building endpoints and SQL."""
    judge_prompt("", has_image=False)
    app.openapi()
    server.jobs.positions()
    server.jobs.page(None, limit=1)
