"""Start a server: one process for the API and the page, plus workers. The API answers while models still load."""

from __future__ import annotations

import errno
import logging
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection

import uvicorn
from fastapi import FastAPI

from lichtspiel.errors import InvalidInput
from lichtspiel.policy import judge_prompt
from lichtspiel.serve import webhooks
from lichtspiel.serve.api.app import create_app
from lichtspiel.serve.api.body import sweep_uploads
from lichtspiel.serve.api.state import Server
from lichtspiel.serve.connections import CONNECTIONS, PatientProtocol
from lichtspiel.serve.logs import configure
from lichtspiel.serve.queue import scratch
from lichtspiel.serve.queue.api_keys import Keys
from lichtspiel.serve.queue.storage import Files
from lichtspiel.serve.queue.webhooks import Webhooks
from lichtspiel.serve.settings import Settings
from lichtspiel.serve.workers.supervisor import Backend, Processes, Workers, open_jobs, starting
from lichtspiel.spec import model
from lichtspiel.storage import home, use_home

__all__ = ["open_server", "serve", "sweep"]

SWEEP = 60.0
"""Seconds between two searches for expired jobs."""

log = logging.getLogger("lichtspiel.serve")


def open_server(settings: Settings) -> Server:
    """Open everything that the API needs, without starting workers."""
    jobs = open_jobs(settings)
    return Server(settings, jobs, Files(settings.storage), Keys(jobs))


def sweep(server: Server) -> int:
    """Remove expired jobs, files first, and the scratch folders of killed workers; returns the number of jobs."""
    scratch.sweep(server.jobs)
    gone = server.jobs.expired()
    for job in gone:
        server.remove(job)
        server.jobs.forget(job.id)
    return len(gone)


def serve(
    settings: Settings, backend: Backend | None = None, announce: Callable[[str], None] = lambda address: None
) -> None:
    """Serve until Ctrl-C or SIGTERM. Without a `backend`, workers run on this machine.

    `announce` is called with the URL once the socket is bound. Raises InvalidInput for models that this machine cannot
    load and for an address that cannot be bound.
    """
    configure(settings.log_json)
    if backend is None:
        check_models(settings)
    server = open_server(settings)
    sweep_uploads()
    jobs = server.jobs
    workers = Workers(
        settings, server.workers, backend or Processes(), lambda: jobs.counts()["queued"], jobs.let_go
    )  # fmt: skip
    over = threading.Event()

    def sweeping() -> None:
        while not over.wait(SWEEP):
            try:
                sweep(server)
            except Exception:  # tried again in a minute
                log.exception("jobs whose time is over could not be removed")

    app = create_app(server)
    _warm(server, app)
    with bind(settings.host, settings.port) as listener:
        announce(address_of(listener))
        workers.start()
        threading.Thread(target=sweeping, daemon=True).start()
        threading.Thread(target=webhooks.run, args=(Webhooks(server.jobs), over), daemon=True).start()
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=5,
            http=PatientProtocol,
            limit_concurrency=CONNECTIONS,
            ws="none",
        )
        try:
            with suppress(KeyboardInterrupt):  # it raises once more what it was stopped by
                uvicorn.Server(config).run(sockets=[listener])
        finally:
            over.set()
            workers.stop()
            server.tracing.close()
            server.jobs.close()


def bind(host: str, port: int) -> socket.socket:
    """Bind a socket to the address. Raises InvalidInput if it is in use or does not belong to this machine."""
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, _, _, address = addresses[0]
        listener = socket.socket(family, kind)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        remedy = "choose another with --port, or 0 for any" if taken else "see --host and --port"
        raise InvalidInput(f"cannot listen on {host}, port {port}: {error.strerror}; {remedy}") from None
    return listener


def address_of(listener: socket.socket) -> str:
    """The URL of a bound socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def check_models(settings: Settings) -> None:
    """Raise InvalidInput if the offered models cannot be loaded on the workers' devices.

    The check needs PyTorch, which this process does not import, so a child process does it. It is skipped for models
    that ship with the package on devices that every machine has.
    """
    shipped = not settings.weights and all(model(name).embedded for name in settings.models)
    devices = sorted({*settings.devices} - ({"auto", "cpu"} if shipped else set()))
    if not devices and settings.gpus_per_job == 1:
        return
    context = starting()
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_check_models, args=(settings, devices, str(home()), sender), daemon=True)
    child.start()
    sender.close()
    try:
        problem = receiver.recv()
    except EOFError:  # it died, for example for lack of memory; the workers will report why
        problem = None
    child.join()
    if problem is not None:
        raise InvalidInput(problem)


def _check_models(settings: Settings, devices: Sequence[str], data_folder: str, answer: Connection) -> None:
    from lichtspiel.serve.workers import faults  # imports torch, so only here

    use_home(data_folder)  # as for workers
    problem = None
    try:
        faults.check_groups(settings)
        for device in devices:
            faults.check_models(settings, device)
    except InvalidInput as error:
        problem = str(error)
    answer.send(problem)


def _warm(server: Server, app: FastAPI) -> None:
    """Do now what would delay the first clients: read the policy rules, and build the endpoints and the SQL."""
    judge_prompt("", has_image=False)
    app.openapi()
    server.jobs.positions()
    server.jobs.page(None, limit=1)
