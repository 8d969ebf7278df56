"""From what a client sends to a checked request: fields, uploaded files, and the limits on both.

Names of files never come from a client, and nothing is fetched from addresses that it sends.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from lichtspiel.errors import RequestError
from lichtspiel.inference.inputs import ask
from lichtspiel.request import Request
from lichtspiel.serve.errors import TooLarge
from lichtspiel.serve.settings import Settings

__all__ = ["FILES", "Asked", "read_form", "restore", "stored"]

FILES = {
    "input_reference": "image",
    "last_reference": "last_image",
    "video": "video",
    "mask": "mask",
    "references": "references",
}
"""Fields of uploads, and what they are in a `Request`."""

OURS = ("image", "last_image", "device")
"""Fields of a `Request` that a client cannot set by these names."""

SUFFIXES = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"RIFF": ".webp"}
"""File names of pictures by their first bytes; everything else is opened as a video."""

LORA = re.compile(r"[\w][\w.-]*")


@dataclass(frozen=True)
class Asked:
    """A checked request, with its files in a folder of this server, and a digest of all that was sent."""

    request: Request
    consent: str | None
    files: dict[str, Path]
    digest: str


def read_form(
    fields: Mapping[str, Any], uploads: Mapping[str, Sequence[BinaryIO]], folder: Path, settings: Settings
) -> Asked:
    """Check what a client sent; uploads are written into `folder`.

    Raises RequestError that names a field, MediaError for a file that cannot be read, and TooLarge.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    digest = hashlib.sha256(json.dumps(given, sort_keys=True, default=str).encode())
    for name in OURS:
        if name in given:
            other = {"device": "the server chooses it"}.get(name, "send the picture as input_reference")
            raise RequestError(name, given[name], other)
    given.setdefault("model", settings.models[0])
    if given["model"] not in settings.models:
        raise RequestError("model", given["model"], f"this server has {', '.join(settings.models)}")
    files: dict[str, Path] = {}
    inline = _inline(given.pop("input_reference", None))
    for field, contents in uploads.items():
        if field not in FILES:
            raise RequestError(field, "a file", f"files are sent as {', '.join(FILES)}")
        for number, content in enumerate(contents, start=1):
            name = f"references/{number}" if field == "references" else FILES[field]
            if field != "references" and number > 1:
                raise RequestError(field, f"{number} files", "one file is meant")
            files[name] = _write(content.read(), folder / name.replace("/", "-"), digest)
    if inline is not None:
        files["image"] = _write(inline, folder / "image", digest)
    consent = given.pop("consent", None)
    given["lora"] = [_lora(one, settings) for one in _list(given.get("lora"))] or None
    seconds = given.pop("seconds", None)
    request = ask(
        seconds=None if seconds is None else _number(seconds),
        **given,
        **{name: path for name, path in files.items() if "/" not in name},
        references=[path for name, path in files.items() if "/" in name] or None,
    )
    return Asked(request, consent, files, digest.hexdigest())


def _write(content: bytes, path: Path, digest: Any) -> Path:
    digest.update(hashlib.sha256(content).digest())
    suffix = next((suffix for head, suffix in SUFFIXES.items() if content.startswith(head)), ".mp4")
    path = path.with_name(path.name + suffix)
    path.write_bytes(content)
    return path


def _inline(reference: Any) -> bytes | None:
    """The picture in OpenAI's `{"image_url": "data:image/png;base64,…"}`; other addresses are not fetched."""
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
        raise RequestError("input_reference", str(url)[:60], rule)
    if len(data) > 4 * 64_000_000 // 3:
        raise TooLarge("input_reference is larger than 64 MB; send a smaller picture")
    try:
        return base64.b64decode(data, validate=True)
    except binascii.Error as error:
        raise RequestError("input_reference", head, f"its base64 cannot be read: {error}") from None


def _list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise RequestError("seconds", value, "it is a number") from None


def _lora(value: Any, settings: Settings) -> dict[str, Any]:
    """A LoRA by its name in the operator's folder, such as "style" or "style:0.8"."""
    given = value if isinstance(value, dict) else dict(zip(("path", "strength"), str(value).split(":"), strict=False))
    name = str(given.get("path", ""))
    if settings.loras is None:
        raise RequestError("lora", name, "this server offers none")
    there = {path.stem: path for path in sorted(settings.loras.glob("*.safetensors"))}
    stem = name.removesuffix(".safetensors")
    if not LORA.fullmatch(name) or stem not in there:
        raise RequestError("lora", name, f"this server has {', '.join(there) or 'none'}")
    return {"path": there[stem], "strength": given.get("strength", 1.0)}


FILE_FIELDS = ("image", "last_image", "video", "mask", "references")


def stored(asked: Asked) -> dict[str, Any]:
    """What is kept of a request in the database: its fields without paths, and the consent."""
    fields = asked.request.model_dump(mode="json", exclude={*FILE_FIELDS})
    fields["lora"] = [{**one, "path": Path(one["path"]).stem} for one in fields["lora"]]
    return {**fields, "consent": asked.consent}


def restore(kept: Mapping[str, Any], files: Mapping[str, Path], settings: Settings) -> tuple[Request, str | None]:
    """The request again, with its files where they lie now, and the consent."""
    fields: dict[str, Any] = dict(kept)
    consent = fields.pop("consent", None)
    fields["lora"] = [_lora(one, settings) for one in fields["lora"]]
    fields |= {name: path for name, path in files.items() if "/" not in name}
    fields["references"] = [files[name] for name in sorted(files) if "/" in name]
    return Request.of(**fields), consent
