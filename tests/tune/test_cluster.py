"""Processes of `torchrun` and workers of Ray come to what one process comes to, from the same folder of clips."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from lichtspiel.cli import app
from lichtspiel.cluster import join
from lichtspiel.errors import InvalidInput
from lichtspiel.spec import MODELS
from lichtspiel.tune.dataset import DataOptions
from lichtspiel.tune.prepare import Observe
from lichtspiel.tune.run import Schedule
from lichtspiel.tune.settings import AdapterPlan, RunOptions
from lichtspiel.tune.workflow import Job, tune
from tests.golden import relative_error
from tests.tune.clips import write_clip
from tests.tune.conftest import CONSENT

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")  # of its own settings

NANO = MODELS["nano"]
STEPS = 2


@pytest.fixture(scope="module")
def alone(real_processor: None, random_nano: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A finished run of one process, whose steps have two batches."""
    folder = tmp_path_factory.mktemp("alone")
    for look, name in enumerate(("red", "green")):
        write_clip(folder / "data" / f"{name}.mp4", 5, look=look)
        (folder / "data" / f"{name}.txt").write_text(f"a {name} square", encoding="utf-8")
    options = RunOptions(adapter=AdapterPlan(rank=2, alpha=2), accumulate=2, learning_rate=1e-3, dtype="float32")
    job = Job(
        data=folder / "data", out=folder / "run", row=NANO, options=options, schedule=Schedule(steps=STEPS),
        data_options=DataOptions(frames=(5,), consent=CONSENT), weights=random_nano, cache=folder / "cache",
        device="cpu",
    )  # fmt: skip
    tune(job)
    return job


def error(one: Path, other: Path) -> float:
    """How far the parameters of two runs are from each other."""
    states = [torch.load(folder / "state.pt", weights_only=True)["trainer"] for folder in (one, other)]
    assert [state["steps"] for state in states] == [STEPS, STEPS]
    ours, theirs = (torch.cat([value.flatten() for value in state["parameters"].values()]) for state in states)
    return relative_error(ours, theirs)


def typed(words: list[str]) -> None:
    """One process of `torchrun -m lichtspiel`, which begins with PyTorch loaded."""
    torch.set_num_threads(1)
    app(words, standalone_mode=False)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_torchrun_of_the_command_comes_to_the_same(method: str, alone: Job, tmp_path: Path) -> None:
    one, rate, more = alone, "1e-3", ["--rank", "2", "--dtype", "float32"]
    if method == "full":
        rate, more = "1e-4", []  # Adam's first steps are of this size even where gradients are rounding errors
        options = RunOptions(method="full", accumulate=2, learning_rate=float(rate))
        one = replace(alone, out=tmp_path / "alone", options=options)
        tune(one)
    words = (
        "tune", method, alone.data, "-o", tmp_path / "run", "--weights", alone.weights, "--frames", "5", "--consent",
        CONSENT, "--cache", alone.cache, "--steps", STEPS, *more, "--learning-rate", rate, "--device", "cpu", "--json",
    )  # fmt: skip
    multiprocessing.set_forkserver_preload([__name__, "torch._dynamo"])
    # What `torchrun --standalone --nproc-per-node 2` does, without two processes that load PyTorch anew.
    settings = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=2, rdzv_backend="c10d", rdzv_endpoint="localhost:0",
        run_id=tmp_path.name, start_method="forkserver", monitor_interval=0.1,
    )  # fmt: skip
    elastic_launch(settings, typed)([*map(str, words)])
    assert error(tmp_path / "run", one.out) < 1e-4


@dataclass(frozen=True, kw_only=True)
class DiesOnce(Schedule):
    """A schedule in which the first worker to ask dies when a checkpoint is there, once."""

    died: Path

    def __getattribute__(self, name: str) -> Any:
        if name == "save_minutes":
            died: Path = object.__getattribute__(self, "died")
            if (died.parent / "run" / "state.pt").exists() and not died.exists():
                died.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return object.__getattribute__(self, name)


@pytest.fixture(scope="module")
def cluster(real_processor: None) -> Iterator[None]:
    """A Ray cluster of this process with two cores, without the watcher for machines that are about to go."""
    ray = pytest.importorskip("ray", reason="ray is in the extra cluster")
    pytest.importorskip("ray.train", reason="ray[train] is in the extra cluster", exc_type=ImportError)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        join("local", cores=2)
        yield
        ray.shutdown()


def test_workers_of_ray_train_come_to_the_same_when_one_is_killed(alone: Job, cluster: None, tmp_path: Path) -> None:
    from lichtspiel.tune.cluster import tune_on_ray

    notes: list[str] = []
    stages: list[str] = []
    schedule = DiesOnce(steps=STEPS, save_minutes=0, died=tmp_path / "died")
    options = replace(alone.options, accumulate=1)
    job = replace(alone, out=tmp_path / "run", options=options, schedule=schedule)
    observe = Observe(progress=lambda stage, done: stages.append(stage), note=notes.append)
    outcome = tune_on_ray(job, "local", 2, observe)
    assert (tmp_path / "died").exists()
    assert outcome.files[0] == tmp_path / "run" / "lora.safetensors"
    assert notes[0] == "2 workers, each with one CPU"
    assert stages[-1].startswith(f"step {STEPS} of {STEPS}")
    assert error(tmp_path / "run", alone.out) < 1e-4


def test_what_a_worker_refuses_is_refused_with_its_words(alone: Job, cluster: None) -> None:
    from lichtspiel.tune.cluster import tune_on_ray

    options = replace(alone.options, adapter=AdapterPlan(layers=("*.attn.q",)))
    with pytest.raises(InvalidInput, match=r"--layers \*\.attn\.q matches no linear layer"):
        tune_on_ray(replace(alone, options=options), "local", 1, Observe())


@pytest.mark.parametrize(("workers", "words"), [(0, "--workers 0 is not valid"), (3, "the cluster has 2; use fewer")])
def test_workers_that_cannot_be_are_refused(
    workers: int, words: str, alone: Job, cluster: None, tmp_path: Path
) -> None:
    from lichtspiel.tune.cluster import tune_on_ray

    with pytest.raises(InvalidInput, match=words):
        tune_on_ray(replace(alone, out=tmp_path / "run"), "local", workers, Observe())
