"""Making a video again: from its seal, this machine's record and the files it was made from; and the comparison."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lichtspiel.errors import InvalidInput, OutputError, RequestError
from lichtspiel.inference.pipeline import Files, Pipeline, choose_device, choose_precision, load
from lichtspiel.media.media import media_sha256
from lichtspiel.request import Request
from lichtspiel.seal import digest, verify
from lichtspiel.seal.verify import Report
from lichtspiel.weights.checkpoint import TITLES
from lichtspiel.workflows.generate import Observer, Result, generate
from lichtspiel.workflows.terms import Terms

__all__ = ["Comparison", "Original", "original_of", "replay"]

FIELDS = {"first-frame": "image", "last-frame": "last_image", "video": "video", "mask": "mask"}
"""Fields of the request by the roles of inputs; references and LoRAs are numbered."""

RESULTS = {"latents", "weights"}
"""What is recorded with the parameters but does not belong to a request."""


@dataclass(frozen=True)
class Original:
    """A video that was made here before: its request, and the digests of its weights and latents, by which another one
    is known to be the same; None where it does not state them."""

    path: Path
    request: Request
    weights: dict[str, str] | None
    latents: str | None

    def other_weights(self, pipeline: Pipeline) -> list[str]:
        """The parts whose weights are not those that the original was made with."""
        own = pipeline.checkpoint.fingerprints()
        return [TITLES[part] for part in own if self.weights is not None and self.weights.get(part) != own[part]]


@dataclass(frozen=True)
class Comparison:
    """Whether a replay gave the very latents of the original, None if that is not known, and this in words."""

    same: bool | None
    text: str


def replay(
    original: Original,
    out: Path,
    *,
    weights: Files = None,
    sheet: Path | None = None,
    terms: Terms | None = None,
    observer: Observer | None = None,
) -> tuple[Result, Comparison]:
    """Make a video again and compare its latents with the original's. Other weights are noted before the work."""
    observer = observer or Observer()
    if out.resolve() == original.path.resolve():
        raise OutputError(f"{out}: is the video to replay; give --out another name")
    pipeline = load(original.request, weights)
    other_weights = original.other_weights(pipeline)
    if other_weights:
        observer.note(
            f"{original.path} was made with other weights ({', '.join(other_weights)}); the result will differ"
        )
    result = generate(original.request, out, pipeline=pipeline, sheet=sheet, terms=terms, observer=observer)
    return result, _compared(original, result, other_weights)


def _compared(original: Original, result: Result, other_weights: list[str]) -> Comparison:
    if original.latents is None:
        return Comparison(None, f"not known: {original.path} does not state the digest of its latents")
    if original.latents == result.parameters["latents"]:
        return Comparison(True, f"the same latents as {original.path}")
    reason = (
        f"other weights ({', '.join(other_weights)})"
        if other_weights
        else "another device, precision, processor or version"
    )
    return Comparison(False, f"other latents than {original.path}: {reason}")


def original_of(
    video: Path,
    *,
    prompt: str | None = None,
    negative: str | None = None,
    inputs: Sequence[Path] = (),
    device: str | None = None,
    dtype: str | None = None,
) -> Original:
    """What a video or picture that this package made was made from, in the precision and on the device it was made with
    unless another `dtype` or `device` is named.

    Parameters come from its credentials if they are whole, else from this machine's record, and so do texts. Texts
    passed in must be those that were used, and the files among `inputs` are recognized by their digests. Raises
    InvalidInput that says what is missing, or what this machine cannot do as it was done then.
    """
    report = verify(video)
    parameters, texts, files, named = _recorded(report)
    if parameters.get("adopted"):
        raise InvalidInput(f"{video} was made by another tool and sealed here; it cannot be made again")
    fields: dict[str, Any] = {name: value for name, value in parameters.items() if name not in RESULTS}
    for name, text in (("prompt", prompt), ("negative", negative)):
        fields[name] = _text(video, name, texts[name], text, named)
    strengths = fields.pop("lora", [])
    paths = {role: _file(video, role, digest, inputs, named) for role, digest in files.items()}
    fields |= {field: paths[role] for role, field in FIELDS.items() if role in paths}
    fields["references"] = [path for role, path in paths.items() if role.startswith("reference-")]
    loras = [path for role, path in paths.items() if role.startswith("lora-")]
    fields["lora"] = [{"path": path, "strength": value} for path, value in zip(loras, strengths, strict=True)]
    request = Request.of(**fields | {key: value for key, value in (("device", device), ("dtype", dtype)) if value})
    _check_machine(video, request)
    return Original(video, request, parameters.get("weights"), parameters.get("latents"))


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


def _recorded(report: Report) -> tuple[dict[str, Any], dict[str, tuple[str, str | None]], dict[str, str], Named]:
    """Parameters, names and texts of prompt and negative prompt, names of files by role, and how they were named."""
    credentials, entry = report.credentials, report.record
    if credentials.state in {"trusted", "intact"} and credentials.generation is not None and credentials.id is not None:
        generation, id = credentials.generation, credentials.id
        recorded_texts = (
            {"prompt": entry.prompt, "negative": entry.negative} if entry is not None and entry.id == id else {}
        )
        texts = {
            name: (generation[name]["digest"], generation[name].get("text", recorded_texts.get(name)))
            for name in ("prompt", "negative")
        }
        files = {item["role"]: item["digest"] for item in generation["inputs"]}
        return {**generation["parameters"], "model": generation["model"]}, texts, files, lambda text: digest(id, text)
    if entry is None:
        raise InvalidInput(
            f"{report.path}: neither a seal nor this machine's record says how it was made. {report.verdict}"
        )
    texts = {"prompt": (entry.prompt_digest, entry.prompt), "negative": ("", entry.negative)}
    files = {item["role"]: digest(entry.id, item["sha256"]) for item in entry.inputs}
    return {**entry.request, "model": entry.model}, texts, files, lambda text: digest(entry.id, text)


def _text(video: Path, name: str, recorded: tuple[str, str | None], text: str | None, named: Named) -> str:
    """The recorded text, or the one passed in if its digest is the recorded one."""
    expected, recorded_text = recorded
    if text is None:
        if recorded_text is not None:
            return recorded_text
        if expected == named(""):
            return ""
        raise InvalidInput(f"{video}: its {name} is not known here, only a digest of it; give it with --{name}")
    if expected and named(text) != expected:
        raise InvalidInput(f"--{name}: {text!r} is not what {video} was made from; give its exact words")
    return text


def _file(video: Path, role: str, expected: str, inputs: Sequence[Path], named: Named) -> Path:
    for path in inputs:
        if named(media_sha256(path)) == expected:
            return path
    raise InvalidInput(
        f"{video} was made from a file as its {role}, which is not among the --input files; add it with --input FILE"
    )
