"""A live server for tests: the real application on a port of this machine, and a real worker in a thread."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import httpx
import uvicorn
from openai import OpenAI

from lichtspiel.inference.pipeline import Pipeline
from lichtspiel.request import Request
from lichtspiel.serve.api.app import create_app
from lichtspiel.serve.api.state import Server
from lichtspiel.serve.connections import PatientProtocol
from lichtspiel.serve.server import open_server
from lichtspiel.serve.settings import Settings
from lichtspiel.serve.workers.worker import Worker

PROMPT = "a turtle walks on the beach at night"
SMALL = {"steps": 1, "frames": 5, "upscale": 1}
CLIENTS: list[OpenAI] = []
TRUST = httpx.create_ssl_context()
HTTP = httpx.Client(timeout=60, verify=TRUST, limits=httpx.Limits(max_keepalive_connections=0))
"""Asks servers. Made once, because that takes longer than most answers. It is patient: a server in the same process
waits while a model loads."""


def settings(folder: Path, weights: Path, **changes: object) -> Settings:
    plain = {"database": f"sqlite:///{folder / 'jobs.sqlite'}", "storage": str(folder / "files"), "weights": (weights,)}
    return Settings(**{**plain, "devices": ("cpu",), **changes})  # type: ignore[arg-type]


def worker(server: Server) -> Worker:
    return Worker(server.settings, "cpu", server.jobs, server.files)


class Warm(Worker):
    """A worker after its first job: it begins with the weights that the last such worker has loaded."""

    last: ClassVar[dict[object, Pipeline]] = {}

    def _pipeline(self, request: Request) -> Pipeline:
        key = self.settings.weights, self.settings.loras
        self.pipeline = self.pipeline or self.last.get(key)
        self.last.clear()
        self.last[key] = found = super()._pipeline(request)
        return found


def warm(server: Server) -> Warm:
    """For tests that need something made and are not about how its models are loaded."""
    return Warm(server.settings, "cpu", server.jobs, server.files)


def port_of(runner: uvicorn.Server) -> int:
    """The port that the system chose for a server that was started on port 0."""
    return int(runner.servers[0].sockets[0].getsockname()[1])


def free_port() -> int:
    """A port that nobody uses now, for a program that has to be told one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def live(chosen: Settings) -> Iterator[tuple[Server, str]]:
    """The application without a worker, and its address."""
    server = open_server(chosen)
    config = uvicorn.Config(create_app(server), port=0, log_level="warning", ws="none", http=PatientProtocol)
    runner = uvicorn.Server(config)
    thread = threading.Thread(target=runner.run, daemon=True)
    thread.start()
    while not runner.started:
        time.sleep(0.01)
    try:
        yield server, f"http://127.0.0.1:{port_of(runner)}"
    finally:
        while CLIENTS:
            CLIENTS.pop().close()
        runner.should_exit = True
        thread.join()
        server.jobs.close()


@contextmanager
def working(server: Server) -> Iterator[Worker]:
    """A worker that takes jobs as they come."""
    stop, found = threading.Event(), warm(server)
    thread = threading.Thread(target=found.run, args=(stop,), kwargs={"idle": 0.05}, daemon=True)
    server.workers[0] = "ready"
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()


def client(address: str, key: str = "unused") -> OpenAI:
    """OpenAI's own client; its connections end with the server."""
    http = httpx.Client(verify=TRUST, follow_redirects=True)
    made = OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0, timeout=60, http_client=http)
    CLIENTS.append(made)
    return made
