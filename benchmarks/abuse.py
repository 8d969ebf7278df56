"""What a client without a key can take from a server: memory, and time in which nobody else is answered.

    python -m benchmarks.abuse

Starts a server on loopback without workers and without keys, so that everything is open, and tries what strangers send:
videos and pictures that decode to gigabytes, many at once; JSON of millions of values; forms of many parts; made-up
HTTP methods; bodies and heads that never end. Prints one line per attack: the most memory of the server and its
children together; how long the event loop was held at most, in processor time of the server (which other programs of a
busy machine cannot lengthen) and in wall time; and the slowest answer to a client who asks `/health` all the time.
Linux only.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import multiprocessing
import os
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from benchmarks.load import Site
from lichtspiel.seal import Marks, Provenance, seal

HELD = "held"
"""The file in which the server notes how long its loop was held."""


def picture() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.zeros((8000, 8000, 4), np.uint8)).save(file, format="PNG")
    return file.getvalue()


def video(folder: Path) -> bytes:
    """24 black frames, without marks, so that it is a file like any other."""
    said = Provenance(
        model="none", version="0", source_type="trainedAlgorithmicMedia", prompt="", negative="", parameters={}
    )
    frames = (np.zeros((2304, 4096, 3), np.uint8) for _ in range(24))
    path = folder / "large.mp4"
    seal(frames, said, path, fps=24, marks=Marks.none("a benchmark of memory"))
    return path.read_bytes()


def watched_command(path: Path) -> None:
    """Run `lichtspiel` with the given words, with an event loop that notes how long it was held."""
    import uvicorn

    from lichtspiel.cli import main as command

    startup = uvicorn.Server.startup

    async def watched(self: uvicorn.Server, sockets: list[socket.socket] | None = None) -> None:
        await startup(self, sockets)
        self.__dict__["watch"] = asyncio.create_task(_watch(path))

    uvicorn.Server.startup = watched  # type: ignore[method-assign]
    sys.argv = ["lichtspiel", *sys.argv[3:]]
    command()


async def _watch(path: Path) -> None:
    """Write the longest time between two turns of the loop to a file; begin anew when the file is gone."""
    most, wall, cpu = (0.0, 0.0), time.perf_counter(), time.process_time()
    while True:
        await asyncio.sleep(0)
        held = time.process_time() - cpu, time.perf_counter() - wall
        if not path.exists():
            most = (0.0, 0.0)
        if not path.exists() or held[0] > most[0] or held[1] > most[1]:
            most = max(most[0], held[0]), max(most[1], held[1])
            path.write_text(f"{most[0]} {most[1]}", encoding="ascii")
        await asyncio.sleep(0.002)
        wall, cpu = time.perf_counter(), time.process_time()


def memory(root: int) -> int:
    """Bytes that a process and all its descendants hold, memory that they share counted once."""
    total, left = 0, [root]
    while left:
        pid = left.pop()
        try:
            for path in Path(f"/proc/{pid}/task").glob("*/children"):
                left += map(int, path.read_text().split())
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:  # it ended
            continue
        total += next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)
    return total


def attack(site: Site, name: str, act: Callable[[], object]) -> None:
    assert site.process is not None
    slowest, most, over = [0.0], [0], threading.Event()
    held = site.folder / HELD
    held.unlink()

    def watch() -> None:
        assert site.process is not None
        with httpx.Client(timeout=60) as client:
            while not over.is_set():
                began = time.perf_counter()
                client.get(f"{site.address}/health")
                slowest[0] = max(slowest[0], time.perf_counter() - began)
                most[0] = max(most[0], memory(site.process.pid))  # the kernel counts pages for it, so not too often
                time.sleep(0.05)

    # In a process of its own: what it sends by the megabyte would make the watcher wait, and not the server.
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    go = context.Event()
    attacker = context.Process(target=lambda: (go.wait(), sender.send(act())))
    attacker.start()
    thread = threading.Thread(target=watch)
    thread.start()
    time.sleep(0.3)
    go.set()
    said = receiver.recv()
    attacker.join()
    over.set()
    thread.join()
    cpu, wall = (1000 * float(word) for word in held.read_text(encoding="ascii").split())
    times = f"loop held {cpu:.0f} ms of processor ({wall:.0f} ms), slowest answer {1000 * slowest[0]:.0f} ms"
    print(f"{name}: {most[0] / 1e6:.0f} MB at most, {times} ({said})", flush=True)


def verify(site: Site, content: bytes, count: int) -> object:
    def send(_: int) -> str:
        answer = httpx.post(f"{site.address}/v1/verify", files={"file": content}, timeout=900)
        return f"{answer.status_code}{'' if answer.is_success else ' ' + answer.json()['error']['message']}"

    with ThreadPoolExecutor(count) as pool:
        return ", ".join(f"{number} x {said}" for said, number in Counter(pool.map(send, range(count))).items())


def post_json(site: Site, content: bytes, count: int = 1) -> object:
    def send(_: int) -> int:
        sent = {"content": content, "headers": {"content-type": "application/json"}}
        return httpx.post(f"{site.address}/v1/videos", timeout=300, **sent).status_code  # type: ignore[arg-type]

    with ThreadPoolExecutor(count) as pool:
        return sorted(pool.map(send, range(count)))


def post_form(site: Site, content: bytes, count: int = 1) -> object:
    def send(_: int) -> int:
        sent = {"content": content, "headers": {"content-type": "multipart/form-data; boundary=x"}}
        return httpx.post(f"{site.address}/v1/videos", timeout=300, **sent).status_code  # type: ignore[arg-type]

    with ThreadPoolExecutor(count) as pool:
        return sorted(pool.map(send, range(count)))


def methods(site: Site) -> object:
    with httpx.Client() as client:
        for number in range(2000):
            client.request(f"XQ{number}", f"{site.address}/x")
        return f"/metrics has {len(client.get(f'{site.address}/metrics').content):,} bytes"


def half_open(site: Site) -> object:
    """Heads and bodies that never end; the watcher goes on if the server closes them."""
    clients = []
    for number in range(300):
        client = socket.create_connection(("127.0.0.1", site.port))
        head = b"POST /v1/verify HTTP/1.1\r\nHost: localhost\r\n"
        ending = b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 1000\r\n\r\n--x"
        client.sendall(head + ending if number % 2 else head)
        clients.append(client)
    time.sleep(12)
    closed = 0
    for client in clients:
        client.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            closed += client.recv(10) == b""
        client.close()
    return f"{closed} of 300 closed after 12 s"


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="abuse-") as name:
        folder = Path(name)
        large_video, large_picture = video(folder), picture()
        (folder / HELD).write_text("0 0", encoding="ascii")
        watched = ("-m", "benchmarks.abuse", "--watch", str(folder / HELD))
        site = Site(folder, workers=0, program=watched)
        site.start()
        print(f"{os.cpu_count()} processor cores, load {os.getloadavg()[0]:.1f}", flush=True)
        attack(site, "nothing", lambda: time.sleep(1))
        attack(site, "video of 4096x2304, one", lambda: verify(site, large_video, 1))
        attack(site, "video of 4096x2304, 12 at once", lambda: verify(site, large_video, 12))
        attack(site, "picture of 8000x8000, 6 at once", lambda: verify(site, large_picture, 6))
        values = b"[" + b"[]," * 10_000_000 + b"[]]"
        attack(site, "JSON of ten million values", lambda: post_json(site, values))
        attack(site, "JSON of 9,999 values", lambda: post_json(site, b"[" + b"[]," * 4_990 + b"[]]"))
        text = b'{"prompt": "' + b"a" * 31_000_000 + b'"}'
        attack(site, "JSON of 31 MB, 8 at once", lambda: post_json(site, text, 8))
        part = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n'
        attack(site, "form of 100,000 parts", lambda: post_form(site, (part + b"b\r\n") * 100_000 + b"--x--"))
        attack(site, "form of dashes, 50 MB, 4 at once", lambda: post_form(site, part + b"\r\n-" * 17_000_000, 4))
        attack(site, "2,000 made-up methods", lambda: methods(site))
        attack(site, "300 half-open connections", lambda: half_open(site))
        print(f"load at the end {os.getloadavg()[0]:.1f}", flush=True)
        site.stop()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--watch"]:
        watched_command(Path(sys.argv[2]))
    else:
        main()
