"""A worker brings every job to an end: finished, failed with its code, cancelled, or left to another worker."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lichtspiel.errors import MediaError, NonFinite, OutOfMemory
from lichtspiel.inference import estimate as plan_room
from lichtspiel.inference import pipeline as pipeline_room
from lichtspiel.inference.pipeline import Pipeline
from lichtspiel.policy import Verdict, rules
from lichtspiel.seal import verify
from lichtspiel.serve.api.form import read_form, stored
from lichtspiel.serve.api.state import Server
from lichtspiel.serve.queue import clock
from lichtspiel.serve.queue.clock import Watch
from lichtspiel.serve.queue.jobs import Job
from lichtspiel.serve.server import open_server, sweep
from lichtspiel.serve.workers import worker as worker_room
from lichtspiel.weights.checkpoint import Checkpoint
from tests.serve.live import PROMPT, SMALL, settings, warm, worker


@pytest.fixture
def server(random_nano: Path, tmp_path: Path) -> Iterator[Server]:
    found = open_server(settings(tmp_path / "server", random_nano))
    yield found
    found.jobs.close()


def ask(server: Server, tmp_path: Path, **fields: Any) -> Job:
    asked = read_form({"prompt": PROMPT, **SMALL, **fields}, {}, tmp_path, server.settings)
    return server.jobs.add(owner="", model="nano", request=stored(asked), inputs={})[0]


def now(server: Server, job: Job) -> Job:
    return server.jobs.get(job.id, None)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NonFinite("denoising step 1", "x"), "non_finite"),
        (RuntimeError("CUDA out of memory"), "out_of_memory"),
        (RuntimeError("a bug with /home/ada in it"), "failed"),
    ],
)
def test_a_failure_ends_the_job_with_its_code_and_the_next_one_succeeds(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, code: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    first, second, made = ask(server, tmp_path), ask(server, tmp_path), warm(server)
    with monkeypatch.context() as patch:
        patch.setattr(pipeline_room.flow, "sample", fail)
        if code == "out_of_memory":
            with pytest.raises(OutOfMemory):  # the process ends, and another one begins with its memory free
                made.once()
            made = worker(server)
        else:
            made.once()
    ended = now(server, first)
    assert (ended.state, ended.error_code) == ("failed", code)
    assert "/home/ada" not in str(ended.error_message)
    made.once()
    assert now(server, second).state == "completed"


def test_what_failed_while_decoding_stays_in_the_log(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise KeyError("/home/ada")

    job = ask(server, tmp_path)
    monkeypatch.setattr(Pipeline, "decode", fail)
    warm(server).once()
    ended = now(server, job)
    assert (ended.error_code, ended.error_message) == ("failed", "an error of the server: KeyError")
    assert "/home/ada" in caplog.text


def test_what_cannot_fit_is_told(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_room, "free_memory", lambda device: 1000)
    job = ask(server, tmp_path)
    with pytest.raises(OutOfMemory):
        worker(server).once()
    assert now(server, job).error_code == "out_of_memory"


def test_another_worker_finishes_from_the_latents(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = ask(server, tmp_path)

    def die(*_: object) -> None:
        raise SystemExit  # as if the process were killed: nobody catches it

    with monkeypatch.context() as patch:
        patch.setattr(Pipeline, "decode", die)
        with pytest.raises(SystemExit):
            worker(server).once()
    left = now(server, job)
    assert left.state == "in_progress"
    assert left.latents is not None
    wall = server.jobs.clock
    monkeypatch.setattr(server.jobs, "clock", lambda: wall() + 100)  # the lease runs out
    monkeypatch.setattr(Pipeline, "denoise", die)
    worker(server).once()
    done = now(server, job)
    assert (done.state, done.attempt) == ("completed", 2)
    server.files.fetch(str(done.video), tmp_path / "v.mp4")
    assert verify(tmp_path / "v.mp4").credentials.state == "trusted"


def test_a_worker_that_lost_its_job_leaves_nothing(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = ask(server, tmp_path)
    whole, wall = Pipeline.decode, server.jobs.clock

    def late(self: Pipeline, latents: torch.Tensor) -> Iterator[object]:
        monkeypatch.setattr(server.jobs, "clock", lambda: wall() + 100)
        assert server.jobs.claim("another", ["nano"], 1000) is not None
        yield from whole(self, latents)

    monkeypatch.setattr(Pipeline, "decode", late)
    warm(server).once()
    left = now(server, job)
    assert (left.state, left.worker, left.video) == ("in_progress", "another", None)
    assert [*Path(server.settings.storage).rglob("*.mp4")] == []


def test_a_worker_that_is_told_to_stop_gives_its_job_back(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, stop = ask(server, tmp_path, steps=3), threading.Event()
    whole = Pipeline.denoise

    def told(self: Pipeline, *given: Any) -> Iterator[object]:
        for step in whole(self, *given):
            if step.index == 2:
                stop.set()
            yield step

    monkeypatch.setattr(Pipeline, "denoise", told)
    made = warm(server)
    made.once(stop)
    assert now(server, job).state == "queued"
    monkeypatch.undo()
    made.once()
    assert now(server, job).state == "completed"


def test_weights_stay_and_waiting_prompts_are_read_together(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[str] = []
    for part in ("umt5", "dit", "vae"):
        whole = getattr(Checkpoint, part)

        def counted(self: Checkpoint, *given: Any, part: str = part, whole: Any = whole, **more: Any) -> object:
            loads.append(part)
            return whole(self, *given, **more)

        monkeypatch.setattr(Checkpoint, part, counted)
    jobs = [ask(server, tmp_path, prompt=f"a turtle {number}") for number in range(3)]
    found = worker(server)
    while found.once():
        pass
    assert [now(server, job).state for job in jobs] == ["completed"] * 3
    assert sorted(loads) == ["dit", "umt5", "vae"]


def test_a_job_does_not_fail_for_another_that_waits(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = ask(server, tmp_path), ask(server, tmp_path, prompt="a taxi")
    waiting = server.jobs.waiting

    def outdated(*given: Any) -> list[Job]:  # as when the LoRA that it names was taken away
        return [replace(job, request={**job.request, "lora": [{"path": "gone"}]}) for job in waiting(*given)]

    monkeypatch.setattr(server.jobs, "waiting", outdated)
    worker(server).once()
    assert now(server, first).state == "completed"
    monkeypatch.undo()
    server.jobs.delete(second.id, None)
    assert server.jobs.waiting(["nano"], 5) == []


def test_what_expired_goes_with_its_files(
    server: Server, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(server, tmp_path)
    warm(server).once()
    assert not (home / "latents").exists()  # they hold the prompt, and only the storage is cleaned
    monkeypatch.setattr(clock, "SETTLED", 0.0)
    assert sweep(server) == 0
    later = Watch(lambda: time.time() + 31 * 86400)
    monkeypatch.setattr(server.jobs, "watch", later)
    monkeypatch.setattr(clock, "SETTLED", 600.0)
    assert sweep(server) == 0  # a server that has just started does not know whether its clock is right
    monkeypatch.setattr(clock, "SETTLED", 0.0)
    assert sweep(server) == 1
    assert [*Path(server.settings.storage).rglob("*.*")] == []
    assert server.jobs.page(None)[0] == []


def test_the_policy_is_asked_once(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    judge = rules.judge_image

    class Counting:
        name = "counting"

        def judge(self, prompt: str) -> Verdict:
            calls.append("guard")
            return Verdict("allowed", "none", "guard.clear", "")

    def counted(image: Any) -> Verdict:
        calls.append("picture")
        return judge(image)

    monkeypatch.setattr(rules, "judge_image", counted)
    server.settings = replace(server.settings, terms=replace(server.settings.terms, guard=Counting()))
    fields = {"prompt": PROMPT, **SMALL, "consent": "it is a color"}
    Image.new("RGB", (64, 64), "orange").save(tmp_path / "first.png")
    with (tmp_path / "first.png").open("rb") as picture:
        asked = read_form(fields, {"input_reference": [picture]}, tmp_path, server.settings)
    job = server.create(asked, "", None)
    assert sorted(calls) == ["guard", "picture"]
    found = warm(server)
    assert found.once()
    assert now(server, job).state == "completed"
    assert sorted(calls) == ["guard", "picture"]
    assert "verdict" not in server.shown(now(server, job))["parameters"]


def test_a_verdict_is_about_the_files_that_were_judged(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("orange", "teal"):
        Image.new("RGB", (64, 64), name).save(tmp_path / f"{name}.png")
    with (tmp_path / "orange.png").open("rb") as picture:
        asked = read_form({"prompt": PROMPT, **SMALL}, {"input_reference": [picture]}, tmp_path, server.settings)
    job = server.create(asked, "", None)
    server.files.put(tmp_path / "teal.png", job.inputs["image"])  # not what the policy saw
    refused = Verdict("refused", "sexual", "image.nudity", "as if it were another picture")
    monkeypatch.setattr(rules, "judge_image", lambda image: refused)
    assert worker(server).once()
    assert now(server, job).error_code == "refused_by_policy"


def test_the_message_of_a_failed_job_names_fields_and_no_paths(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = ask(server, tmp_path)

    def fail(request: Any, terms: Any, **_: Any) -> None:
        (folder,) = scratch_folder
        raise MediaError(f"{folder}/last_image.png: is no picture; {folder}/made.mp4 is not there")

    scratch_folder: list[Path] = []
    real = worker_room.scratch

    @contextmanager
    def watched(*arguments: Any) -> Iterator[Path]:
        with real(*arguments) as folder:
            scratch_folder.append(folder)
            yield folder

    monkeypatch.setattr(worker_room, "scratch", watched)
    monkeypatch.setattr(worker_room, "admit", fail)
    assert worker(server).once()
    assert now(server, job).error_message == "last_reference: is no picture; made is not there"
