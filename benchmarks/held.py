"""Attacks and faults that changed nothing: keys, requests, kills, flipped bytes, mutated files.

    python -m benchmarks.held [--only keys,requests,pages,kills,bytes,files] [--count N] [--seed 1]

    keys       every route of a server, with the owner's key, another owner's, none, and ones that are wrong
    requests   foreign Host and Origin, paths that lead elsewhere, requests that are framed wrongly
    pages      what pages of other origins try in Chromium (needs `playwright` and a `chromium` on the path)
    kills      SIGINT, SIGTERM and SIGKILL at random moments of generate, seal, decode, replay and batch
    bytes      each byte of a sealed MP4 and of a sealed PNG flipped
    files      pictures and videos with random bytes flipped, left out, put in, doubled or cut off

Prints a line for each with the number of tries, and what went wrong, if anything did. `keys`, `requests` and `pages`
always run whole. Of the others, `--count` is how many tries there are (72, all bytes and 6,000 if it is not given). The
exit code is 1 if anything went wrong. Linux only.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.load import Site
from tests.seal.samples import samples_of

Wrong = list[str]
Result = tuple[int, Wrong]

KINDS = ("keys", "requests", "pages", "kills", "bytes", "files")
ENOUGH = {"kills": 72, "files": 6000}
SLOW = 20.0
"""Seconds of a processor after which reading a small file counts as slow."""


def sealed(folder: Path) -> tuple[Path, Path]:
    """A sealed video and a sealed picture of this installation."""
    from lichtspiel.seal import Provenance, seal, seal_picture

    def said() -> Provenance:
        return Provenance(
            model="nano", version="0.1.0", source_type="trainedAlgorithmicMedia", prompt="a turtle", negative="",
            parameters={"seed": 7},
        )  # fmt: skip

    draw = np.random.default_rng(1)
    frames = [draw.integers(0, 256, (32, 32, 3), np.uint8).repeat(2, 0).repeat(2, 1) for _ in range(2)]
    video = seal(frames, said(), folder / "sealed.mp4", fps=8).path
    return video, seal_picture(frames[0], said(), folder / "sealed.png").path


# ---------------------------------------------------------------------------------------------------------------- keys


def keys(folder: Path) -> Result:
    from lichtspiel.serve.queue.api_keys import Keys
    from lichtspiel.serve.server import open_server
    from lichtspiel.serve.settings import Settings

    site = Site(folder, workers=1, words=("--require-key",))
    store = open_server(Settings(database=f"sqlite:///{folder / 'jobs.sqlite'}", storage=str(folder / "files")))
    owned = Keys(store.jobs)
    ada, eve, gone = (owned.create(name)[1] for name in ("ada", "eve", "gone"))
    owned.revoke("gone")
    site.start()
    try:
        return _keys(site, ada, eve, gone)
    finally:
        site.stop()
        store.jobs.close()


def _keys(site: Site, ada: str, eve: str, gone: str) -> Result:
    def send(method: str, path: str, key: str | None, **sent: Any) -> int:
        headers = {} if key is None else {"Authorization": key}
        with httpx.stream(method, site.address + path, headers=headers, timeout=120, **sent) as answer:
            return answer.status_code

    def make(key: str, **more: object) -> str:
        sent = {"prompt": "a turtle", "frames": 5, "steps": 1, **more}
        answer = httpx.post(f"{site.address}/v1/videos", json=sent, headers={"Authorization": key}, timeout=120)
        return str(answer.json()["id"])

    mine = f"Bearer {ada}"
    done = make(mine)
    while (
        httpx.get(f"{site.address}/v1/videos/{done}", headers={"Authorization": mine}).json()["status"] != "completed"
    ):
        time.sleep(0.5)
    for pid in site.worker_ids():
        os.kill(pid, signal.SIGSTOP)  # what comes now stays in the queue
    waiting = make(mine)
    wrong: Wrong = []
    tries = 0

    def check(what: str, got: int, *expected: int) -> None:
        nonlocal tries
        tries += 1
        if got not in expected:
            wrong.append(f"{what}: {got} instead of {' or '.join(map(str, expected))}")

    try:
        strangers = {
            "none": None, "empty": "", "bearer alone": "Bearer", "revoked": f"Bearer {gone}",
            "half": f"Bearer {ada[: len(ada) // 2]}", "one letter short": f"Bearer {ada[:-1]}",
            "one letter more": f"Bearer {ada}x", "other case": f"Bearer {ada.swapcase()}", "basic": f"Basic {ada}",
            "bare": ada, "two": f"Bearer {ada} {eve}", "made up": "Bearer ls_" + "0" * 40,
        }  # fmt: skip
        for kind, key in strangers.items():
            for method, path, sent in _routes(done, waiting):
                check(f"{kind} {method} {path}", send(method, path, key, **sent), 401)
        for method, path, sent in _routes(done, waiting):
            if done in path or waiting in path or ("json" in sent and "video" in sent["json"]):
                check(f"another's {method} {path}", send(method, path, f"Bearer {eve}", **sent), 404)
        check("another's list", send("GET", "/v1/videos", f"Bearer {eve}"), 200)
        seen = httpx.get(f"{site.address}/v1/videos", headers={"Authorization": f"Bearer {eve}"}).json()["data"]
        check(f"another's list has {len(seen)} videos", 200 if not seen else 500, 200)
        for method, path, sent in _routes(done, waiting):
            if method in {"GET", "HEAD"} and not path.endswith("/events") and waiting not in path:
                check(f"own {method} {path}", send(method, path, mine, **sent), 200)
        check("own DELETE", send("DELETE", f"/v1/videos/{waiting}", mine), 200)
        check("own DELETE again", send("DELETE", f"/v1/videos/{waiting}", mine), 404)
    finally:
        for pid in site.worker_ids():
            os.kill(pid, signal.SIGCONT)
    return tries, wrong


def _routes(done: str, waiting: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Every route with what belongs to it, for a video that is done and one that waits."""
    yield "GET", "/v1/models", {}
    yield "GET", "/v1/models/nano", {}
    yield "GET", "/ready", {}
    yield "GET", "/metrics", {}
    yield "GET", "/v1/videos", {}
    yield "POST", "/v1/videos", {"json": {"prompt": "a"}}
    yield "POST", "/v1/verify", {"files": {"file": b"text"}}
    yield "POST", "/v1/models/nano/reading", {"json": {"prompt": "a"}}
    yield "GET", "/v1/videos/moderations", {}
    yield "POST", "/v1/videos/moderations", {"json": {"video": {"id": done}}}
    yield "POST", "/v1/videos/extensions", {"json": {"prompt": "a", "video": {"id": done}}}
    for id in (done, waiting):
        yield "GET", f"/v1/videos/{id}", {}
        yield "GET", f"/v1/videos/{id}/content", {}
        yield "HEAD", f"/v1/videos/{id}/content", {}
        yield "GET", f"/v1/videos/{id}/events", {}
        yield "POST", f"/v1/videos/{id}/cancel", {}
        yield "POST", f"/v1/videos/{id}/remix", {"json": {"prompt": "a"}}
        yield "DELETE", f"/v1/videos/{id}", {}
    yield "GET", f"/v1/videos/{done}/preview", {}
    yield "GET", f"/v1/videos/{done}/content?variant=thumbnail", {}
    yield "GET", f"/v1/videos/{done}/content?variant=spritesheet", {}


# ------------------------------------------------------------------------------------------------------------ requests


def requests(folder: Path) -> Result:
    site = Site(folder, workers=0)
    site.start()
    wrong: Wrong = []
    tries = 0
    try:
        for what, sent, allowed in _raw_requests(site.port):
            tries += 1
            answer = _answer(site.port, sent)
            status = int(answer[9:12]) if answer.startswith(b"HTTP/1.1 ") else 0
            if (status in {0, *range(400, 500)}) == allowed or status >= 500 or b"root:" in answer:
                wrong.append(f"{what}: {answer[:60]!r}")
            if httpx.get(f"{site.address}/health", timeout=60).status_code != 200:
                wrong.append(f"{what}: the server does not answer any more")
    finally:
        site.stop()
    return tries, wrong


def _answer(port: int, sent: bytes) -> bytes:
    """What a server answers until it closes the connection, or for half a second; nothing if it resets it."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        try:
            client.sendall(sent)
            while len(answer) < 100_000:
                if not (piece := client.recv(1 << 16)):
                    break
                answer += piece
                client.settimeout(0.5)
        except (TimeoutError, ConnectionError):
            pass
    return answer


def _raw_requests(port: int) -> Iterator[tuple[str, bytes, bool]]:
    """Requests, byte by byte, and whether they may be answered as asked."""
    own = f"127.0.0.1:{port}"

    def get(path: str = "/v1/videos", host: str = own, *more: str) -> bytes:
        lines = [f"GET {path} HTTP/1.1", f"Host: {host}", "Connection: close", *more, "", ""]
        return "\r\n".join(lines).encode("latin-1")

    for host in (own, "localhost", f"localhost:{port}", f"[::1]:{port}"):
        yield f"Host {host}", get("/v1/videos", host), True
    foreign = (
        "evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "localhost.evil.example", "evil.localhost",
        "[", "]", "", " ", "localhost@evil.example", "evil.example@", "127.0.0.2", "2130706433", "0x7f.1", "0.0.0.0",
        "[::]", "[::ffff:127.0.0.1]", "localhost.", "xn--localhost", "127.1",
    )  # fmt: skip
    for host in foreign:
        yield f"Host {host!r}", get("/v1/videos", host), False
    for origin in (
        "null", "http://evil.example", "https://evil.example", f"http://evil.example:{port}",
        f"http://localhost:{port}", "http://127.0.0.1:1", f"http://{own}.evil.example",
        f"http://evil.example@{own}", "http://[", "file://", "", own,
    ):  # fmt: skip
        yield f"Origin {origin!r}", get("/v1/videos", own, f"Origin: {origin}"), False
    yield "own Origin", get("/v1/videos", own, f"Origin: http://{own}"), True
    up = ("../" * 8, "..%2f" * 8, "%2e%2e/" * 8, "..%5c" * 8, "....//" * 8, "%252e%252e%252f" * 8)
    for way in up:
        for start in ("/page/", "/v1/videos/", "/v1/models/"):
            yield f"path {start}{way[:12]}", get(f"{start}{way}etc/passwd"), False
    yield "path with NUL", get("/page/%00"), False
    body = b'{"prompt": "a"}'
    head = f"POST /v1/videos HTTP/1.1\r\nHost: {own}\r\nContent-Type: application/json\r\n".encode()
    for what, lines in {
        "two lengths": b"Content-Length: 15\r\nContent-Length: 3\r\n", "a negative length": b"Content-Length: -1\r\n",
        "a length of words": b"Content-Length: many\r\n", "a length with a sign": b"Content-Length: +15\r\n",
        "an unknown coding": b"Transfer-Encoding: many\r\n", "a space before the colon": b"Content-Length : 15\r\n",
        "a line without colon": b"Content-Length\r\n", "a NUL": b"X: \0\r\nContent-Length: 15\r\n",
        "a large head": b"X: " + b"a" * 200_000 + b"\r\n", "a large length": b"Content-Length: 999999999999\r\n",
    }.items():  # fmt: skip
        yield what, head + lines + b"\r\n" + body, False
    chunked = head + b"Transfer-Encoding: chunked\r\n\r\n"
    yield "a chunk without a number", chunked + b"zz\r\n" + body, False
    yield "a chunk of a negative size", chunked + b"-1\r\n" + body, False
    both = head + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    smuggled = b"f\r\n" + body + b"\r\n0\r\n\r\n" + get("/metrics")
    yield "length and chunks", both + smuggled, True  # the chunks count, and the connection ends


def _pages(folder: Path) -> Result:
    from benchmarks.held_pages import pages

    return pages(folder)


# --------------------------------------------------------------------------------------------------------------- kills


def kills(folder: Path, count: int, draw: random.Random) -> Result:
    from lichtspiel.seal import verify
    from lichtspiel.storage import home

    few = ("--steps", "2", "--frames", "5")
    program = (sys.executable, "-m", "lichtspiel")

    def run(words: tuple[str, ...]) -> float:
        began = time.monotonic()
        subprocess.run([*program, *words], cwd=folder, check=True, capture_output=True)
        return time.monotonic() - began

    run(("generate", "a turtle", "-o", "made.mp4", *few))
    (latents,) = (home() / "latents").glob("*.safetensors")
    (folder / "jobs.jsonl").write_text('{"prompt": "a turtle", "steps": 2, "frames": 5, "out": "out.mp4"}\n')
    verbs = {
        "generate": ("generate", "a turtle", "-o", "out.mp4", "--force", *few),
        "decode": ("decode", str(latents), "-o", "out.mp4", "--force"),
        "replay": ("replay", "made.mp4", "-o", "out.mp4", "--force"),
        "seal": ("seal", "made.mp4", "--made-with", "a tool", "-o", "out.mp4", "--force"),
        "batch": ("batch", "jobs.jsonl", "-o", "."),
    }
    old = b"what was there before"
    wrong: Wrong = []
    out, seconds = folder / "out.mp4", dict[str, float]()
    for number in range(count):
        verb, words = list(verbs.items())[number % len(verbs)]
        how = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)[number // len(verbs) % 3]
        out.unlink(missing_ok=True)
        (folder / "batch.jsonl").unlink(missing_ok=True)
        if verb not in seconds:
            seconds[verb] = run(words)
            out.unlink()
        if verb != "batch":
            out.write_bytes(old)
        process = subprocess.Popen([*program, *words], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(draw.uniform(0.2, 1.1) * seconds[verb])
        process.send_signal(how)
        process.wait()
        there = out.read_bytes() if out.exists() else b""
        if there not in (b"" if verb == "batch" else old, old) and verify(out).credentials.state != "trusted":
            wrong.append(f"{verb} and {how.name}: {len(there)} bytes that are neither the old file nor a whole one")
        drafts = [path for path in folder.iterdir() if path.name.endswith(".partial")]
        if drafts and how != signal.SIGKILL:
            wrong.append(f"{verb} and {how.name}: {len(drafts)} drafts are left")
        for draft in drafts:
            draft.unlink()
    return count, wrong


# --------------------------------------------------------------------------------------------------------------- bytes


def flips(folder: Path, count: int | None) -> Result:
    wrong: Wrong = []
    tries = 0
    for path in sealed(folder):
        content = path.read_bytes()
        expected = _shown(path)
        assert expected is not None
        places = range(len(content)) if count is None else range(0, len(content), -(-2 * len(content) // count))
        changed = path.with_name(f"changed{path.suffix}")
        for at in places:
            altered = bytearray(content)
            altered[at] ^= 1 << at % 8
            changed.write_bytes(altered)
            tries += 1
            if (found := _shown(changed)) is not None and found != expected:
                wrong.append(f"{path.suffix}, byte {at}: another picture or record counts as ours")
    return tries, wrong


def _shown(path: Path) -> tuple[bytes, object] | None:
    """The pixels and the record of a file that counts as sealed here; None for any other file, and for one that no
    reader shows."""
    from lichtspiel.errors import MediaError
    from lichtspiel.media.media import read_frames
    from lichtspiel.seal import identity, manifest

    try:
        read = manifest.read(path, identity.anchors())
    except MediaError:
        return None
    if read.state != "intact" or not read.ours:
        return None
    try:
        return b"".join(frame.tobytes() for frame in read_frames(path)), manifest.record(read.manifest)
    except MediaError:
        return None


# --------------------------------------------------------------------------------------------------------------- files


def files(folder: Path, count: int, draw: random.Random) -> Result:
    """Mutated files through `verify` and through the readers, a hundred in a process, whose end is a crash."""
    samples = samples_of(folder, sealed(folder))
    context = multiprocessing.get_context("spawn")
    wrong: Wrong = []
    for start in range(0, count, 100):
        receiver, sender = context.Pipe(duplex=False)
        seeds = [draw.random() for _ in range(min(100, count - start))]
        child = context.Process(target=_try_files, args=(folder, samples, seeds, sender))
        child.start()
        sender.close()
        try:
            while (said := receiver.recv()) is not None:
                wrong.append(said)
        except EOFError:
            pass
        child.join()
        if child.exitcode:
            wrong.append(f"a process ended with {child.exitcode}; its files are those of seed {start} on")
    return count, wrong


def _mutated(content: bytes, draw: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 8, 64))):
        at, size = draw.randrange(len(changed) + 1), draw.choice((1, 2, 4, 16, 256))
        kind = draw.randrange(6)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            changed[at : at + size] = draw.randbytes(size)
        elif kind == 2:
            del changed[at : at + size]
        elif kind == 3:
            changed[at:at] = draw.randbytes(size)
        elif kind == 4:
            changed[at:at] = changed[at : at + size]
        elif len(changed) > 16 and draw.random() < 0.2:
            del changed[draw.randrange(8, len(changed)) :]
    return bytes(changed)


def _try_files(folder: Path, samples: list[tuple[str, bytes]], seeds: list[float], say: Connection) -> None:
    warnings.simplefilter("ignore")  # of Pillow, about what it skips
    from lichtspiel.errors import LichtspielError
    from lichtspiel.media.media import read_frames
    from lichtspiel.seal import verify

    ways: tuple[tuple[str, Callable[[Path], object]], ...] = (
        ("verify", verify), ("reading", lambda path: sum(1 for _ in read_frames(path))),
    )  # fmt: skip
    for seed in seeds:
        draw = random.Random(seed)
        suffix, content = draw.choice(samples)
        path = folder / f"mutated{suffix}"
        path.write_bytes(_mutated(content, draw))
        for name, act in ways:
            began = time.process_time()
            try:
                act(path)
            except LichtspielError:
                pass
            except BaseException as error:
                say.send(f"{name} of {suffix}, seed {seed}: {type(error).__name__}: {error}")
            if (spent := time.process_time() - began) > SLOW:
                say.send(f"{name} of {suffix}, seed {seed}: took {spent:.0f} s")
    say.send(None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(KINDS), help="which of them, separated by commas")
    parser.add_argument("--count", type=int, help="how many kills, flipped bytes and mutated files each")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    failed = False
    for kind in given.only.split(","):
        count = given.count or ENOUGH.get(kind)
        draw = random.Random(given.seed)
        with tempfile.TemporaryDirectory(prefix="held-") as name:
            folder = Path(name)
            os.environ["LICHTSPIEL_HOME"] = str(folder / "home")
            began = time.monotonic()
            acts: dict[str, Callable[[], Result]] = {
                "keys": lambda: keys(folder),  # noqa: B023  (called in this turn)
                "requests": lambda: requests(folder),  # noqa: B023
                "pages": lambda: _pages(folder),  # noqa: B023
                "kills": lambda: kills(folder, count or 0, draw),  # noqa: B023
                "bytes": lambda: flips(folder, count),  # noqa: B023
                "files": lambda: files(folder, count or 0, draw),  # noqa: B023
            }
            tries, wrong = acts[kind]()
            print(f"{kind}: {tries} tries, {len(wrong)} wrong, {time.monotonic() - began:.0f} s", flush=True)
            for line in wrong[:20]:
                print(f"  {line}", flush=True)
            failed = failed or bool(wrong)
    sys.exit(failed)


if __name__ == "__main__":
    main()
