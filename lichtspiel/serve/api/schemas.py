"""OpenAPI schemas of responses. The objects themselves are built in `objects`; a test compares both."""

from __future__ import annotations

from typing import Any

__all__ = ["DELETED", "ERRORS", "MODEL", "MODELS", "READ", "VIDEO", "VIDEOS", "answers"]

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
WHOLE: Schema = {"type": "integer"}
NUMBER: Schema = {"type": "number"}
FLAG: Schema = {"type": "boolean"}
ANY: Schema = {"type": "object"}
NULL: Schema = {"type": "null"}


def _maybe(schema: Schema, about: str) -> Schema:
    return {"anyOf": [schema, NULL], "description": about}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": [*properties]}


VIDEO = _object(
    id=TEXT,
    object={"const": "video"},
    model=TEXT,
    status={"enum": ["queued", "in_progress", "completed", "failed", "cancelled"]},
    progress={**WHOLE, "minimum": 0, "maximum": 100},
    created_at={**WHOLE, "description": "Seconds since 1970, as all times."},
    started_at=_maybe(WHOLE, "When a worker took it up."),
    completed_at=_maybe(WHOLE, "When it was completed."),
    ended_at=_maybe(WHOLE, "When it ended, however it did."),
    expires_at=_maybe(WHOLE, "When it will be removed."),
    size={**TEXT, "description": "WIDTHxHEIGHT in pixels."},
    seconds={**TEXT, "description": "Length of the video."},
    prompt=TEXT,
    remixed_from_video_id=_maybe(TEXT, "The video that this one remixes, edits or extends."),
    metadata=_maybe({**ANY, "additionalProperties": TEXT}, "The pairs that its client gave it."),
    error=_maybe(_object(code=TEXT, message=TEXT), "Why it failed."),
    stage={**TEXT, "description": "What the worker is doing."},
    step={**WHOLE, "description": "Solver steps that are done."},
    steps={**WHOLE, "description": "Solver steps in all."},
    eta=_maybe(NUMBER, "Seconds left, as far as known."),
    has_preview=FLAG,
    position=_maybe(WHOLE, "Place in the queue, from 1."),
    parameters={**ANY, "description": "The effective settings."},
    inputs={**_list(TEXT), "description": "Fields of the files that were sent."},
    timings=_maybe(ANY, "Seconds by stage."),
    notes=_list(TEXT),
    sealed=_maybe(ANY, "Marks and digest of the sealed file."),
)
VIDEOS = _object(
    object={"const": "list"}, data=_list(VIDEO), first_id=_maybe(TEXT, ""), last_id=_maybe(TEXT, ""), has_more=FLAG
)
DELETED = _object(id=TEXT, object={"const": "video.deleted"}, deleted=FLAG)
MODEL = _object(
    id=TEXT,
    object={"const": "model"},
    created=WHOLE,
    owned_by=TEXT,
    title=TEXT,
    tasks=_list(TEXT),
    sizes=_list(TEXT),
    free_size={**FLAG, "description": "Whether other sizes than these are taken, too."},
    fps=NUMBER,
    frames=WHOLE,
    max_frames=WHOLE,
    steps=WHOLE,
    guidance=NUMBER,
    shift=NUMBER,
    solver=TEXT,
    negative=TEXT,
    upscale={**WHOLE, "description": "What the page proposes: 4 for a model whose frames are too small to look at."},
    licence=TEXT,
    knows={
        "type": ["object", "null"],
        "description": "What the embedded model was trained on: words by kind and language.",
    },
    state={"enum": ["loading", "ready", "idle", "unavailable"]},
)
MODELS = _object(
    object={"const": "list"},
    data=_list(MODEL),
    options={**ANY, "description": "The fields of a request, as JSON schemas."},
    loras={**_list(TEXT), "description": "The LoRA that requests may name."},
)
READ = _object(
    subjects={**_list(TEXT), "description": "The subjects in the prompt that the model knows."},
    nearest=_maybe(_object(word=TEXT, subject=ANY), "Where there is none: a word, and what it knows that is nearest."),
)
ERROR = _object(error=_object(message=TEXT, type=TEXT, param=_maybe(TEXT, "The field at fault."), code=TEXT))


def answers(schema: Schema) -> dict[int | str, dict[str, Any]]:
    """The part of an OpenAPI operation that describes its response."""
    return {200: {"description": "Done.", "content": {"application/json": {"schema": schema}}}}


ERRORS: dict[int | str, dict[str, Any]] = {
    "default": {"description": "What went wrong.", "content": {"application/json": {"schema": ERROR}}}
}
