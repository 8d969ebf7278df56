"""Routes for translations: a draft of the words, and the video that is made of it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import Response

from lichtspiel.serve.api.body import TRANSLATION, TRANSLATION_RENDER, Fields, Uploads, folder, handled
from lichtspiel.serve.api.content import content
from lichtspiel.serve.api.objects import page_object
from lichtspiel.serve.api.schemas import LANGUAGES, TRANSLATION_LIST, TRANSLATION_OBJECT, VIDEO, answers
from lichtspiel.serve.api.sources import with_files
from lichtspiel.serve.api.state import OwnerDep, Server, ServerDep
from lichtspiel.serve.api.translation_form import RENDER, available, read_draft, read_render, remaker
from lichtspiel.serve.errors import NotFound
from lichtspiel.serve.queue.jobs import DRAFT, IS_DRAFT, Job
from lichtspiel.serve.tracing import traceparent
from lichtspiel.translate import espeak, tongues
from lichtspiel.translate.announce import WORDS
from lichtspiel.translate.lines import Line
from lichtspiel.translate.translators import apertium_pairs
from lichtspiel.workflows import translate_picture
from lichtspiel.workflows.translate_words import admit_words

__all__ = ["router"]

router = APIRouter(tags=["translations"])

Idempotency = Annotated[str | None, Header(alias="Idempotency-Key", max_length=200)]


@router.get("/v1/languages", responses=answers(LANGUAGES))
def list_languages(server: ServerDep, _: OwnerDep) -> dict[str, Any]:
    """List what this server can translate and speak. Pairs and languages are null where an engine of the operator
    decides."""
    own = server.settings.translator is not None
    codes = _spoken() if not server.settings.voices else None
    return {
        "object": "languages",
        "available": available(),
        "pairs": None if own else [list(pair) for pair in _pairs()],
        "voices": codes,
        "spoken_label": sorted(WORDS),
        "reads_pictures": translate_picture.missing() is None,
        "remakes_pictures": translate_picture.missing() is None and remaker(server.settings) is not None,
        "lips": server.settings.lips is not None,
        "languages": {code: name for code, (name, _) in tongues.NAMES.items()},
    }


@cache
def _pairs() -> tuple[tuple[str, str], ...]:
    return tuple((source, target) for source, target, _ in apertium_pairs())


@cache
def _spoken() -> list[str]:
    if espeak.find_library() is None:
        return []
    return sorted(code for code in espeak.started().languages if code in tongues.NAMES)


@router.post("/v1/videos/translations", openapi_extra=TRANSLATION, responses=answers(TRANSLATION_OBJECT))
async def create_translation(
    request: Request, server: ServerDep, owner: OwnerDep, idempotency: Idempotency = None
) -> dict[str, Any]:
    """Queue the translation of what is said in a video. It ends with lines, which can be changed before they are
    rendered."""
    _check_available()

    def work(fields: Fields, uploads: Uploads) -> dict[str, Any]:
        with folder() as directory:
            with_files(server, owner, fields, uploads)
            form = read_draft(fields, uploads, directory, server.settings)
            job = server.add(
                form.files, owner=owner, model=DRAFT, request={**form.request, "traceparent": traceparent()},
                digest=form.digest, seconds=form.seconds, idempotency=idempotency or None,
            )  # fmt: skip
            return server.shown(job)

    return await handled(request, work)


@router.get("/v1/videos/translations", responses=answers(TRANSLATION_LIST))
def list_translations(
    server: ServerDep,
    owner: OwnerDep,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: str | None = None,
) -> dict[str, Any]:
    """List your translations, newest first, page by page."""
    jobs, more = server.jobs.page(owner, limit=limit, after=after, where=IS_DRAFT)
    return page_object(jobs, [server.shown(job) for job in jobs], more=more)


@router.get("/v1/videos/translations/{id}", responses=answers(TRANSLATION_OBJECT))
def get_translation(id: str, server: ServerDep, owner: OwnerDep) -> dict[str, Any]:
    """Get a translation: its state and, once it is completed, its lines."""
    return server.shown(_draft(server, id, owner))


@router.get("/v1/videos/translations/{id}/original", response_class=Response)
def get_original(id: str, request: Request, server: ServerDep, owner: OwnerDep) -> Response:
    """Download the video as it was sent, to be seen beside its lines. Has ranges and ETags."""
    name = _draft(server, id, owner).inputs["video"]
    return content(server.files, name, name.replace("/", "-"), request)


@router.post(
    "/v1/videos/translations/{id}/render", openapi_extra=TRANSLATION_RENDER, responses=answers(VIDEO)
)  # fmt: skip
async def render_translation(
    id: str, request: Request, server: ServerDep, owner: OwnerDep, idempotency: Idempotency = None
) -> dict[str, Any]:
    """Queue the translated video of a draft, with its lines or with those that are sent. A voice needs consent."""

    def work(fields: Fields, _: Uploads) -> dict[str, Any]:
        first = _draft(server, id, owner)
        form = read_render(fields, first, server.settings)
        said = [*form.lines, *(Line(0.0, 0.0, text) for text in form.texts)]
        admit_words(said, replace(server.settings.terms, consent=form.consent), voiced=form.voice)
        with folder() as directory:
            video = directory / f"video{Path(first.inputs['video']).suffix}"
            server.files.fetch(first.inputs["video"], video)
            job = server.add(
                {"video": video}, owner=owner, model=RENDER, request={**form.request, "traceparent": traceparent()},
                digest=f"{first.id} {sorted(fields.items())}", seconds=first.request["frames"] / first.request["fps"],
                idempotency=idempotency or None, remixed_from=first.id,
            )  # fmt: skip
            return server.shown(job)

    return await handled(request, work)


def _draft(server: Server, id: str, owner: str) -> Job:
    job = server.jobs.get(id, owner)
    if job.model != DRAFT:
        raise NotFound(f"{id[:64]!r} is no translation")
    return job


def _check_available() -> None:
    if not available():
        raise NotFound(
            "this server translates no videos; its operator can add that: pip install 'lichtspiel[translate]'"
        )
