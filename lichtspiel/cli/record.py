"""The verbs of the record: what was made on this computer, or by the machines that share a server's database."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from lichtspiel.cli.common import Json, needs
from lichtspiel.errors import InvalidInput, printable

if TYPE_CHECKING:
    from lichtspiel.seal.record import Entry, Store

__all__ = [
    "RecordDatabase",
    "erase_prompt",
    "export_record",
    "find_record",
    "list_record",
    "record_at",
    "show_record",
]

RecordDatabase = Annotated[
    str | None,
    typer.Option(
        "--database",
        metavar="URL",
        help="PostgreSQL database of a server, which has its record. [default: the record of this computer]",
    ),
]
Id = Annotated[str, typer.Argument(metavar="ID", help="Id of the video, or how it begins.")]


@contextmanager
def record_at(database: str | None) -> Iterator[Store]:
    """The record in the database of a server, or that of this computer."""
    from lichtspiel.seal import record

    if database is None:
        yield record
        return
    with needs("serve"):
        from lichtspiel.serve.queue.database import Database
        from lichtspiel.serve.queue.record import record_of
    opened = Database(database)
    try:
        if not opened.shared:
            raise InvalidInput("--database: a server on SQLite records on its own computer; leave --database out there")
        yield record_of(opened)
    finally:
        opened.close()


def list_record(
    limit: Annotated[int, typer.Option(min=1, metavar="NUMBER", help="How many entries, newest first.")] = 20,
    database: RecordDatabase = None,
    as_json: Json = False,
) -> None:
    """List what was made on this computer."""
    with record_at(database) as store:
        _print_entries(list(store.entries(limit)), as_json)


def show_record(id: Id, database: RecordDatabase = None, as_json: Json = False) -> None:
    """Show one entry of the record."""
    with record_at(database) as store:
        entry = _entry(store, id)
    if as_json:
        print(json.dumps(entry.to_json(), ensure_ascii=False, indent=2))
        return
    for name, value in entry.to_json().items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        if value not in (None, [], ""):
            print(printable(f"{name:<14}{text}"))


def find_record(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="Part of a prompt, model or path, or a beginning id.")],
    database: RecordDatabase = None,
    as_json: Json = False,
) -> None:
    """Find entries of the record, newest first."""
    from lichtspiel.seal import record

    with record_at(database) as store:
        _print_entries(list(record.search(text, store.entries())), as_json)


def erase_prompt(id: Id, database: RecordDatabase = None, as_json: Json = False) -> None:
    """Erase a video's prompts from this computer.

    They are erased from the record, and with the latents and the text states that were kept of them. A prompt that was
    published in the video's own seal stays there.
    """
    from lichtspiel.inference import prompt_cache
    from lichtspiel.storage import home

    with record_at(database) as store:
        entry = _entry(store, id)
        removed = [path for text in (entry.prompt, entry.negative) if text for path in prompt_cache.paths_of(text)]
        removed += sorted((home() / "latents").glob(f"{entry.id}.*"))
        for path in removed:
            path.unlink(missing_ok=True)
        store.erase_prompt(entry.id)  # last: until then, the texts say what is to be removed
    if as_json:
        print(json.dumps({"id": entry.id, "removed": [str(path) for path in removed]}, ensure_ascii=False))
        return
    print(f"erased   the prompts of {entry.id}" + "".join(f"\nremoved  {path}" for path in removed))


def export_record(database: RecordDatabase = None, as_json: Json = False) -> None:
    """Print the whole record, oldest first.

    One JSON object per line, or one array with --json.
    """
    from lichtspiel.seal import record

    with record_at(database) as store:
        entries = store.entries(newest_first=False)
        if as_json:
            print(json.dumps([entry.to_json() for entry in entries]))
            return
        record.export(sys.stdout, entries)


def _entry(store: Store, id: str) -> Entry:
    """The entry whose id begins so."""
    from lichtspiel.seal import record

    entries = [entry for entry in record.search(id, store.entries()) if entry.id.startswith(id.casefold())]
    if len(entries) != 1:
        raise InvalidInput(f"{len(entries)} entries have an id that begins with {id!r}; see `lichtspiel record list`")
    return entries[0]


def _print_entries(entries: list[Entry], as_json: bool) -> None:
    if as_json:
        print(json.dumps([entry.to_json() for entry in entries], ensure_ascii=False, indent=2))
        return
    for entry in entries:
        text = entry.prompt if entry.prompt is not None else "(prompt not kept)"
        facts = (f"{entry.created:%Y-%m-%d %H:%M}", entry.id[:8], f"{entry.model:<12}", f"{entry.marks:<4}", entry.path)
        print(printable("  ".join((*facts, text))))
