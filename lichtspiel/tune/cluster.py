"""One run shared out over workers of a Ray cluster, on one machine or on many, as over the processes of `torchrun`.

Every worker is an actor with a GPU of its own, or with one core of a processor; together they are a process group, and
each runs the same job in it. The data and the folder of the run have to be where all of them reach them. What is known
of the work itself is in `workflow`.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from lichtspiel.errors import InvalidInput, LichtspielError
from lichtspiel.tune.prepare import Observe
from lichtspiel.tune.run import Outcome
from lichtspiel.tune.workflow import Job, tune

# Ray sends usage statistics to its developers by default; this package sends nothing to anybody.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

__all__ = ["tune_on_ray"]


class _Worker:
    """The actor: one process of the run."""

    def meeting(self) -> str:
        """An address of this machine with a free port, where the workers meet."""
        import ray

        with socket.socket() as chosen:
            chosen.bind(("", 0))
            here: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
            return f"tcp://{here}:{chosen.getsockname()[1]}"

    def train(self, job: Job, rank: int, workers: int, meeting: str) -> Outcome | LichtspielError:
        """Run the job as one of several; an error of a user comes back as a value, with its words."""
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, init_method=meeting, rank=rank, world_size=workers)
        try:
            return tune(job)
        except LichtspielError as error:
            return error
        finally:
            dist.destroy_process_group()


def tune_on_ray(job: Job, address: str, workers: int, observe: Observe) -> Outcome:
    """Run a job with some workers of the cluster at `address`: "auto" for the one of this machine, ray://HOST:10001, or
    "local" for a new one.

    Raises InvalidInput if there is no such cluster or it has too little room, and what `tune` raises.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise InvalidInput("--ray needs Ray: pip install 'lichtspiel[cluster]'") from error
    if workers < 1:
        raise InvalidInput(f"--workers {workers} is not valid; use a whole number from 1")
    started = not ray.is_initialized()
    if started:
        _join(address, workers)
    try:
        available: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        kind = "GPU" if job.device != "cpu" and available.get("GPU", 0) >= 1 else "CPU"
        if available.get(kind, 0) < workers:
            raise InvalidInput(
                f"--workers {workers} need a {kind} each, and the cluster has {available.get(kind, 0):.0f}; use fewer"
            )
        observe.note(f"{workers} workers, each with one {kind}")
        return _shared_out(_everywhere(job), workers, gpus=int(kind == "GPU"))
    finally:
        if started:
            ray.shutdown()


def _join(address: str, workers: int) -> None:
    import ray

    more: dict[str, Any] = {}
    if address == "local":  # whose workers would run at niceness 15, which gets nothing on a busy machine
        more = {"num_cpus": workers, "include_dashboard": False, "_system_config": {"worker_niceness": 0}}
    try:
        ray.init(address, logging_level=logging.WARNING, log_to_driver=False, **more)
    except (ConnectionError, ValueError) as error:
        raise InvalidInput(
            f"no Ray cluster at {address} ({error}); start one with `ray start --head`, or give --ray local"
        ) from error


def _everywhere(job: Job) -> Job:
    """The job with whole paths, because workers start in folders of their own."""

    def whole(path: Path | None) -> Path | None:
        return None if path is None else path.absolute()

    weights = job.weights
    if isinstance(weights, str | Path):
        weights = Path(weights).absolute()
    elif isinstance(weights, Sequence):
        weights = [Path(one).absolute() for one in weights]
    return replace(
        job, data=job.data.absolute(), out=job.out.absolute(), weights=weights, cache=whole(job.cache),
        samples=whole(job.samples), start=whole(job.start),
    )  # fmt: skip


def _shared_out(job: Job, workers: int, *, gpus: int) -> Outcome:
    import ray

    make: Any = ray.remote(_Worker).options(num_cpus=1, num_gpus=gpus)
    actors = [make.remote() for _ in range(workers)]
    try:
        meeting = ray.get(actors[0].meeting.remote())
        running = [actor.train.remote(job, rank, workers, meeting) for rank, actor in enumerate(actors)]
        waiting, first = running, None
        while waiting:  # the first that fails ends the run; the others would wait for it
            (done,), waiting = ray.wait(waiting, num_returns=1)
            found = ray.get(done)
            if isinstance(found, LichtspielError):
                raise found
            if done == running[0]:
                first = found
        assert isinstance(first, Outcome)
        return first
    finally:
        for actor in actors:
            ray.kill(actor)
