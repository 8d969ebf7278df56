"""The record: which videos were made here, what they were made from, how they are marked. It stays on this computer.

    $LICHTSPIEL_HOME/record.sqlite      mode 0600, one row per video, kept for six months

Machines that make videos for one server share a record in the server's database (`serve.queue.record`), which has the
same interface, `Store`, and the same rules.

The record has two purposes. It identifies a file that has lost its metadata, by the id in its watermark. And it is the
log that China's Measures require for videos that leave without a label. The database itself refuses to replace an
entry, to delete it early, or to change anything in it except to erase its prompts, whichever program tries. That
prevents mistakes, but does not stop a determined owner: anyone who can write the file can replace it. The record
therefore proves nothing to others; the signature in the video does.

This module knows how entries are stored, not what they mean: it computes no digests and judges nothing. Times are from
this computer's clock. Prompts are written to this file and nowhere else, not even to error messages.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, TextIO

from lichtspiel.errors import LichtspielError
from lichtspiel.seal.credentials import JSON
from lichtspiel.storage import home

__all__ = [
    "KEPT_DAYS",
    "Entry",
    "Store",
    "add",
    "check",
    "entries",
    "erase_prompt",
    "export",
    "find",
    "find_sha256",
    "find_watermark",
    "search",
]

KEPT_DAYS = 184
"""How many days an entry is kept, during which the database refuses to delete it: the longest possible six months.

Article 9 of China's Measures for Labelling AI-Generated Synthetic Content (2025) requires logs of videos that leave
without a label to be kept for six months. The value is part of the database, so changing it means a new version of the
layout.
"""

_APPLICATION = 0x4C494348  # "LICH", in SQLite's header field for the application that owns the file
_VERSION = 1  # of the layout; a later version is left untouched
_PATIENCE = 30.0  # seconds to wait for other processes, which lock the file for milliseconds only
_PAGE = 256  # rows to read at once

# SQLite's clock, so that pruning and the trigger that guards it use the same one. It has milliseconds and entries have
# microseconds: compared as text, an entry from the same millisecond counts as younger.
_OLDEST = f"strftime('%Y-%m-%dT%H:%M:%f', 'now', '-{KEPT_DAYS} days')"

# The only change allowed: erasing texts that may contain personal data, that is, the prompts and any words of them that
# a verdict quotes. They become null in the JSON.
_ERASED = """json_replace({0}.body, '$.prompt', NULL, '$.negative', NULL,
  '$.verdicts.before.detail', NULL, '$.verdicts.after.detail', NULL)"""
_NEVER_CHANGED = f"""CREATE TRIGGER entry_is_never_changed BEFORE UPDATE ON entry
WHEN NOT (NEW.id IS OLD.id AND NEW.watermark IS OLD.watermark AND NEW.created IS OLD.created
  AND NEW.body IS {_ERASED.format("OLD")})
BEGIN SELECT RAISE(ABORT, 'the record is append-only: an entry is never changed'); END"""

# Rows have no number besides their id: `REPLACE` deletes by any unique key without firing delete triggers, so there is
# only one key, and a trigger that runs before the insert. `created` has a fixed width, so it sorts as text.
_LAYOUT = (
    """CREATE TABLE entry (
  id TEXT NOT NULL PRIMARY KEY,
  watermark INTEGER,
  created TEXT NOT NULL,
  body TEXT NOT NULL
) WITHOUT ROWID""",
    "CREATE INDEX entry_watermark ON entry (watermark, created)",
    "CREATE INDEX entry_created ON entry (created)",
    _NEVER_CHANGED,
    """CREATE TRIGGER entry_is_never_replaced BEFORE INSERT ON entry WHEN EXISTS (SELECT 1 FROM entry WHERE id = NEW.id)
BEGIN SELECT RAISE(ABORT, 'the record is append-only: an entry with this id is there'); END""",
    f"""CREATE TRIGGER entry_is_kept BEFORE DELETE ON entry WHEN OLD.created > {_OLDEST}
BEGIN SELECT RAISE(ABORT, 'the record is append-only: an entry is kept for {KEPT_DAYS} days'); END""",
    f"PRAGMA application_id = {_APPLICATION}",
    f"PRAGMA user_version = {_VERSION}",
)

_COLUMNS = "id, watermark, created, CAST(body AS BLOB)"  # bytes, so that our code meets damaged text, not the driver

_ID = re.compile("[0-9a-f]{32}")

# When a process closes a file, it loses all its locks on that file, including those of other threads and of SQLite
# (POSIX). So no thread may open the database while another thread that created the file still has to close it.
_making = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One video: the request, the inputs it was made from, and how it is marked.

    `id` has 32 hexadecimal digits. `watermark` is the number in the first 8, which the picture carries, or None if it
    carries none. `created` is timezone-aware. `request` has the effective values, without texts. `prompt` and
    `negative` are None if not to be kept, and never appear in `repr`; `prompt_digest` is always set. `inputs` are the
    source files, each as {"role", "sha256"}; entries read from the database have a tuple. `verdicts` are the policy's
    verdicts before and after generation, and the statement of consent. `marks` is the name of a profile, or "none", in
    which case `reason` says why.
    """

    id: str
    watermark: int | None
    created: datetime
    path: str
    sha256: str
    model: str
    version: str
    request: Mapping[str, JSON]
    prompt: str | None = field(repr=False)
    negative: str | None = field(repr=False)
    prompt_digest: str
    inputs: Sequence[Mapping[str, str]]
    verdicts: Mapping[str, JSON]
    marks: str
    reason: str | None

    def to_json(self) -> dict[str, Any]:
        """The entry as a plain dictionary for `json.dumps`; `created` is ISO 8601 in UTC."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {**values, "created": _stamp(self.created), "inputs": [dict(item) for item in self.inputs]}


class Store(Protocol):
    """A record: this module, which keeps it on this computer, or one that several machines share."""

    def add(self, entry: Entry, /) -> None:
        """Append an entry."""

    def check(self) -> None:
        """Raise the error that `add` would raise now."""

    def erase_prompt(self, id: str, /) -> Entry:
        """Erase the prompts of an entry; returns what is left of it."""

    def find(self, id: str, /) -> Entry | None:
        """The entry with this id."""

    def find_watermark(self, watermark: int, /) -> list[Entry]:
        """Entries with this watermark, newest first."""

    def find_sha256(self, sha256: str, /) -> Entry | None:
        """The newest entry for a file with this digest."""

    def entries(self, limit: int | None = None, *, newest_first: bool = True) -> Iterator[Entry]:
        """All entries, or only the first `limit`."""


def add(entry: Entry) -> None:
    """Append an entry and delete those older than KEPT_DAYS, in one transaction.

    The first call creates the database. Several processes can add entries at once. Raises LichtspielError, with the
    remedy, when the record cannot be written or already has this id.
    """
    assert _ID.fullmatch(entry.id), entry.id
    assert entry.watermark in (None, int(entry.id[:8], 16)), (entry.id, entry.watermark)
    assert entry.created.tzinfo is not None, entry.created
    body = entry.to_json()
    row = (body.pop("id"), body.pop("watermark"), body.pop("created"))
    path = _path()
    with _as_errors(path, "written"):
        _make(path)
        with _connection(path) as base:
            base.execute("PRAGMA secure_delete = ON")  # overwrite deleted prompts on disk
            base.execute("BEGIN IMMEDIATE")
            new = _is_new(base, path)
            if path.stat().st_mode & 0o077:  # as after a copy; the journal gets the same mode
                path.chmod(0o600)
            if new:
                for statement in _LAYOUT:
                    base.execute(statement)
            base.execute(f"DELETE FROM entry WHERE created <= {_OLDEST}")
            try:
                # ASCII can represent any string, even a path whose bytes are not valid text
                base.execute("INSERT INTO entry VALUES (?, ?, ?, ?)", (*row, json.dumps(body, allow_nan=False)))
            except sqlite3.IntegrityError as error:
                raise LichtspielError(
                    f"{path} has an entry {entry.id} already, and entries are never replaced; "
                    "make the video again, which gives it an id of its own"
                ) from error
            base.execute("COMMIT")


def check() -> None:
    """Raise the LichtspielError that `add` would raise now: adds an entry and rolls it back."""
    path = _path()
    with _as_errors(path, "written"):
        _make(path)
        with _connection(path) as base:
            base.execute("BEGIN IMMEDIATE")
            if _is_new(base, path):
                for statement in _LAYOUT:
                    base.execute(statement)
            base.execute("INSERT INTO entry VALUES ('probe', NULL, '9999', '{}')")
            base.execute("ROLLBACK")


def erase_prompt(id: str) -> Entry:
    """Erase an entry's prompts and any quotations of them, and return the remaining entry.

    The old text is overwritten on disk. Raises LichtspielError when there is no such entry or it cannot be written.
    """
    path = _path()
    if find(id) is None:
        raise LichtspielError(f"{path} has no entry {id}; see `lichtspiel record list`")
    with _as_errors(path, "written"), _connection(path) as base:
        base.execute("PRAGMA secure_delete = ON")
        base.execute("BEGIN IMMEDIATE")
        base.execute("DROP TRIGGER IF EXISTS entry_is_never_changed")  # in records from before prompts could be erased
        base.execute(_NEVER_CHANGED)
        base.execute(f"UPDATE entry SET body = {_ERASED.format('entry')} WHERE id = ?", (id,))
        base.execute("COMMIT")
    entry = find(id)
    assert entry is not None, id
    return entry


def search(text: str, kept: Iterable[Entry] | None = None) -> Iterator[Entry]:
    """The entries whose id begins with `text`, or whose prompt, model or path contains it: of `kept`, or of all in this
    record, newest first."""
    wanted = text.casefold()
    for entry in entries() if kept is None else kept:
        texts = (entry.prompt or "", entry.model, entry.path)
        if entry.id.startswith(wanted) or any(wanted in each.casefold() for each in texts):
            yield entry


def find(id: str) -> Entry | None:
    """The entry with this id, or None if there is none or no record exists. Creates nothing.

    Any string is allowed, because ids come from untrusted files.
    """
    if not _ID.fullmatch(id):
        return None
    path = _path()
    return next(_parsed(path, _select(path, "WHERE id = ?", (id,))), None)


def find_watermark(watermark: int) -> list[Entry]:
    """Entries whose watermark is this number, newest first. Creates nothing.

    Two videos can share a 32-bit number: among ten thousand videos the chance is one in 86.
    """
    path = _path()
    rows = _select(path, "WHERE watermark = ? ORDER BY created DESC, id DESC", (watermark,))
    return list(_parsed(path, rows))


def find_sha256(sha256: str) -> Entry | None:
    """The newest entry for a file with this hexadecimal digest, or None. Creates nothing."""
    path = _path()
    # The digest is inside the JSON body; prompts that happen to contain the same text are filtered out below.
    rows = _select(path, "WHERE body LIKE ? ORDER BY created DESC, id DESC", (f'%"{sha256}"%',))
    return next((entry for entry in _parsed(path, rows) if entry.sha256 == sha256), None)


def entries(limit: int | None = None, *, newest_first: bool = True) -> Iterator[Entry]:
    """Yield all entries, or only the first `limit`. Creates nothing; holds no lock between entries.

    A damaged row does not hide the others: all readable entries are yielded, then LichtspielError names the damaged
    ones, because a record that silently omits entries would be worse than none.
    """
    path = _path()
    return _parsed(path, _pages(path, limit, newest_first=newest_first))


def export(out: TextIO, kept: Iterable[Entry] | None = None) -> int:
    """Write entries as lines of ASCII JSON, and return their count: those of `kept`, or all in this record, oldest
    first."""
    count = 0
    for entry in entries(newest_first=False) if kept is None else kept:
        out.write(json.dumps(entry.to_json()) + "\n")
        count += 1
    return count


def _path() -> Path:
    return home().absolute() / "record.sqlite"


def _stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def _make(path: Path) -> None:
    """Create an empty file that only its owner can read, unless the file exists. SQLite would create it according to
    the umask; the journal next to it gets the same mode as the database."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _making, contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))


@contextlib.contextmanager
def _connection(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that creates no file and rolls back uncommitted changes when it closes.

    It uses SQLite's default journal, which is deleted after each write. A write-ahead log needs shared memory, which
    network drives lack, and extra files, which readers of a read-only folder cannot create. Readers also use `rw`
    rather than `ro`: after a crash they must roll back a half-finished write. SQLite falls back to `ro` by itself.
    """
    uri = f"{path.as_uri()}?mode=rw"
    with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=_PATIENCE, isolation_level=None)) as base:
        yield base


def _is_new(base: sqlite3.Connection, path: Path) -> bool:
    """Whether the database is still empty. Raises LichtspielError when another program or a later version wrote it."""
    application, version, tables = (
        base.execute(query).fetchone()[0]
        for query in ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_master")
    )
    if not (application or version or tables):
        return True
    if application != _APPLICATION:
        raise LichtspielError(
            f"{path} is a database, but no record of Lichtspiel; move it away, or set LICHTSPIEL_HOME to another folder"
        )
    if version != _VERSION:
        raise LichtspielError(
            f"{path} has layout {version} and this version of Lichtspiel knows {_VERSION}; "
            "update Lichtspiel, or set LICHTSPIEL_HOME to another folder"
        )
    return False


def _select(path: Path, rest: str, values: tuple[object, ...]) -> Iterator[tuple[Any, ...]]:
    """Read all rows of a query at once, because an open query would make writers wait for its consumer."""
    with _as_errors(path, "read"):
        if not path.exists():
            return
        with _connection(path) as base:
            base.execute("PRAGMA query_only = ON")
            base.execute("BEGIN")  # one consistent view, even while another process creates the tables
            if _is_new(base, path):
                return
            rows = base.execute(f"SELECT {_COLUMNS} FROM entry {rest}", values).fetchall()
    yield from rows


def _pages(path: Path, limit: int | None, *, newest_first: bool) -> Iterator[tuple[Any, ...]]:
    """Yield all rows by time, reading a page at a time. Each page continues where the last one ended, even if rows have
    been added since."""
    sign, order = ("<", "DESC") if newest_first else (">", "ASC")
    created, id = ("~", "") if newest_first else ("", "")  # sort after and before all times
    left = limit
    while left is None or left > 0:
        size = _PAGE if left is None else min(left, _PAGE)
        rest = f"WHERE (created, id) {sign} (?, ?) ORDER BY created {order}, id {order} LIMIT ?"
        rows = list(_select(path, rest, (created, id, size)))
        yield from rows
        if len(rows) < size:
            return
        id, _, created, _ = rows[-1]
        left = None if left is None else left - size


def _parsed(path: Path, rows: Iterator[tuple[Any, ...]]) -> Iterator[Entry]:
    """Yield the entries in these rows, and at the end raise LichtspielError if some rows could not be parsed."""
    damaged = []
    for id, watermark, created, body in rows:
        try:
            values = json.loads(body)
            values["inputs"] = tuple(values["inputs"])
            entry = Entry(id=id, watermark=watermark, created=datetime.fromisoformat(created), **values)
        except (ValueError, TypeError, KeyError):
            damaged.append(id)
        else:
            yield entry
    if damaged:
        more = f" and {len(damaged) - 3} more" if len(damaged) > 3 else ""
        raise LichtspielError(
            f"{path}: damaged and left out: {', '.join(map(str, damaged[:3]))}{more}; all other entries can be read; "
            "restore the file from a backup to have these as well"
        )


@contextlib.contextmanager
def _as_errors(path: Path, done: str) -> Iterator[None]:
    """Turn errors of SQLite and the operating system into a one-line LichtspielError with a remedy."""
    try:
        yield
    except OSError as error:
        raise LichtspielError(_message(path, done, error.strerror or str(error))) from error
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF  # without the details in the higher bits
        if code in {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_ERROR}:
            raise LichtspielError(
                f"{path} is no record, or damaged ({error}); restore it from a backup, "
                "or move it away, keep it, and a new one is begun"
            ) from error
        if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
            raise LichtspielError(
                f"{path} cannot be {done}: another program has held it for {_PATIENCE:g} seconds; "
                "end that program, or, if there is none and this is a network drive, set LICHTSPIEL_HOME to a folder "
                "on this computer"
            ) from error
        raise LichtspielError(_message(path, done, str(error))) from error


def _message(path: Path, done: str, reason: str) -> str:
    remedy = "make the file readable for you"
    if done == "written":
        remedy = "make room on its disk and the file and its folder writable for you"
    return f"{path} cannot be {done}: {reason}; {remedy}, or set LICHTSPIEL_HOME to another folder"
