"""Workers as actors of a Ray cluster, which decides on what machine each runs, and may start machines for them.

Nothing else changes: jobs are taken from the database, so it does not matter to a job what kind of worker makes it.
"""

from __future__ import annotations

import logging
import os
import threading
from typing import Any, cast

from lichtspiel.errors import InvalidInput
from lichtspiel.serve.settings import Settings
from lichtspiel.serve.workers.supervisor import States, WorkerHandle, run_worker

# Ray reports how it is used to its makers unless it is told not to; a server of videos tells nobody anything.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
from ray.util.queue import Queue

__all__ = ["Cluster", "check_shared", "resources"]


class Cluster:
    """Workers on the Ray cluster at `address`: "auto" for the one that this machine belongs to, ray://HOST:10001 for
    another, "local" for one of its own.

    Raises InvalidInput when there is none, or when its machines could not share the database.
    """

    def __init__(self, address: str, settings: Settings) -> None:
        dashboard = False if address == "local" else None
        try:
            ray.init(address, logging_level=logging.WARNING, include_dashboard=dashboard)
        except (ConnectionError, ValueError) as error:
            raise InvalidInput(
                f"no Ray cluster at {address} ({error}); start one with `ray start --head`, or give --ray local"
            ) from error
        check_shared(settings, sum(node["Alive"] for node in ray.nodes()))  # type: ignore[no-untyped-call]
        self.states: States = Queue(actor_options={"num_cpus": 0})

    def start(self, settings: Settings, number: int) -> WorkerHandle:
        """Ask the cluster for one of them; it starts when there is room for it."""
        return ActorHandle(settings, number, self.states)

    def close(self) -> None:
        """Leave the cluster, or end it if it is this server's own."""
        ray.shutdown()


def check_shared(settings: Settings, machines: int) -> None:
    """Raise InvalidInput if workers elsewhere could not reach what they share, or are told which GPU to take."""
    for device in settings.devices:
        if device.startswith("cuda:"):
            raise InvalidInput(f"device: {device} is not valid: the cluster chooses the GPU; nearest valid value: cuda")
    if machines > 1 and settings.database.startswith("sqlite"):
        raise InvalidInput(
            f"the cluster has {machines} machines and SQLite is a file of one: give --database postgresql://… and "
            "--storage with a folder or bucket that all of them reach"
        )


def resources(device: str, cores: int) -> dict[str, float]:
    """What a worker for a device asks the cluster for. Ray gives PyTorch as many threads as it was asked for cores."""
    if device == "auto":
        available: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        device = "cuda" if available.get("GPU", 0) >= 1 else "cpu"
    return {"num_cpus": cores, "num_gpus": 1 if device == "cuda" else 0}


class ActorWorker:
    """A worker inside the cluster."""

    def __init__(self) -> None:
        self.over = threading.Event()

    def run(self, settings: Settings, number: int, states: States) -> None:
        """Work until told to stop."""
        run_worker(settings, number, self.over, states)

    def stop(self) -> None:
        """Stop after the step it is in."""
        self.over.set()


class ActorHandle:
    """A worker as the server sees it; see `WorkerHandle`."""

    def __init__(self, settings: Settings, number: int, states: States) -> None:
        options = resources(settings.devices[number], settings.cores)
        self.actor = cast("Any", ray.remote(ActorWorker).options(max_concurrency=2, **options).remote())
        self.running = self.actor.run.remote(settings, number, states)

    @property
    def exitcode(self) -> object:
        """0 after a normal end, else the name of the error that ended it."""
        try:
            ray.get(self.running, timeout=0)
        except Exception as error:
            return type(error).__name__
        return 0

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended, at most `timeout` seconds, then free its process."""
        ray.wait([self.running], timeout=timeout)
        if not self.is_alive():
            self.kill()

    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return not ray.wait([self.running], timeout=0)[0]

    def terminate(self) -> None:
        """Ask it to stop after its current step."""
        self.actor.stop.remote()

    def kill(self) -> None:
        """Stop it at once."""
        ray.kill(self.actor)
