"""How a database is opened: made, brought up to date by one of many, or refused with a reason."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text

from lichtspiel.errors import InvalidInput
from lichtspiel.serve.errors import StoreError
from lichtspiel.serve.queue import database
from lichtspiel.serve.queue.database import Database
from lichtspiel.serve.queue.jobs import Jobs
from lichtspiel.serve.queue.schema import VERSION_TABLE, metadata

Opening = Callable[..., Jobs]

PROCESS = """
import sys
from lichtspiel.serve.queue.jobs import Jobs
print("ready", flush=True)
sys.stdin.readline()
jobs = Jobs.open(sys.argv[1])
jobs.add(owner="a", model="nano", request={}, inputs={})
jobs.close()
"""


def test_versions_and_tables_say_the_same(jobs: Jobs) -> None:
    with jobs.database.reading() as connection:
        options = {"version_table": VERSION_TABLE, "compare_server_default": True}
        assert compare_metadata(MigrationContext.configure(connection, opts=options), metadata) == []


def test_several_processes_and_threads_make_one_database(url: str) -> None:
    workers = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", PROCESS, url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    assert all(worker.stdout is not None and worker.stdout.readline() == "ready\n" for worker in workers)
    opened: list[Jobs] = []
    threads = [threading.Thread(target=lambda: opened.append(Jobs.open(url))) for _ in range(2)]
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    errors = [worker.communicate()[1] for worker in workers]
    assert errors == ["", ""]
    assert [jobs.counts()["queued"] for jobs in opened] == [2, 2]
    with opened[0].database.reading() as connection:
        assert connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).all() == [("0006",)]
    for jobs in opened:
        jobs.close()


def test_jobs_are_there_when_it_is_opened_again(jobs_of: Opening) -> None:
    jobs = jobs_of()
    made, _ = jobs.add(owner="a", model="nano", request={"steps": 4}, inputs={})
    jobs.close()
    assert jobs_of().get(made.id, "a") == made


def test_a_later_layout_is_left_alone(jobs_of: Opening) -> None:
    jobs = jobs_of()
    with jobs.database.writing() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    jobs.close()
    with pytest.raises(StoreError, match="update Lichtspiel"):
        jobs_of()


def test_what_fails_leaves_nothing_behind(jobs: Jobs) -> None:
    def failing() -> None:
        with jobs.database.writing() as connection:
            connection.execute(text("DELETE FROM job"))
            raise RuntimeError

    jobs.add(owner="a", model="nano", request={}, inputs={})
    with pytest.raises(RuntimeError):
        failing()
    assert jobs.counts()["queued"] == 1


def test_no_error_tells_what_was_asked(jobs: Jobs) -> None:
    with jobs.database.writing() as connection:
        connection.execute(text("DROP TABLE arrival"))
    with pytest.raises(StoreError, match="arrival") as error:
        jobs.add(owner="a", model="nano", request={"prompt": "ein Ball"}, inputs={})
    assert (error.value.code, error.value.status) == ("failed", 503)
    assert "Ball" not in f"{error.value} {error.value.__cause__}"
    assert "\n" not in str(error.value)


def test_the_file_is_for_its_owner_and_readers_do_not_wait(tmp_path: Path) -> None:
    jobs = Jobs.open(f"sqlite:///{tmp_path / 'a' / 'jobs.sqlite'}")
    with jobs.database.writing(), jobs.database.reading() as connection:
        assert connection.scalar(text("PRAGMA journal_mode")) == "wal"
        modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "a").iterdir()}
    jobs.close()
    assert modes == {"jobs.sqlite": 0o600, "jobs.sqlite-wal": 0o600, "jobs.sqlite-shm": 0o600}
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o700


def test_what_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database " * 100)
    with pytest.raises(StoreError, match="not a database"):
        Jobs.open(f"sqlite:///{tmp_path / 'text'}")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "folder", tmp_path / "text" / "jobs.sqlite"):
        with pytest.raises(StoreError, match="see that it is there and writable"):
            Jobs.open(f"sqlite:///{path}")


def test_a_server_that_is_not_there_and_its_password_is_not_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be used") as error:
        Jobs.open(f"postgresql://me:geheim@/jobs?host={tmp_path}")
    assert "geheim" not in str(error.value)
    with pytest.raises(InvalidInput) as wrong:
        Jobs.open("postgresql://me:geheim@host:port/jobs")
    assert "geheim" not in str(wrong.value)


def test_a_database_that_somebody_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "PATIENCE", 0.1)
    path = tmp_path / "jobs.sqlite"
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreError, match="locked"):
            Jobs.open(f"sqlite:///{path}")
        other.execute("ROLLBACK")
        store = Database(f"sqlite:///{path}")
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="locked"), store.writing():
            pass
        store.close()


def test_writers_in_this_process_do_not_wait_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Database(f"sqlite:///{tmp_path / 'jobs'}")
    monkeypatch.setattr(database, "PATIENCE", 0.2)
    gave_up: list[str] = []

    def write() -> None:
        try:
            with store.writing():
                gave_up.append("wrote")
        except StoreError:
            gave_up.append("gave up")

    threads = [threading.Thread(target=write) for _ in range(5)]
    with store.writing():  # as long as another program holds the file
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert gave_up == ["gave up"] * 5
    store.close()


@pytest.mark.parametrize(
    "url", ["", "jobs.sqlite", "sqlite://", "sqlite:///:memory:", "sqlite:///file:a?uri=true", "mysql://h/d", "::"]
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape("sqlite:///FILE")):
        Jobs.open(url)


def test_nothing_heavy_is_loaded() -> None:
    modules = "lichtspiel.serve.queue.storage, lichtspiel.serve.queue.api_keys"
    program = f"import sys, {modules}; print({{'torch', 'numpy', 'av'}} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "set()\n"
