"""What a client without a key can take from a server: memory, and time in which nobody else is answered.

    python -m benchmarks.abuse

Starts a server on loopback without workers and without keys, so that everything is open, and tries what strangers send:
videos and pictures that decode to gigabytes, many at once; JSON of millions of values; made-up HTTP methods; bodies and
heads that never end. Meanwhile one client asks `/health` and notes the slowest answer, and the memory of the server and
its children is added up. Prints one line per attack. Linux only.
"""

from __future__ import annotations

import contextlib
import io
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from benchmarks.load import Site
from lichtspiel.seal import Marks, Provenance, seal


def picture() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.zeros((8000, 8000, 4), np.uint8)).save(file, format="PNG")
    return file.getvalue()


def video(folder: Path) -> bytes:
    """120 black frames, without marks, so that it is a file like any other."""
    said = Provenance(
        model="none", version="0", source_type="trainedAlgorithmicMedia", prompt="", negative="", parameters={}
    )
    frames = (np.zeros((2304, 4096, 3), np.uint8) for _ in range(120))
    path = folder / "large.mp4"
    seal(frames, said, path, fps=24, marks=Marks.none("a benchmark of memory"))
    return path.read_bytes()


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

    def watch() -> None:
        assert site.process is not None
        with httpx.Client(timeout=60) as client:
            while not over.is_set():
                began = time.perf_counter()
                client.get(f"{site.address}/health")
                slowest[0] = max(slowest[0], time.perf_counter() - began)
                most[0] = max(most[0], memory(site.process.pid))
                time.sleep(0.005)

    thread = threading.Thread(target=watch)
    thread.start()
    time.sleep(0.3)
    said = act()
    over.set()
    thread.join()
    print(f"{name}: {most[0] / 1e6:.0f} MB at most, slowest answer {1000 * slowest[0]:.0f} ms ({said})", flush=True)


def verify(site: Site, content: bytes, count: int) -> object:
    def send(_: int) -> int:
        return httpx.post(f"{site.address}/v1/verify", files={"file": content}, timeout=300).status_code

    with ThreadPoolExecutor(count) as pool:
        return sorted(pool.map(send, range(count)))


def post_json(site: Site, content: bytes, count: int = 1) -> object:
    def send(_: int) -> int:
        sent = {"content": content, "headers": {"content-type": "application/json"}}
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
    with tempfile.TemporaryDirectory(prefix="abuse-") as folder:
        large_video, large_picture = video(Path(folder)), picture()
        site = Site(Path(folder), workers=0)
        site.start()
        attack(site, "nothing", lambda: time.sleep(1))
        attack(site, "video of 4096x2304, one", lambda: verify(site, large_video, 1))
        attack(site, "video of 4096x2304, 12 at once", lambda: verify(site, large_video, 12))
        attack(site, "picture of 8000x8000, 6 at once", lambda: verify(site, large_picture, 6))
        values = b"[" + b"[]," * 10_000_000 + b"[]]"
        attack(site, "JSON of ten million values", lambda: post_json(site, values))
        attack(site, "JSON of 9,999 values", lambda: post_json(site, b"[" + b"[]," * 4_990 + b"[]]"))
        text = b'{"prompt": "' + b"a" * 31_000_000 + b'"}'
        attack(site, "JSON of 31 MB, 8 at once", lambda: post_json(site, text, 8))
        attack(site, "2,000 made-up methods", lambda: methods(site))
        attack(site, "300 half-open connections", lambda: half_open(site))
        site.stop()


if __name__ == "__main__":
    main()
