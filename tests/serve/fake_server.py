"""A small stand-in for the server, for tests of the page: the same addresses and answers, and no model behind them.

Jobs advance by the clock alone, one after another. What a prompt holds decides how it goes: "refuse", "consent",
"full", "wrong" or "fail". The clips are drawn by the toybox renderer and carry no marks, so nothing here may leave a
test. It knows nothing of files, keys or queues as the real server has them.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import threading
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles
from numpy.typing import NDArray
from PIL import Image

from lichtspiel.serve.api.body import PROPERTIES
from lichtspiel.toybox.captions import caption
from lichtspiel.toybox.knowledge import LEARNED, known, reading
from lichtspiel.toybox.render import render
from lichtspiel.toybox.scene import Action, Actor, Direction, Place, Scene, Time
from tests.serve.live import port_of

PAGE = Path(__file__).parents[2] / "lichtspiel" / "serve" / "page"
CSP = (
    "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; style-src 'self'; script-src 'self'; "
    "object-src 'none'; base-uri 'none'; frame-ancestors 'none'"
)
STEPS = 16


def _model(id: str, title: str, tasks: list[str], sizes: list[str], **more: Any) -> dict[str, Any]:
    shape = {
        "free_size": False,
        "fps": 8,
        "max_frames": 17,
        "frames": 17,
        "steps": STEPS,
        "guidance": 3.0,
        "shift": 3.0,
    }
    said = {"object": "model", "created": 1763800000, "owned_by": "lichtspiel", "negative": "", "state": "ready"}
    return {"id": id, "title": title, "tasks": tasks, "sizes": sizes, **said, **shape, **more}


_WAN: dict[str, Any] = {
    "free_size": True, "fps": 16, "max_frames": 161, "frames": 81, "steps": 50, "guidance": 5.0, "shift": 5.0,
    "negative": "色调艳丽，过曝，静态", "state": "idle",
}  # fmt: skip
MODELS = [
    _model(
        "nano",
        "Embedded model: toybox clips from text or pictures",
        ["text", "image", "first-last"],
        ["64x64"],
        knows=known(LEARNED["nano"]),
    ),
    _model("t2v-1.3b", "Wan2.1 text to video, 1.3B", ["text"], ["832x480", "480x832"], **_WAN),
    _model("i2v-14b-480p", "Wan2.1 image to video, 14B", ["image"], ["832x480", "480x832"], **_WAN),
    _model("vace-1.3b", "Wan2.1 VACE, 1.3B", ["text", "edit"], ["832x480", "480x832"], **_WAN),
]


@dataclass
class Clip:
    """A video on disk, its frames and what they show."""

    path: Path
    frames: NDArray[np.uint8]
    caption: str


@dataclass
class FakeJob:
    id: str
    fields: dict[str, Any]
    created: float
    files: list[str]
    begun: float | None = None
    ended: float | None = None
    status: str = "queued"
    error: dict[str, str] | None = None
    clip: int = 0


def _scene(subject: str, action: Action, direction: Direction, place: Place, time: Time) -> Scene:
    actor = Actor(subject=subject, size="big", action=action, direction=direction)
    return Scene(actors=(actor,), place=place, time=time, weather="clear", camera="still")


SCENES = (
    _scene("sailboat", "sail", "right", "sea", "sunset"),
    _scene("tropical-fish", "swim", "left", "underwater", "day"),
    _scene("taxi", "drive", "left", "road", "night"),
    _scene("turtle", "walk", "right", "beach", "day"),
)


def make_clips(folder: Path, scenes: Sequence[Scene] = SCENES) -> list[Clip]:
    """Draw a few clips as H.264 with the index in front, which every browser plays."""
    clips = []
    for number, scene in enumerate(scenes):
        frames = render(scene, 3 + number, width=64, height=64, frames=17).frames
        path = folder / f"{number}.mp4"
        with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
            stream = container.add_stream("libx264", rate=8)
            stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
            for picture in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode(None))
        clips.append(Clip(path, frames, caption(scene, "en", 0)))
    return clips


def _png(picture: NDArray[np.uint8]) -> Response:
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "PNG")
    return Response(out.getvalue(), media_type="image/png")


class ApiError(Exception):
    def __init__(
        self, status: int, code: str, message: str, param: str | None = None, retry: int | None = None
    ) -> None:
        self.status, self.retry = status, retry
        self.body = {"error": {"message": message, "type": code, "param": param, "code": code}}


REMEDY = 'say who is shown and that they agreed, with --consent "TEXT" (in the API: the field consent); it is recorded'

_TROUBLE: dict[str, tuple[Any, ...]] = {
    "refuse": (
        403,
        "refused_by_policy",
        "refused by the policy: it shows a fight (category violence, rule words.violence)",
    ),
    "consent": (403, "refused_by_policy", "the policy asks for consent: the picture shows 1 face(s) (rule image.face)"),
    "full": (429, "queue_full", "100 videos are waiting", None, 40),
    "wrong": (400, "invalid_request", "steps: 3 is not valid: nearest valid value: 4", "steps"),
}


@dataclass
class Fake:
    """What the server knows. `seconds` is how long a video takes, `loading` until when it says that it is not ready."""

    clips: list[Clip]
    key: str | None = None
    seconds: float = 2.0
    loading: float = 0.0
    streams: bool = True
    loras: list[str] = field(default_factory=list)
    jobs: dict[str, FakeJob] = field(default_factory=dict)
    asked: list[dict[str, Any]] = field(default_factory=list)
    report: dict[str, Any] = field(default_factory=dict)

    def add(self, fields: dict[str, Any], files: list[str]) -> FakeJob:
        prompt = str(fields.get("prompt", ""))
        for word, trouble in _TROUBLE.items():
            if word in prompt and not (word == "consent" and fields.get("consent")):
                raise ApiError(*trouble)
        job = FakeJob(f"video_{uuid.uuid4().hex}", fields, time.time(), files, clip=len(self.jobs) % len(self.clips))
        self.jobs[job.id] = job
        return job

    def tick(self) -> None:
        """Let time pass: one job at a time, in their order."""
        free = 0.0
        for job in self.jobs.values():
            if job.status == "queued" and time.time() >= max(free, job.created + 0.4):
                job.status, job.begun = "in_progress", max(free, job.created + 0.4)
            if job.status == "in_progress" and job.begun is not None and time.time() > job.begun + self.seconds:
                job.status, job.ended = "completed", job.begun + self.seconds
                if "fail" in str(job.fields.get("prompt")):
                    job.status = "failed"
                    job.error = {"code": "out_of_memory", "message": "denoising needs more memory than there is"}
                if "faces" in str(job.fields.get("prompt")) and not job.fields.get("consent"):
                    job.status = "failed"
                    message = "the policy asks for consent: the frames show a face (rule frames.face)"
                    job.error = {"code": "refused_by_policy", "message": f"{message}; {REMEDY}"}
            free = max(free, job.ended or 0.0) if job.status not in {"queued", "in_progress"} else float("inf")

    def get(self, id: str) -> FakeJob:
        self.tick()
        if id not in self.jobs:
            raise ApiError(404, "not_found", f"there is no video {id}")
        return self.jobs[id]

    def show(self, job: FakeJob) -> dict[str, Any]:
        """The video object."""
        self.tick()
        model = next(each for each in MODELS if each["id"] == job.fields.get("model", "nano"))
        share = min((time.time() - job.begun) / self.seconds, 1.0) if job.begun is not None else 0.0
        running = job.status == "in_progress"
        step = min(int(share / 0.8 * STEPS), STEPS) if running else 0
        stage = f"denoising, step {step} of {STEPS}" if step < STEPS else "decoding, frame 9 of 17"
        waiting = [each.id for each in self.jobs.values() if each.status == "queued"]
        done = job.status == "completed"
        parameters = {name: job.fields.get(name, model[name]) for name in ("frames", "steps", "guidance", "shift")}
        parameters |= {"seed": int(job.fields.get("seed", 1234)), "solver": "euler", "fps": model["fps"]}
        parameters["upscale"] = job.fields.get("upscale", 1)
        parameters |= {"negative": job.fields.get("negative", model["negative"]), "dtype": "float32", "device": "cpu"}
        timings = {"load": 0.7, "encode": 0.2, "denoise": 8.1, "decode": 2.9, "seal": 0.4, "total": 12.3}
        return {
            "id": job.id, "object": "video", "model": model["id"], "status": job.status,
            "progress": 100 if done else int(100 * share) if running else 0,
            "created_at": int(job.created), "completed_at": int(job.ended) if done and job.ended else None,
            "expires_at": int(job.ended + 30 * 86400) if done and job.ended else None,
            "size": job.fields.get("size", model["sizes"][0]), "seconds": f"{parameters['frames'] / model['fps']:g}",
            "prompt": job.fields.get("prompt", ""), "remixed_from_video_id": None, "error": job.error,
            "stage": stage if running else "", "step": step, "steps": STEPS if running else 0,
            "eta": self.seconds * (1 - share) * 6 if running else None, "has_preview": running and share > 0.3,
            "position": waiting.index(job.id) + 1 if job.id in waiting else None, "parameters": parameters,
            "timings": timings if done else None,
            "notes": ["nano does not know: taxi"] if done else [],
            "sealed": {"manifest": "urn:c2pa:3f", "watermark": "3f3f3f3f", "label": False} if done else None,
        }  # fmt: skip

    def preview(self, job: FakeJob) -> Response:
        """The clip's middle under noise that clears."""
        share = min((time.time() - (job.begun or time.time())) / self.seconds, 1.0)
        noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3))
        return _png((noise * (1 - share) + self.clips[job.clip].frames[8] * share).astype(np.uint8))


def report(state: str = "trusted") -> dict[str, Any]:
    """A report as `lichtspiel verify --json` prints it."""
    sentences = {
        "trusted": "This installation sealed this video, and nothing has been changed since.",
        "intact": "Somebody else signed this video, and nothing has been changed since.",
        "tampered": "This video was signed once and has been changed since: its record can no longer be relied on.",
        "none": "No content credentials were found. That proves nothing: they are lost when a video is re-encoded.",
    }
    parameters = {"size": [64, 64], "frames": 17, "steps": 16, "guidance": 3.0, "seed": 1234, "solver": "euler"}
    generation = {"id": "3f" * 16, "model": "nano", "prompt": {"digest": "ab" * 16}, "parameters": parameters}
    signed = state != "none"
    signer = {"name": "Lichtspiel on this computer", "organisation": "Lichtspiel", "serial": "7"}
    credentials = {
        "state": state, "here": state == "trusted", "problems": ["assertion.dataHash.mismatch"] * (state == "tampered"),
        "signer": signer if signed else None, "time": None, "created": "2026-11-22T16:20:00+00:00" if signed else None,
        "id": "3f" * 16, "model": "nano" if signed else None, "software": "Lichtspiel 0.1.0" if signed else None,
        "source_type": "trainedAlgorithmicMedia", "generation": generation if signed else None, "ingredients": [],
        "manifest": "urn:c2pa:3f3f" if signed else None,
    }  # fmt: skip
    return {
        "path": "file.mp4", "verdict": sentences[state], "credentials": credentials,
        "watermark": {"found": signed, "id": "3f3f3f3f" if signed else None, "score": 9.25, "mirrored": False},
        "labels": {"aigc": None, "comment": "AI-generated video, made with Lichtspiel" if signed else None},
        "record": None, "notes": [],
    }  # fmt: skip


def make_app(fake: Fake) -> FastAPI:
    """The routes over a `Fake`."""
    app = FastAPI()
    app.mount("/page", StaticFiles(directory=PAGE))

    @app.exception_handler(ApiError)
    async def failed(_: Request, error: ApiError) -> JSONResponse:
        headers = {} if error.retry is None else {"Retry-After": str(error.retry)}
        return JSONResponse(error.body, error.status, headers)

    @app.middleware("http")
    async def guard(request: Request, proceed: Any) -> Response:
        wanted = fake.key is not None and request.url.path.startswith("/v1/")
        if wanted and request.headers.get("Authorization") != f"Bearer {fake.key}":
            error = ApiError(401, "invalid_key", "a key is needed")
            return JSONResponse(error.body, error.status)
        response: Response = await proceed(request)
        response.headers["Content-Security-Policy"] = CSP
        return response

    @app.get("/")
    async def index() -> FileResponse:
        return FileResponse(PAGE / "index.html")

    @app.get("/ready")
    async def ready() -> JSONResponse:
        if time.time() < fake.loading:
            return JSONResponse({"ready": False, "reasons": ["nano: weights are being loaded"]}, 503)
        return JSONResponse({"ready": True, "reasons": []})

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": MODELS, "options": PROPERTIES, "loras": fake.loras}

    @app.post("/v1/models/{name}/reading")
    async def read(name: str, request: Request) -> dict[str, Any]:
        return reading((await request.json())["prompt"], LEARNED[name])

    @app.post("/v1/verify")
    async def verify(request: Request) -> dict[str, Any]:
        async with request.form() as form:
            assert hasattr(form["file"], "filename"), "the field is a file"
        return fake.report or report()

    _add_videos(app, fake)
    return app


def _add_videos(app: FastAPI, fake: Fake) -> None:
    @app.post("/v1/videos/masks")
    async def mask(request: Request) -> dict[str, Any]:
        async with request.form() as form:
            fake.asked.append({name: value for name, value in form.items() if isinstance(value, str)})
        count, height, width, _ = fake.clips[0].frames.shape
        return {
            "object": "video.mask", "frames": count, "fps": 8, "size": [width, height], "start": 0,
            "confidence": [0.9] * (count - 1) + [0.3], "low": [count - 1],
            "mask": base64.b64encode(fake.clips[0].path.read_bytes()).decode(),
        }  # fmt: skip

    @app.post("/v1/videos/edits")
    @app.post("/v1/videos")
    async def create(request: Request) -> dict[str, Any]:
        files = []
        if request.headers["Content-Type"].startswith("application/json"):
            fields = await request.json()
        else:
            async with request.form() as form:
                fields = {name: value for name, value in form.items() if isinstance(value, str)}
                files = [name for name, value in form.multi_items() if not isinstance(value, str)]
        fake.asked.append({**fields, "files": files, "path": request.url.path})
        return fake.show(fake.add(fields, files))

    @app.get("/v1/videos")
    async def page(limit: int = 20, after: str | None = None) -> dict[str, Any]:
        ids = list(reversed(fake.jobs))
        rest = ids[ids.index(after) + 1 :] if after else ids
        data = [fake.show(fake.jobs[id]) for id in rest[:limit]]
        ends = {"first_id": rest[0] if data else None, "last_id": rest[len(data) - 1] if data else None}
        return {"object": "list", "data": data, **ends, "has_more": len(rest) > limit}

    @app.get("/v1/videos/{id}")
    async def one(id: str) -> dict[str, Any]:
        return fake.show(fake.get(id))

    @app.delete("/v1/videos/{id}")
    async def delete(id: str) -> dict[str, Any]:
        if fake.get(id).status == "in_progress":
            raise ApiError(409, "conflict", "cancel it first")
        del fake.jobs[id]
        return {"id": id, "object": "video.deleted", "deleted": True}

    @app.post("/v1/videos/{id}/cancel")
    async def cancel(id: str) -> dict[str, Any]:
        job = fake.get(id)
        if job.status in {"queued", "in_progress"}:
            job.status, job.ended = "cancelled", time.time()
        return fake.show(job)

    _add_media(app, fake)


def _add_media(app: FastAPI, fake: Fake) -> None:
    @app.get("/v1/videos/{id}/content")
    async def content(id: str, variant: str = "video") -> Response:
        job = fake.get(id)
        if job.status != "completed":
            raise ApiError(404, "not_found", "there is no video yet")
        clip = fake.clips[job.clip]
        return _png(clip.frames[8]) if variant == "thumbnail" else FileResponse(clip.path, media_type="video/mp4")

    @app.get("/v1/videos/{id}/preview")
    async def preview(id: str) -> Response:
        return fake.preview(fake.get(id))

    @app.get("/v1/videos/{id}/events")
    async def events(id: str) -> StreamingResponse:
        fake.get(id)
        if not fake.streams:
            raise ApiError(404, "not_found", "a proxy in between lets no streams through")

        async def told() -> AsyncIterator[str]:
            before = None
            while id in fake.jobs:
                now = fake.show(fake.jobs[id])
                if now != before:
                    yield f"event: video\r\ndata: {json.dumps(now)}\r\n\r\n"
                if now["status"] in {"completed", "failed", "cancelled"}:
                    return
                before = now
                await asyncio.sleep(0.1)
                yield ": still here\r\n\r\n"

        return StreamingResponse(told(), media_type="text/event-stream")


@contextmanager
def serve(fake: Fake) -> Iterator[str]:
    """Run it on a free port of this computer; yields the address."""
    settings = uvicorn.Config(make_app(fake), port=0, log_level="error", ws="none", timeout_graceful_shutdown=1)
    server = uvicorn.Server(settings)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the stand-in did not start"
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{port_of(server)}"
    finally:
        server.should_exit = True
        thread.join(10)
