"""Workers as actors on a Ray cluster, which decides where each one runs and may start machines for them.

Nothing else changes: workers take their jobs from the database, so it does not matter what kind of worker runs a job.
"""

from __future__ import annotations

import threading
from typing import Any, cast

import ray
from ray.util.queue import Queue

from lichtspiel.cluster import join
from lichtspiel.errors import InvalidInput
from lichtspiel.serve.settings import Settings
from lichtspiel.serve.workers.supervisor import States, WorkerHandle, run_worker

__all__ = ["Cluster", "check_shared", "resources"]


class Cluster:
    """Workers on the Ray cluster at `address`.

    `address` is "auto" for the cluster that this machine belongs to, ray://HOST:10001 for another one, or "local" to
    start one. Raises InvalidInput if there is no cluster, or if its machines could not share the database.
    """

    def __init__(self, address: str, settings: Settings) -> None:
        join(address, show_logs=True)
        check_shared(settings, sum(node["Alive"] for node in ray.nodes()))  # type: ignore[no-untyped-call]
        self.states: States = Queue(actor_options={"num_cpus": 0})

    def start(self, settings: Settings, number: int, name: str) -> WorkerHandle:
        """Request a worker from the cluster; it starts once there is room for it."""
        return ActorHandle(settings, number, name, self.states)

    def close(self) -> None:
        """Leave the cluster, or shut it down if this server started it."""
        ray.shutdown()


def check_shared(settings: Settings, machines: int) -> None:
    """Raise InvalidInput if workers on other machines could not reach the database, or if a device names a GPU."""
    for device in settings.devices:
        if device.startswith("cuda:"):
            raise InvalidInput(f"device: {device} is not valid: the cluster chooses the GPU; nearest valid value: cuda")
    if machines > 1 and settings.database.startswith("sqlite"):
        raise InvalidInput(
            f"the cluster has {machines} machines and SQLite is a file of one: give --database postgresql://… and "
            "--storage with a folder or bucket that all of them reach"
        )


def resources(device: str, cores: int, gpus: int = 1) -> dict[str, float]:
    """The resources to request for a worker; its GPUs are all of one machine. Ray gives PyTorch as many threads as the
    worker has cores."""
    if device == "auto":
        available: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        device = "cuda" if available.get("GPU", 0) >= 1 else "cpu"
    return {"num_cpus": cores, "num_gpus": gpus if device == "cuda" else 0}


class ActorWorker:
    """The actor: a worker inside the cluster."""

    def __init__(self) -> None:
        self.over = threading.Event()

    def run(self, settings: Settings, number: int, name: str, states: States) -> None:
        """Work until `stop` is called."""
        run_worker(settings, number, name, self.over, states)

    def stop(self) -> None:
        """Stop after the current step."""
        self.over.set()


class ActorHandle:
    """A worker as the server sees it; see `WorkerHandle`."""

    def __init__(self, settings: Settings, number: int, name: str, states: States) -> None:
        options = resources(settings.devices[number], settings.cores, settings.gpus_per_job)
        self.actor = cast("Any", ray.remote(ActorWorker).options(max_concurrency=2, **options).remote())
        self.running = self.actor.run.remote(settings, number, name, states)

    @property
    def exitcode(self) -> object:
        """0 after a normal exit, otherwise the name of the exception that ended it."""
        try:
            ray.get(self.running, timeout=0)
        except Exception as error:
            return type(error).__name__
        return 0

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has exited, for at most `timeout` seconds; then free its process."""
        ray.wait([self.running], timeout=timeout)
        if not self.is_alive():
            self.kill()

    def is_alive(self) -> bool:
        """Whether it is still running."""
        return not ray.wait([self.running], timeout=0)[0]

    def terminate(self) -> None:
        """Ask it to stop after its current step."""
        self.actor.stop.remote()

    def kill(self) -> None:
        """Stop it at once."""
        ray.kill(self.actor)
