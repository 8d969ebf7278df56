"""What clients sent goes when it should, and consent and keys are not stretched."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from lichtspiel.serve.api.body import folder, sweep_uploads
from lichtspiel.serve.api.state import Server
from lichtspiel.serve.workers.supervisor import open_jobs
from tests.serve.live import HTTP, PROMPT, SMALL, live, settings, warm

Served = tuple[Server, str]


@pytest.fixture
def served(random_nano: Path, tmp_path: Path) -> Iterator[Served]:
    with live(settings(tmp_path / "server", random_nano)) as found:
        yield found


def post(address: str, path: str = "/v1/videos", **fields: object) -> httpx.Response:
    return HTTP.post(f"{address}{path}", json=fields)


def files(server: Server) -> list[str]:
    root = Path(server.settings.storage)
    return sorted(str(path.relative_to(root)) for path in root.rglob("*.*"))


def test_consent_belongs_to_one_prompt(served: Served) -> None:
    _, address = served
    first = post(address, prompt="my neighbour rides a bicycle", consent="my neighbour agreed to the ride").json()["id"]
    remix = f"/v1/videos/{first}/remix"
    refused = post(address, remix, prompt="my neighbour in a sexy pose")
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "refused_by_policy")
    assert post(address, remix, prompt="my neighbour in a sexy pose", consent=["yes"]).status_code == 400
    assert post(address, remix, prompt="my neighbour in a sexy pose", consent="agreed to this pose").status_code == 200


def test_a_finished_job_keeps_its_video_and_pictures_only_and_head_sends_none_of_them(
    served: Served, tmp_path: Path
) -> None:
    server, address = served
    id = post(address, prompt=PROMPT, **SMALL).json()["id"]
    (tmp_path / "picture").write_bytes(b"of an attempt that was killed")
    server.files.put(tmp_path / "picture", f"previews/{id}_0_3.png")
    assert warm(server).once()
    assert [name.partition("/")[0] for name in files(server)] == ["previews", "sheets", "videos"]
    assert server.jobs.get(id, None).latents is None
    there = f"{address}/v1/videos/{id}/content"
    whole, head = HTTP.get(there), HTTP.head(there)
    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-length", "etag", "content-type", "accept-ranges"):
        assert head.headers[name] == whole.headers[name]
    assert HTTP.get(there, headers={"If-None-Match": "*"}).status_code == 304
    assert HTTP.get(there, headers={"Range": "bytes=5-2"}).content == whole.content


def test_delete_removes_what_killed_attempts_left_and_can_be_tried_again(served: Served, tmp_path: Path) -> None:
    server, address = served
    id = post(address, prompt=PROMPT).json()["id"]
    (tmp_path / "left").write_bytes(b"left")
    for name in (f"previews/{id}_1_3.png", f"latents/{id}_1.safetensors", f"videos/{id}_1.mp4"):
        server.files.put(tmp_path / "left", name)
    storage = Path(server.settings.storage)
    storage.rename(tmp_path / "away")
    answer = HTTP.delete(f"{address}/v1/videos/{id}")
    assert answer.status_code == 503
    assert str(tmp_path) not in answer.text
    (tmp_path / "away").rename(storage)
    assert HTTP.delete(f"{address}/v1/videos/{id}").json()["deleted"]
    assert files(server) == []
    assert HTTP.get(f"{address}/v1/videos/{id}").status_code == 404


def test_what_a_worker_made_is_kept_as_long_as_was_asked(random_nano: Path, tmp_path: Path) -> None:
    jobs = open_jobs(settings(tmp_path, random_nano, keep_days=2.0))
    jobs.add(owner="", model="nano", request={}, inputs={})
    job = jobs.claim("w", ["nano"], 30.0)
    assert job is not None
    jobs.complete(job, video="videos/a.mp4", result={})
    ended = jobs.get(job.id, None)
    assert ended.ended is not None
    assert ended.expires == ended.ended + 2 * 86400
    jobs.close()


def test_uploads_of_a_killed_server_go_at_the_next_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    child = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], check=True, capture_output=True)
    names = [f"lichtspiel-upload-{number}-x" for number in (int(child.stdout), os.getpid())]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "image.png").write_bytes(b"a picture")
    assert sweep_uploads() == 0  # too young to tell
    for name in names:
        os.utime(tmp_path / name, (1e9, 1e9))
    assert sweep_uploads() == 1
    assert [path.name for path in tmp_path.iterdir()] == [names[1]]
    with folder() as own:
        assert own.name.startswith(f"lichtspiel-upload-{os.getpid()}-")
