"""A clock that is set wrong for a while loses no job and no video, makes none twice, and keeps none for too long."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lichtspiel.serve.queue.clock import SETTLED, Watch
from lichtspiel.serve.queue.jobs import GRACE, LONGEST, Jobs
from lichtspiel.serve.queue.webhooks import PAUSES, Webhooks
from tests.serve.conftest import Clock, add, claim

Opening = Callable[..., Jobs]
DAY = 86400.0


class Machine(Clock):
    """A wall clock that can be set, and a monotonic one that cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.up = 50.0

    def pass_by(self, seconds: float) -> None:
        super().pass_by(seconds)
        self.up += seconds

    def watch(self) -> Watch:
        return Watch(self, lambda: self.up)


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def jobs(jobs_of: Opening, machine: Machine) -> Jobs:
    found = jobs_of(clock=machine, keep_seconds=30 * DAY)
    found.watch = machine.watch()
    return found


def test_steady_time_ignores_what_does_not_last(machine: Machine) -> None:
    watch, began = machine.watch(), machine.now
    assert not watch.jumped_within(1e9)
    for jump in (40 * DAY, -40 * DAY, -DAY, DAY):
        machine.now += jump
        machine.pass_by(30.0)
        assert watch.now() == pytest.approx(machine.up - 50.0 + began)
        assert watch.jumped_within(GRACE)
        assert not watch.settled()
    machine.now += DAY
    assert watch.now() == pytest.approx(machine.now - DAY)
    machine.pass_by(SETTLED)
    assert watch.now() == pytest.approx(machine.now)  # it was meant
    assert watch.settled()


def test_a_clock_that_is_set_back_keeps_no_dead_workers_job(jobs: Jobs, machine: Machine) -> None:
    add(jobs)
    claim(jobs, "dead")
    machine.now -= 3600.0
    assert jobs.claim("other", ["nano"], 30.0) is None
    machine.pass_by(LONGEST + 1)
    job = claim(jobs, "other")
    assert (job.attempt, job.worker) == (2, "other")


def test_a_clock_that_is_set_forward_takes_no_living_workers_job(jobs: Jobs, machine: Machine) -> None:
    add(jobs)
    job = claim(jobs, "living")
    for jump in (3600.0, -3600.0, 40 * DAY):
        machine.now += jump
        assert jobs.claim("other", ["nano"], 30.0) is None
        jobs.sweep()
        machine.pass_by(1.0)
        assert jobs.beat(job, 30.0) == "go on"
    machine.pass_by(GRACE)
    assert jobs.beat(job, 30.0) == "go on"
    assert jobs.claim("other", ["nano"], 30.0) is None
    jobs.complete(job, video="v", result={})
    assert jobs.get(job.id, None).attempt == 1
    add(jobs)
    claim(jobs, "dead")
    machine.pass_by(31.0)
    assert claim(jobs, "other").attempt == 2  # without a jump, the dead are noticed as before


def test_a_clock_that_is_ahead_for_a_minute_removes_no_video(jobs: Jobs, machine: Machine) -> None:
    add(jobs)
    jobs.complete(claim(jobs), video="v", result={})
    machine.pass_by(SETTLED)
    assert jobs.expired() == []
    machine.now += 40 * DAY
    machine.pass_by(60.0)
    assert jobs.expired() == []
    machine.now -= 40 * DAY
    machine.pass_by(SETTLED)
    assert jobs.expired() == []
    machine.pass_by(30 * DAY + 1.0)
    assert len(jobs.expired()) == 1


@pytest.mark.parametrize("jump", [40 * DAY, -40 * DAY])
def test_what_ends_while_the_clock_is_wrong_is_kept_as_long_as_all(jobs: Jobs, machine: Machine, jump: float) -> None:
    true = machine.now
    machine.now += jump
    machine.pass_by(10.0)
    add(jobs)
    job = claim(jobs)
    jobs.complete(job, video="v", result={})
    ended = jobs.get(job.id, None)
    assert ended.created == ended.started == ended.ended == pytest.approx(true + 10.0)
    machine.now -= jump
    machine.pass_by(29 * DAY)
    assert jobs.expired() == []
    machine.pass_by(DAY + 1.0)
    assert len(jobs.expired()) == 1


def test_a_server_that_started_with_its_clock_ahead_keeps_nothing_for_longer(
    jobs_of: Opening, machine: Machine, jobs: Jobs
) -> None:
    machine.now += 400 * DAY
    ahead = jobs_of(clock=machine, keep_seconds=30 * DAY)
    ahead.watch = machine.watch()  # of a process that knows no other time
    add(ahead)
    ahead.complete(claim(ahead), video="v", result={})
    machine.now -= 400 * DAY
    machine.pass_by(SETTLED)
    assert jobs.expired() == []
    machine.pass_by(30 * DAY + 1.0)
    assert len(jobs.expired()) == 1


def test_quotas_turns_and_webhooks_do_not_wait_for_a_time_that_never_was(jobs: Jobs, machine: Machine) -> None:
    machine.now += 40 * DAY
    hooks = Webhooks(jobs)
    hooks.create("https://example.org/told")
    add(jobs, owner="early")
    jobs.complete(claim(jobs), video="v", result={})
    assert hooks.collect() == 1
    machine.now -= 40 * DAY
    machine.pass_by(PAUSES[0])
    assert len(hooks.due()) == 1
    for owner in ("late", "late", "early"):
        add(jobs, owner=owner)
    assert [claim(jobs).owner for _ in range(3)] == ["late", "early", "late"]
