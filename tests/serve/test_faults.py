"""A fault of the machine costs no job: the worker gives its job back, waits, says why, and goes on when it is over."""

from __future__ import annotations

import errno
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from lichtspiel.errors import InvalidInput, LichtspielError, MediaError, NonFinite, RequestError, WeightsError
from lichtspiel.inference.pipeline import Pipeline
from lichtspiel.serve import server as server_room
from lichtspiel.serve.api.state import Server
from lichtspiel.serve.errors import MachineFault, StorageError
from lichtspiel.serve.queue import scratch
from lichtspiel.serve.server import address_of, bind, open_server
from lichtspiel.serve.settings import Settings
from lichtspiel.serve.workers import worker as worker_room
from lichtspiel.serve.workers.faults import DEVICE, DISK, FULL, RECORD, WEIGHTS, fault_of
from tests.serve.live import HTTP, live, settings, warm, worker
from tests.serve.test_worker import ask, now

Fault = tuple[Callable[[Server, Path], None], Callable[[Server, Path], None]]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_room, "PAUSE", 0.05)
    monkeypatch.setattr(worker_room, "LONGEST_PAUSE", 0.2)


@pytest.fixture
def served(random_nano: Path, tmp_path: Path) -> Iterator[tuple[Server, str]]:
    with live(settings(tmp_path / "server", random_nano)) as found:
        yield found


def storage(server: Server) -> Path:
    return Path(server.settings.storage)


def sql(server: Server, statement: str) -> None:
    path = server.settings.database.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as base:
        base.execute(statement)


FAULTS: dict[str, Fault] = {
    "storage": (
        lambda server, home: void(storage(server).rename(storage(server).with_name("away"))),
        lambda server, home: void(storage(server).with_name("away").rename(storage(server))),
    ),
    "record": (
        lambda server, home: void((home / "record.sqlite").write_bytes(b"no database" * 1000)),
        lambda server, home: (home / "record.sqlite").unlink(),
    ),
    "key": (
        lambda server, home: (home / "identity" / "key.pem").chmod(0o644),
        lambda server, home: (home / "identity" / "key.pem").chmod(0o600),
    ),
    "database": (
        lambda server, home: sql(server, "ALTER TABLE job RENAME TO away"),
        lambda server, home: sql(server, "ALTER TABLE away RENAME TO job"),
    ),
}


def void(_: object) -> None:
    """Nothing."""


@contextmanager
def running(server: Server) -> Iterator[None]:
    stop, found = threading.Event(), warm(server)
    found.say = lambda state: server.workers.__setitem__(0, state)
    thread = threading.Thread(target=found.run, args=(stop,), kwargs={"idle": 0.02}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def wait(until: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not until():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.02)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_the_machine_loses_no_job(
    served: tuple[Server, str], tmp_path: Path, home: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, address = served
    begin, end = FAULTS[name]
    jobs = [ask(server, tmp_path) for _ in range(2)]
    reached, go_on, whole = threading.Event(), threading.Event(), Pipeline.decode

    def slow(self: Pipeline, *given: object) -> object:
        reached.set()
        assert go_on.wait(60)
        return whole(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(Pipeline, "decode", slow)
    with running(server):
        assert reached.wait(60)
        begin(server, home)
        go_on.set()
        wait(lambda: server.workers[0].startswith("fault"))
        ready = HTTP.get(f"{address}/ready")
        assert ready.status_code == 503
        assert str(tmp_path) not in ready.text
        time.sleep(0.5)  # nothing is claimed in the meantime
        end(server, home)
        wait(lambda: server.jobs.counts()["queued"] + server.jobs.counts()["in_progress"] == 0)
    assert [now(server, job).state for job in jobs] == ["completed"] * 2


def test_a_job_that_brings_the_fault_ends_at_last(
    random_nano: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Pipeline, "denoise", full)
    monkeypatch.setattr(worker_room, "UNCOUNTED", 2)
    server = open_server(settings(tmp_path / "server", random_nano))
    job, found = ask(server, tmp_path), worker(server)
    for attempt in (1, 2):
        with pytest.raises(MachineFault, match=FULL):
            found.once()
        left = now(server, job)
        assert (left.state, left.attempt, left.uncounted_attempts) == ("queued", attempt, attempt)
    found.once()
    assert now(server, job).state == "failed"
    server.jobs.close()


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), FULL),
        (OSError(errno.EROFS, "Read-only file system"), DISK),
        (StorageError("/srv/files is gone"), StorageError.public),
        (LichtspielError("the key may be read by others"), RECORD),
        (WeightsError("no such folder"), WEIGHTS),
        (RequestError("device", "cuda", "this machine has cpu"), DEVICE),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), DEVICE),
        (RequestError("steps", 0, "at least 1"), None),
        (MediaError("no picture"), None),
        (NonFinite("denoising", "x"), None),
        (RuntimeError("a bug"), None),
    ],
    ids=repr,
)
def test_whose_fault_it_is(error: Exception, fault: str | None) -> None:
    assert fault_of(error) == fault
    wrapped = LichtspielError(f"decoding failed: {error}")
    wrapped.__cause__ = error
    if not isinstance(error, NonFinite):
        assert fault_of(wrapped) == fault


def test_a_lora_may_be_what_cannot_be_loaded() -> None:
    assert fault_of(WeightsError("it belongs to another model"), loras=True) is None


def test_what_killed_workers_left_goes(random_nano: Path, tmp_path: Path) -> None:
    server = open_server(settings(tmp_path / "server", random_nano))
    ask(server, tmp_path)
    job = server.jobs.claim("w", ["nano"], 30.0)
    assert job is not None
    left = scratch.scratch(server.jobs, job)
    folder = left.__enter__()
    (folder / "image.png").write_bytes(b"a picture")
    assert scratch.sweep(server.jobs) == 0  # it is at work
    server.jobs.give_back(job)
    assert scratch.sweep(server.jobs) == 1
    assert not folder.exists()
    server.jobs.close()


def test_a_port_in_use_is_refused_before_anything_is_said() -> None:
    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        assert address_of(taken) == f"http://127.0.0.1:{port}"
        with pytest.raises(InvalidInput, match=f"port {port}: .* choose another with --port"):
            bind("127.0.0.1", port)
    with pytest.raises(InvalidInput, match="--host"):
        bind("no.such.host.invalid", 0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"devices": ("banana",)}, "--device banana"),
        ({"loras": Path("/nonexistent")}, "--loras /nonexistent is not a folder"),
        ({"keep_days": float("inf")}, "--keep-days inf"),
        ({"keep_days": float("nan")}, "--keep-days nan"),
        ({"keep_days": 0.0}, "--keep-days 0"),
    ],
    ids=str,
)
def test_settings_that_cannot_work(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        Settings(**wrong)  # type: ignore[arg-type]


def test_models_that_cannot_be_loaded_are_refused_at_the_start() -> None:
    with pytest.raises(InvalidInput, match="/nonexistent"):
        server_room.check_models(Settings(weights=(Path("/nonexistent"),)))
    server_room.check_models(Settings())
