"""The command itself: a server with worker processes that are killed, and what becomes of their jobs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest

from lichtspiel.cli import app, errors
from lichtspiel.seal import verify
from lichtspiel.serve.queue.jobs import Jobs
from tests.serve.live import PROMPT, free_port

PATIENCE = 900
"""Seconds after which something hangs: far more than it takes, because other processes may have the processor."""

LINES = httpx.Client(timeout=PATIENCE, limits=httpx.Limits(max_keepalive_connections=0))
"""Made once, because that costs more than a request. Servers end in between, so no connection is kept."""

get, send = LINES.get, LINES.post


@contextmanager
def running(folder: Path, weights: Path, url: str, *words: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    port = free_port()
    command = [sys.executable, "-m", "lichtspiel", "serve", "--port", str(port), "--weights", str(weights)]
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            [*command, "--database", url, "--storage", str(folder / "files"), *words], stderr=log, stdout=log
        )
    address = f"http://127.0.0.1:{port}"
    try:
        wait(lambda: answers(address))
        yield process, address
    finally:
        process.terminate()
        process.wait(PATIENCE)
    assert process.returncode in {0, -signal.SIGKILL}  # it was asked to stop, which is no error, or killed
    assert "error:" not in (folder / "log").read_text(encoding="utf-8")


def answers(address: str) -> bool:
    try:
        return get(f"{address}/health").status_code == 200
    except httpx.TransportError:
        return False


def wait(until: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not until():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.2)


def workers(process: subprocess.Popen[bytes]) -> list[int]:
    """The workers among the processes that a process started, and those started: copies of the one that starts copies,
    or what Ray calls by their class."""
    left, found = [process.pid], []
    while left:
        parent = left.pop()
        try:
            lists = [path.read_text() for path in Path(f"/proc/{parent}/task").glob("*/children")]
        except OSError:  # it has ended
            continue
        pids = [int(pid) for pid in " ".join(lists).split()]
        left += pids
        copies = b"forkserver" in command(parent)
        found += [pid for pid in pids if copies or b"ray::ActorWorker" in command(pid)]
    return found


def command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended may wait to be asked after."""
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def two_at_work(server: subprocess.Popen[bytes], address: str, asked: dict[str, object]) -> None:
    """Let jobs that wait bring a second worker, and take the jobs away again."""
    long = [send(f"{address}/v1/videos", json={**asked, "steps": 1000}).json()["id"] for _ in range(2)]
    wait(lambda: len(workers(server)) == 2)
    for id in long:
        send(f"{address}/v1/videos/{id}/cancel")
        wait(lambda id=id: get(f"{address}/v1/videos/{id}").json()["status"] == "cancelled")  # type: ignore[misc]
        assert LINES.delete(f"{address}/v1/videos/{id}").json()["deleted"]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds workers by Linux's list of processes")
@pytest.mark.parametrize(
    ("url", "words"),
    [
        pytest.param("sqlite", (), id="sqlite"),
        pytest.param("postgresql", ("--ray", "local", "--max-workers", "2"), id="ray"),
    ],
    indirect=["url"],
)
def test_killed_workers_and_a_killed_server_lose_no_job(
    url: str, words: tuple[str, ...], random_nano: Path, tmp_path: Path
) -> None:
    def begun(attempt: int) -> bool:
        job = jobs.get(first, None)
        assert job.state != "completed", "it was made before anybody could be killed"
        return job.attempt == attempt and (job.step > 0 or attempt > 1)

    def states() -> list[str]:
        return [jobs.get(id, None).state for id in (first, second)]

    with running(tmp_path, random_nano, url, *words) as (server, address), closing(Jobs.open(url)) as jobs:
        asked = {"prompt": PROMPT, "steps": 60, "frames": 5, "upscale": 1}
        if words:
            two_at_work(server, address, asked)
        first = send(f"{address}/v1/videos", json=asked).json()["id"]
        second = send(f"{address}/v1/videos", json={**asked, "steps": 1}).json()["id"]
        wait(lambda: begun(1))
        for pid in workers(server):
            os.kill(pid, signal.SIGKILL)
        wait(lambda: begun(2))
        left = workers(server)
        assert left
        server.send_signal(signal.SIGKILL)
        server.wait()
        wait(lambda: not any(alive(pid) for pid in left))  # no worker outlives its server
    # Whoever worked before, the jobs are in the database.
    with running(tmp_path, random_nano, url) as (_, address), closing(Jobs.open(url)) as jobs:
        wait(lambda: states() == ["completed"] * 2)
        assert jobs.get(first, None).attempt in ({2, 3} if words else {3})  # Ray tells its workers late; one may finish
        for id in (first, second):
            path = tmp_path / f"{id}.mp4"
            path.write_bytes(get(f"{address}/v1/videos/{id}/content").content)
            assert verify(path).credentials.state == "trusted"
        assert get(f"{address}/v1/videos").json()["data"][0]["id"] == second
        assert len(get(f"{address}/v1/videos").json()["data"]) == 2


def test_the_verbs_of_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*words: str, check: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["lichtspiel", *words])
        code = errors.run(lambda: app(prog_name="lichtspiel", standalone_mode=False))
        out, told = capsys.readouterr()
        assert code == check, told
        return out if check == 0 else told

    database = f"sqlite:///{tmp_path / 'jobs.sqlite'}"
    secret = run("serve", "key", "create", "ada", "--limit", "20/h", "--database", database).strip()
    assert secret.startswith("ls_")
    listed = run("serve", "key", "list", "--database", database)
    assert "ada" in listed
    assert secret not in listed
    run("serve", "key", "revoke", "ada", "--database", database)
    assert run("serve", "jobs", "list", "--json", "--database", database).strip() == "[]"
    assert "there is no" in run("serve", "jobs", "show", "video_" + "0" * 32, "--database", database, check=2)
    assert "there is no" in run("serve", "jobs", "cancel", "video_" + "0" * 32, "--database", database, check=2)
    assert "--require-key" in run("serve", "--host", "0.0.0.0", check=2)
    assert "--max-workers 1 is less than --workers 2; try --max-workers 2" in run(
        "serve", "--workers", "2", "--max-workers", "1", check=2
    )
    assert "3 devices for 2 workers" in run("serve", "--workers", "2", *["--device", "cpu"] * 3, check=2)
    assert "--cores goes with --ray" in run("serve", "--cores", "2", check=2)


def python(code: str) -> subprocess.CompletedProcess[str]:
    code = f"import sys; from lichtspiel.cli import main\n{code}"
    return subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=PATIENCE
    )  # fmt: skip


def test_neither_the_verbs_of_the_queue_nor_the_api_load_torch(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path / 'jobs.sqlite'}"
    done = python(
        "for words in ('key list', 'jobs list', 'webhook list'):\n"
        f"    sys.argv = ['lichtspiel', 'serve', *words.split(), '--database', {database!r}]\n"
        "    try: main()\n"
        "    except SystemExit as end: assert not end.code, words\n"
        "    assert 'torch' not in sys.modules and 'fastapi' not in sys.modules, words\n"
        "import lichtspiel.serve.server\n"
        "assert 'torch' not in sys.modules"
    )
    assert done.returncode == 0, done.stderr


def test_without_its_packages_the_server_names_the_extra() -> None:
    done = python(
        "sys.modules |= dict.fromkeys(('sqlalchemy', 'uvicorn'))\n"
        "for words in ('', 'key list', 'jobs list', 'webhook list'):\n"
        "    sys.argv = ['lichtspiel', 'serve', *words.split()]\n"
        "    try: main()\n"
        "    except SystemExit as end: assert end.code == 2, words\n"
        "    else: raise AssertionError(words)"
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("is not installed; this needs: pip install 'lichtspiel[serve]'") == 4
