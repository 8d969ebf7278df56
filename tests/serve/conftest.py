"""Databases to keep jobs in: a file of SQLite, and a PostgreSQL server that lives as long as the tests."""

from __future__ import annotations

import getpass
import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the server is tested with the extra test-serve")
pytest.importorskip("openai", reason="the server is tested with the extra test-serve")

import psycopg

from lichtspiel.serve.queue.jobs import Job, Jobs


class Clock:
    """Time that passes only when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


def add(jobs: Jobs, owner: str = "a", model: str = "nano", **more: Any) -> Job:
    job, new = jobs.add(owner=owner, model=model, **{"request": {"prompt": "ein Ball"}, "inputs": {}} | more)
    assert new
    return job


def claim(jobs: Jobs, worker: str = "w", lease: float = 30.0) -> Job:
    job = jobs.claim(worker, ["nano"], lease)
    assert job is not None
    return job


def binaries() -> Path | None:
    """The folder of PostgreSQL's programs, of the newest version that is installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[4]))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).resolve().parent if on_path else None


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The folder of the socket of a PostgreSQL server, which takes connections from there only."""
    programs = binaries()
    if programs is None:
        pytest.skip("PostgreSQL is not installed; on Debian: apt-get install postgresql")
    # It refuses to run as root. The folder is not pytest's, into which only root may look.
    user = "postgres" if os.getuid() == 0 else getpass.getuser()
    folder = Path(tempfile.mkdtemp(prefix="lichtspiel-"))
    as_user: dict[str, object] = {}
    if os.getuid() == 0:
        entry = pwd.getpwnam(user)
        os.chown(folder, entry.pw_uid, entry.pw_gid)
        as_user = {"user": user, "group": entry.pw_gid, "extra_groups": []}

    def run(*command: object) -> None:
        # Files and not pipes, which the server would hold open
        with (folder / "log").open("ab") as log:
            subprocess.run(list(map(str, command)), check=True, cwd=folder, stdout=log, stderr=log, **as_user)

    data = folder / "data"
    options = f"-k {folder} -c listen_addresses= -c fsync=off -c shared_buffers=16MB"
    try:
        run(programs / "initdb", "-D", data, "-U", "lichtspiel", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        run(programs / "pg_ctl", "-D", data, "-o", options, "-w", "start")
        try:
            yield str(folder)
        finally:
            run(programs / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database; with it, a test runs once for each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'jobs.sqlite'}"
    folder = request.getfixturevalue("server")
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(host=folder, user="lichtspiel", dbname="postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"postgresql://lichtspiel@/{name}?host={folder}"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def jobs_of(url: str, clock: Clock) -> Iterator[Callable[..., Jobs]]:
    """Opens the database with options, and closes it in the end."""
    opened: list[Jobs] = []

    def opening(**options: object) -> Jobs:
        opened.append(Jobs.open(url, **{"clock": clock, **options}))  # type: ignore[arg-type]
        return opened[-1]

    yield opening
    for jobs in opened:
        jobs.close()


@pytest.fixture
def jobs(jobs_of: Callable[..., Jobs]) -> Jobs:
    return jobs_of(queue_limit=10, attempts=2, keep_seconds=500.0)
