"""Turn what a client sends, fields and uploads, into a validated request.

Clients never choose file names, and nothing is fetched from URLs that they send.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from lichtspiel.errors import RequestError
from lichtspiel.inference.inputs import Inputs, resolve_request
from lichtspiel.options import closest
from lichtspiel.policy import Verdict
from lichtspiel.request import OPTIONS, Request
from lichtspiel.serve.errors import TooLarge
from lichtspiel.serve.settings import Settings
from lichtspiel.workflows.terms import read_consent

__all__ = [
    "FIELDS",
    "FILES",
    "MAX_METADATA",
    "MAX_METADATA_VALUE",
    "Submission",
    "client_name",
    "in_fields",
    "lora_files",
    "read_form",
    "read_metadata",
    "restore",
    "stored",
]

FILES = {
    "input_reference": "image",
    "last_reference": "last_image",
    "video": "video",
    "mask": "mask",
    "references": "references",
}
"""The names of upload fields, and the fields of `Request` that they stand for."""


FIELDS = (*(name for name in OPTIONS if name not in {*FILES.values(), "device"}), "consent", "metadata")
"""The fields that a client may set besides files."""


def client_name(field: str) -> str:
    """The client's name for a field of `Request`."""
    return next((name for name, attribute in FILES.items() if attribute == field), field)


def in_fields(text: str, folder: str) -> str:
    """A message in which the client's names of fields stand for the paths of files in a folder."""
    named = re.sub(rf"{re.escape(folder)}/(\w+)([\w-]*)\.\w+", lambda match: client_name(match[1]) + match[2], text)
    return named.replace(f"{folder}/", "") if len(folder) > 1 else named


SUFFIXES = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"RIFF": ".webp"}
"""The suffixes of pictures by their first bytes; everything else is opened as a video."""

MAX_METADATA, MAX_METADATA_KEY, MAX_METADATA_VALUE = 16, 64, 512
"""How many pairs `metadata` has at most, and the most characters of a key and of a value."""

LORA = re.compile(r"[\w][\w.-]*")


@dataclass(frozen=True)
class Submission:
    """A validated request, with its files in a local folder and a digest of everything that was sent.

    `metadata` are pairs of the client's own.
    """

    request: Request
    inputs: Inputs
    consent: str | None
    files: dict[str, Path]
    digest: str
    metadata: Mapping[str, str] | None = None


def read_form(
    fields: Mapping[str, Any], uploads: Mapping[str, Sequence[BinaryIO]], folder: Path, settings: Settings
) -> Submission:
    """Validate what a client sent, and write uploads to `folder`.

    Raises a RequestError that names the field, MediaError for a file that cannot be read, and TooLarge.
    """
    values = {name: value for name, value in fields.items() if value is not None}
    digest = hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode())
    files: dict[str, Path] = {}
    for field in ("input_reference", "last_reference"):
        if (picture := _inline(field, values.pop(field, None))) is not None:
            files[FILES[field]] = _write(picture, folder / FILES[field], digest)
    _check_names(values)
    values.setdefault("model", settings.models[0])
    if values["model"] not in settings.models:
        raise RequestError("model", values["model"], f"this server has {', '.join(settings.models)}")
    for field, contents in uploads.items():
        if field not in FILES:
            raise RequestError(field, "a file", f"files are sent as {', '.join(FILES)}")
        for number, content in enumerate(contents, start=1):
            name = f"references/{number}" if field == "references" else FILES[field]
            if name in files:
                raise RequestError(field, f"{number} files", "send one file")
            files[name] = _write(content.read(), folder / name.replace("/", "-"), digest)
    consent, metadata = read_consent(values.pop("consent", None)), read_metadata(values.pop("metadata", None))
    values["lora"] = [_lora(one, settings) for one in _list(values.get("lora"))] or None
    values |= {name: path for name, path in files.items() if "/" not in name}
    values["references"] = [path for name, path in files.items() if "/" in name] or None
    request, inputs = resolve_request(judge_only=True, **values)
    return Submission(request, inputs, consent, files, digest.hexdigest(), metadata)


def read_metadata(value: Any) -> dict[str, str] | None:
    """The pairs of a client: an object, which forms send as JSON or as `metadata[key]`. Raises RequestError."""
    if value is None:
        return None
    if isinstance(value, str):
        with contextlib.suppress(json.JSONDecodeError, RecursionError):
            value = json.loads(value)
    pairs = list(value.items()) if isinstance(value, dict) else [(None, None)]
    fits = all(
        isinstance(name, str) and len(name) <= MAX_METADATA_KEY and isinstance(text, str)
        and len(text) <= MAX_METADATA_VALUE for name, text in pairs
    )  # fmt: skip
    if not fits or len(pairs) > MAX_METADATA:
        rule = f"it is an object of at most {MAX_METADATA} texts; names have up to {MAX_METADATA_KEY} characters, "
        raise RequestError("metadata", value, rule + f"texts up to {MAX_METADATA_VALUE}")
    return dict(pairs)


def _check_names(values: Mapping[str, Any]) -> None:
    """Reject names that clients may not set. In particular, they may not name files of this server."""
    for name, value in values.items():
        if name in FIELDS:
            continue
        if name in {*FILES, *FILES.values()}:
            raise RequestError(name, value, f"{name} is a file: send it as an upload, in the field {client_name(name)}")
        if name in {"device", "fps"}:
            owner = "the server chooses it" if name == "device" else "the model decides it"
            raise RequestError(name, value, f"{owner}; leave it out")
        listed = f"no such field; fields are {', '.join(FIELDS)} and, for files, {', '.join(FILES)}"
        raise RequestError(name, value, listed, closest(name, [*FIELDS, *FILES]))


def _write(content: bytes, path: Path, digest: Any) -> Path:
    digest.update(path.name.encode() + hashlib.sha256(content).digest())
    suffix = next((suffix for head, suffix in SUFFIXES.items() if content.startswith(head)), ".mp4")
    path = path.with_name(path.name + suffix)
    path.write_bytes(content)
    return path


def _inline(field: str, reference: Any) -> bytes | None:
    """Decode the picture in OpenAI's `{"image_url": "data:image/png;base64,…"}`; other URLs are not fetched."""
    if reference is None:
        return None
    if isinstance(reference, str):
        try:
            reference = json.loads(reference)
        except json.JSONDecodeError:
            reference = {"image_url": reference}
    url = reference.get("image_url") if isinstance(reference, dict) else None
    head, comma, data = str(url).partition(",")
    if not (url and comma and head.startswith("data:image/") and head.endswith(";base64")):
        rule = "a picture is an upload or a data: address in image_url; nothing is fetched from elsewhere"
        raise RequestError(field, str(url)[:60], rule)
    if len(data) > 4 * 64_000_000 // 3:
        raise TooLarge(f"{field} is larger than 64 MB; send a smaller picture")
    try:
        return base64.b64decode(data, validate=True)
    except binascii.Error as error:
        raise RequestError(field, head, f"its base64 cannot be read: {error}") from None


def _list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def lora_files(settings: Settings) -> list[Path]:
    """The LoRA files that requests may name."""
    return [] if settings.loras is None else sorted(settings.loras.glob("*.safetensors"))


def _lora(value: Any, settings: Settings) -> dict[str, Any]:
    """Find a LoRA in the operator's folder by a name such as "style" or "style:0.8"."""
    name, colon, strength = str(value).rpartition(":")
    adapter = (
        value if isinstance(value, dict) else {"path": name, "strength": strength} if colon else {"path": strength}
    )
    name = str(adapter.get("path", ""))
    if settings.loras is None:
        raise RequestError("lora", name, "this server offers none")
    paths = {path.stem: path for path in lora_files(settings)}
    stem = name.removesuffix(".safetensors")
    if not LORA.fullmatch(name) or stem not in paths:
        raise RequestError("lora", name, f"this server has {', '.join(paths) or 'none'}")
    return {**adapter, "path": paths[stem]}


FILE_FIELDS = ("image", "last_image", "video", "mask", "references")


def stored(submission: Submission, verdict: Verdict | None = None) -> dict[str, Any]:
    """What the database stores of a request: its fields without paths, consent, metadata and the policy's verdict.

    The verdict is stored, with the digests of the files that it is about, so that workers need not judge the same
    request again.
    """
    fields = submission.request.model_dump(mode="json", exclude={*FILE_FIELDS})
    fields["lora"] = [{**one, "path": Path(one["path"]).stem} for one in fields["lora"]]
    private = {"consent": submission.consent, "verdict": verdict and verdict.to_json()}
    private["judged"] = submission.inputs.digests
    return {**fields, **private, "metadata": submission.metadata}


CLIP = "clip"
"""The name of the video that an extension goes on from, among the files of its job. It is no field of a request."""


def restore(
    stored_fields: Mapping[str, Any], files: Mapping[str, Path], settings: Settings
) -> tuple[Request, str | None]:
    """Restore a request, with its files at their current paths; returns it and the consent."""
    fields: dict[str, Any] = dict(stored_fields)
    consent = fields.pop("consent", None)
    for own in ("verdict", "judged", "metadata", "traceparent"):
        fields.pop(own, None)
    fields["lora"] = [_lora(one, settings) for one in fields["lora"]]
    fields |= {name: path for name, path in files.items() if "/" not in name and name != CLIP}
    fields["references"] = [files[name] for name in sorted(files) if "/" in name]
    return Request.of(**fields), consent
