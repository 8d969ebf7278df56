"""What strangers can do to a server: nothing without a key, and with one no more than its share."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from lichtspiel.policy import Verdict
from lichtspiel.seal import seal_picture
from lichtspiel.serve import connections
from lichtspiel.serve.api import detector, middleware
from lichtspiel.serve.api.detector import Detector
from lichtspiel.serve.api.middleware import SecurityMiddleware
from lichtspiel.serve.api.state import Server
from lichtspiel.serve.errors import QueueFull, TooBusy, TooLarge
from lichtspiel.serve.logs import configure
from lichtspiel.serve.queue.api_keys import Keys
from lichtspiel.serve.queue.jobs import Jobs
from lichtspiel.serve.settings import Settings
from lichtspiel.workflows.terms import Terms
from tests.seal.conftest import provenance
from tests.serve.conftest import add
from tests.serve.live import HTTP, PROMPT, SMALL, live, settings, warm

Served = tuple[Server, str]


@pytest.fixture
def served(random_nano: Path, tmp_path: Path) -> Iterator[Served]:
    with live(settings(tmp_path / "server", random_nano)) as found:
        yield found


@pytest.fixture
def locked(random_nano: Path, tmp_path: Path) -> Iterator[Served]:
    with live(settings(tmp_path / "server", random_nano, require_key=True)) as found:
        yield found


def test_without_a_key_only_health_answers(locked: Served, random_nano: Path, tmp_path: Path) -> None:
    server, address = locked
    secret = Keys(server.jobs).create("ada")[1]
    for path in ("/v1/models", "/v1/models/nano", "/ready", "/metrics", "/v1/videos"):
        assert HTTP.get(address + path).status_code == 401, path
    assert HTTP.post(f"{address}/v1/verify", files={"file": b"text"}).status_code == 401
    assert HTTP.get(f"{address}/health").status_code == 200
    keyed = {"Authorization": f"Bearer {secret}"}
    assert HTTP.get(f"{address}/metrics", headers=keyed).status_code == 200
    with live(settings(tmp_path / "open", random_nano, require_key=True, open_probes=True)) as (_, other):
        assert HTTP.get(f"{other}/ready").status_code == 503
        assert HTTP.get(f"{other}/metrics").status_code == 200
        assert HTTP.get(f"{other}/v1/models").status_code == 401


@pytest.mark.parametrize(
    "sent",
    [
        {"content": b'{"a":' * 50_000 + b"1" + b"}" * 50_000},
        {"content": b'{"prompt": "a", "seconds": NaN}'},
        {"content": b'{"prompt": "a", "seconds": Infinity}'},
        {"content": json.dumps({"prompt": "a", "seconds": 1e308}).encode()},
        {"content": json.dumps({"prompt": "a", "seconds": "nan"}).encode()},
        {"content": json.dumps({"prompt": "a", "seconds": "inf"}).encode()},
        {"content": json.dumps({"prompt": "a", "video": 5}).encode()},
        {"content": json.dumps({"prompt": "a", "references": [1]}).encode()},
        {"content": json.dumps({"prompt": "a", "model": ["nano"]}).encode()},
        {"content": json.dumps({"prompt": "a", "consent": {"a": 1}}).encode()},
        {"content": json.dumps({"prompt": ["a"], "lora": 5}).encode()},
        {"content": b"\xff\xfe"},
        {"content": b"[" + b"[]," * 100_000 + b"[]]"},
        {"content": b'{"prompt": "a"}', "headers": {"Host": "["}},
        {"content": b'{"prompt": "a"}', "headers": {"Origin": "http://["}},
    ],
    ids=lambda sent: str(sent)[:60],
)
def test_what_is_malformed_is_a_bad_request(served: Served, sent: dict[str, object]) -> None:
    _, address = served
    headers = {"content-type": "application/json", **sent.pop("headers", {})}  # type: ignore[dict-item]
    answer = HTTP.post(f"{address}/v1/videos", headers=headers, timeout=60, **sent)  # type: ignore[arg-type]
    assert answer.status_code == 400, answer.text
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_large_json_is_refused_and_holds_nobody_up(served: Served) -> None:
    _, address = served
    content = b"[" + b"[]," * 8_000_000 + b"[]]"
    slowest, over = 0.0, threading.Event()

    def watch() -> None:
        nonlocal slowest
        with httpx.Client() as client:
            while not over.is_set():
                began = time.perf_counter()
                client.get(f"{address}/health")
                slowest = max(slowest, time.perf_counter() - began)

    thread = threading.Thread(target=watch)
    thread.start()
    answer = HTTP.post(
        f"{address}/v1/videos", content=content, headers={"content-type": "application/json"}, timeout=60
    )
    over.set()
    thread.join()
    assert answer.status_code == 400
    assert slowest < 2  # parsing it took 7 s
    long = {"prompt": "a" * 5_000_000}
    answer = HTTP.post(f"{address}/v1/videos", json=long)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "prompt")
    assert len(answer.content) < 1000
    big = HTTP.post(f"{address}/v1/videos", content=b" " * 33_000_000, headers={"content-type": "application/json"})
    assert big.status_code == 413


def test_a_form_that_was_cut_off_is_refused(served: Served) -> None:
    server, address = served
    part = b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\na turtle\r\n'
    seed = b'--x\r\nContent-Disposition: form-data; name="seed"\r\n\r\n7'
    headers = {"content-type": 'multipart/form-data; boundary="x"'}
    for sent, status in ((part + seed, 400), (part, 400), (part + seed + b"\r\n--x--\r\n", 200)):
        answer = HTTP.post(f"{address}/v1/videos", content=sent, headers=headers)
        assert answer.status_code == status, answer.text
    assert server.jobs.counts()["queued"] == 1


def test_head_is_answered_wherever_get_is(served: Served) -> None:
    _, address = served
    for path in (
        "/",
        "/health",
        "/v1/videos",
        "/v1/models",
        "/v1/models/nano",
        "/openapi.json",
        "/page/page.css",
        "/x",
    ):
        whole, head = HTTP.get(address + path), HTTP.head(address + path)
        assert (head.status_code, head.content) == (whole.status_code, b""), path
        assert head.headers["content-length"] == whole.headers["content-length"]


def test_made_up_methods_share_one_bucket(served: Served) -> None:
    _, address = served
    with httpx.Client() as client:
        for number in range(30):
            client.request(f"XQ{number}", f"{address}/x")
        numbers = client.get(f"{address}/metrics").text
    assert 'method="other"' in numbers
    assert "XQ" not in numbers


def test_a_picture_that_takes_too_much_memory_harms_a_child_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    Image.fromarray(np.zeros((7000, 7000, 3), np.uint8)).save(path, format="PNG", compress_level=1)
    small = io.BytesIO()
    Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save(small, format="PNG")
    found = Detector()
    monkeypatch.setattr(detector, "MEMORY", 60_000_000)
    with pytest.raises(TooLarge, match="memory"):
        found.verify(path)
    monkeypatch.undo()
    path.write_bytes(small.getvalue())
    assert found.verify(path)["verdict"]
    monkeypatch.setattr(detector, "SECONDS", 0.0)
    with pytest.raises(TooLarge, match="seconds"):
        found.verify(path)


def test_files_are_verified_with_the_identity_of_the_data_folder_at_that_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Detector()
    for folder in (tmp_path / "one", tmp_path / "two"):
        monkeypatch.setenv("LICHTSPIEL_HOME", str(folder))
        sealed = seal_picture(np.full((64, 64, 3), 90, np.uint8), provenance(), tmp_path / f"{folder.name}.png")
        assert found.verify(sealed.path)["credentials"]["state"] == "trusted"


def test_few_files_are_verified_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, go_on = Detector(), threading.Event()

    def slow(path: Path) -> tuple[str, dict[str, object]]:
        assert go_on.wait(30)
        return "report", {}

    monkeypatch.setattr(found, "_run", slow)
    most = detector.AT_ONCE + detector.WAITING
    threads = [threading.Thread(target=found.verify, args=(tmp_path,)) for _ in range(most)]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    with pytest.raises(TooBusy) as busy:
        found.verify(tmp_path)
    assert (busy.value.status, busy.value.retry_after) == (503, 10)
    go_on.set()
    for thread in threads:
        thread.join()
    assert found.verify(tmp_path) == {}


def test_a_guard_that_hangs_keeps_nobody_from_their_videos(random_nano: Path, tmp_path: Path) -> None:
    go_on = threading.Event()

    class Hanging:
        name = "hanging"

        def judge(self, prompt: str) -> Verdict:
            assert go_on.wait(60)
            return Verdict("allowed", "none", "guard.clear", "")

    with live(settings(tmp_path, random_nano, terms=Terms(guard=Hanging()))) as (server, address):
        asked = [threading.Thread(target=HTTP.post, args=(f"{address}/v1/videos",), kwargs={
            "json": {"prompt": PROMPT}, "timeout": 120}) for _ in range(12)]  # fmt: skip
        for thread in asked:
            thread.start()
        for path in ("/v1/videos", "/health", "/v1/models"):
            assert HTTP.get(address + path, timeout=30).status_code == 200
        assert server.jobs.counts()["queued"] == 0
        go_on.set()
        for thread in asked:
            thread.join()
        assert server.jobs.counts()["queued"] == 12


def test_one_owner_keeps_nobody_out(jobs: Jobs) -> None:
    for _ in range(10):
        add(jobs, owner="greedy")
    with pytest.raises(QueueFull):
        add(jobs, owner="greedy")
    for _ in range(5):
        add(jobs, owner="b")  # half of the queue is the share of one of two
    with pytest.raises(QueueFull):
        add(jobs, owner="b")
    add(jobs, owner="c")
    with pytest.raises(QueueFull):
        add(jobs, owner="greedy")


def test_a_revoked_key_hears_no_more(locked: Served) -> None:
    server, address = locked
    keys = Keys(server.jobs)
    secret = keys.create("ada")[1]
    headers = {"Authorization": f"Bearer {secret}"}
    id = HTTP.post(f"{address}/v1/videos", json={"prompt": PROMPT, **SMALL}, headers=headers).json()["id"]
    with HTTP.stream("GET", f"{address}/v1/videos/{id}/events", headers=headers, timeout=30) as stream:
        lines = stream.iter_lines()
        assert next(lines) == "event: video"
        keys.revoke("ada")
        assert list(lines)[-3:-1] == ["event: deleted", "data: {}"]


def test_an_empty_idempotency_key_is_none(served: Served) -> None:
    server, address = served
    for _ in range(2):
        HTTP.post(f"{address}/v1/videos", json={"prompt": PROMPT}, headers={"Idempotency-Key": ""})
    assert server.jobs.counts()["queued"] == 2


def test_a_body_that_does_not_come_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middleware, "BODY_SECONDS", 0.05)
    sent: list[dict[str, object]] = []

    async def app(scope: object, receive: object, send: object) -> None:
        await receive()  # type: ignore[operator]

    async def receive() -> dict[str, object]:
        await asyncio.sleep(30)
        return {}

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "headers": [(b"host", b"localhost")]}
    asyncio.run(SecurityMiddleware(app, Settings())(scope, receive, send))  # type: ignore[arg-type]
    assert sent[0]["status"] == 408


def test_a_head_that_does_not_come_is_given_up(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.3)
    _, address = served
    port = int(address.rpartition(":")[2])
    for first in (b"", b"GET /health HTTP/1.1\r\nHost: loc"):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            client.sendall(first)
            assert client.recv(100) == b""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.recv(20).startswith(b"HTTP/1.1 200")
        client.sendall(b"GET /he")
        while client.recv(1000):
            pass


def test_the_log_has_ids_and_no_prompt(random_nano: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loggers = [logging.getLogger(name) for name in ("lichtspiel", "uvicorn")]
    before = [(logger.handlers, logger.propagate, logger.level) for logger in loggers]
    try:
        configure(as_json=True)
        with live(settings(tmp_path, random_nano)) as (server, address):
            answer = HTTP.post(f"{address}/v1/videos", json={"prompt": PROMPT, **SMALL})
            assert warm(server).once()
            numbers = HTTP.get(f"{address}/metrics").text
    finally:
        for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)
    text = capsys.readouterr().err
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    (asked,) = [line for line in lines if line["message"] == "answered" and line["path"] == "/v1/videos"]
    assert (asked["request"], asked["status"]) == (answer.headers["x-request-id"], 200)
    started, ended = (next(line for line in lines if line["message"] == f"job {when}") for when in ("started", "ended"))
    assert started["job"] == ended["job"] == answer.json()["id"]
    assert (ended["code"], ended["model"]) == ("completed", "nano")
    assert PROMPT not in text
    assert 'lichtspiel_job_seconds_bucket{le="+Inf",model="nano"} 1.0' in numbers
    assert 'lichtspiel_job_wait_seconds_count{model="nano"} 1.0' in numbers
