"""The client of the package, against our own server and against a plain one of the same protocol."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("httpx", reason="httpx is in the extra client")

import numpy as np
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from PIL import Image

from lichtspiel.client import ApiError, Client, Video, VideoFailed
from lichtspiel.seal import verify
from lichtspiel.spec import MODELS
from tests.serve.live import PROMPT, SMALL, live, port_of, settings, working

DOCS = Path(__file__).parents[2] / "docs" / "serve.md"
CURL = re.compile(r"^curl .*$", re.MULTILINE)

ELSEWHERE = ("/v1/videos/edits", "/v1/videos/translations", "/v1/videos/moderations")
"""What this server has no model or no speech for; test_sources, test_translations and test_moderations ask for them."""


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A nano that takes two steps where nobody says how many: what the docs ask for is proven by less."""
    nano = MODELS["nano"]
    monkeypatch.setitem(MODELS, "nano", replace(nano, sampling=replace(nano.sampling, steps=2)))


@pytest.mark.usefixtures("hasty")
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_curl_of_the_docs_runs(random_nano: Path, tmp_path: Path) -> None:
    """Every line of docs/serve.md that begins with curl, typed into a shell one after the other; only the address and
    the id, which stands there as VIDEO_ID, are those of this server."""
    Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save(tmp_path / "dragon.png")
    lines = [
        line for line in CURL.findall(DOCS.read_text(encoding="utf-8")) if not any(path in line for path in ELSEWHERE)
    ]
    assert len(lines) >= 6
    id = "VIDEO_ID"
    with live(settings(tmp_path / "server", random_nano)) as (server, address), working(server):
        for line in lines:
            typed = line.replace("http://127.0.0.1:8000", address).replace("VIDEO_ID", id)
            done = subprocess.run(["bash", "-c", typed], cwd=tmp_path, capture_output=True, text=True, check=True)
            if "/content" in line:
                assert verify(tmp_path / "dragon.mp4").credentials.state == "trusted"
            elif "/events" in line:
                assert done.stdout.count("event: video") > 1
                assert '"status":"completed"' in done.stdout.replace(" ", "")
            else:
                said = json.loads(done.stdout)
                assert "error" not in said or said["error"] is None, (line, said)
                id = said["id"] if id == "VIDEO_ID" else id


def test_from_a_prompt_to_a_file_on_our_own_server(random_nano: Path, tmp_path: Path) -> None:
    picture = tmp_path / "first.png"
    Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save(picture)
    seen: list[Video] = []
    with (
        live(settings(tmp_path / "server", random_nano)) as (server, address),
        working(server),
        Client(address) as client,
    ):
        assert [model["id"] for model in client.models()] == ["nano"]
        files = {"input_reference": picture}
        made = client.wait(client.create(PROMPT, files=files, seed=7, **SMALL), told=seen.append, pause=0.05)
        assert (made.status, made.progress, made.fields["inputs"]) == ("completed", 100, ["image"])
        assert made.fields["parameters"]["seed"] == 7
        assert seen[-1] == made
        out = client.download(made.id, tmp_path / "made.mp4")
        assert verify(out).credentials.state == "trusted"
        assert client.verify(out)["credentials"]["state"] == "trusted"
        again = client.remix(made.id, "a turtle walks on the beach by day")
        assert again.fields["remixed_from_video_id"] == made.id
        client.cancel(again.id)
        while not client.get(again.id).ended:
            time.sleep(0.05)
        assert {video.id for video in client.videos()} == {made.id, again.id}
        client.delete(made.id)
        with pytest.raises(ApiError) as caught:
            client.get(made.id)
        assert (caught.value.status, caught.value.code) == (404, "not_found")
        with pytest.raises(ApiError, match="nearest valid value: 17") as caught:
            client.create(PROMPT, frames=80)
        assert (caught.value.status, caught.value.param) == (400, "frames")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.usefixtures("hasty")
def test_the_python_of_the_docs_runs(random_nano: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = DOCS.read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    with live(settings(tmp_path / "server", random_nano)) as (server, address), working(server):
        assert "http://127.0.0.1:8000" in code
        exec(compile(code.replace("http://127.0.0.1:8000", address), "serve.md", "exec"), {})
    assert verify(tmp_path / "fish.mp4").credentials.state == "trusted"


@contextmanager
def plain_server() -> Iterator[str]:
    """A server with the routes and fields of the protocol and no more, which is away for its second answer."""
    app, polls = FastAPI(), {"video_1": 0, "video_2": 0}

    @app.post("/v1/videos")
    async def create(request: Request) -> dict[str, object]:
        async with request.form() as form:
            assert set(form) <= {"prompt", "input_reference", "size"}
            id = "video_2" if form["prompt"] == "fail" else "video_1"
        return {"id": id, "object": "video", "model": "wan", "status": "queued", "created_at": 1}

    @app.get("/v1/videos/{id}")
    async def one(id: str) -> Response:
        polls[id] += 1
        if polls[id] == 2:
            return Response("upstream is away", 502)
        status = "in_progress" if polls[id] < 3 else "failed" if id == "video_2" else "completed"
        error = {"code": "oom", "message": "no memory"} if status == "failed" else None
        return JSONResponse({"id": id, "object": "video", "status": status, "progress": 40, "error": error})

    @app.get("/v1/videos/{id}/content")
    async def content(id: str) -> Response:
        return Response(b"film" * 1000, media_type="video/mp4")

    runner = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", ws="none"))
    thread = threading.Thread(target=runner.run, daemon=True)
    thread.start()
    while not runner.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port_of(runner)}/v1"
    finally:
        runner.should_exit = True
        thread.join()


def test_a_server_that_has_only_the_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lichtspiel.client.PAUSES", (0.01, 0.01))
    picture = tmp_path / "first.png"
    Image.new("RGB", (8, 8)).save(picture)
    with plain_server() as address, Client(address, "sk-key") as client:
        made = client.wait(client.create("a cat", files={"input_reference": picture}, size="832x480"), pause=0.01)
        assert (made.status, made.progress) == ("completed", 40)
        assert client.download(made.id, tmp_path / "film.mp4").read_bytes() == b"film" * 1000
        with pytest.raises(VideoFailed, match="video_2 failed: no memory") as caught:
            client.wait(client.create("fail", files={"input_reference": picture}), pause=0.01)
        assert caught.value.video.status == "failed"
        with pytest.raises(ApiError, match="404"):
            client.cancel("video_1")


def test_a_server_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lichtspiel.client.PAUSES", (0.01,))
    with Client("http://127.0.0.1:9") as client:
        with pytest.raises(ApiError, match="does not answer"):
            client.create("a cat")
        with pytest.raises(ApiError, match="could not be downloaded"):
            client.download("video_1", tmp_path / "film.mp4")
    assert [*tmp_path.iterdir()] == []
