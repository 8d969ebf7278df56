"""One run shared out over workers of a Ray cluster, on one machine or on many, as a job of Ray Train.

Every worker has a GPU of its own, or one core of a processor; together they are a process group, as under `torchrun`,
and each runs the same job in it. The data and the folder of the run have to be where all of them reach them. When a
worker is lost, Ray Train starts all of them again, and the run goes on from its last checkpoint, which is the run's
own: Ray gets none. What is known of the work itself is in `workflow`.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lichtspiel.cluster import join
from lichtspiel.errors import Interrupted, InvalidInput, LichtspielError
from lichtspiel.inference.parallel import PATIENCE
from lichtspiel.tune.desk import Desk
from lichtspiel.tune.prepare import Observe
from lichtspiel.tune.workflow import Job, tune

if TYPE_CHECKING:
    from lichtspiel.tune.run import Outcome

__all__ = ["tune_on_ray"]

RETRIES = 3
"""How often lost workers are replaced before the run fails."""

GLANCE = 0.5
"""Seconds from one look at the progress to the next."""

OWN = ".ray"
"""What Ray Train keeps of a run, in the folder of the run."""


def _work(config: dict[str, Any]) -> None:
    """The part of one worker; runs in its process."""
    import ray
    from ray import train

    desk, job = config["desk"], config["job"]
    if ray.get(desk.has_failed.remote()):
        return  # started again after an error that would come again
    observe = Observe()
    if train.get_context().get_world_rank() == 0:
        observe = Observe(progress=desk.report.remote, note=desk.note.remote)
    try:
        outcome = tune(job, observe)
    except LichtspielError as error:
        ray.get(desk.finish.remote(pickle.dumps(error), failed=True))
        raise  # ends the others, which would wait for this one
    if train.get_context().get_world_rank() == 0:
        ray.get(desk.finish.remote(pickle.dumps(outcome), failed=False))


def tune_on_ray(job: Job, address: str, workers: int, observe: Observe) -> Outcome:
    """Run a job with some workers of the cluster at `address`; see `lichtspiel.cluster.join`.

    Raises InvalidInput if there is no such cluster or it has too little room, LichtspielError if its workers were lost
    too often, Interrupted, and what `tune` raises.
    """
    if workers < 1:
        raise InvalidInput(f"--workers {workers} is not valid; use a whole number from 1")
    started = join(address, cores=workers)
    import ray

    try:
        available: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        kind = "GPU" if job.device != "cpu" and available.get("GPU", 0) >= 1 else "CPU"
        if available.get(kind, 0) < workers:
            raise InvalidInput(
                f"--workers {workers} need a {kind} each, and the cluster has {available.get(kind, 0):.0f}; use fewer"
            )
        observe.note(f"{workers} workers, each with one {kind}")
        return _shared_out(_everywhere(job), workers, observe, gpu=kind == "GPU")
    except KeyboardInterrupt:
        raise Interrupted("stopped; the same command goes on from the last checkpoint") from None
    finally:
        if started:
            ray.shutdown()


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


def _shared_out(job: Job, workers: int, observe: Observe, *, gpu: bool) -> Outcome:
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    make: Any = ray.remote(Desk).options(num_cpus=0)
    desk = make.remote()
    trainer = TorchTrainer(
        _work,
        train_loop_config={"job": job, "desk": desk},
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpu),
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo", timeout_s=int(PATIENCE.total_seconds())),
        run_config=RunConfig(
            name=OWN, storage_path=str(job.out), failure_config=FailureConfig(max_failures=RETRIES)
        ),
    )  # fmt: skip
    with ThreadPoolExecutor(1) as aside:  # so that this thread can say how far it is, and be stopped
        running = aside.submit(trainer.fit)
        try:
            _follow(running, desk, observe)
            packed: bytes | None = ray.get(desk.ended.remote())
            end: Any = None if packed is None else pickle.loads(packed)
            if isinstance(end, LichtspielError):
                raise end
            if (error := running.exception()) is not None:
                raise LichtspielError(f"the workers failed {RETRIES + 1} times, at last with: {error}") from error
            return end  # type: ignore[no-any-return]
        finally:
            if not running.done():
                ray.shutdown()  # ends the workers, and with them what waits for them


def _follow(running: Future[Any], desk: Any, observe: Observe) -> None:
    """Pass on what workers leave at the desk, until they are done."""
    import ray

    while True:
        done = running.done()
        progress, notes = ray.get(desk.news.remote())
        for text in notes:
            observe.note(text)
        if progress is not None:
            observe.progress(*progress)
        if done:
            return
        time.sleep(GLANCE)
