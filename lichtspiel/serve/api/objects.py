"""The JSON objects that clients read, as the /v1/videos protocol has them: jobs as video objects, models and errors."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lichtspiel.errors import InvalidInput, LichtspielError, OutOfMemory, Refused, RequestError
from lichtspiel.serve.errors import StoreError
from lichtspiel.serve.queue.jobs import ENDED, Job
from lichtspiel.serve.queue.reviews import Review, judged
from lichtspiel.spec import Model
from lichtspiel.toybox.knowledge import LEARNED, known

__all__ = [
    "error_response", "job_object", "model_object", "moderation_object", "page_object", "translation_object",
    "video_object",
]  # fmt: skip

HIDDEN = ("prompt", "consent", "verdict", "judged", "metadata", "traceparent", "translation")
"""Fields that are elsewhere in the video object, or private."""

CHOSEN = ("device", "dtype")
"""Fields that the worker may choose, and that are known only once it is done."""


def video_object(job: Job, position: int | None = None) -> dict[str, Any]:
    """A job as clients see it; `position` is its place in the queue, from 1."""
    options: Mapping[str, Any] = job.request
    result = job.result or {}
    error = {"code": job.error_code, "message": job.error_message} if job.error_code else None
    done = 1.0 if job.state == "completed" else job.progress
    return {
        "id": job.id,
        "object": "video",
        "model": job.model,
        "status": job.state,
        "progress": min(int(100 * done), 100),
        "created_at": int(job.created),
        "started_at": _seconds(job.started),
        "completed_at": _seconds(job.ended) if job.state == "completed" else None,
        "ended_at": _seconds(job.ended),
        "expires_at": _seconds(job.expires),
        "size": "x".join(map(str, options["size"])),
        "seconds": f"{options['frames'] / options['fps']:g}",
        "prompt": options["prompt"],
        "remixed_from_video_id": job.remixed_from,
        "metadata": options.get("metadata"),
        "error": error,
        "stage": job.stage if job.state not in ENDED else "",
        "step": job.step,
        "steps": options["steps"],
        "eta": job.eta,
        "has_preview": job.preview is not None,
        "position": position,
        "parameters": {name: value for name, value in options.items() if name not in HIDDEN}
        | {name: result[name] for name in CHOSEN if name in result},
        "inputs": sorted(job.inputs),
        "timings": result.get("timings"),
        "notes": result.get("notes", []),
        "sealed": result.get("seal"),
    }


def moderation_object(job: Job, review: Review | None = None, position: int | None = None) -> dict[str, Any]:
    """A moderation as clients see it, with what a person decided."""
    result = job.result or {}
    said = judged(job)
    shown = None if review is None else {**vars(review), "created_at": int(review.created), "key": review.key or None}
    for name in ("job", "created"):
        (shown or {}).pop(name, None)
    return {
        "id": job.id,
        "object": "video.moderation",
        "status": job.state,
        "progress": 100 if job.state == "completed" else min(int(100 * job.progress), 100),
        "created_at": int(job.created),
        "started_at": _seconds(job.started),
        "ended_at": _seconds(job.ended),
        "expires_at": _seconds(job.expires),
        "video_id": job.request.get("video_id"),
        "metadata": job.request.get("metadata"),
        "error": {"code": job.error_code, "message": job.error_message} if job.error_code else None,
        "stage": job.stage if job.state not in ENDED else "",
        "position": position,
        "decision": review.decision if review is not None and said == "needs_review" else said,
        "category": result.get("category"),
        "reasons": result.get("reasons", []),
        "checked": result.get("checked", []),
        "made_by_ai": result.get("made_by_ai"),
        "sha256": result.get("sha256"),
        "policy": result.get("policy"),
        "has_sheet": job.preview is not None,
        "review": shown,
    }


def page_object(jobs: Sequence[Job], data: list[dict[str, Any]], *, more: bool) -> dict[str, Any]:
    """A page of a list: `data` says what clients see of these jobs, and `more` whether others follow."""
    ends = {"first_id": jobs[0].id if jobs else None, "last_id": jobs[-1].id if jobs else None}
    return {"object": "list", "data": data, **ends, "has_more": more}


def job_object(job: Job) -> dict[str, Any]:
    """A job of any kind as clients see it."""
    return moderation_object(job) if job.kind == "moderation" else video_object(job)


def translation_object(job: Job, position: int | None = None) -> dict[str, Any]:
    """A draft of a translation as clients see it; its lines are there once it is completed."""
    shown = video_object(job, position)
    kept = ("id", "status", "progress", "created_at", "ended_at", "expires_at", "size", "seconds", "metadata", "error")
    result = job.result or {}
    before = result.get("before", [])
    lines = [dict(line) for line in result.get("lines", [])]
    if len(before) == len(lines):
        for line, original in zip(lines, before, strict=True):
            line["original"] = original["text"]
    return {
        **{name: shown[name] for name in kept},
        "object": "video.translation",
        "from": result.get("from", job.request["from"]),
        "to": job.request["to"],
        "stage": shown["stage"],
        "position": position,
        "lines": lines if job.result else None,
        "written": result.get("written"),
        "engines": result.get("engines"),
        "notes": shown["notes"],
    }


def _seconds(moment: float | None) -> int | None:
    return None if moment is None else int(moment)


def model_object(row: Model, states: Collection[str]) -> dict[str, Any]:
    """A checkpoint as clients see it; `states` are the states of the workers."""
    sampling = row.sampling
    state = "loading" if "loading" in states else "ready" if states else "idle"
    if states and all(one.startswith("fault") for one in states):
        state = "unavailable"
    return {
        "id": row.name,
        "object": "model",
        "created": 1740441600,  # 2025-02-25, when Wan2.1 was released
        "owned_by": row.repository.partition("/")[0] or "lichtspiel",
        "title": row.title,
        "tasks": sorted(row.tasks),
        "sizes": [f"{width}x{height}" for width, height in sampling.sizes],
        "free_size": sampling.free_size,
        "fps": sampling.fps,
        "frames": sampling.frames,
        "max_frames": sampling.max_frames,
        "steps": sampling.steps,
        "guidance": sampling.guidance,
        "shift": sampling.shift,
        "solver": sampling.solver,
        "negative": sampling.negative,
        "upscale": sampling.upscale,
        "licence": row.licence,
        "knows": known(LEARNED[row.name]) if row.name in LEARNED else None,
        "state": state,
    }


def error_response(error: LichtspielError) -> tuple[int, dict[str, Any]]:
    """HTTP status and body of an error."""
    status, code, param = getattr(error, "status", 500), getattr(error, "code", "failed"), None
    if isinstance(error, StoreError):  # its message contains internal addresses
        return status, error_body(f"{error.public}; try again later", code, status)
    if isinstance(error, Refused):
        status, code = 403, "refused_by_policy"
    elif isinstance(error, RequestError):
        status, code, param = 400, "invalid_request", error.field
    elif isinstance(error, InvalidInput) and not hasattr(error, "status"):
        status, code = 400, "invalid_request"
    elif isinstance(error, OutOfMemory):
        status, code = 400, "out_of_memory"
    return status, error_body(str(error), code, status, param)


def error_body(message: str, code: str, status: int, param: str | None = None) -> dict[str, Any]:
    """The body of an error."""
    kind = "server_error" if status >= 500 else "rate_limit_error" if status == 429 else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
