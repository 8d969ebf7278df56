"""The endpoints for videos, as OpenAI's Videos API has them, and some that it lacks: cancel, events, preview."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, cast

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import Response, StreamingResponse
from starlette.concurrency import run_in_threadpool

from lichtspiel.errors import RequestError
from lichtspiel.serve.api.body import BODY, REMIX, Fields, Uploads, folder, handled
from lichtspiel.serve.api.content import content
from lichtspiel.serve.api.events import events
from lichtspiel.serve.api.form import Asked, read_form, restore
from lichtspiel.serve.api.state import Here, Server, Who
from lichtspiel.serve.errors import NotFound
from lichtspiel.serve.queue.jobs import Job

__all__ = ["router"]

router = APIRouter(tags=["videos"])

Idempotency = Annotated[str | None, Header(alias="Idempotency-Key", max_length=200)]


@router.post("/v1/videos", openapi_extra=BODY)
async def create(request: Request, server: Here, owner: Who, idempotency: Idempotency = None) -> dict[str, Any]:
    """Ask for a video, as JSON or multipart; answers at once with the queued job."""

    def work(fields: Fields, uploads: Uploads) -> dict[str, Any]:
        with folder() as place:
            asked = read_form(fields, uploads, place, server.settings)
            return server.shown(server.create(asked, owner, idempotency))

    return await handled(request, work)


@router.get("/v1/videos")
def listed(
    server: Here,
    owner: Who,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: str | None = None,
    order: str = "desc",
) -> dict[str, Any]:
    """One's videos, newest first, page by page."""
    if order not in {"asc", "desc"}:
        raise RequestError("order", order, "it is asc or desc", "desc")
    found, more = server.jobs.page(owner, limit=limit, after=after, order=cast("Any", order))
    data = [server.shown(job) for job in found]
    ends = {"first_id": found[0].id if found else None, "last_id": found[-1].id if found else None}
    return {"object": "list", "data": data, **ends, "has_more": more}


@router.get("/v1/videos/{id}")
def one(id: str, server: Here, owner: Who) -> dict[str, Any]:
    """A video as it stands."""
    return server.shown(server.jobs.get(id, owner))


@router.delete("/v1/videos/{id}")
def delete(id: str, server: Here, owner: Who) -> dict[str, Any]:
    """Remove a video with everything that belongs to it; one in progress is cancelled first."""
    job = server.jobs.delete(id, owner)
    server.remove(job)
    return {"id": id, "object": "video.deleted", "deleted": True}


@router.post("/v1/videos/{id}/cancel")
def cancel(id: str, server: Here, owner: Who) -> dict[str, Any]:
    """Stop a video that waits or is being made; takes effect within one step."""
    return server.shown(server.jobs.cancel(id, owner))


@router.post("/v1/videos/{id}/remix", openapi_extra=REMIX)
async def remix(id: str, request: Request, server: Here, owner: Who, idempotency: Idempotency = None) -> dict[str, Any]:
    """The same again with another prompt: same seed, size and files."""

    def work(fields: Fields, _: Uploads) -> dict[str, Any]:
        with folder() as place:
            return server.shown(_remixed(server, server.jobs.get(id, owner), fields, place, owner, idempotency))

    return await handled(request, work)


def _remixed(
    server: Server, first: Job, fields: Mapping[str, Any], folder: Path, owner: str, idempotency: str | None
) -> Job:
    unknown = set(fields) - {"prompt", "seed"}
    if unknown or "prompt" not in fields:
        raise RequestError("body", sorted(unknown), "a remix has a prompt, and may have a seed")
    files = {}
    for name, there in first.inputs.items():
        files[name] = folder / f"{name.replace('/', '-')}{Path(there).suffix}"
        server.files.fetch(there, files[name])
    kept = {**first.request, "prompt": fields["prompt"]} | ({"seed": fields["seed"]} if "seed" in fields else {})
    request, consent = restore(kept, files, server.settings)
    asked = Asked(request, consent, files, f"{first.id} {fields}")
    return server.create(asked, owner, idempotency, first.id)


@router.get("/v1/videos/{id}/content", response_class=Response)
def video(id: str, request: Request, server: Here, owner: Who, variant: str = "video") -> Response:
    """The MP4 or PNG itself, or with `variant=thumbnail` a picture of it; ranges and ETag as players want them."""
    if variant not in {"video", "thumbnail"}:
        raise RequestError("variant", variant, "there are the video and a thumbnail", "video")
    job = server.jobs.get(id, owner)
    if job.video is None or job.result is None:
        raise NotFound(f"{id} is {job.state}; there is no video of it")
    if variant == "thumbnail":
        return _picture(server, job, request)
    digest = str(job.result["seal"]["sha256"])
    return content(server.files, job.video, digest, request.headers, download=f"{id}{Path(job.video).suffix}")


@router.get("/v1/videos/{id}/preview", response_class=Response)
def preview(id: str, request: Request, server: Here, owner: Who) -> Response:
    """The newest picture of a video in progress."""
    return _picture(server, server.jobs.get(id, owner), request)


def _picture(server: Server, job: Job, request: Request) -> Response:
    if job.preview is None:
        raise NotFound(f"there is no picture of {job.id}")
    return content(server.files, job.preview, job.preview.replace("/", "-"), request.headers)


@router.get("/v1/videos/{id}/events", response_class=StreamingResponse)
async def follow(id: str, server: Here, owner: Who) -> StreamingResponse:
    """Server-sent events: the video object whenever it changed, until it ended."""
    await run_in_threadpool(server.jobs.get, id, owner)
    return StreamingResponse(
        events(lambda: server.shown(server.jobs.get(id, owner))), media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )  # fmt: skip
