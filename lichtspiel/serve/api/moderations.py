"""Routes for moderations: existing videos are judged by the policy, and people decide what needs review.

A moderation is a job in the same queue as videos. Only "allowed" lets a video through: what failed needs review.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, cast

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import Response

from lichtspiel.errors import RequestError
from lichtspiel.serve.api.body import MODERATE, REVIEW, Fields, Uploads, folder, handled
from lichtspiel.serve.api.content import content
from lichtspiel.serve.api.form import SUFFIXES, read_metadata
from lichtspiel.serve.api.objects import moderation_object, page_object
from lichtspiel.serve.api.schemas import DELETED, MODERATION, MODERATIONS, answers
from lichtspiel.serve.api.sources import video_of
from lichtspiel.serve.api.state import OwnerDep, ReviewerDep, Server, ServerDep
from lichtspiel.serve.errors import Forbidden, NotFound
from lichtspiel.serve.queue import jobs as queue
from lichtspiel.serve.queue.jobs import Job
from lichtspiel.serve.queue.reviews import IS_MODERATION, NEEDS_REVIEW, Reviews
from lichtspiel.serve.tracing import traceparent
from lichtspiel.storage import file_sha256

__all__ = ["router"]

router = APIRouter(tags=["moderations"])
PATH = "/v1/videos/moderations"

Idempotency = Annotated[str | None, Header(alias="Idempotency-Key", max_length=200)]


@router.post(PATH, openapi_extra=MODERATE, responses=answers(MODERATION))
async def create_moderation(
    request: Request, server: ServerDep, owner: OwnerDep, idempotency: Idempotency = None
) -> dict[str, Any]:
    """Queue the judgment of a video or picture: an upload, or one that was made here, by id."""

    def work(fields: Fields, uploads: Uploads) -> dict[str, Any]:
        with folder() as directory:
            return _shown(server, [_created(server, owner, fields, uploads, directory, idempotency)])[0]

    return await handled(request, work)


def _created(
    server: Server, owner: str, fields: Fields, uploads: Uploads, directory: Path, idempotency: str | None
) -> Job:
    unknown = sorted({*fields, *uploads} - {"video", "metadata"})
    if unknown:
        raise RequestError(unknown[0], None, "a moderation has video, and may have metadata; a text is not judged here")
    source = None
    files: Sequence[BinaryIO] = uploads.get("video", [])
    if not files and "video" in fields:
        source, opened = video_of(server, owner, fields["video"])
        files = [opened]
    if len(files) != 1:
        rule = 'say which video to judge: one upload, or {"id": "video_..."} of one that was made here'
        raise RequestError("video", fields.get("video"), rule)
    metadata = read_metadata(fields.get("metadata"))
    path = _kept(files[0], directory)
    stored = {"metadata": metadata, "video_id": source and source.id, "traceparent": traceparent()}
    return server.add(
        {"video": path}, owner=owner, model=queue.MODERATION, request=stored, seconds=0.0,
        digest=f"{file_sha256(path)} {json.dumps(metadata, sort_keys=True)}", idempotency=idempotency or None,
    )  # fmt: skip


def _kept(file: BinaryIO, directory: Path) -> Path:
    """The upload as a file with a suffix that fits its first bytes. It is not decoded here: a worker does that."""
    head = file.read(4)
    suffix = next((suffix for start, suffix in SUFFIXES.items() if head.startswith(start)), ".mp4")
    path = directory / f"video{suffix}"
    with path.open("wb") as target:
        target.write(head)
        shutil.copyfileobj(file, target)
    if not path.stat().st_size:
        raise RequestError("video", "0 bytes", "the file is empty; send it again")
    return path


@router.get(PATH, responses=answers(MODERATIONS))
def list_moderations(
    server: ServerDep,
    owner: OwnerDep,
    reviewer: ReviewerDep,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: str | None = None,
    order: str = "desc",
    needs_review: bool = False,
) -> dict[str, Any]:
    """List moderations, newest first: your own, or those of all keys if yours may review. With `needs_review`, only
    what waits for a person."""
    if order not in {"asc", "desc"}:
        raise RequestError("order", order, "it is asc or desc", "desc")
    where = NEEDS_REVIEW if needs_review else IS_MODERATION
    whose = None if reviewer is not None else owner
    jobs, more = server.jobs.page(
        whose, limit=limit, after=after, order=cast("Literal['asc', 'desc']", order), where=where
    )
    return page_object(jobs, _shown(server, jobs), more=more) | {"may_review": reviewer is not None}


@router.get(f"{PATH}/{{id}}", responses=answers(MODERATION))
def get_moderation(id: str, server: ServerDep, owner: OwnerDep, reviewer: ReviewerDep) -> dict[str, Any]:
    """Get a moderation: its state, the decision with reasons and times, and what a person decided."""
    return _shown(server, [_found(server, id, owner, reviewer)])[0]


@router.delete(f"{PATH}/{{id}}", responses=answers(DELETED))
def delete_moderation(id: str, server: ServerDep, owner: OwnerDep) -> dict[str, Any]:
    """Delete a moderation, its upload and its evidence. What a person decided stays recorded."""
    _found(server, id, owner, None)
    server.delete(id, owner)
    return {"id": id, "object": "video.moderation.deleted", "deleted": True}


@router.post(f"{PATH}/{{id}}/cancel", responses=answers(MODERATION))
def cancel_moderation(id: str, server: ServerDep, owner: OwnerDep) -> dict[str, Any]:
    """Cancel a queued or running moderation."""
    _found(server, id, owner, None)
    return _shown(server, [server.jobs.cancel(id, owner)])[0]


@router.get(f"{PATH}/{{id}}/sheet", response_class=Response)
def get_sheet(id: str, request: Request, server: ServerDep, owner: OwnerDep, reviewer: ReviewerDep) -> Response:
    """Get the evidence: the stills that the reasons are about, as one picture (PNG)."""
    job = _found(server, id, owner, reviewer)
    if job.preview is None:
        raise NotFound(f"{id} has no evidence to show")
    return content(server.files, job.preview, job.preview.replace("/", "-"), request)


@router.post(f"{PATH}/{{id}}/review", openapi_extra=REVIEW, responses=answers(MODERATION))
async def review_moderation(
    id: str, request: Request, server: ServerDep, owner: OwnerDep, reviewer: ReviewerDep
) -> dict[str, Any]:
    """Decide what needs review, as a person. It never lifts a refusal. Where keys are needed, yours has to be one that
    may review."""

    def work(fields: Fields, _: Uploads) -> dict[str, Any]:
        if reviewer is None:
            raise Forbidden("this key may not review; make one that may: lichtspiel serve key create NAME --reviews")
        unknown = sorted({*fields} - {"decision", "reviewer", "note"})
        if unknown:
            raise RequestError(unknown[0], None, "a review has decision and reviewer, and may have note")
        job = _found(server, id, owner, reviewer)
        Reviews(server.jobs).add(
            job.id, decision=fields.get("decision", ""), reviewer=fields.get("reviewer", ""), key=reviewer,
            note=fields.get("note", ""),
        )  # fmt: skip
        return _shown(server, [server.jobs.get(id, None)])[0]

    return await handled(request, work)


def _found(server: Server, id: str, owner: str, reviewer: str | None) -> Job:
    """The moderation with this id: of this owner, or of anybody for who may review."""
    if not id.startswith(queue.PREFIXES["moderation"]):
        raise NotFound(f"there is no moderation {id[:64]!r}")
    return server.jobs.get(id, None if reviewer is not None else owner)


def _shown(server: Server, jobs: list[Job]) -> list[dict[str, Any]]:
    reviews = Reviews(server.jobs).of([job.id for job in jobs])
    positions = server.jobs.positions() if any(job.state == "queued" for job in jobs) else {}
    return [moderation_object(job, reviews.get(job.id), positions.get(job.id)) for job in jobs]
