"""Generate many videos from one list: encode the texts first, load the weights once, never repeat finished work.

`jobs` reads and checks the list. The outcome of each line is appended to `batch.jsonl` in the folder of the videos, so
a second run knows what is finished.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lichtspiel.errors import Interrupted, LichtspielError, MediaError, OutputError
from lichtspiel.inference.inputs import read_inputs
from lichtspiel.inference.pipeline import Files, Pipeline, load
from lichtspiel.request import Request
from lichtspiel.seal import digest, verify
from lichtspiel.workflows.admission import admit
from lichtspiel.workflows.generate import Observer, compute_latents, finish, keep_latents, prepare
from lichtspiel.workflows.jobs import LOG, Line, read_jobs
from lichtspiel.workflows.latents import check_folder
from lichtspiel.workflows.outputs import check_outputs
from lichtspiel.workflows.terms import Terms

__all__ = ["LOG", "Line", "Outcome", "read_jobs", "run_jobs"]

TEXTS = 64
"""How many videos' texts are encoded at a time; the published encoder's states take up to 8 MB per text."""


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
