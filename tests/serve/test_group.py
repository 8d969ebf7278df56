"""A worker of two processes makes what one makes, and no job is lost with any of them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from lichtspiel.errors import InvalidInput
from lichtspiel.inference.pipeline import Step
from lichtspiel.serve.api.form import read_form, stored
from lichtspiel.serve.api.state import Server
from lichtspiel.serve.errors import GroupEnded
from lichtspiel.serve.queue.jobs import Job
from lichtspiel.serve.server import check_models, open_server
from lichtspiel.serve.settings import Settings
from lichtspiel.serve.workers import group as group_room
from lichtspiel.serve.workers import worker as worker_room
from lichtspiel.serve.workers.faults import check_groups
from lichtspiel.serve.workers.group import Group, Led
from lichtspiel.serve.workers.supervisor import Processes
from lichtspiel.serve.workers.worker import Heartbeat, Worker
from tests.golden import relative_error
from tests.serve.live import PROMPT, settings, worker

pytestmark = pytest.mark.usefixtures("real_processor")  # all processes of a group compute in one precision

PATIENCE = 300.0  # a hang, whatever else the processor does


@pytest.fixture
def server(random_nano: Path, tmp_path: Path) -> Iterator[Server]:
    found = open_server(settings(tmp_path / "server", random_nano, gpus_per_job=2))
    yield found
    found.jobs.close()


def ask(server: Server, folder: Path, **fields: Any) -> Job:
    asked = read_form({"prompt": PROMPT, "frames": 5, "seed": 4, **fields}, {}, folder, server.settings)
    return server.jobs.add(owner="", model="nano", request=stored(asked), inputs={})[0]


def now(server: Server, job: Job) -> Job:
    return server.jobs.get(job.id, None)


@contextmanager
def together(server: Server) -> Iterator[tuple[Worker, Group]]:
    """The first process of a group is this one."""
    made, group = worker(server), Group(server.settings, 0)
    with group.at_work():
        made.group = group
        yield made, group


@pytest.fixture
def latents(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """What workers in this process denoise."""
    found: list[torch.Tensor] = []
    whole = worker_room.keep_latents

    def keep(work: Any, made: torch.Tensor) -> Path | None:
        found.append(made.float().cpu())
        return whole(work, made)

    monkeypatch.setattr(worker_room, "keep_latents", keep)
    return found


def test_a_group_makes_what_one_process_makes_and_goes_on_after_a_cancelled_job(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, latents: list[torch.Tensor]
) -> None:
    # With guidance each process computes a branch; without, half of the tokens.
    asked = [{"steps": 2}, {"steps": 2, "guidance": 1}]
    single = worker(server)
    for fields in asked:
        ask(server, tmp_path, **fields)
        assert single.once()

    def cancel(heartbeat: Heartbeat, step: Step) -> None:
        assert step.index == 1
        server.jobs.cancel(heartbeat.job.id, None)
        heartbeat.answer = "cancel"

    with together(server) as (made, group):
        with monkeypatch.context() as patch:
            patch.setattr(Heartbeat, "watch", cancel)
            stopped = ask(server, tmp_path, steps=3)
            assert made.once()
        assert now(server, stopped).state == "cancelled"
        for fields in asked:
            job = ask(server, tmp_path, **fields)
            assert made.once()
            assert now(server, job).state == "completed"
        [other] = group.team.others
        assert other.poll() is None
    assert other.returncode == 0  # it was sent home
    alone, shared = latents[:2], latents[2:]
    exact = made.pipeline is not None and made.pipeline.dtype == torch.float32
    for one, two in zip(alone, shared, strict=True):
        assert relative_error(two, one) < (1e-4 if exact else 0.05)
    assert relative_error(alone[0], alone[1]) > 0.01


def test_a_killed_member_ends_the_group_and_the_job_is_made_by_the_next(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = ask(server, tmp_path, steps=3)
    with together(server) as (made, group):

        def kill(heartbeat: Heartbeat, step: Step) -> None:
            group.team.others[0].kill()

        with monkeypatch.context() as patch:
            patch.setattr(Heartbeat, "watch", kill)
            with pytest.raises(GroupEnded):
                made.once()
        left = now(server, job)
        assert (left.state, left.attempt, left.uncounted_attempts) == ("queued", 1, 1)
        assert group.ended.wait(PATIENCE)
        group.team.torn = False  # as if it had been killed between two jobs
        with pytest.raises(GroupEnded):
            made.run(threading.Event())
        assert now(server, job) == left  # nothing is claimed by a group that lost a member
    with together(server) as (made, _):
        assert made.once()
    assert now(server, job).state == "completed"


def test_the_others_end_with_the_first_process(server: Server) -> None:
    backend = Processes()
    first = backend.start(server.settings, 0, "first")
    assert backend.states.get() == (0, "loading")
    while backend.states.get() != (0, "ready"):
        pass
    others = [one for one in psutil.Process(first.pid).children() if "group" in " ".join(one.cmdline())]  # type: ignore[attr-defined]
    assert len(others) == 1
    os.kill(others[0].pid, signal.SIGTERM)  # as a service manager does; the first process decides
    time.sleep(0.2)
    assert others[0].is_running()
    first.kill()
    first.join()
    assert psutil.wait_procs(others, timeout=PATIENCE)[1] == []


def test_a_first_process_that_does_not_wake_gives_its_job_back_and_ends(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, group, ends = worker(server), Group(server.settings, 0), list[int]()
    ask(server, tmp_path)
    made.held = server.jobs.claim(made.name, ["nano"], 1000)
    assert made.held is not None
    group.abandon = made.abandon
    monkeypatch.setattr(group_room, "GRACE", 0.01)
    monkeypatch.setattr(group_room.os, "_exit", ends.append)
    dead, alive = (subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) for code in ("", "input()"))
    group.team = Led([dead, alive])
    group._watch(dead)
    assert ends == [1]
    assert now(server, made.held).state == "queued"
    assert alive.wait() != 0  # killed
    for process in (dead, alive):
        assert process.stdin is not None
        process.stdin.close()


def test_what_no_group_can_share_is_refused(random_nano: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "--gpus-per-job 3 is not valid: nano has 4 attention heads, which have to be shared evenly; use one of 1, 2"
    with pytest.raises(InvalidInput, match=re.escape(said)):
        Settings(gpus_per_job=3)
    with pytest.raises(InvalidInput, match=r"--device cuda:1 is one device, and --gpus-per-job asks for 2"):
        Settings(gpus_per_job=2, devices=("cuda:1",))
    check_groups(Settings(gpus_per_job=2, devices=("cpu",)))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 5)
    check_groups(Settings(gpus_per_job=2, devices=("cuda",) * 2))
    with pytest.raises(InvalidInput, match=r"4 with 2 workers needs 8 GPUs, and this machine has 5; .* value: 2$"):
        check_groups(Settings(gpus_per_job=4, devices=("cuda",) * 2))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_group_is_refused_before_a_server_starts(random_nano: Path) -> None:
    with pytest.raises(InvalidInput, match=r"--gpus-per-job 2 with 1 worker needs 2 GPUs, and this machine has 0"):
        check_models(Settings(gpus_per_job=2))


def test_each_process_of_a_group_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    two = Settings(gpus_per_job=2, devices=("cuda", "auto"))
    assert [group_room.first_gpu(two, number) for number in (0, 1)] == [0, 2]
    assert group_room.first_gpu(Settings(gpus_per_job=2, devices=("cpu",)), 0) is None
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)  # as a cluster shows them to a worker
    assert group_room.first_gpu(two, 1) == 0
