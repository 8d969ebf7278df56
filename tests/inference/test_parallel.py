"""Several processes compute the velocity and the video that one process computes."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from lichtspiel.errors import LichtspielError
from lichtspiel.inference.kv_cache import kv_cache
from lichtspiel.inference.magcache import Curve, MagCache, reusing
from lichtspiel.inference.parallel import Team, sharing
from lichtspiel.models.dit import DiT
from lichtspiel.spec import MODELS
from tests import commands
from tests.golden import relative_error

TEXT = replace(
    MODELS["t2v-1.3b"].dit, width=64, ffn_width=96, heads=4, layers=2, text_width=24, text_length=8, time_width=32
)
VACE = replace(TEXT, vace_layers=(0, 1), vace_channels=MODELS["vace-1.3b"].dit.vace_channels)
PROCESSES = 4
RUNS = ("text", "text without guidance", "vace", "magcache")


def network(spec: Any) -> DiT:
    torch.manual_seed(3)
    dit = DiT(spec)
    dit.initialize()
    for parameter in dit.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return dit.eval()


@torch.inference_mode()
def velocities(name: str, team: Team | None) -> torch.Tensor:
    """Both branches of three steps [6, ...] of a model with 3 * 3 * 5 tokens, which no number of processes divides."""
    spec = VACE if name == "vace" else TEXT
    dit, generator = network(spec), torch.Generator().manual_seed(4)
    latents = torch.randn(1, 16, 3, 6, 10, generator=generator)
    context = torch.randn(1, spec.vace_channels, 3, 6, 10, generator=generator) if spec.vace_layers else None
    text, negative = torch.randn(2, 1, 5, 24, generator=generator).unbind()

    def compute(latents: torch.Tensor, timestep: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        return dit(latents, timestep, text, vace=context)

    one_after_the_other = name in {"text without guidance", "magcache"}
    share = team.share(heads=4, guided=not one_after_the_other) if team else None
    both = partial(share.both, compute, text, negative) if share is not None and share.branches == 2 else None
    blocks = MagCache(Curve(0.5, 9, 0.0, (1.0, 0.9, 0.9), (1.0, 0.9, 0.9)), 3) if name == "magcache" else None
    found = []
    with kv_cache(dit), reusing(dit, blocks):
        for step, time in enumerate((900.0, 500.0, 200.0)):
            if blocks is not None:
                blocks.step = step
            moment = torch.tensor([time])
            if share is None:
                found += [compute(latents, moment, text), compute(latents, moment, negative)]
                continue
            with sharing(dit, share):
                if both:
                    found += both(latents, moment)
                else:
                    found += [compute(latents, moment, each) for each in (text, negative)]
    if blocks is not None:
        assert blocks.spared > 0
    return torch.cat(found)


def join(rank: int, meeting: Path, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=PROCESSES)
    team = Team(rank, PROCESSES)
    save_file({name: velocities(name, team) for name in RUNS}, folder / f"{rank}.safetensors")
    sent = team.together(iter(range(10)))
    seen = [next(sent), next(sent)] if team.leads else list(sent)
    if team.leads:
        sent.close()  # the others stop, too
    assert seen == [0, 1]
    with pytest.raises(LichtspielError, match=r"4 processes cannot share 3 attention heads.* to 1, 3$"):
        team.share(heads=3, guided=False)
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, torch.Tensor]]:
    folder = tmp_path_factory.mktemp("together")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.inference.test_parallel"])
    places = (folder / "meeting", folder)
    processes = [context.Process(target=join, args=(rank, *places), daemon=True) for rank in range(PROCESSES)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(600)
        assert process.exitcode == 0
    return [load_file(folder / f"{rank}.safetensors") for rank in range(PROCESSES)]


@pytest.mark.parametrize("name", RUNS)
def test_four_processes_come_to_what_one_comes_to(name: str, together: list[dict[str, torch.Tensor]]) -> None:
    alone = velocities(name, None)
    for found in together:
        assert torch.equal(found[name], together[0][name])
        assert relative_error(found[name], alone) < 1e-5


def test_torchrun_makes_the_same_video(random_nano: Path, tmp_path: Path) -> None:
    words = ["generate", "a turtle walks", "--weights", random_nano, "--steps", "2", "--seed", "5", "--frames", "5"]
    words += ["--device", "cpu", "--dtype", "float32", "--upscale", "1", "--json"]

    def latents(printed: str) -> torch.Tensor:
        [said] = printed.splitlines()  # the leader's alone
        return load_file(json.loads(said)["latents"])["latents"]

    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "lichtspiel")
    two = subprocess.run(
        [sys.executable, *launcher, *map(str, words), "-o", tmp_path / "two.mp4"],
        capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip
    assert two.returncode == 0, two.stderr
    one = commands.command(*words, "-o", tmp_path / "one.mp4", cwd=tmp_path)
    assert one.code == 0, one.stderr
    assert relative_error(latents(two.stdout), latents(one.stdout)) < 1e-4
