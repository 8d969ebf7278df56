"""From a person's folder to an adapter or to whole weights: the data, the plan, the run, alone or in several processes.

    data ─prepare→ cache ─placed→ trainer ─run→ adapter or weights

Everything that can be refused is refused before the model that is trained loads.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lichtspiel.errors import InvalidInput, OutOfMemory
from lichtspiel.host import free_memory, return_freed_memory
from lichtspiel.inference.device import choose_device
from lichtspiel.lora import read_lora
from lichtspiel.request import Request
from lichtspiel.spec import Model
from lichtspiel.storage import file_sha256
from lichtspiel.tune.adapter import check_start, chosen_layers
from lichtspiel.tune.cache import Cache, open_cache
from lichtspiel.tune.dataset import DataOptions
from lichtspiel.tune.export import Made
from lichtspiel.tune.parallel import group, place
from lichtspiel.tune.placement import Placement, placed
from lichtspiel.tune.prepare import Observe, default_cache, prepare
from lichtspiel.tune.previews import Previews, read_requests
from lichtspiel.tune.run import Outcome, Run, Schedule
from lichtspiel.tune.settings import RunOptions
from lichtspiel.tune.texts import encode_texts
from lichtspiel.tune.trainer import Trainer
from lichtspiel.weights.checkpoint import Checkpoint, Files, checkpoint

__all__ = ["Job", "tune"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is to be tuned on what. `out` is the run's folder; `cache` is where the encoded data are kept (None: where
    `tune check` keeps them). `samples` is a list of prompts or jobs for samples while the run trains. With `automatic`,
    the form of the frozen model is chosen by the memory there is, instead of what the options say. `start` is the file
    of an adapter to begin with."""

    data: Path
    out: Path
    row: Model
    options: RunOptions
    schedule: Schedule
    data_options: DataOptions = field(default_factory=DataOptions)
    weights: Files = None
    cache: Path | None = None
    samples: Path | None = None
    device: str = "auto"
    automatic: bool = True
    start: Path | None = None

    def __post_init__(self) -> None:
        if self.schedule.sample_every and self.samples is None:
            raise InvalidInput("--sample-every needs --samples, the file with the prompts")
        if self.samples is not None and not self.schedule.sample_every:
            raise InvalidInput("--samples needs --sample-every, the steps from one sample to the next")


def tune(job: Job, observe: Observe | None = None) -> Outcome:
    """Run a job to its end, or on from where it stopped. Raises InvalidInput, Refused and OutOfMemory before the work
    begins, and Interrupted when it is stopped."""
    observe = observe or Observe()
    if job.options.method == "lora":
        chosen_layers(job.row.dit, job.options.adapter.layers)
    start = None
    if job.start is not None:
        start = read_lora(job.start)
        check_start(start, job.row.dit, job.options.adapter)
        digest = file_sha256(job.start)
        job = replace(job, options=replace(job.options, start=digest))
    device = choose_device(job.device)
    files = checkpoint(job.row, job.weights)
    with group(device.type) as (rank, processes):
        device = place(str(device))
        sharded = job.options.method == "full" and processes > 1
        if sharded and job.samples is not None:
            raise InvalidInput("--samples needs the whole model in one process; leave it out with several processes")
        cache = _first(rank, lambda: _cache(job, files, str(device), observe), lambda: open_cache(_folder(job)))
        kept = _first(rank, lambda: _kept(job, files, cache, device), lambda: _kept(job, files, cache, device))
        previews = _previews(job, cache, observe) if rank == 0 else None
        options, placement = _placement(job, cache, device)
        if rank == 0:
            observe.note(str(placement))
        return_freed_memory()
        trainer = Trainer(job.row, files, options, device, resident=placement.resident, sharded=sharded)
        if start is not None:
            trainer.start(start)
        made = Made(row=job.row, fingerprints=files.fingerprints(), facts=cache.facts, options=options, steps=0)
        run = Run(
            job.out, trainer, cache, job.schedule, made, _use(job, files, cache), kept,
            progress=observe.progress if rank == 0 else lambda stage, done: None, rank=rank, processes=processes,
        )  # fmt: skip
        if previews is not None:
            run.sample = _sampler(run, previews)
        outcome = run.go()
        if rank == 0 and options.method == "full" and job.row.embedded:
            _complete(job.out / "weights", files)
        return outcome


def _first(rank: int, work: Callable[[], Any], others: Callable[[], Any]) -> Any:
    """What the first process makes, and the others read when it is done."""
    if rank == 0:
        result = work()
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
    return result if rank == 0 else others()


def _folder(job: Job) -> Path:
    return job.cache or default_cache(job.data, job.row)


def _cache(job: Job, files: Checkpoint, device: str, observe: Observe) -> Cache:
    return prepare(job.data, job.row, files, job.data_options, _folder(job), device=device, observe=observe)


def _kept(job: Job, files: Checkpoint, cache: Cache, device: torch.device) -> Tensor | None:
    """The states of the empty prompt and of those to keep."""
    keep = job.options.keep
    return encode_texts(cache.folder, ("", *keep), files, device) if keep else None


def _previews(job: Job, cache: Cache, observe: Observe) -> Previews | None:
    if job.samples is None:
        return None
    bucket = cache.buckets[0]
    requests = read_requests(job.samples, job.row, job.options, (bucket.width, bucket.height), bucket.frames)
    requests = [Request.of(**request.model_dump() | {"device": job.device}) for request in requests]
    return Previews(job.out / "samples", requests, job.weights, observe.note)


def _sampler(run: Run, previews: Previews) -> Callable[[int], None]:
    def sample(step: int) -> None:
        adapter: Path | None = None
        if run.trainer.adapter is not None and step:
            run.save()
            adapter = run.folder / "lora.safetensors"
        previews.make(run.trainer, step, adapter)

    return sample


def _placement(job: Job, cache: Cache, device: torch.device) -> tuple[RunOptions, Placement]:
    """The options with the form of the model that fits, and what was chosen. Raises OutOfMemory if none fits."""
    free = free_memory(str(device))
    placement = placed(job.row, cache.buckets, job.options, free, automatic=job.automatic)
    if placement.refusal:
        raise OutOfMemory(placement.refusal)
    return replace(job.options, base=placement.base, checkpointing=placement.checkpointing), placement


def _use(job: Job, files: Checkpoint, cache: Cache) -> str:
    """The command that makes a video with the result."""
    words = " ".join(cache.facts.triggers)
    prompt = shlex.quote(f"{words} …".strip())
    weights = (
        "" if job.weights is None else "".join(f" --weights {shlex.quote(str(one))}" for one in _paths(job.weights))
    )
    if job.options.method == "lora":
        return f"lichtspiel generate {prompt} --model {job.row.name}{weights} --lora {job.out / 'lora.safetensors'}"
    own = f" --weights {shlex.quote(str(job.out / 'weights'))}"
    if not job.row.embedded:
        parts = [path for part, stored in files.parts.items() if part != "dit" for path in stored.paths]
        own += "".join(f" --weights {shlex.quote(str(path))}" for path in parts)
    return f"lichtspiel generate {prompt} --model {job.row.name}{own}"


def _paths(weights: Files) -> list[Path]:
    if weights is None:
        return []
    return [Path(weights)] if isinstance(weights, str | Path) else [Path(one) for one in weights]


def _complete(folder: Path, files: Checkpoint) -> None:
    """Put the small other parts of an embedded model beside its weights, so that the folder is a whole checkpoint."""
    for part, stored in files.parts.items():
        for path in stored.paths if part != "dit" else ():
            shutil.copyfile(path, folder / path.name)
