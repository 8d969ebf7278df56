"""The API as OpenAI's own client meets it, and what that client does not know: events, ranges, limits."""

from __future__ import annotations

import base64
import io
import json
import runpy
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from PIL import Image

from lichtspiel import __version__
from lichtspiel.errors import InvalidInput
from lichtspiel.media.picture import load_image
from lichtspiel.media.video import read_video, video_info
from lichtspiel.seal import verify
from lichtspiel.serve.api.state import Server
from lichtspiel.serve.queue.api_keys import Keys, Quotas
from lichtspiel.serve.settings import Settings
from lichtspiel.spec import MODELS
from tests.lora.files import keys, linear_layers, pairs, save
from tests.serve.live import HTTP, PROMPT, SMALL, client, live, settings, warm, working

pytestmark = pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")

Served = tuple[Server, str]

get, send, remove = HTTP.get, HTTP.post, HTTP.delete


@pytest.fixture
def served(random_nano: Path, tmp_path: Path) -> Iterator[Served]:
    """An application on a port, with nobody at work."""
    with live(settings(tmp_path / "server", random_nano)) as found:
        yield found


def picture(color: int = 90) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((64, 64, 3), color, np.uint8)).save(file, format="PNG")
    return file.getvalue()


def post(address: str, **sent: Any) -> httpx.Response:
    return send(f"{address}/v1/videos", **sent)


def code(answer: httpx.Response) -> tuple[int, str]:
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return answer.status_code, error["code"]


def test_the_openai_client_makes_watches_and_fetches_a_video(served: Served, tmp_path: Path) -> None:
    server, address = served
    videos = client(address).videos
    with working(server):
        video = videos.create_and_poll(
            model="nano",
            prompt=PROMPT,
            seconds="0.625",
            extra_body={"steps": 1, "seed": 7, "dtype": "float32"},
            poll_interval_ms=50,
        )  # type: ignore[call-overload]
    assert (video.status, video.progress, video.error, video.seconds, video.size) == (
        "completed", 100, None, "0.625", "128x128",
    )  # fmt: skip
    assert (video.parameters["seed"], video.parameters["steps"], video.parameters["dtype"]) == (7, 1, "float32")  # type: ignore[attr-defined]
    path = tmp_path / "video.mp4"
    path.write_bytes(videos.download_content(video.id).read())
    assert video_info(path).frames == 5
    assert verify(path).credentials.state == "trusted"
    thumbnail = tmp_path / "thumbnail.png"
    thumbnail.write_bytes(videos.download_content(video.id, variant="thumbnail").read())
    assert verify(thumbnail).credentials.state == "trusted"
    frames = list(read_video(path))
    apart = [abs(load_image(thumbnail).astype(float) - frame).mean() for frame in frames]
    assert min(apart) < 4  # both are marked, so it is not the same to the last bit
    assert [one.id for one in videos.list()] == [video.id]
    assert videos.retrieve(video.id) == video
    assert videos.delete(video.id).deleted
    assert [*videos.list()] == []
    with pytest.raises(openai.NotFoundError):
        videos.retrieve(video.id)
    assert [*(tmp_path / "server" / "files").rglob("*.*")] == []


def test_a_first_picture_comes_as_openai_sends_it(served: Served) -> None:
    server, address = served
    videos, made = client(address).videos, warm(server)
    uploaded = videos.create(prompt=PROMPT, input_reference=("first.png", picture()), extra_body=SMALL).id
    # The client's types have it, the client itself does not send it yet.
    written = {"image_url": "data:image/png;base64," + base64.b64encode(picture()).decode()}
    addressed = post(address, json={"prompt": PROMPT, "input_reference": written, **SMALL}).json()["id"]
    for id in (uploaded, addressed):
        assert made.once()
        created = videos.retrieve(id)
        assert (created.status, created.inputs) == ("completed", ["image"])  # type: ignore[attr-defined]
    for id in (uploaded, addressed):
        again, created = videos.remix(id, prompt="a taxi"), videos.retrieve(id)
        assert (again.remixed_from_video_id, again.inputs) == (id, ["image"])  # type: ignore[attr-defined]
        assert again.parameters["seed"] == created.parameters["seed"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("sent", "expected", "said"),
    [
        ({"json": {"prompt": PROMPT, "frames": 80}}, (400, "invalid_request"), "nearest valid value: 17"),
        ({"json": {"prompt": PROMPT, "colour": "red"}}, (400, "invalid_request"), "no such field"),
        ({"json": {"prompt": PROMPT, "model": "t2v-14b"}}, (400, "invalid_request"), "this server has nano"),
        ({"json": {"prompt": PROMPT, "device": "cuda"}}, (400, "invalid_request"), "the server chooses"),
        ({"json": {"prompt": PROMPT, "image": "/etc/passwd"}}, (400, "invalid_request"), "input_reference"),
        ({"json": {"prompt": PROMPT, "lora": ["x"]}}, (400, "invalid_request"), "offers none"),
        ({"json": {"prompt": PROMPT, "video": "/etc/passwd"}}, (400, "invalid_request"), "video"),
        ({"json": {"prompt": PROMPT, "input_reference": "https://a.org/a.png"}}, (400, "invalid_request"), "fetched"),
        ({"json": [1]}, (400, "invalid_request"), "JSON object"),
        ({"content": "{", "headers": {"content-type": "application/json"}}, (400, "invalid_request"), "not JSON"),
        ({"json": {}}, (400, "invalid_request"), "required"),
        ({"data": {"prompt": PROMPT}, "files": {"input_reference": b"text"}}, (400, "invalid_request"), "_reference: "),
        ({"data": {"prompt": PROMPT}, "files": {"weights": b"text"}}, (400, "invalid_request"), "files are sent as"),
        ({"json": {"prompt": "a naked child"}}, (403, "refused_by_policy"), "minors"),
        ({"json": {"prompt": PROMPT}, "headers": {"Origin": "https://a.org"}}, (403, "invalid_request"), "a.org"),
        ({"json": {"prompt": PROMPT}, "headers": {"Host": "evil.example"}}, (403, "invalid_request"), "evil.example"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)  # fmt: skip
def test_what_is_wrong_is_answered_at_once(
    served: Served, sent: dict[str, Any], expected: tuple[int, str], said: str
) -> None:
    server, address = served
    answer = post(address, **sent)
    assert code(answer) == expected
    assert said in answer.json()["error"]["message"]
    assert sum(server.jobs.counts().values()) == 0
    assert [*Path(server.settings.storage).rglob("*.*")] == []


def test_the_field_of_a_file_that_cannot_be_read_is_named(served: Served) -> None:
    _, address = served
    told = post(address, data={"prompt": PROMPT}, files={"input_reference": b"text"}).json()["error"]
    assert told["param"] == "input_reference"
    assert told["message"].startswith("input_reference: is no picture")


def test_too_large_is_refused_before_it_is_read(random_nano: Path, tmp_path: Path) -> None:
    with live(settings(tmp_path, random_nano, body_limit=2000)) as (_, address):
        assert code(post(address, json={"prompt": "x" * 3000})) == (413, "too_large")
        pieces = (b'{"prompt": "' + b"x" * 1000 for _ in range(4))  # without a Content-Length
        assert code(post(address, content=pieces, headers={"content-type": "application/json"})) == (413, "too_large")
        assert post(address, json={"prompt": PROMPT}).status_code == 200


def test_a_full_queue_says_when_to_come_back(random_nano: Path, tmp_path: Path) -> None:
    with live(settings(tmp_path, random_nano, queue_limit=1)) as (_, address):
        client(address).videos.create(model="nano", prompt=PROMPT)
        with pytest.raises(openai.RateLimitError) as caught:
            client(address).videos.create(model="nano", prompt=PROMPT)
        assert caught.value.code == "queue_full"
        assert int(caught.value.response.headers["retry-after"]) > 0


def test_keys_separate_people_and_limit_them(random_nano: Path, tmp_path: Path) -> None:
    with live(settings(tmp_path, random_nano, require_key=True)) as (server, address):
        keys = Keys(server.jobs)
        ada, grace = keys.create("ada", Quotas(limit="1/h"))[1], keys.create("grace")[1]
        with pytest.raises(openai.AuthenticationError) as refused:
            client(address, "ls_wrong").videos.create(model="nano", prompt=PROMPT)
        assert refused.value.code == "invalid_key"
        assert code(get(f"{address}/v1/videos")) == (401, "invalid_key")
        mine = client(address, ada).videos.create(model="nano", prompt=PROMPT)
        with pytest.raises(openai.RateLimitError) as limited:
            client(address, ada).videos.create(model="nano", prompt=PROMPT)
        assert limited.value.code == "limit_reached"
        assert [*client(address, grace).videos.list()] == []
        for act in (client(address, grace).videos.retrieve, client(address, grace).videos.delete):
            with pytest.raises(openai.NotFoundError):
                act(mine.id)
        Keys(server.jobs).revoke("ada")
        with pytest.raises(openai.AuthenticationError):
            client(address, ada).videos.list()


def test_strangers_need_keys(random_nano: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="--require-key"):
        settings(tmp_path, random_nano, host="0.0.0.0")
    assert not Settings(host="0.0.0.0", require_key=True).loopback


def test_the_same_idempotency_key_makes_one_video(served: Served) -> None:
    _, address = served
    headers = {"Idempotency-Key": "one"}
    first, second = (post(address, json={"prompt": PROMPT, "seed": 1}, headers=headers).json() for _ in range(2))
    assert first["id"] == second["id"]
    assert code(post(address, json={"prompt": "a taxi"}, headers=headers)) == (409, "conflict")


def test_the_example_of_a_client_fetches_a_video(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, address = served
    monkeypatch.setenv("LICHTSPIEL_SERVER", address)
    monkeypatch.chdir(tmp_path)
    with working(server):
        runpy.run_path(str(Path(__file__).parents[2] / "examples" / "serve_client.py"))
    assert verify(tmp_path / "dragon.mp4").credentials.here


def test_cancelling(served: Served) -> None:
    server, address = served
    waiting, running = (post(address, json={"prompt": PROMPT, "steps": 1000}).json()["id"] for _ in range(2))
    assert send(f"{address}/v1/videos/{waiting}/cancel").json()["status"] == "cancelled"
    with working(server):
        while get(f"{address}/v1/videos/{running}").json()["step"] < 1:
            time.sleep(0.1)
        assert code(remove(f"{address}/v1/videos/{running}")) == (409, "conflict")
        assert send(f"{address}/v1/videos/{running}/cancel").json()["status"] == "in_progress"
        while (now := get(f"{address}/v1/videos/{running}").json())["status"] == "in_progress":
            time.sleep(0.05)
    assert now["status"] == "cancelled"
    assert now["step"] < 1000
    assert code(get(f"{address}/v1/videos/{running}/content")) == (404, "not_found")
    assert remove(f"{address}/v1/videos/{running}").json()["deleted"]


def test_events_tell_every_change_until_the_end(served: Served) -> None:
    server, address = served
    id = post(address, json={"prompt": PROMPT, **SMALL}).json()["id"]
    seen: list[dict[str, Any]] = []
    begun = threading.Event()

    def listen() -> None:
        with HTTP.stream("GET", f"{address}/v1/videos/{id}/events") as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            for line in stream.iter_lines():
                if line.startswith("data: "):
                    seen.append(json.loads(line.removeprefix("data: ")))
                    begun.set()

    thread = threading.Thread(target=listen)
    thread.start()
    begun.wait(10)
    with working(server):
        thread.join(60)
    assert (seen[0]["status"], seen[0]["position"]) == ("queued", 1)
    assert seen[-1]["status"] == "completed"
    progress = [each["progress"] for each in seen]
    assert progress == sorted(progress)


def test_ranges_and_etags_are_what_players_want(served: Served) -> None:
    server, address = served
    id = post(address, json={"prompt": PROMPT, **SMALL}).json()["id"]
    assert warm(server).once()
    there = f"{address}/v1/videos/{id}/content"
    whole = get(there)
    assert whole.headers["content-type"] == "video/mp4"
    assert whole.headers["content-security-policy"].startswith("default-src 'self'")
    part = get(there, headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, whole.content[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{len(whole.content)}"
    assert get(there, headers={"Range": "bytes=-7"}).content == whole.content[-7:]
    assert get(there, headers={"Range": f"bytes={len(whole.content)}-"}).status_code == 416
    assert get(there, headers={"If-None-Match": whole.headers["etag"]}).status_code == 304
    old = get(there, headers={"Range": "bytes=10-19", "If-Range": '"old"'})
    assert (old.status_code, old.content) == (200, whole.content)


def test_anybody_may_verify(served: Served, tmp_path: Path) -> None:
    server, address = served
    id = post(address, json={"prompt": PROMPT, **SMALL}).json()["id"]
    assert warm(server).once()
    video = get(f"{address}/v1/videos/{id}/content").content
    said = send(f"{address}/v1/verify", files={"file": video}).json()
    assert said["credentials"]["state"] == "trusted"
    assert said["record"] is None, "prompts and paths of this machine are not for strangers"
    assert PROMPT not in json.dumps(said)
    bad = send(f"{address}/v1/verify", files={"file": video[:-200] + bytes(200)}).json()
    assert bad["credentials"]["state"] == "tampered"
    assert code(send(f"{address}/v1/verify", files={"file": b"text"}))[0] == 400
    assert code(send(f"{address}/v1/verify", json={}))[0] == 400


def test_models_state_and_numbers(served: Served) -> None:
    server, address = served
    (model,) = client(address).models.list()
    assert (model.id, model.sizes, model.max_frames, model.state) == ("nano", ["128x128"], 17, "idle")  # type: ignore[attr-defined]
    assert get(f"{address}/health").status_code == 200
    assert get(f"{address}/ready").status_code == 503
    server.workers[0] = "loading"
    assert get(f"{address}/ready").json()["workers"] == ["loading"]
    server.workers[0] = "ready"
    assert get(f"{address}/ready").status_code == 200
    post(address, json={"prompt": PROMPT, **SMALL})
    assert 'lichtspiel_jobs{state="queued"} 1.0' in get(f"{address}/metrics").text
    assert warm(server).once()
    post(address, json={"prompt": "a naked child"})
    numbers = get(f"{address}/metrics").text
    assert 'lichtspiel_jobs{state="completed"} 1.0' in numbers
    assert 'lichtspiel_stage_seconds_total{stage="denoise"}' in numbers
    assert 'lichtspiel_api_seconds_count{method="POST",route="/v1/videos",status="403"} 1.0' in numbers
    assert 'lichtspiel_refusals_total{rule="minors.sexual"} 1.0' in numbers
    assert f'lichtspiel_build_info{{version="{__version__}"}} 1.0' in numbers
    values = dict(line.rsplit(" ", 1) for line in numbers.splitlines() if line[0] != "#")
    assert float(values['lichtspiel_memory_bytes{process="server"}']) > 10**7
    assert float(values['lichtspiel_job_peak_memory_bytes{model="nano"}']) > 10**7


def test_loras_are_named_not_pathed(random_nano: Path, tmp_path: Path) -> None:
    spec = MODELS["nano"].dit
    (tmp_path / "loras").mkdir()
    save(tmp_path / "loras" / "style.safetensors", keys("comfy", pairs(spec, linear_layers(spec))))
    save(tmp_path / "secret.safetensors", keys("comfy", pairs(spec, linear_layers(spec))))
    with live(settings(tmp_path / "server", random_nano, loras=tmp_path / "loras")) as (server, address):
        for wrong in ("../secret", "/etc/passwd", "other"):
            assert code(post(address, json={"prompt": PROMPT, "lora": [wrong]})) == (400, "invalid_request")
        made = post(address, json={"prompt": PROMPT, "lora": ["style:0.5"], **SMALL}).json()
        assert made["parameters"]["lora"] == [{"path": "style", "strength": 0.5}]
        assert warm(server).once()
        done = get(f"{address}/v1/videos/{made['id']}").json()
        assert done["status"] == "completed"
        assert any("matched 80/80 layers" in note for note in done["notes"])
        assert str(tmp_path) not in json.dumps(done)


def test_what_a_model_reads_in_a_prompt_is_told_before_the_work(served: Served) -> None:
    _, address = served
    there = f"{address}/v1/models/nano/reading"
    said = send(there, json={"prompt": "a whale and a dragon"}).json()
    assert said == {"subjects": ["whale", "dragon"], "nearest": None}
    said = send(there, json={"prompt": "ein Wildschwein im Wald"}).json()
    assert said["subjects"] == []
    assert said["nearest"] == {"word": "Wildschwein", "subject": {"en": "pig", "de": "Schwein", "zh": "猪"}}
    assert code(send(there, json={"prompt": 7})) == (400, "invalid_request")
    assert code(send(f"{address}/v1/models/t2v-1.3b/reading", json={"prompt": "x"})) == (400, "invalid_request")
    assert get(f"{address}/v1/models").json()["loras"] == []


def test_a_server_without_workers_is_ready_if_it_reaches_its_data(random_nano: Path, tmp_path: Path) -> None:
    with live(settings(tmp_path, random_nano, devices=(), min_workers=0)) as (server, address):
        assert get(f"{address}/ready").json()["ready"] is True
        Path(server.settings.storage).rename(tmp_path / "unmounted")
        said = get(f"{address}/ready")
        assert (said.status_code, said.json()["reasons"]) == (503, ["the server cannot read or write its files"])
