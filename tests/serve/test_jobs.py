"""The queue, on SQLite and on PostgreSQL: what is accepted, refused, listed and removed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from lichtspiel.serve.errors import Busy, IdempotencyError, LimitReached, NotFound, QueueFull, StorageUsedUp
from lichtspiel.serve.queue.api_keys import Keys, Quotas
from lichtspiel.serve.queue.clock import SETTLED
from lichtspiel.serve.queue.jobs import Jobs, Takes
from tests.serve.conftest import Clock, add, claim

Opening = Callable[..., Jobs]


def test_a_job_from_end_to_end(jobs: Jobs, clock: Clock) -> None:
    inputs = {"image": "up/1.png", "references/1": "up/2.png"}
    made = add(jobs, request={"prompt": "猫 \0 \ud800", "steps": 4}, inputs=inputs, remixed_from="video_0")
    assert (made.state, made.created, made.attempt, made.lease, made.expires) == ("queued", 1000.0, 0, None, None)
    assert jobs.get(made.id, "a") == made
    assert (made.request, made.inputs) == ({"prompt": "猫 \0 \ud800", "steps": 4}, inputs)
    assert (made.remixed_from, made.files) == ("video_0", ["up/1.png", "up/2.png"])

    clock.pass_by(5)
    job = claim(jobs)
    assert (job.id, job.state, job.started, job.attempt, job.worker) == (made.id, "in_progress", 1005.0, 1, "w")
    assert job.lease == 1035.0
    clock.pass_by(10)
    said = {"stage": "denoise", "progress": 0.5, "step": 2, "steps": 4, "eta": 10.0}
    assert jobs.beat(job, 30.0, **said, preview="p/1.png") == "go on"
    assert jobs.beat(job, 30.0, **said) == "go on"
    seen = jobs.get(job.id, None)
    assert {name: getattr(seen, name) for name in said} == said
    assert (seen.lease, seen.preview) == (1045.0, "p/1.png")
    jobs.keep_latents(job, "l/1.safetensors")
    clock.pass_by(10)
    jobs.complete(job, video="v/1.mp4", result={"seed": 7})
    done = jobs.get(job.id, "a")
    assert (done.state, done.ended, done.expires, done.progress, done.eta) == ("completed", 1025.0, 1525.0, 1.0, None)
    assert (done.video, done.latents, done.result) == ("v/1.mp4", None, {"seed": 7})  # latents are for another attempt
    assert done.files == ["up/1.png", "up/2.png", "v/1.mp4", "p/1.png"]
    assert jobs.counts() == {"queued": 0, "in_progress": 0, "completed": 1, "failed": 0, "cancelled": 0}


def test_what_was_asked_stays_out_of_repr(jobs: Jobs) -> None:
    assert "Ball" not in repr(add(jobs))


def test_failing_takes_any_message(jobs: Jobs) -> None:
    add(jobs)
    job = claim(jobs)
    jobs.fail(job, "out_of_memory", "decode: \0 \udc80 ü")
    failed = jobs.get(job.id, "a")
    assert (failed.error_code, failed.error_message) == ("out_of_memory", "decode: ? ? ü")


def test_the_queue_is_bounded(jobs: Jobs, clock: Clock) -> None:
    for _ in range(10):
        add(jobs)
    with pytest.raises(QueueFull, match="10 videos are waiting") as full:
        add(jobs)
    assert (full.value.code, full.value.status, full.value.retry_after) == ("queue_full", 429, 60)
    for seconds in (10.0, 30.0):
        job = claim(jobs)
        clock.pass_by(seconds)
        jobs.complete(job, video="v/1.mp4", result={})
        add(jobs)
    with pytest.raises(QueueFull) as full:
        add(jobs)
    assert full.value.retry_after == 20  # the mean of two, by one worker
    for _ in range(2):
        claim(jobs, lease=9999.0)
        add(jobs)
    with pytest.raises(QueueFull) as full:
        add(jobs)
    assert full.value.retry_after == 10  # by two
    job = claim(jobs, lease=9999.0)
    clock.pass_by(9000.0)
    jobs.complete(job, video="v/1.mp4", result={})
    add(jobs)
    with pytest.raises(QueueFull) as full:
        add(jobs)
    assert full.value.retry_after == 600


def test_several_threads_do_not_fill_the_queue_over_its_limit(jobs: Jobs) -> None:
    refused: list[QueueFull] = []

    def ask() -> None:
        for _ in range(5):
            try:
                add(jobs)
            except QueueFull as full:
                refused.append(full)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (jobs.counts()["queued"], len(refused)) == (10, 5)


def test_an_idempotency_key_gives_the_first_job(jobs: Jobs) -> None:
    said: dict[str, Any] = {"model": "nano", "request": {}, "inputs": {}}
    key = "k" * 5000
    first, new = jobs.add(owner="a", **said, idempotency=key, digest="1")
    assert new
    claim(jobs)
    again, new = jobs.add(owner="a", **said, idempotency=key, digest="1")
    assert (again.id, again.state, new) == (first.id, "in_progress", False)
    with pytest.raises(IdempotencyError, match="another request") as conflict:
        jobs.add(owner="a", **said, idempotency=key, digest="2")
    assert (conflict.value.code, conflict.value.status) == ("conflict", 409)
    assert jobs.add(owner="b", **said, idempotency=key, digest="2")[1]
    assert jobs.add(owner="a", **said, idempotency="other", digest="1")[1]
    assert jobs.add(owner="a", **said, digest="1")[1]
    assert jobs.add(owner="a", **said, digest="1")[1]


def test_a_repeated_request_is_answered_by_a_full_queue_and_counts_for_no_limit(jobs_of: Opening) -> None:
    jobs = jobs_of(queue_limit=1)
    key, _ = Keys(jobs).create("laptop", Quotas(limit="1/h"))
    said: dict[str, Any] = {"owner": key.id, "model": "nano", "request": {}, "inputs": {}, "idempotency": "k"}
    first, _ = jobs.add(**said)
    assert jobs.add(**said) == (first, False)


def test_several_threads_with_one_idempotency_key_make_one_job(jobs: Jobs) -> None:
    made: list[tuple[str, bool]] = []

    def ask() -> None:
        job, new = jobs.add(owner="a", model="nano", request={}, inputs={}, idempotency="k", digest="1")
        made.append((job.id, new))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id for id, _ in made}) == 1
    assert sorted(new for _, new in made) == [False, False, False, True]


def test_a_key_gets_no_more_seconds_of_video_than_its_quota(jobs: Jobs, clock: Clock) -> None:
    owner = Keys(jobs).create("limited", Quotas(video_seconds="10/h"))[0].id
    first = add(jobs, owner=owner, takes=Takes(seconds=6.0))
    jobs.delete(first.id, owner)  # makes no room
    clock.pass_by(60)
    add(jobs, owner=owner, takes=Takes(seconds=4.0))
    for seconds in (0.1, 11.0):
        with pytest.raises(LimitReached, match="10/h seconds of video") as reached:
            add(jobs, owner=owner, takes=Takes(seconds=seconds))
        assert reached.value.retry_after == (3540 if seconds < 1 else 3600)
    clock.pass_by(3540)
    add(jobs, owner=owner, takes=Takes(seconds=6.0))
    add(jobs, owner="somebody else", takes=Takes(seconds=1000.0))


def test_a_key_gets_no_more_work_than_its_quota(jobs: Jobs, clock: Clock) -> None:
    owner = Keys(jobs).create("limited", Quotas(worker_seconds="100/h"))[0].id
    first = add(jobs, owner=owner)
    claimed = claim(jobs)
    clock.pass_by(60)
    jobs.complete(claimed, video="v", result={})
    jobs.delete(first.id, owner)  # makes no room
    add(jobs, owner=owner)
    claim(jobs, lease=1000.0)
    clock.pass_by(39)
    add(jobs, owner=owner)
    clock.pass_by(1)  # what runs counts, too
    with pytest.raises(LimitReached, match="100/h seconds of work") as reached:
        add(jobs, owner=owner)
    assert reached.value.retry_after == 3500


def test_a_key_keeps_no_more_than_its_storage(jobs: Jobs) -> None:
    owner = Keys(jobs).create("limited", Quotas(storage="3MB"))[0].id
    with pytest.raises(StorageUsedUp, match="0 MB of the 3 MB"):
        add(jobs, owner=owner, takes=Takes(bytes=3_000_001))
    first = add(jobs, owner=owner, takes=Takes(bytes=1_000_000))
    jobs.complete(claim(jobs), video="v", result={"bytes": 2_500_000})  # its size was not known before
    with pytest.raises(StorageUsedUp, match="4 MB of the 3 MB") as full:
        add(jobs, owner=owner)
    assert (full.value.code, full.value.status) == ("storage_used_up", 409)
    add(jobs, owner="somebody else", takes=Takes(bytes=10**9))
    jobs.delete(first.id, owner)
    add(jobs, owner=owner, takes=Takes(bytes=1_000_000))


def test_a_key_makes_no_more_than_its_limit(jobs: Jobs, clock: Clock) -> None:
    keys = Keys(jobs)
    limited, free = keys.create("limited", Quotas(limit="2/min"))[0].id, keys.create("free")[0].id
    first = add(jobs, owner=limited)
    clock.pass_by(20)
    add(jobs, owner=limited)
    jobs.delete(first.id, limited)  # makes no room
    clock.pass_by(20)
    with pytest.raises(LimitReached, match="2/min") as reached:
        add(jobs, owner=limited)
    assert (reached.value.code, reached.value.status, reached.value.retry_after) == ("limit_reached", 429, 20)
    for _ in range(3):
        add(jobs, owner=free)
        add(jobs, owner="")
    clock.pass_by(20)
    add(jobs, owner=limited)  # those that were refused were not counted
    with pytest.raises(LimitReached) as reached:
        add(jobs, owner=limited)
    assert reached.value.retry_after == 20


def test_pages(jobs: Jobs) -> None:
    mine = [add(jobs).id for _ in range(5)]
    other = add(jobs, owner="b").id

    def ids(owner: str | None = "a", **how: Any) -> tuple[list[str], bool]:
        page, more = jobs.page(owner, **how)
        return [job.id for job in page], more

    assert ids() == (mine[::-1], False)
    assert ids(None) == ([other, *mine[::-1]], False)
    assert ids(limit=5) == (mine[::-1], False)
    assert ids(limit=2) == (mine[:2:-1], True)
    assert ids(limit=2, after=mine[3]) == ([mine[2], mine[1]], True)
    assert ids(limit=2, after=mine[1]) == ([mine[0]], False)
    assert ids(limit=2, order="asc") == (mine[:2], True)
    assert ids(limit=3, order="asc", after=mine[1]) == (mine[2:], False)
    assert ids(after=mine[0]) == ([], False)
    for unknown in (other, "video_", "\0"):
        with pytest.raises(NotFound):
            ids(after=unknown)


@pytest.mark.parametrize("id", ["video_0", "", "\0", "ü", "'; DROP TABLE job"])
def test_what_is_not_there(jobs: Jobs, id: str) -> None:
    for ask in (jobs.get, jobs.cancel, jobs.delete):
        with pytest.raises(NotFound) as missing:
            ask(id, None)
    assert (missing.value.code, missing.value.status) == ("not_found", 404)


def test_a_job_of_another_is_not_there(jobs: Jobs) -> None:
    made = add(jobs)
    messages = set()
    for owner in ("b", ""):
        for ask in (jobs.get, jobs.cancel, jobs.delete):
            with pytest.raises(NotFound) as missing:
                ask(made.id, owner)
            messages.add(str(missing.value))
    assert messages == {f"there is no video {made.id!r}"}
    assert jobs.get(made.id, "a") == made


def test_delete(jobs: Jobs, clock: Clock) -> None:
    first, second = add(jobs, inputs={"image": "up/1.png"}), add(jobs)
    assert jobs.delete(first.id, "a").files == ["up/1.png"]
    job = claim(jobs)
    assert job.id == second.id
    with pytest.raises(Busy, match="cancel it first") as busy:
        jobs.delete(job.id, "a")
    assert (busy.value.code, busy.value.status) == ("conflict", 409)
    jobs.complete(job, video="v/1.mp4", result={})
    assert jobs.delete(job.id, None).video == "v/1.mp4"
    assert jobs.page(None) == ([], False)


def test_jobs_expire(jobs: Jobs, clock: Clock) -> None:
    clock.pass_by(SETTLED)  # a server that just started removes nothing: its clock may be wrong
    for _ in range(4):
        add(jobs)
    done, failed, working = (claim(jobs, lease=9999.0) for _ in range(3))
    jobs.complete(done, video="v/1.mp4", result={})
    clock.pass_by(1)
    jobs.fail(failed, "failed", "no")
    clock.pass_by(498)
    assert jobs.expired() == []
    clock.pass_by(1)
    assert [job.id for job in jobs.expired()] == [done.id]
    clock.pass_by(1)
    assert [job.id for job in jobs.expired()] == [done.id, failed.id]
    assert [job.id for job in jobs.expired(limit=1)] == [done.id]
    jobs.forget(done.id)
    jobs.forget(done.id)  # as when two servers clean up
    assert [job.id for job in jobs.expired()] == [failed.id]
    for id in (working.id, jobs.waiting(["nano"], 1)[0].id):
        with pytest.raises(Busy):
            jobs.forget(id)
    assert jobs.counts() == {"queued": 1, "in_progress": 1, "completed": 0, "failed": 1, "cancelled": 0}
