"""Routes for videos: the /v1/videos protocol that OpenAI introduced, plus cancel, events and preview."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, cast

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.responses import Response, StreamingResponse
from starlette.concurrency import run_in_threadpool

from lichtspiel.errors import RequestError
from lichtspiel.inference.inputs import read_inputs
from lichtspiel.serve.api.body import BODY, EDIT, EXTENSION, REMIX, Fields, Uploads, folder, handled
from lichtspiel.serve.api.content import content
from lichtspiel.serve.api.events import events
from lichtspiel.serve.api.form import Submission, read_form, read_metadata, restore
from lichtspiel.serve.api.objects import page_object
from lichtspiel.serve.api.schemas import DELETED, VIDEO, VIDEOS, answers
from lichtspiel.serve.api.sources import edit, extension, with_clip, with_files
from lichtspiel.serve.api.state import OwnerDep, SecretDep, Server, ServerDep
from lichtspiel.serve.api.translation_form import KINDS
from lichtspiel.serve.errors import NotFound
from lichtspiel.serve.queue.jobs import PREFIXES, Job
from lichtspiel.serve.queue.reviews import IS_VIDEO

__all__ = ["router"]


async def _no_moderation(request: Request) -> None:
    id = request.path_params.get("id", "")
    if id.startswith(PREFIXES["moderation"]):
        raise NotFound(f"there is no video {id[:64]!r}")


router = APIRouter(tags=["videos"], dependencies=[Depends(_no_moderation)])

Idempotency = Annotated[str | None, Header(alias="Idempotency-Key", max_length=200)]


@router.post("/v1/videos", openapi_extra=BODY, responses=answers(VIDEO))
async def create_video(
    request: Request, server: ServerDep, owner: OwnerDep, idempotency: Idempotency = None
) -> dict[str, Any]:
    """Queue a video, described as JSON or multipart. Answers at once with the queued job."""

    def work(fields: Fields, uploads: Uploads) -> dict[str, Any]:
        with folder() as directory:
            with_files(server, owner, fields, uploads)
            submission = read_form(fields, uploads, directory, server.settings)
            return server.shown(server.create(submission, owner, idempotency or None))

    return await handled(request, work)


@router.post("/v1/videos/edits", openapi_extra=EDIT, responses=answers(VIDEO))
async def edit_video(
    request: Request, server: ServerDep, owner: OwnerDep, idempotency: Idempotency = None
) -> dict[str, Any]:
    """Queue an edit of a video: an upload, or one that was made here, by id. A mask says what to replace."""

    def work(fields: Fields, uploads: Uploads) -> dict[str, Any]:
        with folder() as directory:
            source = edit(server, owner, fields, uploads)
            submission = read_form(fields, uploads, directory, server.settings)
            return server.shown(server.create(submission, owner, idempotency or None, source.id if source else None))

    return await handled(request, work)


@router.post("/v1/videos/extensions", openapi_extra=EXTENSION, responses=answers(VIDEO))
async def extend_video(
    request: Request, server: ServerDep, owner: OwnerDep, idempotency: Idempotency = None
) -> dict[str, Any]:
    """Queue the continuation of a video from its last frame. The result is the video with the new part behind it."""

    def work(fields: Fields, uploads: Uploads) -> dict[str, Any]:
        with folder() as directory:
            source = extension(server, owner, fields, uploads, directory)
            submission = with_clip(read_form(fields, uploads, directory, server.settings), directory)
            return server.shown(server.create(submission, owner, idempotency or None, source.id if source else None))

    return await handled(request, work)


@router.post("/v1/videos/characters", include_in_schema=False)
def create_character(_server: ServerDep, _owner: OwnerDep) -> None:
    """Say what to do instead: a model of VACE takes pictures of persons with each request."""
    raise NotFound("this server keeps no characters; send pictures of a person as references with each request")


@router.get("/v1/videos", responses=answers(VIDEOS))
def list_videos(
    server: ServerDep,
    owner: OwnerDep,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: str | None = None,
    order: str = "desc",
) -> dict[str, Any]:
    """List your videos, newest first, page by page."""
    if order not in {"asc", "desc"}:
        raise RequestError("order", order, "it is asc or desc", "desc")
    jobs, more = server.jobs.page(owner, limit=limit, after=after, order=cast("Any", order), where=IS_VIDEO)
    return page_object(jobs, [server.shown(job) for job in jobs], more=more)


@router.get("/v1/videos/{id}", responses=answers(VIDEO))
def get_video(id: str, server: ServerDep, owner: OwnerDep) -> dict[str, Any]:
    """Get a video: its state, progress, settings and result."""
    return server.shown(server.jobs.get(id, owner))


@router.delete("/v1/videos/{id}", responses=answers(DELETED))
def delete_video(id: str, server: ServerDep, owner: OwnerDep) -> dict[str, Any]:
    """Delete a video and its files. One in progress must be cancelled first (409)."""
    server.delete(id, owner)
    return {"id": id, "object": "video.deleted", "deleted": True}


@router.post("/v1/videos/{id}/cancel", responses=answers(VIDEO))
def cancel_video(id: str, server: ServerDep, owner: OwnerDep) -> dict[str, Any]:
    """Cancel a queued or running video; a running one stops within one step."""
    return server.shown(server.jobs.cancel(id, owner))


@router.post("/v1/videos/{id}/remix", openapi_extra=REMIX, responses=answers(VIDEO))
async def remix_video(
    id: str, request: Request, server: ServerDep, owner: OwnerDep, idempotency: Idempotency = None
) -> dict[str, Any]:
    """Make a video again with another prompt, keeping its seed, size and files."""

    def work(fields: Fields, _: Uploads) -> dict[str, Any]:
        with folder() as directory:
            return server.shown(_remixed(server, server.jobs.get(id, owner), fields, directory, owner, idempotency))

    return await handled(request, work)


def _remixed(
    server: Server, first: Job, fields: Mapping[str, Any], folder: Path, owner: str, idempotency: str | None
) -> Job:
    if first.model in KINDS:
        raise RequestError("id", first.id, "a translation has no prompt; send other lines to the translation it is of")
    unknown = set(fields) - {"prompt", "seed", "consent", "metadata"}
    if unknown or "prompt" not in fields:
        raise RequestError("body", sorted(unknown), "a remix has a prompt, and may have seed, consent and metadata")
    files = {}
    for name, stored_name in first.inputs.items():
        files[name] = folder / f"{name.replace('/', '-')}{Path(stored_name).suffix}"
        server.files.fetch(stored_name, files[name])
    stored_fields = {**first.request, "prompt": fields["prompt"]} | (
        {"seed": fields["seed"]} if "seed" in fields else {}
    )
    stored_fields["consent"] = fields.get("consent")  # consent to one request does not cover another
    request, consent = restore(stored_fields, files, server.settings)
    metadata = read_metadata(fields.get("metadata"))
    submission = Submission(request, read_inputs(request), consent, files, f"{first.id} {fields}", metadata)
    return server.create(submission, owner, idempotency or None, first.id)


@router.head("/v1/videos/{id}/content", include_in_schema=False)
@router.get("/v1/videos/{id}/content", response_class=Response)
def download_video(id: str, request: Request, server: ServerDep, owner: OwnerDep, variant: str = "video") -> Response:
    """Download the MP4 or PNG, a `thumbnail` from its middle or a `spritesheet` of its frames. Has ranges and ETags."""
    if variant not in {"video", "thumbnail", "spritesheet"}:
        raise RequestError("variant", variant, "it is video, thumbnail or spritesheet", "video")
    job = server.jobs.get(id, owner)
    if job.video is None or job.result is None:
        raise NotFound(f"{id} is {job.state}; there is no video of it")
    if variant == "thumbnail":
        return _picture(server, job, request)
    if variant == "spritesheet":
        if (sheet := job.result.get("spritesheet")) is None:
            raise NotFound(f"{id} is a single picture; there is no spritesheet of it")
        return content(server.files, sheet, sheet.replace("/", "-"), request)
    digest = str(job.result["seal"]["sha256"])
    return content(server.files, job.video, digest, request, download=f"{id}{Path(job.video).suffix}")


@router.head("/v1/videos/{id}/preview", include_in_schema=False)
@router.get("/v1/videos/{id}/preview", response_class=Response)
def get_preview(id: str, request: Request, server: ServerDep, owner: OwnerDep) -> Response:
    """Get the latest preview picture of a video in progress."""
    return _picture(server, server.jobs.get(id, owner), request)


def _picture(server: Server, job: Job, request: Request) -> Response:
    if job.preview is None:
        raise NotFound(f"there is no picture of {job.id}")
    return content(server.files, job.preview, job.preview.replace("/", "-"), request)


@router.get("/v1/videos/{id}/events", response_class=StreamingResponse)
async def stream_events(id: str, server: ServerDep, owner: OwnerDep, secret: SecretDep) -> StreamingResponse:
    """Stream server-sent events: the video object whenever it changes, until the job ends or the key is revoked."""
    await run_in_threadpool(server.jobs.get, id, owner)

    def read() -> dict[str, Any]:
        if server.owner(secret) != owner:
            raise NotFound(f"there is no video {id}")
        return server.shown(server.jobs.get(id, owner))

    return StreamingResponse(
        events(read), media_type="text/event-stream", headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    )
