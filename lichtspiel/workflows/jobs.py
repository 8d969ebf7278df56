"""A list of videos to make, from a file: JSON lines, a JSON array, CSV, or one prompt a line.

Every line is read and checked, and the policy judges it, before anything is generated.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lichtspiel.errors import InvalidInput, RequestError
from lichtspiel.inference.inputs import resolve_request
from lichtspiel.policy import Verdict
from lichtspiel.request import Request
from lichtspiel.workflows.admission import judge
from lichtspiel.workflows.names import filled, with_seed
from lichtspiel.workflows.terms import Terms

__all__ = ["LOG", "Complete", "Line", "read_entries", "read_jobs"]

LOG = "batch.jsonl"
"""The file in the folder of the videos that says what became of each line."""

MAX_NAME = 200
"""Maximum length of a file name in bytes: the limit of file systems, minus what drafts append."""

Complete = Callable[[Mapping[str, Any]], dict[str, Any]]
"""Adds the options that a line leaves out."""


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


def read_jobs(
    path: Path,
    terms: Terms | None = None,
    complete: Complete = dict,
    *,
    name: str | None = None,
    seeds: Sequence[int] = (),
) -> list[Line]:
    """Check every line of a list, and let the policy and the guard of `terms` judge it. Empty lines are skipped, but
    count in line numbers.

    `name` is the pattern of the file names of lines without `out`; without it they are named by number. With `seeds`,
    every line is made once for each of them. Raises InvalidInput, which names the line.
    """
    text, terms = _text(path), terms or Terms()
    digits = max(4, len(str(text.count("\n") + 1)))
    wanted: Sequence[int | None] = seeds or (None,)
    lines: list[Line] = []
    number = 1
    try:
        for number, fields in _entries(path, text):
            pattern = fields.pop("out", name or f"{number:0{digits}d}.mp4")
            lines += [_line(number, fields, pattern, seeds, seed, terms, complete) for seed in wanted]
            if len({line.name for line in lines}) < len(lines):
                raise InvalidInput(f"an earlier line has the same out, {lines[-1].name}")
    except (InvalidInput, ValueError, TypeError, RecursionError) as error:
        raise InvalidInput(f"{path}, line {number}: {error}") from None
    if not lines:
        raise InvalidInput(f'{path} holds no jobs; write a prompt, or an object such as {{"prompt": "a cat"}}, a line')
    return lines


def read_entries(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a list with their numbers, unchecked. Raises InvalidInput for a file that cannot be read, and
    ValueError for a line that is no JSON."""
    return _entries(path, _text(path))


def _text(path: Path) -> str:
    try:
        if not path.is_file():
            raise InvalidInput(f"{path}: cannot be read as a list of jobs: it is not a file")
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(f"{path}: cannot be read as a list of jobs: {error}") from None


def _entries(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The jobs of a list with their numbers, by line, or by position in a JSON array.

    What a list is follows from its name (.txt has prompts, .csv has a header) or its first character.
    """
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    first, suffix = text.lstrip()[:1], path.suffix.lower()
    if suffix == ".csv":
        rows = csv.DictReader(io.StringIO(text), restkey="")
        for row in rows:
            yield rows.line_num, {key: value for key, value in row.items() if value not in (None, "")}
    elif suffix == ".txt" or first not in {"{", "["}:
        for number, line in lines:
            yield number, {"prompt": line.strip()}
    elif first == "[":
        for number, fields in enumerate(_parsed(text), start=1):
            yield number, {"prompt": fields} if isinstance(fields, str) else _object(fields)
    else:
        for number, line in lines:
            yield number, _object(_parsed(line))


def _parsed(text: str) -> Any:
    return json.loads(text, parse_constant=_refuse_constant)


def _object(fields: object) -> dict[str, Any]:
    if not isinstance(fields, dict):
        raise InvalidInput('a job is a JSON object, such as {"prompt": "a cat"}')
    return fields


def _line(
    number: int, fields: dict[str, Any], out: object, seeds: Sequence[int], seed: int | None, terms: Terms,
    complete: Complete,
) -> Line:  # fmt: skip
    fields = complete(fields)
    if seed is not None:
        if "seed" in fields:
            raise RequestError("seed", fields["seed"], "--seeds gives every line its seeds: drop one or the other")
        fields |= {"seed": seed}
    digest = hashlib.sha256(json.dumps({**fields, "out": out}, sort_keys=True).encode()).hexdigest()
    if not isinstance(out, str):
        raise InvalidInput(f"out: {out!r} is not valid: it is a file name without folders, such as cat.mp4")
    if out.lower().endswith(".png") and not fields.keys() & {"frames", "seconds"}:
        fields["frames"] = 1
    request, inputs = resolve_request(judge_only=True, **fields)
    inputs.check(request)
    name = _checked_name(str(filled(with_seed(Path(_checked_name(out)), seeds), request)))
    files = inputs.digests
    seeded = fields.get("seed") is not None
    return Line(number, name, request, digest, seeded, files, judge(request, inputs, terms))


def _refuse_constant(name: str) -> None:
    raise InvalidInput(f"{name} is not a number in JSON")


def _checked_name(name: str) -> str:
    """Check that the name of a video or picture is valid on every file system, and return it."""
    if Path(name).name != name or name in {"", ".", "..", LOG}:
        raise InvalidInput(f"out: {name!r} is not valid: it is a file name without folders, such as cat.mp4")
    if Path(name).suffix.lower() not in {".mp4", ".png", ".gif", ".webp"}:
        raise InvalidInput(f"out: {name!r} is not valid: it ends in .mp4, or in .png for a picture")
    if not name.isprintable() or len(name.encode("utf-8", "surrogatepass")) > MAX_NAME:
        raise InvalidInput(f"out: {name[:40]!r} is not valid: it has at most {MAX_NAME} bytes, all of them printable")
    return name
