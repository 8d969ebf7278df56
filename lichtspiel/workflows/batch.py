"""Generate many videos from one list: encode the texts first, load the weights once, never repeat finished work.

A list is a JSON Lines file with one object per video: the fields of `Request`, `seconds`, and `out` for a file name.
Every line is read and checked before generation starts. The outcome of each is appended to `batch.jsonl` in the folder
of the videos, so a second run knows what is finished.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lichtspiel.errors import Interrupted, InvalidInput, LichtspielError, MediaError, OutputError
from lichtspiel.inference.inputs import read_inputs, resolve_request
from lichtspiel.inference.pipeline import Files, Pipeline, load
from lichtspiel.policy import Verdict
from lichtspiel.request import Request
from lichtspiel.seal import digest, verify
from lichtspiel.workflows.admission import admit, judge
from lichtspiel.workflows.generate import Observer, compute_latents, finish, keep_latents, prepare
from lichtspiel.workflows.latents import check_folder
from lichtspiel.workflows.outputs import check_outputs
from lichtspiel.workflows.terms import Terms

__all__ = ["Line", "Outcome", "read_jobs", "run_jobs"]

LOG = "batch.jsonl"

MAX_NAME = 200
"""Maximum length of a file name in bytes: the limit of file systems, minus what drafts append."""

TEXTS = 64
"""How many videos' texts are encoded at a time; the published encoder's states take up to 8 MB per text."""


@dataclass(frozen=True)
class Line:
    """One video of a list.

    `asked` is the digest of the line, `seeded` says whether it names a seed. `files` are the digests of its files by
    their roles: the files are read again when their turn comes, and must be the same. `verdict` is the policy's.
    """

    number: int
    name: str
    request: Request
    asked: str
    seeded: bool
    files: dict[str, str]
    verdict: Verdict


@dataclass(frozen=True)
class Outcome:
    """The outcome of a line: the video's path and seed, or an error. `made` is false if the video already existed."""

    line: int
    path: str
    asked: str
    seed: int
    made: bool
    error: str | None = None
    exit_code: int = 0

    def to_json(self) -> dict[str, Any]:
        """The outcome as plain values."""
        return asdict(self)


Complete = Callable[[Mapping[str, Any]], dict[str, Any]]
"""Adds the options that a line leaves out."""


def read_jobs(path: Path, terms: Terms | None = None, complete: Complete = dict) -> list[Line]:
    """Check every line of a list, and let the policy and the guard of `terms` judge it. Empty lines are skipped, but
    count in line numbers. Raises InvalidInput, which names the line."""
    try:
        if not path.is_file():
            raise InvalidInput(f"{path}: cannot be read as a list of jobs: it is not a file")
        texts = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(f"{path}: cannot be read as a list of jobs: {error}") from None
    lines = []
    for number, text in enumerate(texts, start=1):
        if text.strip():
            try:
                lines.append(_line(number, text, len(str(len(texts))), terms or Terms(), complete))
            except (InvalidInput, ValueError, TypeError, RecursionError) as error:
                raise InvalidInput(f"{path}, line {number}: {error}") from None
    if not lines:
        raise InvalidInput(f'{path} holds no jobs; write one JSON object per line, for example {{"prompt": "a cat"}}')
    numbers: dict[str, int] = {}
    for line in lines:
        if numbers.setdefault(line.name, line.number) != line.number:
            raise InvalidInput(f"{path}, line {line.number}: an earlier line has the same out, {line.name}")
    return lines


def _line(number: int, text: str, digits: int, terms: Terms, complete: Complete) -> Line:
    fields = json.loads(text, parse_constant=_refuse_constant)
    if not isinstance(fields, dict):
        raise InvalidInput('a job is a JSON object, such as {"prompt": "a cat"}')
    fields = complete(fields)
    line_digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
    name = _checked_name(fields.pop("out", f"{number:0{max(4, digits)}d}.mp4"))
    request, inputs = resolve_request(judge_only=True, **fields)
    inputs.check(request)
    seeded = fields.get("seed") is not None
    files = {role: media.sha256 for role, media in inputs.by_role.items()}
    return Line(number, name, request, line_digest, seeded, files, judge(request, inputs, terms))


def _refuse_constant(name: str) -> None:
    raise InvalidInput(f"{name} is not a number in JSON")


def _checked_name(name: object) -> str:
    """Check that the name of a video or picture is valid on every file system, and return it."""
    if not isinstance(name, str) or Path(name).name != name or name in {"", ".", "..", LOG}:
        raise InvalidInput(f"out: {name!r} is not valid: it is a file name without folders, such as cat.mp4")
    if Path(name).suffix.lower() not in {".mp4", ".png"}:
        raise InvalidInput(f"out: {name!r} is not valid: it ends in .mp4, or in .png for a picture")
    if not name.isprintable() or len(name.encode("utf-8", "surrogatepass")) > MAX_NAME:
        raise InvalidInput(f"out: {name[:40]!r} is not valid: it has at most {MAX_NAME} bytes, all of them printable")
    return name


def run_jobs(
    lines: Sequence[Line], folder: Path, *, weights: Files, terms: Terms, say: Callable[[str], None] = lambda note: None
) -> Iterator[Outcome]:
    """Generate the videos that do not exist yet, one checkpoint after another; yields the outcome of each.

    All checks that can be made in advance run before the first video. If a job fails, the others still run. Raises
    OutputError if a video in the folder was made from a different line, and Interrupted when the run is stopped.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: is no folder for videos: {error.strerror}; choose another") from error
    finished, remaining = _finished(folder), []
    for line in lines:
        path = folder / line.name
        if not path.exists():
            remaining.append(line)
            continue
        seed = finished[line.name][1] if finished.get(line.name, ("",))[0] == line.asked else _seed_of(path, line)
        if seed is None:
            raise OutputError(f"{path} was not made from line {line.number}; move it, or choose another folder")
        yield Outcome(line.number, str(path), line.asked, seed, made=False)
    checked = []
    for group in _grouped(remaining):
        problems = _problems(group, folder, weights, terms)
        for line, problem in zip(group, problems, strict=True):
            if problem is not None:
                yield _logged(folder, line, problem)
        checked.append([line for line, problem in zip(group, problems, strict=True) if problem is None])
    for group in checked:
        for line, problem in _run(group, folder, weights, terms, say):
            yield _logged(folder, line, problem)


def _logged(folder: Path, line: Line, error: LichtspielError | None) -> Outcome:
    text, code = (None, 0) if error is None else (str(error), error.exit_code)
    outcome = Outcome(
        line.number, str(folder / line.name), line.asked, line.request.seed, made=True, error=text, exit_code=code
    )
    with (folder / LOG).open("a", encoding="utf-8") as log:
        log.write(json.dumps({"name": line.name, **outcome.to_json()}) + "\n")
    return outcome


def _finished(folder: Path) -> dict[str, tuple[str, int]]:
    """What each video was made from, and its seed, according to the log. Ignores truncated and foreign lines."""
    try:
        texts = (folder / LOG).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError):
        return {}
    finished = {}
    for text in texts:
        try:
            entry = json.loads(text)
            if entry["error"] is None:
                finished[str(entry["name"])] = (str(entry["asked"]), int(entry["seed"]))
        except (ValueError, TypeError, KeyError, RecursionError):
            continue
    return finished


def _seed_of(path: Path, line: Line) -> int | None:
    """The seed of a video according to its seal, if it was made from this line; None otherwise. Such a video is left by
    `lichtspiel decode`, or by a run that was killed before it could write its log."""
    credentials = verify(path).credentials
    if credentials.state not in {"trusted", "intact"} or credentials.generation is None or credentials.id is None:
        return None
    own = credentials.generation["parameters"]
    ignored = {"device", "dtype", *(() if line.seeded else ("seed",))}
    wanted = {**line.request.model_dump(mode="json"), "size": list(line.request.size)}
    same = all(wanted[name] == own[name] for name in own if name in wanted and name not in {*ignored, "lora"})
    texts = all(
        credentials.generation[name]["digest"] == digest(credentials.id, wanted[name])
        for name in ("prompt", "negative")
    )
    inputs = {
        item["role"]: item["digest"]
        for item in credentials.generation["inputs"]
        if not item["role"].startswith("lora-")
    }
    files = {role: digest(credentials.id, sha256) for role, sha256 in line.files.items()}
    strengths = own.get("lora", []) == [adapter.strength for adapter in line.request.lora]
    model = credentials.generation["model"] == line.request.model
    return int(own["seed"]) if same and texts and strengths and model and inputs == files else None


def _problems(group: Sequence[Line], folder: Path, weights: Files, terms: Terms) -> list[LichtspielError | None]:
    """For each line of a group, why it cannot be generated, as far as can be told in advance; None if nothing is
    wrong."""
    shared: LichtspielError | None = None
    try:
        load(_largest(group), weights)
    except LichtspielError as error:
        shared = error
    problems = []
    for line in group:
        problem = shared
        try:
            check_outputs(line.request, folder / line.name, None)
            terms.enforce(line.verdict, "request", line.request.prompt)
        except LichtspielError as error:
            problem = error
        problems.append(problem)
    return problems


def _largest(group: Sequence[Line]) -> Request:
    return max((line.request for line in group), key=lambda request: request.pixels)


def _grouped(lines: Sequence[Line]) -> list[list[Line]]:
    """The lines grouped by their weights, in the order of each group's first line."""
    groups: dict[object, list[Line]] = {}
    for line in lines:
        request = line.request
        groups.setdefault(
            (request.model, request.lora, request.lora_partial, request.device, request.dtype), []
        ).append(line)
    return [*groups.values()]


def _run(
    group: Sequence[Line], folder: Path, weights: Files, terms: Terms, say: Callable[[str], None]
) -> Iterator[tuple[Line, LichtspielError | None]]:
    """Plan memory for the largest job, then alternate: encode the texts of some jobs, generate these. Yields each line
    with its error."""
    if not group:
        return
    pipeline = load(_largest(group), weights)
    for begin in range(0, len(group), TEXTS):
        some = group[begin : begin + TEXTS]
        pipeline.encode_prompts(line.request for line in some)
        for line in some:
            try:
                _make(line, folder, pipeline, terms, say)
                yield line, None
            except Interrupted as stop:
                raise Interrupted(f"line {line.number}: {stop}; the same command goes on from here") from None
            except LichtspielError as error:
                yield line, error


def _make(line: Line, folder: Path, pipeline: Pipeline, terms: Terms, say: Callable[[str], None]) -> None:
    inputs = read_inputs(line.request)
    for role, media in inputs.by_role.items():
        if media.sha256 != line.files[role]:
            raise MediaError(f"{media.path}: changed after the list was checked; start again")
    check_outputs(line.request, folder / line.name, None)
    check_folder(line.request)
    admission = admit(line.request, terms, inputs, line.verdict)
    observer = Observer(note=lambda note: say(f"line {line.number}: {note}"))
    work = prepare(admission, folder / line.name, weights=pipeline, observer=observer)
    latents = compute_latents(work)
    finish(work, latents, keep_latents(work, latents))
