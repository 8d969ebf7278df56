"""Workers and the queue, on SQLite and on PostgreSQL: nothing is made twice, nothing is lost, every job ends."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from lichtspiel.serve.errors import Lost
from lichtspiel.serve.queue.api_keys import Keys, Quotas
from lichtspiel.serve.queue.jobs import ENDED, Jobs
from tests.serve.conftest import Clock, add, claim


def test_a_worker_gets_only_models_that_it_can_run(jobs: Jobs) -> None:
    add(jobs, model="large")
    assert jobs.claim("w", ["nano"], 30.0) is None
    assert jobs.claim("w", [], 30.0) is None
    job = jobs.claim("w", ["nano", "large"], 30.0)
    assert job is not None
    assert job.model == "large"


PROCESS = """
import sys
from lichtspiel.serve.queue.jobs import Jobs
jobs = Jobs.open(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
while job := jobs.claim(sys.argv[2], ["nano"], 600.0):
    print(job.id, job.attempt, flush=True)
jobs.close()
"""


def test_several_processes_and_threads_never_claim_the_same_job(url: str) -> None:
    jobs = Jobs.open(url, queue_limit=100)
    made = [add(jobs, owner=f"o{number % 4}").id for number in range(60)]
    workers = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", PROCESS, url, f"p{number}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    assert all(worker.stdout is not None and worker.stdout.readline() == "ready\n" for worker in workers)
    claimed: list[list[str]] = [[] for _ in range(3)]

    def work(number: int) -> None:
        while (job := jobs.claim(f"t{number}", ["nano"], 600.0)) is not None:
            claimed[number].append(f"{job.id} {job.attempt}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    outputs = [worker.communicate()[0].splitlines() for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    assert sorted(line for lines in (*claimed, *outputs) for line in lines) == sorted(f"{id} 1" for id in made)
    assert jobs.counts()["in_progress"] == 60
    jobs.close()


def test_a_job_whose_worker_died_is_taken_up_again_and_the_old_worker_writes_nothing(jobs: Jobs, clock: Clock) -> None:
    add(jobs)
    first = claim(jobs, "w")
    jobs.keep_latents(first, "l/1.safetensors")
    clock.pass_by(29)
    assert jobs.claim("v", ["nano"], 30.0) is None
    clock.pass_by(1)
    second = claim(jobs, "w")  # a worker of the same name, as after a restart
    assert (second.id, second.attempt, second.latents) == (first.id, 2, "l/1.safetensors")
    before = jobs.get(first.id, None)
    assert jobs.beat(first, 30.0, progress=0.9) == "lost"
    for write in (
        lambda: jobs.keep_latents(first, "l/2.safetensors"),
        lambda: jobs.complete(first, video="v/1.mp4", result={}),
        lambda: jobs.fail(first, "failed", "no"),
        lambda: jobs.end_cancelled(first),
        lambda: jobs.give_back(first),
    ):
        with pytest.raises(Lost, match="attempt 1"):
            write()
    assert jobs.get(first.id, None) == before
    jobs.complete(second, video="v/2.mp4", result={})
    with pytest.raises(Lost):
        jobs.fail(second, "failed", "after the end")
    assert jobs.beat(second, 30.0) == "lost"


def test_what_a_worker_held_that_is_known_to_be_gone_waits_for_nobody(jobs: Jobs) -> None:
    for _ in range(2):
        add(jobs)
    gone, held = claim(jobs, "gone"), claim(jobs, "at work")
    jobs.let_go("gone")
    taken = claim(jobs, "another")
    assert (taken.id, taken.attempt) == (gone.id, 2)
    assert jobs.beat(gone, 30.0) == "lost"
    jobs.let_go("gone")
    assert [jobs.beat(job, 30.0) for job in (taken, held)] == ["go on", "go on"]


def test_what_dead_workers_left_is_claimed_once(jobs: Jobs, clock: Clock) -> None:
    made = [add(jobs, owner=f"o{number % 3}").id for number in range(9)]
    dead = [claim(jobs, f"w{number}") for number in range(9)]
    clock.pass_by(31)
    claimed: list[tuple[str, int]] = []

    def work(worker: str) -> None:
        while (job := jobs.claim(worker, ["nano"], 30.0)) is not None:
            claimed.append((job.id, job.attempt))

    def disturb() -> None:
        assert {jobs.beat(job, 0.0) for job in dead} <= {"go on", "lost"}

    threads = [threading.Thread(target=work, args=(f"v{number}",)) for number in range(3)]
    threads.append(threading.Thread(target=disturb))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == sorted((id, 2) for id in made)
    assert {jobs.beat(job, 30.0) for job in dead} == {"lost"}


def test_a_late_worker_goes_on_if_nobody_noticed(jobs: Jobs, clock: Clock) -> None:
    add(jobs)
    job = claim(jobs)
    clock.pass_by(100)
    assert jobs.beat(job, 30.0) == "go on"
    assert jobs.claim("v", ["nano"], 30.0) is None


def test_the_claim_of_any_worker_makes_a_dead_one_s_job_wait_again(jobs: Jobs, clock: Clock) -> None:
    add(jobs)
    job = claim(jobs)
    jobs.beat(job, 30.0, stage="denoise", progress=0.5, step=1, steps=2, eta=5.0)
    clock.pass_by(31)
    assert jobs.claim("v", ["large"], 30.0) is None
    seen = jobs.get(job.id, None)
    assert (seen.state, seen.started, seen.worker, seen.stage, seen.progress) == ("queued", None, None, "", 0.0)


def test_attempts_end(jobs: Jobs, clock: Clock) -> None:
    made = add(jobs)
    for attempt in (1, 2):
        assert claim(jobs).attempt == attempt
        clock.pass_by(31)
    assert jobs.claim("w", ["nano"], 30.0) is None
    job = jobs.get(made.id, None)
    assert (job.state, job.error_code, job.ended, job.expires) == ("failed", "interrupted", 1062.0, 1562.0)
    assert "begun 2 times" in str(job.error_message)


def test_an_attempt_that_is_given_back_does_not_count_but_fences(jobs: Jobs, clock: Clock) -> None:
    add(jobs)
    old = claim(jobs)
    jobs.keep_latents(old, "l/1.safetensors")
    for _ in range(3):
        jobs.give_back(old)
        again = claim(jobs)
        assert again.attempt == old.attempt + 1
        assert again.latents == "l/1.safetensors"
        with pytest.raises(Lost):
            jobs.fail(old, "failed", "too late")
        old = again
    clock.pass_by(31)
    claim(jobs)  # the second of two that count
    clock.pass_by(31)
    jobs.sweep()
    assert jobs.get(old.id, None).state == "failed"


def test_nobody_notices_but_sweep(jobs: Jobs, clock: Clock) -> None:
    add(jobs)
    job = claim(jobs)
    jobs.sweep()
    assert jobs.get(job.id, None).state == "in_progress"
    clock.pass_by(30)
    jobs.sweep()
    assert jobs.get(job.id, None).state == "queued"


def test_cancel_what_waits(jobs: Jobs) -> None:
    made = add(jobs)
    job = jobs.cancel(made.id, "a")
    assert (job.state, job.ended, job.expires, job.cancel) == ("cancelled", 1000.0, 1500.0, False)
    assert jobs.claim("w", ["nano"], 30.0) is None


def test_cancel_what_is_being_made(jobs: Jobs, clock: Clock) -> None:
    add(jobs)
    job = claim(jobs)
    asked = jobs.cancel(job.id, "a")
    assert (asked.state, asked.cancel) == ("in_progress", True)
    assert jobs.beat(job, 30.0, stage="denoise") == "cancel"
    jobs.end_cancelled(job)
    ended = jobs.get(job.id, "a")
    assert (ended.state, ended.cancel, ended.lease) == ("cancelled", False, None)


def test_cancel_of_what_is_done_before_the_worker_heard_of_it(jobs: Jobs) -> None:
    add(jobs)
    job = claim(jobs)
    jobs.cancel(job.id, "a")
    jobs.complete(job, video="v/1.mp4", result={})
    ended = jobs.get(job.id, "a")
    assert (ended.state, ended.cancel) == ("completed", False)


def test_cancel_when_the_worker_is_dead(jobs: Jobs, clock: Clock) -> None:
    add(jobs)
    add(jobs)
    before, after = claim(jobs), claim(jobs)
    jobs.cancel(before.id, "a")
    clock.pass_by(31)
    assert jobs.cancel(after.id, "a").state == "cancelled"
    assert jobs.claim("w", ["nano"], 30.0) is None
    assert jobs.get(before.id, "a").state == "cancelled"
    assert jobs.beat(after, 30.0) == "lost"


def test_cancel_when_the_worker_stops(jobs: Jobs) -> None:
    add(jobs)
    job = claim(jobs)
    jobs.cancel(job.id, "a")
    jobs.give_back(job)
    assert jobs.get(job.id, "a").state == "cancelled"


@pytest.mark.parametrize("state", sorted(ENDED))
def test_cancel_what_has_ended(jobs: Jobs, clock: Clock, state: str) -> None:
    add(jobs)
    job = claim(jobs)
    {
        "completed": lambda: jobs.complete(job, video="v/1.mp4", result={}),
        "failed": lambda: jobs.fail(job, "failed", "no"),
        "cancelled": lambda: jobs.end_cancelled(job),
    }[state]()
    before = jobs.get(job.id, "a")
    clock.pass_by(5)
    assert before.state == state
    assert jobs.cancel(job.id, "a") == before


def test_a_key_has_no_more_jobs_in_progress_than_it_may(jobs: Jobs, clock: Clock) -> None:
    owner = Keys(jobs).create("batch", Quotas(at_once=1))[0].id
    first, second, other = (add(jobs, owner=who) for who in (owner, owner, "b"))
    clock.pass_by(1)
    held = claim(jobs)
    assert held.id == first.id
    assert claim(jobs).id == other.id  # although the second came before it
    assert jobs.claim("w", ["nano"], 30.0) is None
    assert jobs.get(second.id, owner).state == "queued"
    jobs.fail(held, "failed", "an end")
    assert claim(jobs).id == second.id


def test_keys_of_a_higher_priority_come_first(jobs: Jobs, clock: Clock) -> None:
    low, high = (Keys(jobs).create(name, Quotas(priority=number))[0].id for name, number in (("low", -1), ("high", 2)))
    for owner in (low, "b", high, high):
        clock.pass_by(1)
        add(jobs, owner=owner)
    order = [job.owner for job in jobs.waiting(["nano"], 9)]
    assert order == [high, high, "b", low]
    assert [claim(jobs, lease=600.0).owner for _ in order] == order


def test_owners_take_turns(jobs: Jobs, clock: Clock) -> None:
    for owner in "aaabbc":
        clock.pass_by(1)
        add(jobs, owner=owner)
    order = [job.id for job in jobs.waiting(["nano"], 100)]
    assert jobs.positions() == {id: place for place, id in enumerate(order, start=1)}
    assert [job.id for job in jobs.waiting(["nano"], 2)] == order[:2]
    assert jobs.waiting(["large"], 2) == []
    claimed = []
    for _ in order:
        clock.pass_by(1)
        claimed.append(claim(jobs, lease=600.0))
    assert "".join(job.owner for job in claimed) == "abcaba"
    assert [job.id for job in claimed] == order
    made_by_a = [job.created for job in claimed if job.owner == "a"]
    assert made_by_a == sorted(made_by_a)
    # Who was served long ago comes before who was served just now, in whatever order they ask.
    clock.pass_by(1)
    add(jobs, owner="a")
    add(jobs, owner="c")
    assert [job.owner for job in jobs.waiting(["nano"], 9)] == ["c", "a"]
    assert claim(jobs).owner == "c"
