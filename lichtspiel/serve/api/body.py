"""Request bodies: the fields and uploads of JSON and multipart requests, and their OpenAPI schemas."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from contextvars import copy_context
from email.message import Message
from functools import partial
from pathlib import Path
from typing import IO, Any, BinaryIO

from fastapi import Request
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import FormParser, MultiPartException, MultiPartParser

from lichtspiel.errors import InvalidInput, MediaError, RequestError, name_fields
from lichtspiel.request import schema_of
from lichtspiel.serve.api.form import FIELDS, FILES, MAX_METADATA, MAX_METADATA_VALUE, client_name, in_fields
from lichtspiel.serve.errors import TooBusy, TooLarge
from lichtspiel.serve.queue.reviews import MAX_NOTE, MAX_REVIEWER
from lichtspiel.workflows.terms import MAX_CONSENT

__all__ = [
    "BODY",
    "EDIT",
    "EXTENSION",
    "FILE",
    "MASK",
    "MODERATE",
    "PROPERTIES",
    "READING",
    "REMIX",
    "REVIEW",
    "TRANSLATION",
    "TRANSLATION_RENDER",
    "Fields",
    "Uploads",
    "folder",
    "handled",
    "sweep_uploads",
]


_UPLOADS = "lichtspiel-upload-"


def sweep_uploads() -> int:
    """Remove the temporary folders, with what clients sent, of servers that were killed; returns how many.

    Younger ones than an hour stay: containers that share a folder see different process numbers.
    """
    gone = 0
    for path in Path(tempfile.gettempdir()).glob(f"{_UPLOADS}*-*"):
        owner = path.name.removeprefix(_UPLOADS).partition("-")[0]
        old = False
        with suppress(OSError):
            old = time.time() - path.stat().st_mtime > 3600
        if old and owner.isdigit() and not _alive(int(owner)):
            shutil.rmtree(path, ignore_errors=True)  # those of other users stay
            gone += not path.exists()
    return gone


def _alive(process: int) -> bool:
    if os.name == "nt":  # a signal would end it there
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


@contextmanager
def folder() -> Iterator[Path]:
    """A temporary folder for the duration of a request.

    Errors about files in it name the client's fields instead of this server's paths.
    """
    with tempfile.TemporaryDirectory(prefix=f"{_UPLOADS}{os.getpid()}-") as name:
        try:
            yield Path(name)
        except RequestError as error:
            value = in_fields(str(error.value), name) if isinstance(error.value, str | Path) else error.value
            rule = name_fields(in_fields(error.rule, name), client_name)
            message = error.message and name_fields(in_fields(error.message, name), client_name)
            raise RequestError(client_name(error.field), value, rule, error.nearest, message=message) from None
        except InvalidInput as error:
            if name not in str(error):
                raise
            told = in_fields(str(error), name)
            if isinstance(error, MediaError) and (field := told.partition(":")[0].partition("-")[0]) in FILES:
                raise RequestError(field, "a file", told, message=told) from None
            raise type(error)(told) from None


Fields = dict[str, Any]
Uploads = dict[str, list[BinaryIO]]


MAX_JSON = 32_000_000
"""The largest JSON body, in bytes. A picture that does not fit has to be sent as an upload."""

MAX_VALUES = 10_000
"""The approximate limit of values in a JSON body. Python's parser blocks all threads, for a second per ten million."""

SMALL, MAX_HELD = 1_000_000, 128_000_000
"""Bodies of at most `SMALL` bytes are not counted; all others together may take `MAX_HELD` bytes of memory."""

MAX_TEXT, MAX_NAME = 200_000, 100
"""The most characters of a text in a JSON body, other than a picture, and of its name in a message. Prompts may be far
shorter; here it is about what to look at in any detail."""

MAX_FILES, MAX_FIELDS = 16, 64
"""The most uploads and other fields of a form."""

_held = 0
_parsing = threading.Lock()
_threads = ThreadPoolExecutor(8, thread_name_prefix="body")
"""Threads that process bodies, so that a slow guard or a large picture never delays queries about videos."""


EPILOGUE = 1024
"""How many bytes may follow the last boundary of a form (RFC 2046, 5.1.1)."""


async def handled(request: Request, work: Callable[[Fields, Uploads], dict[str, Any]]) -> dict[str, Any]:
    """Call `work` with the fields and uploads of a JSON or multipart request, in a separate thread."""
    if "json" not in request.headers.get("content-type", ""):
        with tempfile.SpooledTemporaryFile(SMALL) as file:
            await _spool(request, file)
            return await _elsewhere(lambda: asyncio.run(_with_form(request.headers, file, work)))
    body = await _received(request)
    return await _elsewhere(lambda: work(_parsed(body), {}))


async def _elsewhere(work: Callable[..., dict[str, Any]], *args: object) -> dict[str, Any]:
    return await asyncio.get_running_loop().run_in_executor(_threads, partial(copy_context().run, work, *args))


async def _spool(request: Request, body: IO[bytes]) -> None:
    """Write a body to a file that is in memory while it is small. Only writes to a disk leave the event loop."""
    held = bytearray()
    async for piece in request.stream():
        held += piece
        if len(held) >= SMALL:
            await asyncio.to_thread(body.write, held)
            held = bytearray()
    body.write(held)
    body.seek(0)


async def _with_form(headers: Headers, body: IO[bytes], work: Callable[[Fields, Uploads], dict[str, Any]]) -> Any:
    """Parse a form and call `work` with it. Runs in a thread with a loop of its own: Starlette parses forms in
    coroutines, and would do so on the event loop, where all other clients wait."""

    async def pieces() -> AsyncGenerator[bytes, None]:
        while piece := body.read(1 << 16):
            yield piece

    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    form = FormData()
    try:
        if kind == "multipart/form-data":
            _check_end(headers, body)
            form = await MultiPartParser(headers, pieces(), max_files=MAX_FILES, max_fields=MAX_FIELDS).parse()
        elif kind == "application/x-www-form-urlencoded":
            form = await FormParser(headers, pieces(), max_fields=MAX_FIELDS).parse()
    except MultiPartException as error:
        raise HTTPException(400, error.message) from None
    try:
        return work(*_sorted(form))
    finally:
        await form.close()


def _check_end(headers: Headers, body: IO[bytes]) -> None:
    """Raise an HTTPException for a form that was cut off: the parser would leave out its last field in silence."""
    boundary = Message()
    boundary["content-type"] = headers.get("content-type", "")
    ending = f"--{boundary.get_boundary('')}--".encode("latin-1", "replace")
    body.seek(max(body.seek(0, os.SEEK_END) - len(ending) - EPILOGUE, 0))
    if ending not in body.read():
        raise HTTPException(400, "the form ends before its last boundary; send it again, whole")
    body.seek(0)


async def _received(request: Request) -> bytearray:
    """Read the body. Raises TooLarge if it is too long, and TooBusy if other bodies take up the memory."""
    global _held  # noqa: PLW0603  (all requests of this process share its memory)
    body, held = bytearray(), 0
    try:
        async for piece in request.stream():
            body += piece
            if len(body) > MAX_JSON:
                raise TooLarge(f"a JSON body has at most {MAX_JSON:,} bytes; send pictures as uploads, in multipart")
            if len(body) > SMALL:
                held, _held = len(body), _held + len(body) - held
                if _held > MAX_HELD:
                    raise TooBusy("too many large requests arrive at once", retry_after=5)
        return body
    finally:
        _held -= held


def _parsed(body: bytearray) -> Fields:
    """Parse a JSON body; large ones one at a time, because Python's parser keeps all other threads waiting. Raises
    RequestError if it is not an object."""
    with _parsing if len(body) > SMALL else nullcontext():
        return _object(body)


def _object(body: bytearray) -> Fields:
    if sum(body.count(mark) for mark in (b"[", b"{", b",")) > MAX_VALUES:
        raise RequestError("body", f"{len(body):,} bytes", f"it holds more than {MAX_VALUES:,} values")
    try:
        fields = json.loads(body, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise RequestError("body", "", f"it is not JSON: {why}") from None
    for name, value in fields.items() if isinstance(fields, dict) else ():
        if isinstance(value, str) and len(value) > MAX_TEXT and name not in FILES:
            raise RequestError(name[:MAX_NAME], f"{len(value):,} characters", f"a text has at most {MAX_TEXT:,}")
    if not isinstance(fields, dict):
        raise RequestError("body", type(fields).__name__, "it is a JSON object with at least a prompt")
    return fields


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")


NESTED = re.compile(r"(\w+)\[([^\[\]]+)\]")
"""How forms write the values of an object, such as `metadata[order]`."""


def _sorted(form: FormData) -> tuple[Fields, Uploads]:
    fields, uploads = Fields(), Uploads()
    for raw, value in form.multi_items():
        name = raw.removesuffix("[]")
        if (nested := NESTED.fullmatch(raw)) and not isinstance(value, UploadFile):
            inside = fields.setdefault(nested[1], {})
            if isinstance(inside, dict):
                inside[nested[2]] = value
        elif isinstance(value, UploadFile):
            uploads.setdefault(name, []).append(value.file)
        elif name in fields:
            fields[name] = [*fields[name], value] if isinstance(fields[name], list) else [fields[name], value]
        else:
            fields[name] = value
    return fields, uploads


def schema(properties: dict[str, Any], required: list[str], kinds: tuple[str, ...]) -> dict[str, Any]:
    """The part of an OpenAPI operation that describes its body."""
    schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return {"requestBody": {"required": True, "content": {kind: {"schema": schema} for kind in kinds}}}


def either(
    json: dict[str, Any], form: dict[str, Any], required: list[str], *, of_form: list[str] | None = None
) -> dict[str, Any]:
    """The same for a body that is JSON or a form, whose files are uploads; `of_form` is what only a form requires."""
    made = schema(json, required, ("application/json",))
    as_form = schema(form, required if of_form is None else of_form, ("multipart/form-data",))
    made["requestBody"]["content"] |= as_form["requestBody"]["content"]
    return made


def _property(name: str) -> dict[str, Any]:
    """The schema of an option, as the API accepts it."""
    if name == "consent":
        about = "Who is shown and that they agreed, where the policy asks for it; it is recorded."
        return {"type": "string", "maxLength": MAX_CONSENT, "description": about}
    if name == "metadata":
        about = f"Up to {MAX_METADATA} pairs of your own, kept with the video and shown with it."
        text = {"type": "string", "maxLength": MAX_METADATA_VALUE}
        return {"type": "object", "additionalProperties": text, "maxProperties": MAX_METADATA, "description": about}
    details = schema_of(name)
    details["description"] = name_fields(details["description"], client_name)
    if name == "seconds":  # OpenAI's clients send it as text
        return {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, TEXT], "description": details["description"]}
    if name == "lora":
        about = "LoRA that this server offers, as NAME or NAME:STRENGTH."
        return {**details, "items": TEXT, "description": about}
    if name == "model":
        return {**TEXT, "description": f"{details['description']} The first one that `/v1/models` lists if left out."}
    return details


def _upload(field: str) -> dict[str, Any]:
    details = schema_of(FILES[field])
    about = name_fields(details["description"], client_name)
    if details.get("type") == "array":
        return {"type": "array", "items": UPLOAD, "maxItems": details["maxItems"], "description": about}
    return {**UPLOAD, "description": about}


TEXT, UPLOAD = {"type": "string"}, {"type": "string", "format": "binary"}
BY_ID = {"type": "object", "properties": {"id": TEXT}, "required": ["id"], "description": "A video that was made here."}
PROPERTIES: dict[str, dict[str, Any]] = {name: _property(name) for name in FIELDS}
"""The schemas of the fields that a client may set besides files. Types, bounds and defaults come from `Request`."""

MULTIPART = {**PROPERTIES, **{field: _upload(field) for field in FILES}}
BODY = either(PROPERTIES, MULTIPART, ["prompt"])
EDIT = either({**PROPERTIES, "video": BY_ID}, MULTIPART, ["prompt", "video"], of_form=["prompt"])
_FORM = {name: value for name, value in MULTIPART.items() if name != "input_reference"}
EXTENSION = either({**PROPERTIES, "video": BY_ID}, _FORM, ["prompt", "video"], of_form=["prompt"])
REMIX = schema(
    {name: PROPERTIES[name] for name in ("prompt", "seed", "consent", "metadata")}, ["prompt"], ("application/json",)
)
READING = schema({"prompt": PROPERTIES["prompt"]}, ["prompt"], ("application/json",))
FILE = schema({"file": UPLOAD}, ["file"], ("multipart/form-data",))
_METADATA = PROPERTIES["metadata"]
MODERATE = either(
    {"video": BY_ID, "metadata": _METADATA},
    {"video": {**UPLOAD, "description": "A video or a picture."}, "metadata": _METADATA},
    ["video"],
)
REVIEW = schema(
    {
        "decision": {"enum": ["allowed", "refused"]},
        "reviewer": {**TEXT, "minLength": 1, "maxLength": MAX_REVIEWER, "description": "Who decides; it is recorded."},
        "note": {**TEXT, "maxLength": MAX_NOTE, "description": "Why, for the record."},
    },
    ["decision", "reviewer"],
    ("application/json",),
)
_DRAFT = {
    "to": {**TEXT, "description": "Language of the result, such as de."},
    "from": {**TEXT, "description": "Language that is spoken. [default: en, or as heard]"},
    "picture_text": {"enum": ["tell"], "description": "List the text in the picture, with its translation."},
    "metadata": _METADATA,
}
_WORDS = {
    "video": UPLOAD,
    "transcript": {**UPLOAD, "description": "Subtitles in the language of the video, instead of hearing."},
    "subtitles": {**UPLOAD, "description": "Your own translation, as SRT, WebVTT or ASS."},
    "glossary": {**UPLOAD, "description": "Lines of 'word = translation', or names to keep."},
}
TRANSLATION = either({**_DRAFT, "video": BY_ID}, {**_DRAFT, **_WORDS}, ["to", "video"], of_form=["to"])
_LINE = {
    "type": "object",
    "properties": {
        "start": {"type": "number"},
        "end": {"type": "number"},
        "text": TEXT,
        "speaker": {"type": "integer"},
    },
    "required": ["start", "end", "text"],
}
TRANSLATION_RENDER = schema(
    {
        "lines": {"type": "array", "items": _LINE, "description": "Lines as you want them. [default: as translated]"},
        "voice": {"type": "boolean", "description": "Whether a voice speaks them, too."},
        "original": {"enum": ["duck", "remove", "keep"], "description": "The old sound while the voice speaks."},
        "spoken_label": {"type": "boolean", "description": "The voice also says that it is AI-generated."},
        "lips": {"type": "boolean", "description": "Lips follow the voice, by what the operator has for it."},
        "burn": {"type": "boolean", "description": "Draw the subtitles into the picture."},
        "both": {"type": "boolean", "description": "Subtitles in both languages."},
        "picture_text": {"enum": ["replace"], "description": "Make the picture anew where the draft found text."},
        "texts": {
            "type": "array",
            "items": {"type": ["string", "null"]},
            "description": "What takes the place of each text in the picture; null leaves it. [default: as translated]",
        },
        "consent": {**PROPERTIES["consent"], "description": "Who speaks and that they agreed; a voice needs it."},
        "metadata": _METADATA,
    },
    [],
    ("application/json",),
)
_MASK = {
    "box": {**TEXT, "description": "The object on one frame, as LEFT,TOP,RIGHT,BOTTOM in pixels."},
    "at": {"type": "number", "minimum": 0, "default": 0, "description": "When that frame is shown, in seconds."},
    "consent": PROPERTIES["consent"],
}
MASK = either({**_MASK, "video": BY_ID}, {**_MASK, "video": UPLOAD}, ["box", "video"])
