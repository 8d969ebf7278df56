"""OpenAPI schemas of responses. The objects themselves are built in `objects`; a test compares both."""

from __future__ import annotations

from typing import Any

__all__ = [
    "DELETED", "ERRORS", "LANGUAGES", "MODEL", "MODELS", "MODERATION", "MODERATIONS", "READ", "TRANSLATION_LIST",
    "TRANSLATION_OBJECT", "VIDEO", "VIDEOS", "answers",
]  # fmt: skip

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


def _page(item: Schema, **more: Schema) -> Schema:
    """What `objects.page_object` returns."""
    ends = {name: _maybe(TEXT, "") for name in ("first_id", "last_id")}
    return _object(object={"const": "list"}, data=_list(item), **ends, has_more=FLAG, **more)


VIDEO = _object(
    id=TEXT,
    object={"const": "video"},
    model=TEXT,
    status={"enum": ["queued", "in_progress", "completed", "failed", "cancelled"]},
    progress={**WHOLE, "minimum": 0, "maximum": 100},
    created_at={**WHOLE, "description": "Unix time in seconds, like all times here."},
    started_at=_maybe(WHOLE, "When a worker started on it."),
    completed_at=_maybe(WHOLE, "When it was completed."),
    ended_at=_maybe(WHOLE, "When it completed, failed or was canceled."),
    expires_at=_maybe(WHOLE, "When the video and its files will be deleted."),
    size={**TEXT, "description": "Width and height in pixels, as WIDTHxHEIGHT."},
    seconds={**TEXT, "description": "Duration of the video."},
    prompt=TEXT,
    remixed_from_video_id=_maybe(TEXT, "The ID of the video that this one remixes, edits or extends."),
    metadata=_maybe({**ANY, "additionalProperties": TEXT}, "The key-value pairs sent with the request."),
    error=_maybe(_object(code=TEXT, message=TEXT), "Why the job failed."),
    stage={**TEXT, "description": "The current stage of the work."},
    step={**WHOLE, "description": "Completed solver steps."},
    steps={**WHOLE, "description": "Total solver steps."},
    eta=_maybe(NUMBER, "Estimated seconds remaining, if known."),
    has_preview=FLAG,
    position=_maybe(WHOLE, "Position in the queue, starting at 1."),
    parameters={**ANY, "description": "The settings in effect, including defaults."},
    inputs={**_list(TEXT), "description": "Names of the fields that held uploaded files."},
    timings=_maybe(ANY, "Seconds spent in each stage."),
    notes=_list(TEXT),
    sealed=_maybe(ANY, "The marks and the SHA-256 digest of the sealed file."),
)
VIDEOS = _page(VIDEO)
DELETED = _object(id=TEXT, object={"enum": ["video.deleted", "video.moderation.deleted"]}, deleted=FLAG)
DECISION: Schema = {"enum": ["allowed", "needs_review", "refused"]}
REASON = _object(
    start={**NUMBER, "description": "Seconds from the start of the video."},
    end=NUMBER,
    decision=DECISION,
    category=TEXT,
    rule=TEXT,
    source={**TEXT, "description": "Where it was found: picture, speech, writing, prompt or file."},
    detail=TEXT,
    score=NUMBER,
)
MODERATION = _object(
    id=TEXT,
    object={"const": "video.moderation"},
    status=VIDEO["properties"]["status"],
    progress=VIDEO["properties"]["progress"],
    created_at=WHOLE,
    started_at=_maybe(WHOLE, "When a worker started on it."),
    ended_at=_maybe(WHOLE, "When it completed, failed or was canceled."),
    expires_at=_maybe(WHOLE, "When it and its files will be deleted."),
    video_id=_maybe(TEXT, "The ID of the video, if it was made here."),
    metadata=_maybe({**ANY, "additionalProperties": TEXT}, "The key-value pairs sent with the request."),
    error=_maybe(_object(code=TEXT, message=TEXT), "Why the job failed; it needs review then."),
    stage=TEXT,
    position=_maybe(WHOLE, "Position in the queue, starting at 1."),
    decision=_maybe(DECISION, "The verdict, with what a person decided; null while it is not known."),
    category=_maybe(TEXT, "The category of the strictest reason."),
    reasons=_list(REASON),
    checked={**_list(TEXT), "description": "What was looked for."},
    made_by_ai=_maybe(FLAG, "Whether the file says that a model made it."),
    sha256=_maybe(TEXT, "Digest of the file."),
    policy=_maybe(TEXT, "Edition of the rules."),
    has_sheet={**FLAG, "description": "Whether there is a sheet of evidence."},
    review=_maybe(
        _object(decision=DECISION, reviewer=TEXT, key=_maybe(TEXT, "Id of their key."), note=TEXT, created_at=WHOLE),
        "What a person decided, who and when.",
    ),
)
MODERATIONS = _page(MODERATION, may_review={**FLAG, "description": "Whether you may decide what needs review."})
LINE = {
    **_object(start={**NUMBER, "description": "Seconds."}, end=NUMBER, text=TEXT, speaker=WHOLE),
    "description": "A line of the translation. `original` is what was said, where both have the same lines.",
}
TRANSLATION_OBJECT = _object(
    id=TEXT,
    object={"const": "video.translation"},
    status=VIDEO["properties"]["status"],
    progress=VIDEO["properties"]["progress"],
    created_at=WHOLE,
    ended_at=_maybe(WHOLE, "When it completed, failed or was canceled."),
    expires_at=_maybe(WHOLE, "When the translation and its video will be deleted."),
    size=TEXT,
    seconds=TEXT,
    metadata=VIDEO["properties"]["metadata"],
    error=VIDEO["properties"]["error"],
    **{"from": _maybe(TEXT, "The language of the video, as it was sent or heard.")},
    to=TEXT,
    stage=TEXT,
    position=_maybe(WHOLE, "Position in the queue, starting at 1."),
    lines=_maybe(_list(LINE), "The lines, once they are there."),
    written=_maybe(_list(ANY), "Text in the picture, with its times, place and translation, where it was asked for."),
    engines=_maybe(ANY, "What heard and translated."),
    notes=_list(TEXT),
)
TRANSLATION_LIST = _page(TRANSLATION_OBJECT)
LANGUAGES = _object(
    object={"const": "languages"},
    available={**FLAG, "description": "Whether this server translates videos."},
    pairs=_maybe(_list(_list(TEXT)), "What is translated, as from and to; null if an engine of the operator decides."),
    voices=_maybe(_list(TEXT), "Languages that can be spoken; null if a voice of the operator decides."),
    spoken_label={**_list(TEXT), "description": "Languages in which a voice can say that it is AI-generated."},
    reads_pictures={**FLAG, "description": "Whether text in the picture can be told."},
    remakes_pictures={**FLAG, "description": "Whether it can be replaced."},
    lips={**FLAG, "description": "Whether lips can follow a new voice."},
    languages={**ANY, "description": "All languages by their codes, in English."},
)
MODEL = _object(
    id=TEXT,
    object={"const": "model"},
    created=WHOLE,
    owned_by=TEXT,
    title=TEXT,
    tasks=_list(TEXT),
    sizes=_list(TEXT),
    free_size={**FLAG, "description": "Whether sizes other than those listed are accepted."},
    fps=NUMBER,
    frames=WHOLE,
    max_frames=WHOLE,
    steps=WHOLE,
    guidance=NUMBER,
    shift=NUMBER,
    solver=TEXT,
    negative=TEXT,
    upscale={**WHOLE, "description": "How many times larger frames become: 4 where the model's own are stamps."},
    licence=TEXT,
    knows={
        "type": ["object", "null"],
        "description": "The vocabulary of the embedded model, by kind and language.",
    },
    state={"enum": ["loading", "ready", "idle", "unavailable"]},
)
MODELS = _object(
    object={"const": "list"},
    data=_list(MODEL),
    options={**ANY, "description": "The fields of a request, as JSON schemas."},
    loras={**_list(TEXT), "description": "The LoRAs that requests may name."},
)
READ = _object(
    subjects={**_list(TEXT), "description": "The subjects in the prompt that the model knows."},
    nearest=_maybe(
        _object(word=TEXT, subject=ANY),
        "If there are none: a word of the prompt and the nearest subject that the model knows.",
    ),
)
ERROR = _object(
    error=_object(message=TEXT, type=TEXT, param=_maybe(TEXT, "The field that caused the error."), code=TEXT)
)


def answers(schema: Schema) -> dict[int | str, dict[str, Any]]:
    """The part of an OpenAPI operation that describes its response."""
    return {200: {"description": "Success.", "content": {"application/json": {"schema": schema}}}}


ERRORS: dict[int | str, dict[str, Any]] = {
    "default": {"description": "An error.", "content": {"application/json": {"schema": ERROR}}}
}
