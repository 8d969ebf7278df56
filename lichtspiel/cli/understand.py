"""The verbs that look at existing videos: index and search."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lichtspiel.cli.common import Force, Json, Sheet, check_new_file, progress_bar
from lichtspiel.errors import printable
from lichtspiel.options import COMPUTING

if TYPE_CHECKING:
    from lichtspiel.understand.analysis import Settings
    from lichtspiel.understand.ingest import Work
    from lichtspiel.understand.search import Place, Searcher

__all__ = ["index", "search"]

IndexFile = Annotated[
    Path | None,
    typer.Option(
        "--index", metavar="FILE", help="The index, one SQLite file. [default: index.sqlite in the data folder]",
    ),
]  # fmt: skip
Clip = Annotated[
    Path | None,
    typer.Option(
        "--clip", metavar="FILE",
        help="CLIP file of an image-to-video checkpoint, for meaning in pictures and a hundred languages.",
        rich_help_panel=COMPUTING,
    ),
]  # fmt: skip
Workers = Annotated[
    int,
    typer.Option("--workers", min=1, metavar="NUMBER", help="Processes on this computer.", rich_help_panel=COMPUTING),
]
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray", metavar="ADDRESS",
        help="Spread the work over a Ray cluster: its address, auto for the running one, local for a new one.",
        rich_help_panel=COMPUTING,
    ),
]  # fmt: skip


def index_path(path: Path | None) -> Path:
    """The index that was named, or the one of this installation."""
    from lichtspiel.storage import home

    return path or home() / "index.sqlite"


def index(
    places: Annotated[list[Path], typer.Argument(metavar="PATH", help="Videos, pictures, or folders of them.")],
    to: IndexFile = None,
    look_for: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="What to look for, separated by commas: text, speech, labels, measures, levels, nudity, faces, "
            "origin. [default: all]",
        ),
    ] = None,
    shots: Annotated[
        str, typer.Option(metavar="transnetv2|content", help="How shots are found: by a network or by differences.")
    ] = "transnetv2",
    clip: Clip = None,
    workers: Workers = 1,
    ray: Ray = None,
    as_json: Json = False,
) -> None:
    """Look at videos once, to find, judge and choose them.

    Finds shots, and in each what is written, said and shown. Files that did not change are not looked at again, and a
    run that was stopped goes on where it was. Captions are taken from captions.jsonl, metadata.jsonl and .txt files.
    """
    from lichtspiel.understand.ingest import build
    from lichtspiel.understand.store import Index

    path = index_path(to)
    index = Index(path, create=True)
    try:
        settings = make_settings(look_for, shots, clip)
        with progress_bar() as progress:
            work = build(places, index, settings, workers=workers, ray=ray, progress=progress)
        total = index.rows("SELECT count(*), count(DISTINCT digest) FROM paths")[0]
        shot_count = index.rows("SELECT count(*) FROM shots")[0][0]
    finally:
        index.close()
    if as_json:
        counts = {"files": total[0], "contents": total[1], "shots": shot_count}
        print(json.dumps({"index": str(path), **counts, **work.to_json()}, ensure_ascii=False, indent=2))
    else:
        print(f"index    {printable(str(path))}: {total[0]} files, {shot_count} shots")
        _print_work(work)


def make_settings(look_for: str | None, shots: str, clip: Path | None) -> Settings:
    """The settings of what was typed. Raises InvalidInput for what is not known."""
    from lichtspiel.errors import InvalidInput
    from lichtspiel.understand.analysis import EXTRACTORS, Settings

    names = tuple(EXTRACTORS) if look_for is None else tuple(name.strip() for name in look_for.split(","))
    for name in names:
        if name not in EXTRACTORS:
            raise InvalidInput(f"--look-for {name} is not known; choose from {', '.join(EXTRACTORS)}")
    detector = next((one for one in ("transnetv2", "content") if one == shots), None)
    if detector is None:
        raise InvalidInput(f"--shots {shots} is not known; choose transnetv2 or content")
    return Settings(names, detector, None if clip is None else str(clip))


def print_unread(failures: Mapping[str, str]) -> None:
    """Say on stderr which files could not be read, and why; most reasons begin with the file."""
    for file, reason in failures.items():
        print(printable(f"unread   {reason if file in reason else f'{file}: {reason}'}"), file=sys.stderr)


def _print_work(work: Work) -> None:
    print(f"looked   {work.looked} new, {work.known} known, {work.copies} copies, {work.removed} gone")
    if work.used:
        print(f"used     {', '.join(work.used)}")
    for name, reason in work.missed.items():
        print(printable(f"missed   {name}: {reason}"))
    print_unread(work.failures)


def search(
    text: Annotated[str, typer.Argument(metavar="[TEXT]", help="What to look for, in words.")] = "",
    like: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A picture or video that the places should look like.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, metavar="NUMBER", help="How many places, the best first.")] = 10,
    within: IndexFile = None,
    clip: Clip = None,
    sheet: Sheet = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Find places inside indexed videos.

    Looks for words in captions, speech and writing, for what they mean, and for what pictures look like, and says which
    of these found a place.
    """
    from lichtspiel.understand.search import Searcher
    from lichtspiel.understand.store import Index
    from lichtspiel.workflows.outputs import check_picture_name

    if sheet is not None:
        check_picture_name(sheet)
        check_new_file("--sheet", sheet, [] if like is None else [("--like", like)], force=force)
    index = Index(index_path(within))
    try:
        searcher = Searcher(index, None if clip is None else str(clip))
        places = searcher.search(text, like, limit)
        if sheet is not None and places:
            _write_sheet(searcher, places, sheet)
    finally:
        index.close()
    if as_json:
        print(json.dumps({"places": [place.to_json() for place in places]}, ensure_ascii=False, indent=2))
        return
    for place in places:
        by = ", ".join(f"{name} {rank}" for name, rank in place.by.items())
        times = f"{place.start:.2f}-{place.end:.2f}"
        print(printable(f"{times:>15}  {place.path}  ({by}){f'  {place.caption}' if place.caption else ''}"))
    if not places:
        print("nothing found")


def _write_sheet(searcher: Searcher, places: list[Place], sheet: Path) -> None:
    from lichtspiel.media.sheet import contact_sheet

    contact_sheet((searcher.picture(place) for place in places), path=sheet, most=len(places))
