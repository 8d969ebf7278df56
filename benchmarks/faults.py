"""Jobs that are lost while the disk, the record, the key and the database of a server fail in turn.

    python -m benchmarks.faults [--jobs 50] [--seconds 8]

A real server with one worker makes short videos with nano. Whenever another sixth of the jobs is done, the next fault
is made, and mended some seconds later. Workers usually run at the lowest priority, so that the API always answers; here
they get an ordinary one where the user may do that, so that a busy machine can run this, too. Prints a line for each
fault, and at the end one JSON object: how every job ended, what `/ready` said during each fault, and how long all took.
No job may be lost. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import httpx

from benchmarks.load import Site

Act = Callable[[], object]


def faults(folder: Path, home: Path) -> dict[str, tuple[Act, Act]]:
    """How each fault is made and mended."""
    files, away = folder / "files", folder / "away"
    record, key = home / "record.sqlite", home / "identity" / "key.pem"
    spare = home / "record.spare"

    def damage() -> None:
        spare.write_bytes(record.read_bytes())
        record.write_bytes(b"no database " * 1000)

    def sql(statement: str) -> None:
        with closing(sqlite3.connect(folder / "jobs.sqlite", isolation_level=None, timeout=30)) as base:
            base.execute(statement)

    return {
        "disk": (lambda: files.rename(away), lambda: away.rename(files)),
        "record": (damage, lambda: spare.rename(record)),
        "key": (lambda: key.chmod(0o644), lambda: key.chmod(0o600)),
        "database": (lambda: sql("ALTER TABLE job RENAME TO away"), lambda: sql("ALTER TABLE away RENAME TO job")),
    }


def states(folder: Path) -> Counter[str]:
    with closing(sqlite3.connect(folder / "jobs.sqlite", timeout=30)) as base:
        return Counter(state for (state,) in base.execute("SELECT state FROM job"))


def hurry(site: Site) -> None:
    """Give the workers the priority of an ordinary process."""
    for pid in site.worker_ids():
        with suppress(OSError):
            for task in os.listdir(f"/proc/{pid}/task"):
                os.setpriority(os.PRIO_PROCESS, int(task), 0)


def wait(site: Site, folder: Path, until: Callable[[Counter[str]], bool]) -> None:
    while not until(states(folder)):
        hurry(site)
        time.sleep(0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=8.0, help="How long each fault lasts.")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, home = Path(name), Path(name) / "home"
        os.environ["LICHTSPIEL_HOME"] = str(home)
        site = Site(folder, workers=1)
        site.start()
        began = time.monotonic()
        for number in range(given.jobs):
            sent = {"prompt": f"a big tropical fish swims to the left, {number}", "steps": 1, "frames": 5}
            site.ask("POST", "/v1/videos", json=sent)
        ready: dict[str, int] = {}
        for number, (fault, (make, mend)) in enumerate(faults(folder, home).items(), start=1):
            wait(site, folder, lambda count, least=number * given.jobs // 6: count["completed"] >= least)
            print(
                f"{time.monotonic() - began:.0f} s: {fault} fails after {states(folder)['completed']} jobs", flush=True
            )
            make()
            time.sleep(given.seconds)
            ready[fault] = httpx.get(f"{site.address}/ready", timeout=60).status_code
            mend()
        wait(site, folder, lambda count: not count["queued"] + count["in_progress"])
        seconds = time.monotonic() - began
        site.stop()
        lost = given.jobs - states(folder)["completed"]
        print(json.dumps({"jobs": states(folder), "lost": lost, "ready": ready, "seconds": round(seconds, 1)}))


if __name__ == "__main__":
    main()
