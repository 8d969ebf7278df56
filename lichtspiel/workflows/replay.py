"""The request that a video was made from, put together again from its seal, this machine's record and given files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lichtspiel.errors import InvalidInput, RequestError
from lichtspiel.inference.pipeline import choose_device, choose_precision
from lichtspiel.media.media import media_sha256
from lichtspiel.request import Request
from lichtspiel.seal import digest, verify
from lichtspiel.seal.verify import Report

__all__ = ["request_of"]

FIELDS = {"first-frame": "image", "last-frame": "last_image", "video": "video", "mask": "mask"}
"""Fields of the request by the roles of inputs; references and LoRAs are numbered."""

RESULTS = {"latents", "weights"}
"""What is recorded with the parameters but does not belong to a request."""


def request_of(
    video: Path,
    *,
    prompt: str | None = None,
    negative: str | None = None,
    inputs: Sequence[Path] = (),
    device: str | None = None,
    dtype: str | None = None,
) -> Request:
    """The effective request of a video or picture that this package made, in the precision and on the device it was
    made with unless another `dtype` or `device` is named.

    Parameters come from its credentials if they are whole, else from this machine's record, and so do texts. Texts that
    are given must be those that were used, and the files among `inputs` are known by their digests. Raises InvalidInput
    that says what is missing, or what this machine cannot do as it was done then.
    """
    report = verify(video)
    parameters, texts, files, named = _said(report)
    asked: dict[str, Any] = {name: value for name, value in parameters.items() if name not in RESULTS}
    for name, given in (("prompt", prompt), ("negative", negative)):
        asked[name] = _text(video, name, texts[name], given, named)
    strengths = asked.pop("lora", [])
    found = {role: _file(video, role, digest, inputs, named) for role, digest in files.items()}
    asked |= {field: found[role] for role, field in FIELDS.items() if role in found}
    asked["references"] = [path for role, path in found.items() if role.startswith("reference-")]
    loras = [path for role, path in found.items() if role.startswith("lora-")]
    asked["lora"] = [{"path": path, "strength": value} for path, value in zip(loras, strengths, strict=True)]
    request = Request.of(**asked | {key: value for key, value in (("device", device), ("dtype", dtype)) if value})
    _check_machine(video, request)
    return request


def _check_machine(video: Path, request: Request) -> None:
    try:
        choose_precision(request.dtype, choose_device(request.device))
    except RequestError as error:
        raise InvalidInput(
            f"{video}: cannot be made here in {request.dtype} on {request.device}, because {error.rule}; to make it "
            f"otherwise, with a result that may differ, add --{error.field} {error.nearest}"
        ) from error


Named = Callable[[str], str]
"""From a text, or the hex of a file's SHA-256, to the name by which the record knows it."""


def _said(report: Report) -> tuple[dict[str, Any], dict[str, tuple[str, str | None]], dict[str, str], Named]:
    """Parameters, names and texts of prompt and negative prompt, names of files by role, and how they were named."""
    said, entry = report.credentials, report.record
    if said.state in {"trusted", "intact"} and said.generation is not None and said.id is not None:
        generation, id = said.generation, said.id
        kept = {"prompt": entry.prompt, "negative": entry.negative} if entry is not None and entry.id == id else {}
        texts = {
            name: (generation[name]["digest"], generation[name].get("text", kept.get(name)))
            for name in ("prompt", "negative")
        }
        files = {it["role"]: it["digest"] for it in generation["inputs"]}
        return {**generation["parameters"], "model": generation["model"]}, texts, files, lambda text: digest(id, text)
    if entry is None:
        raise InvalidInput(
            f"{report.path}: neither a seal nor this machine's record says how it was made. {report.verdict}"
        )
    texts = {"prompt": (entry.prompt_digest, entry.prompt), "negative": ("", entry.negative)}
    files = {it["role"]: digest(entry.id, it["sha256"]) for it in entry.inputs}
    return {**entry.request, "model": entry.model}, texts, files, lambda text: digest(entry.id, text)


def _text(video: Path, name: str, known: tuple[str, str | None], given: str | None, named: Named) -> str:
    """A text that is known, or the one that is given if it is that one."""
    expected, text = known
    if given is None:
        if text is not None:
            return text
        if expected == named(""):
            return ""
        raise InvalidInput(f"{video}: its {name} is not known here, only a digest of it; give it with --{name}")
    if expected and named(given) != expected:
        raise InvalidInput(f"{name}: {given!r} is not the one that {video} was made from; look for its exact words")
    return given


def _file(video: Path, role: str, expected: str, inputs: Sequence[Path], named: Named) -> Path:
    for path in inputs:
        if named(media_sha256(path)) == expected:
            return path
    raise InvalidInput(f"{video} was made from a file as its {role}, which is not among those given; add --input FILE")
