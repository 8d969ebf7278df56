"""Many videos from one list: texts encoded first, weights loaded once, and finished work never done again.

A list is JSON lines, one object a video: the fields of `Request`, `seconds`, and `out` for a file name. Before anything
is made, every line is read and checked. What became of each is appended to `batch.jsonl` in the folder of the videos,
by which a second start knows what is finished.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lichtspiel.errors import Interrupted, InvalidInput, LichtspielError, MediaError, OutputError
from lichtspiel.inference.inputs import read_inputs, resolve_request
from lichtspiel.inference.pipeline import Files, Pipeline, load
from lichtspiel.request import Request
from lichtspiel.workflows.generate import Observer, generate
from lichtspiel.workflows.terms import Terms

__all__ = ["Line", "Outcome", "read_jobs", "run_jobs"]

LOG = "batch.jsonl"

TEXTS = 64
"""Videos whose texts are encoded at a time; the states of the published encoder take up to 8 MB a text."""


@dataclass(frozen=True)
class Line:
    """One video of a list: its line, its file's name, the request, a digest of what the line says, and the digests of
    its files by their roles. The files themselves are read again when their turn comes, and must be the same."""

    number: int
    name: str
    request: Request
    asked: str
    files: dict[str, str]


@dataclass(frozen=True)
class Outcome:
    """What became of a line: the video's path and seed, or an error. `made` is false if it was there before."""

    line: int
    path: str
    asked: str
    seed: int
    made: bool
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def read_jobs(path: Path) -> list[Line]:
    """Every line of a list, checked; empty lines count but make nothing. Raises InvalidInput that names the line."""
    try:
        texts = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path}: cannot be read as a list of jobs: {error}") from None
    lines = []
    for number, text in enumerate(texts, start=1):
        if text.strip():
            try:
                lines.append(_line(number, text, len(str(len(texts)))))
            except (InvalidInput, json.JSONDecodeError) as error:
                raise InvalidInput(f"{path}, line {number}: {error}") from None
    if not lines:
        raise InvalidInput(f'{path} holds no jobs; write one JSON object a line, for example {{"prompt": "a cat"}}')
    names = [line.name for line in lines]
    if twice := next((line for index, line in enumerate(lines) if line.name in names[:index]), None):
        raise InvalidInput(f"{path}, line {twice.number}: an earlier line has the same out, {twice.name}")
    return lines


def _line(number: int, text: str, digits: int) -> Line:
    fields = json.loads(text)
    if not isinstance(fields, dict):
        raise InvalidInput('a job is a JSON object, such as {"prompt": "a cat"}')
    asked = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
    name = fields.pop("out", f"{number:0{max(4, digits)}d}.mp4")
    if not isinstance(name, str) or Path(name).name != name or name in {"", ".", "..", LOG}:
        raise InvalidInput(f"out: {name!r} is not valid: it is a file name without folders, such as cat.mp4")
    request, inputs = resolve_request(judge_only=True, **fields)
    return Line(number, name, request, asked, {role: media.sha256 for role, media in inputs.by_role.items()})


def run_jobs(
    lines: Sequence[Line], folder: Path, *, weights: Files, terms: Terms, say: Callable[[str], None] = lambda note: None
) -> Iterator[Outcome]:
    """Make the videos that are not there yet, those of one checkpoint after one another; yields what became of each.

    A job that fails does not keep the others from being made. Raises OutputError for a video in the folder that was
    made from another line, and Interrupted when it is stopped.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done = _finished(folder)
    open_lines = []
    for line in lines:
        path = folder / line.name
        before = done.get(line.name)
        if not path.exists():
            open_lines.append(line)
        elif before is not None and before["asked"] == line.asked:
            yield Outcome(line.number, str(path), line.asked, before["seed"], made=False)
        else:
            raise OutputError(f"{path} is there, and was not made from line {line.number}; move it or choose a folder")
    for group in _grouped(open_lines):
        for outcome in _run(group, folder, weights, terms, say):
            with (folder / LOG).open("a", encoding="utf-8") as log:
                log.write(json.dumps({"name": Path(outcome.path).name, **outcome.to_json()}) + "\n")
            yield outcome


def _finished(folder: Path) -> dict[str, dict[str, Any]]:
    """What the log says of videos that were made, by name; a line that was cut off is no entry."""
    try:
        texts = (folder / LOG).read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    found = {}
    for text in texts:
        try:
            entry = json.loads(text)
        except json.JSONDecodeError:
            continue
        if entry["error"] is None:
            found[entry["name"]] = entry
    return found


def _grouped(lines: Sequence[Line]) -> list[list[Line]]:
    """The lines that share weights, in the order in which their first comes."""
    groups: dict[object, list[Line]] = {}
    for line in lines:
        asked = line.request
        groups.setdefault((asked.model, asked.lora, asked.lora_partial, asked.device, asked.dtype), []).append(line)
    return [*groups.values()]


def _run(
    group: Sequence[Line], folder: Path, weights: Files, terms: Terms, say: Callable[[str], None]
) -> Iterator[Outcome]:
    """Plan for the largest, encode the texts of some, then make these, and so on."""
    largest = max((line.request for line in group), key=lambda asked: asked.pixels)
    pipeline = load(largest, weights)
    for begin in range(0, len(group), TEXTS):
        some = group[begin : begin + TEXTS]
        pipeline.encode_prompts(line.request for line in some)
        for line in some:
            yield _made(line, folder, pipeline, terms, say)


def _made(line: Line, folder: Path, pipeline: Pipeline, terms: Terms, say: Callable[[str], None]) -> Outcome:
    path = folder / line.name
    error = None
    try:
        observer = Observer(note=lambda note: say(f"line {line.number}: {note}"))
        inputs = read_inputs(line.request)
        for role, media in inputs.by_role.items():
            if media.sha256 != line.files[role]:
                raise MediaError(f"{media.path}: changed after the list was checked; start again")
        generate(line.request, path, terms=terms, inputs=inputs, pipeline=pipeline, observer=observer)
    except Interrupted as stop:
        raise Interrupted(f"line {line.number}: {stop}; the same command goes on from here") from None
    except LichtspielError as problem:
        error = str(problem)
    return Outcome(line.number, str(path), line.asked, line.request.seed, made=True, error=error)
