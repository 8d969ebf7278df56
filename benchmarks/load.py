"""Many clients at once against a real server: nothing lost, nothing made twice, and how fast the API answers.

    python -m benchmarks.load [--jobs 200] [--clients 20] [--workers 2] [--kill] [--steps 1]

Starts `lichtspiel serve` with an empty database, lets clients make jobs with nano and ask after them as a page does,
and counts what came of them. With `--kill` a worker is killed every 20 seconds, and the server itself twice. At the
end every video is fetched and verified, and what the server said is printed. Linux only: it finds workers in the list
of processes.
"""

from __future__ import annotations

import argparse
import datetime
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from lichtspiel.seal import verify

SUBJECTS = ("turtle", "taxi", "whale", "elephant", "penguin")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@dataclass
class Site:
    """The server as it is now, and what was measured; clients go on asking while it is away."""

    folder: Path
    workers: int
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    program: tuple[str, ...] = ("-m", "lichtspiel")
    words: tuple[str, ...] = ()
    answers: list[tuple[str, float]] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)
    mine: threading.local = field(default_factory=threading.local)

    def start(self) -> None:
        database, storage = f"sqlite:///{self.folder / 'jobs.sqlite'}", str(self.folder / "files")
        words = ["serve", "--port", str(self.port), "--workers", str(self.workers), "--queue", "1000", *self.words]
        command = [sys.executable, *self.program, *words, "--database", database, "--storage", storage]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        while True:
            try:
                httpx.get(f"{self.address}/health")
                return
            except httpx.TransportError:
                time.sleep(0.2)

    def stop(self) -> None:
        assert self.process is not None
        self.process.terminate()
        self.process.wait()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, **sent: object) -> httpx.Response:
        """One request; tried again while the server is away. Only answers count into the times."""
        client = self.connected()
        while True:
            began = time.perf_counter()
            try:
                answer = client.request(method, self.address + path, **sent)  # type: ignore[arg-type]
            except httpx.TransportError:
                time.sleep(0.5)
                continue
            self.answers.append((method, time.perf_counter() - began))
            return answer

    def connected(self) -> httpx.Client:
        """One client for each thread, as real ones have: to make one takes longer than most answers."""
        if not hasattr(self.mine, "client"):
            self.mine.client = httpx.Client(timeout=60)
        return self.mine.client

    def worker_ids(self) -> list[int]:
        assert self.process is not None
        started = psutil.Process(self.process.pid).children()
        copied = [one for one in started if "forkserver" in " ".join(one.cmdline())]
        return [worker.pid for one in copied for worker in one.children()]


def client(site: Site, number: int, count: int, steps: int) -> list[tuple[str, float]]:
    """One client: its jobs by id, with the seconds from asking to the end."""
    draw, made = random.Random(number), []
    for job in range(count):
        sent = {"prompt": f"a {draw.choice(SUBJECTS)} walks to the left", "steps": steps, "frames": 5, "seed": job}
        began = time.perf_counter()
        headers = {"Idempotency-Key": f"{number}-{job}"}  # so that a request which is tried again makes one job
        id = site.ask("POST", "/v1/videos", json=sent, headers=headers).json()["id"]
        while site.ask("GET", f"/v1/videos/{id}").json()["status"] in {"queued", "in_progress"}:
            time.sleep(0.5)
        made.append((id, time.perf_counter() - began))
    return made


def killing(site: Site) -> None:
    """Every 20 seconds a worker; after the third and the sixth, the server."""
    count = 0
    while not site.over.wait(20):
        for pid in random.sample(site.worker_ids(), 1):
            os.kill(pid, signal.SIGKILL)
            count += 1
        if count in {3, 6} and site.process is not None:
            site.process.kill()
            site.process.wait()
            site.start()


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--kill", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="load-") as folder:
        site = Site(Path(folder), given.workers)
        site.start()
        if given.kill:
            threading.Thread(target=killing, args=(site,), daemon=True).start()
        began = time.perf_counter()
        share = given.jobs // given.clients
        with ThreadPoolExecutor(given.clients) as pool:
            futures = [pool.submit(client, site, number, share, given.steps) for number in range(given.clients)]
            made = [one for future in futures for one in future.result()]
        spent = time.perf_counter() - began
        site.over.set()
        report(site, made, spent, given)
        site.stop()
        print((site.folder / "log").read_text(), end="")


def report(site: Site, made: list[tuple[str, float]], spent: float, given: argparse.Namespace) -> None:
    objects = [site.ask("GET", f"/v1/videos/{id}").json() for id, _ in made]
    states = Counter(one["status"] for one in objects)
    listed, after = 0, ""
    while True:
        page = site.ask("GET", f"/v1/videos?limit=100{after}").json()
        listed += len(page["data"])
        if not page["has_more"]:
            break
        after = f"&after={page['last_id']}"
    for one in objects:
        if one["error"]:
            print(f"{one['id']}: {one['error']['code']}: {one['error']['message']}")
    sound = 0
    for one in objects:
        if one["status"] == "completed":
            path = site.folder / "video.mp4"
            path.write_bytes(site.ask("GET", f"/v1/videos/{one['id']}/content").content)
            sound += verify(path).credentials.state == "trusted"
    waits = [seconds for _, seconds in made]
    print(f"{datetime.datetime.now(datetime.UTC).date()}, {os.cpu_count()} processor cores, {given.workers} workers")
    print(f"{len(made)} jobs of {given.clients} clients in {spent:.0f} s{', with kills' if given.kill else ''}")
    print(f"ends: {dict(states)}; rows: {listed}; completed files that verify: {sound}")
    print(
        "from asking to the end: "
        + ", ".join(f"p{int(100 * p)} {percentile(waits, p):.1f} s" for p in (0.5, 0.9, 0.99))
    )
    for name, methods in (("all", {"GET", "POST"}), ("looking", {"GET"}), ("asking", {"POST"})):
        times = [1000 * seconds for method, seconds in site.answers if method in methods]
        shares = ", ".join(f"p{int(100 * p)} {percentile(times, p):.0f} ms" for p in (0.5, 0.9, 0.99))
        print(f"answers of the API, {name}: {shares}")


if __name__ == "__main__":
    main()
