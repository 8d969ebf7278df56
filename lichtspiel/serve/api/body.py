"""Bodies of requests: fields and uploads of JSON and multipart alike, and what the OpenAPI document says of them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile

from lichtspiel.errors import RequestError

__all__ = ["BODY", "FILE", "REMIX", "Fields", "Uploads", "folder", "handled"]


@contextmanager
def folder() -> Iterator[Path]:
    """A folder for as long as a request takes."""
    with tempfile.TemporaryDirectory(prefix="lichtspiel-") as name:
        yield Path(name)


Fields = dict[str, Any]
Uploads = dict[str, list[BinaryIO]]


async def handled(request: Request, work: Callable[[Fields, Uploads], dict[str, Any]]) -> dict[str, Any]:
    """What `work` makes of the fields and uploads of a JSON or multipart request, in a thread of its own."""
    if "json" not in request.headers.get("content-type", ""):
        async with request.form(max_files=16, max_fields=64) as form:
            return await run_in_threadpool(work, *_sorted(form))
    try:
        fields = await request.json()
    except ValueError as error:
        raise RequestError("body", "", f"it is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise RequestError("body", type(fields).__name__, "it is a JSON object with at least a prompt")
    return await run_in_threadpool(work, fields, {})


def _sorted(form: FormData) -> tuple[Fields, Uploads]:
    fields, uploads = Fields(), Uploads()
    for raw, value in form.multi_items():
        name = raw.removesuffix("[]")
        if isinstance(value, UploadFile):
            uploads.setdefault(name, []).append(value.file)
        elif name in fields:
            fields[name] = [*fields[name], value] if isinstance(fields[name], list) else [fields[name], value]
        else:
            fields[name] = value
    return fields, uploads


def schema(properties: dict[str, Any], required: list[str], kinds: tuple[str, ...]) -> dict[str, Any]:
    """The part of an operation that describes its body."""
    schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return {"requestBody": {"required": True, "content": {kind: {"schema": schema} for kind in kinds}}}


TEXT, UPLOAD = {"type": "string"}, {"type": "string", "format": "binary"}
BODY = schema(
    {
        "prompt": {"type": "string", "minLength": 1, "maxLength": 8000}, "model": TEXT, "size": TEXT,
        "seconds": {"anyOf": [TEXT, {"type": "number"}]}, "frames": {"type": "integer"}, "steps": {"type": "integer"},
        "guidance": {"type": "number"}, "shift": {"type": "number"}, "solver": TEXT, "negative": TEXT,
        "seed": {"type": "integer"}, "fit": TEXT, "context_scale": {"type": "number"}, "dtype": TEXT,
        "lora": {"type": "array", "items": TEXT}, "lora_partial": {"type": "boolean"},
        "upscale": {"type": "integer", "enum": [1, 2, 4]}, "consent": TEXT,
    },
    ["prompt"], ("application/json",),
)  # fmt: skip
MULTIPART = {
    **BODY["requestBody"]["content"]["application/json"]["schema"]["properties"],
    "input_reference": UPLOAD, "last_reference": UPLOAD, "video": UPLOAD, "mask": UPLOAD,
    "references": {"type": "array", "items": UPLOAD},
}  # fmt: skip
BODY["requestBody"]["content"] |= schema(MULTIPART, ["prompt"], ("multipart/form-data",))["requestBody"]["content"]
REMIX = schema({"prompt": TEXT, "seed": {"type": "integer"}}, ["prompt"], ("application/json",))
FILE = schema({"file": UPLOAD}, ["file"], ("multipart/form-data",))
