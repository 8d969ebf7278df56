"""Generate a video again from its seal, this machine's record and its input files, and compare the results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lichtspiel.errors import InvalidInput, OutputError, RequestError
from lichtspiel.inference.device import choose_device, choose_precision
from lichtspiel.inference.pipeline import Files, Pipeline, load
from lichtspiel.media.media import media_sha256
from lichtspiel.request import Request
from lichtspiel.seal import digest, verify
from lichtspiel.seal.verify import Report
from lichtspiel.weights.checkpoint import TITLES
from lichtspiel.workflows.generate import Observer, Result, generate
from lichtspiel.workflows.terms import Terms

__all__ = ["Comparison", "Original", "original_of", "replay"]

FIELDS = {"first-frame": "image", "last-frame": "last_image", "video": "video", "mask": "mask"}
"""Request fields by the role of an input; references and LoRAs are numbered."""

RESULTS = {"latents", "weights", "computed"}
"""Recorded parameters that are not part of a request."""


@dataclass(frozen=True)
class Original:
    """A video that was made earlier: its request, and the digests of its weights and latents for comparison, which are
    None if they are not recorded."""

    path: Path
    request: Request
    weights: dict[str, str] | None
    latents: str | None

    def other_weights(self, pipeline: Pipeline) -> list[str]:
        """The parts whose weights differ from those of the original."""
        own = pipeline.checkpoint.fingerprints()
        return [TITLES[part] for part in own if self.weights is not None and self.weights.get(part) != own[part]]


@dataclass(frozen=True)
class Comparison:
    """Whether a replay produced exactly the same latents as the original (None if unknown), and this in words."""

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
    """Generate a video again and compare its latents with the original's. Notes before the work if weights differ."""
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
    """Reconstruct the request of a video or picture that this package made.

    It keeps the original precision and device unless `dtype` or `device` is passed. Parameters and texts come from the
    credentials if these are intact, otherwise from this machine's record. Texts that are passed must match the
    originals, and files among `inputs` are recognized by their digests. Raises InvalidInput, which says what is missing
    or what this machine cannot reproduce.
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
"""Maps a text, or the hex of a file's SHA-256, to its digest in the record."""


def _recorded(report: Report) -> tuple[dict[str, Any], dict[str, tuple[str, str | None]], dict[str, str], Named]:
    """The parameters, the digests and texts of the prompt and negative prompt, the files' digests by role, and the
    function that computes these digests."""
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
    """The recorded text, or the one that was passed if its digest matches the record."""
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
