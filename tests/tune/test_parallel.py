"""Two and four processes of one run come to what one process comes to."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from lichtspiel.models.dit import DiT
from lichtspiel.tune.cache import open_cache
from lichtspiel.tune.export import Made
from lichtspiel.tune.run import Run, Schedule
from lichtspiel.tune.settings import AdapterPlan, RunOptions
from lichtspiel.tune.trainer import Trainer
from lichtspiel.weights.checkpoint import Checkpoint
from lichtspiel.weights.components import scan
from lichtspiel.weights.shards import write_shards
from tests.golden import relative_error
from tests.tune.caches import SHORT, make_cache

PARTS, STEPS = 4, 2
RUNS: dict[str, dict[str, Any]] = {
    "lora": {"adapter": AdapterPlan(rank=2, alpha=2), "ema": 0.9},
    "full": {"method": "full"},
    "muon": {"method": "full", "optimizer": "muon"},
}


def train(folder: Path, weights: Path, cache: Path, rank: int, processes: int, steps: int = STEPS) -> None:
    """All runs, each step of `PARTS` batches in all."""
    torch.set_num_threads(1)
    opened = open_cache(cache)
    files = Checkpoint(SHORT, {part.part: part for part in scan([weights]).parts}, {})
    for name, settings in RUNS.items():
        if name == "muon" and processes > 2:
            continue
        options = RunOptions(
            learning_rate=1e-3, warmup=0, decay=0.0, batch=1, accumulate=PARTS // processes, clip=0.05, **settings
        )
        made = Made(row=SHORT, fingerprints=files.fingerprints(), facts=opened.facts, options=options, steps=0)
        sharded = options.method == "full" and processes > 1
        trainer = Trainer(SHORT, files, options, "cpu", sharded=sharded)
        run = Run(
            folder / name, trainer, opened, Schedule(steps=steps, validate_every=0), made, "…",
            rank=rank, processes=processes,
        )  # fmt: skip
        run.go()


def join(rank: int, processes: int, meeting: Path, *places: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=processes)
    train(*places, rank, processes)
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with weights, a cache, and what one process comes to with them."""
    folder = tmp_path_factory.mktemp("alone")
    torch.manual_seed(0)
    dit = DiT(SHORT.dit)
    dit.initialize()
    torch.nn.init.normal_(dit.head.head.weight, std=0.02)  # a fresh head is zero, which would hide mistakes
    write_shards(folder / "short", dit.state_dict(), SHORT.dit, torch.float32, {})
    make_cache(folder / "cache", clips=5)
    train(folder, folder / "short", folder / "cache", 0, 1)
    return folder


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_together_come_to_what_one_comes_to(processes: int, alone: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.tune.test_parallel", "torch._dynamo"])
    places = (tmp_path / "meeting", tmp_path, alone / "short", alone / "cache")
    workers = [context.Process(target=join, args=(rank, processes, *places)) for rank in range(processes)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(300)
    assert [worker.exitcode for worker in workers] == [0] * processes
    for name in RUNS if processes == 2 else ("lora", "full"):
        one, many = (
            torch.load(folder / name / "state.pt", weights_only=True)["trainer"] for folder in (alone, tmp_path)
        )
        assert one["parameters"].keys() == many["parameters"].keys()
        for kind in ("parameters", "averages"):
            for key, value in (one[kind] or {}).items():
                assert relative_error(many[kind][key], value) < (2e-3 if name == "muon" else 1e-4), (name, key)
