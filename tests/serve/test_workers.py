"""How many workers there are: those that are always wanted, more while jobs wait, and each again when it ends."""

from __future__ import annotations

import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from lichtspiel.errors import InvalidInput
from lichtspiel.serve.settings import Settings
from lichtspiel.serve.workers import supervisor
from lichtspiel.serve.workers.supervisor import WorkerHandle, Workers, desired_workers


class Thread:
    """A worker that does nothing but wait for its end."""

    exitcode = 0

    def __init__(self) -> None:
        self.over = threading.Event()
        self.terminate = self.kill = self.over.set

    def join(self, timeout: float | None = None) -> None:
        self.over.wait(timeout)

    def is_alive(self) -> bool:
        return not self.over.is_set()


class Room:
    """A place for such workers; they are ready at once."""

    def __init__(self) -> None:
        self.states: queue.SimpleQueue[tuple[int, str]] = queue.SimpleQueue()
        self.started: dict[int, list[Thread]] = defaultdict(list)
        self.names: dict[int, list[str]] = defaultdict(list)
        self.gone: list[str] = []

    def start(self, settings: Settings, number: int, name: str) -> WorkerHandle:
        self.names[number].append(name)
        self.started[number].append(Thread())
        self.states.put((number, "ready"))
        return self.started[number][-1]

    def close(self) -> None:
        assert not any(worker.is_alive() for several in self.started.values() for worker in several)


@contextmanager
def at_work(min_workers: int, most: int, waiting: Callable[[], int]) -> Iterator[tuple[Workers, Room]]:
    room, settings = Room(), Settings(devices=("cpu",) * most, min_workers=min_workers, database="sqlite://")
    found = Workers(settings, {}, room, waiting, room.gone.append)
    found.start()
    try:
        yield found, room
    finally:
        found.stop()


def wait(until: Callable[[], bool]) -> None:
    end = time.monotonic() + 300  # a hang, whatever else the processor does
    while not until():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.01)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("LOOK", 0.02), ("QUIET", 0.1), ("RESTART", 0.02)):
        monkeypatch.setattr(supervisor, name, seconds)


@pytest.mark.parametrize(
    ("least", "most", "busy", "waiting", "count"),
    [(1, 4, 0, 0, 1), (1, 4, 0, 2, 2), (1, 4, 2, 1, 3), (1, 4, 3, 9, 4), (0, 2, 0, 0, 0), (2, 2, 0, 7, 2)],
)
def test_there_is_one_for_every_job_within_bounds(least: int, most: int, busy: int, waiting: int, count: int) -> None:
    assert desired_workers(least, most, busy, waiting) == count


def test_waiting_jobs_bring_workers_and_idleness_takes_them() -> None:
    jobs = 2
    with at_work(1, 3, lambda: jobs) as (found, room):
        wait(lambda: list(found.state) == [0, 1])
        jobs = 9
        wait(lambda: set(found.state) == {0, 1, 2})
        jobs = 0
        wait(lambda: set(found.state) == {0})
        assert not room.started[2][-1].is_alive()
        assert room.started[0][-1].is_alive()
        jobs = 3
        wait(lambda: set(found.state) == {0, 1, 2})


def test_a_worker_at_work_is_not_taken() -> None:
    jobs = 2
    with at_work(0, 2, lambda: jobs) as (found, room):
        wait(lambda: set(found.state) == {0, 1})
        room.states.put((1, "working"))
        wait(lambda: found.state[1] == "working")
        jobs = 0
        wait(lambda: set(found.state) == {1})
        time.sleep(0.3)
        assert set(found.state) == {1}


def test_a_worker_that_ends_is_started_again() -> None:
    with at_work(2, 2, lambda: 0) as (found, room):
        wait(lambda: found.state == {0: "ready", 1: "ready"})
        assert room.gone == []
        room.started[1][0].kill()
        wait(lambda: len(room.started[1]) == 2)
        assert len(room.started[0]) == 1
        first, second = room.names[1]
        assert len({first, second, *room.names[0]}) == 3
        assert room.gone == [first]  # its jobs need not wait


def test_a_queue_that_cannot_be_counted_changes_nothing() -> None:
    asked = threading.Event()

    def waiting() -> int:
        asked.set()
        raise OSError("the database is away")

    with at_work(1, 2, waiting) as (found, _):
        assert asked.wait(300)
        time.sleep(0.1)
        assert list(found.state) == [0]


def test_machines_of_a_cluster_do_not_share_a_file() -> None:
    pytest.importorskip("ray")
    from lichtspiel.serve.workers.ray_cluster import check_shared

    check_shared(Settings(), 1)
    check_shared(Settings(database="postgresql://host/jobs"), 3)
    with pytest.raises(InvalidInput, match="3 machines"):
        check_shared(Settings(), 3)
    with pytest.raises(InvalidInput, match="nearest valid value: cuda"):  # it would not be that one there
        check_shared(Settings(devices=("cpu", "cuda:1")), 1)


def test_a_worker_asks_the_cluster_for_its_device_and_cores() -> None:
    pytest.importorskip("ray")
    from lichtspiel.serve.workers.ray_cluster import resources

    assert resources("cpu", 4) == {"num_cpus": 4, "num_gpus": 0}
    assert resources("cuda", 2) == {"num_cpus": 2, "num_gpus": 1}
