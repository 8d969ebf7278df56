"""The record of videos that several machines share, in the server's database; see `lichtspiel.seal.record`.

A server on PostgreSQL may have workers on many machines, whose disks come and go. What they sealed is recorded here, so
that every machine finds it. The rules are those of the record on one computer: entries are appended, kept for six
months by the database's clock, and never changed except to erase prompts and quotations of them. On PostgreSQL, a
trigger refuses anything else (`migrations`). The texts that can be erased have a column of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Double, Select, cast, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from lichtspiel.errors import LichtspielError
from lichtspiel.seal import record as local
from lichtspiel.seal.record import KEPT_DAYS, Entry, Store
from lichtspiel.serve.queue.database import Database
from lichtspiel.serve.queue.schema import record

__all__ = ["Record", "record_of"]

_PAGE = 256  # rows to read at once

_READ = select(record.c.id, record.c.body, record.c.texts)
_STAGES = ("before", "after")  # of the policy's verdicts


def record_of(database: Database) -> Store:
    """Where a server with this database records what it makes: in the database if machines share it, otherwise on this
    computer."""
    return Record(database) if database.shared else local


class _RollBack(Exception):
    """Ends a transaction without its writes."""


class Record:
    """The record in one database. Threads may share it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, entry: Entry) -> None:
        """Append an entry and delete those older than KEPT_DAYS, in one transaction.

        Raises LichtspielError if there is an entry with this id, and DatabaseError.
        """
        body, texts = _taken_apart(entry)
        row = {"id": entry.id, "watermark": entry.watermark, "created": entry.created.timestamp()}
        with self._database.writing() as connection:
            connection.execute(delete(record).where(record.c.created <= self._now() - KEPT_DAYS * 86400))
            if connection.scalar(select(record.c.id).where(record.c.id == entry.id)) is not None:
                raise LichtspielError(f"the record has an entry {entry.id} already, and entries are never replaced")
            try:
                connection.execute(insert(record).values(**row, sha256=entry.sha256, body=body, texts=texts))
            except IntegrityError as error:  # another machine added it in this moment
                raise LichtspielError(f"the record has an entry {entry.id} already") from error

    def check(self) -> None:
        """Raise the DatabaseError that `add` would raise now: adds an entry and rolls it back."""
        probe = {"id": "probe", "created": 1e12, "sha256": "", "body": {}}
        with suppress(_RollBack), self._database.writing() as connection:
            connection.execute(insert(record).values(**probe))
            raise _RollBack

    def erase_prompt(self, id: str) -> Entry:
        """Erase an entry's prompts and any quotations of them; returns what is left. Raises LichtspielError if there is
        no such entry, and DatabaseError."""
        with self._database.writing() as connection:
            connection.execute(update(record).where(record.c.id == id).values(texts=None))
        entry = self.find(id)
        if entry is None:
            raise LichtspielError(f"the record has no entry {id}; see `lichtspiel record list`")
        return entry

    def find(self, id: str) -> Entry | None:
        """The entry with this id, or None. Any string is allowed, because ids come from untrusted files."""
        known = len(id) == 32 and id.isascii() and id.isalnum()
        return next(self._rows(_READ.where(record.c.id == id)), None) if known else None

    def find_watermark(self, watermark: int) -> list[Entry]:
        """Entries whose watermark is this number, newest first."""
        return list(self._rows(_newest_first(_READ.where(record.c.watermark == watermark))))

    def find_sha256(self, sha256: str) -> Entry | None:
        """The newest entry for a file with this hexadecimal digest, or None."""
        return next(self._rows(_newest_first(_READ.where(record.c.sha256 == sha256))), None)

    def entries(self, limit: int | None = None, *, newest_first: bool = True) -> Iterator[Entry]:
        """Yield all entries, or only the first `limit`, a page at a time, so that no transaction stays open."""
        last: tuple[float, str] | None = None
        while limit is None or limit > 0:
            size = _PAGE if limit is None else min(limit, _PAGE)
            place, query = (record.c.created, record.c.id), select(*_READ.selected_columns, record.c.created)
            if last is not None:
                created, id = last
                later = record.c.created < created if newest_first else record.c.created > created
                next_id = record.c.id < id if newest_first else record.c.id > id
                query = query.where(later | ((record.c.created == created) & next_id))
            query = query.order_by(*(each.desc() if newest_first else each.asc() for each in place)).limit(size)
            with self._database.reading() as connection:
                rows = connection.execute(query).all()
            yield from (_entry(row.id, row.body, row.texts) for row in rows)
            if len(rows) < size:
                return
            last, limit = (rows[-1].created, rows[-1].id), None if limit is None else limit - size

    def _rows(self, query: Select[Any]) -> Iterator[Entry]:
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
        return (_entry(row.id, row.body, row.texts) for row in rows)

    def _now(self) -> ColumnElement[Any]:
        """The database's clock, which is also that of the trigger which guards the entries."""
        if self._database.shared:
            return func.extract("epoch", func.now())
        return cast(func.strftime("%s", "now"), Double)


def _newest_first(query: Select[Any]) -> Select[Any]:
    return query.order_by(record.c.created.desc(), record.c.id.desc())


def _taken_apart(entry: Entry) -> tuple[dict[str, Any], dict[str, Any]]:
    """An entry without its id, and the texts in it that can be erased."""
    body = entry.to_json()
    body.pop("id")
    texts = {name: body.pop(name) for name in ("prompt", "negative")}
    body["verdicts"] = dict(body["verdicts"])
    for stage in _STAGES:
        verdict = body["verdicts"].get(stage)
        if isinstance(verdict, dict) and "detail" in verdict:
            texts[stage] = verdict["detail"]
            body["verdicts"][stage] = {**verdict, "detail": None}
    return body, texts


def _entry(id: str, body: dict[str, Any], texts: dict[str, Any] | None) -> Entry:
    texts = texts or {}
    verdicts = dict(body["verdicts"])
    for stage in _STAGES:
        if stage in texts:
            verdicts[stage] = {**verdicts[stage], "detail": texts[stage]}
    values = {**body, "verdicts": verdicts, "inputs": tuple(body["inputs"])}
    values["created"] = datetime.fromisoformat(body["created"])
    return Entry(id=id, **values, prompt=texts.get("prompt"), negative=texts.get("negative"))
