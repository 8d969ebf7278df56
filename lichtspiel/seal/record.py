"""The record: which videos were made here, from what and marked how. It stays on this computer.

    $LICHTSPIEL_HOME/record.sqlite      mode 0600, one row a video, kept for six months

It is what a stripped file is looked up in, by the id that its picture still carries, and the log that China's Measures
ask for when a video leaves without its label. The database itself refuses to replace an entry, to delete one before its
time, or to change one except by erasing its prompts, whatever program asks. That stops slips and other programs, not an
owner who means it: who may write a file may replace it, so the record proves nothing to others; the signature in the
video does.

It knows how entries are kept, not what is in them: no digest is computed and no policy judged here. Time is this
computer's clock. Prompts are written to this file and nowhere else, errors included.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from lichtspiel.errors import LichtspielError
from lichtspiel.seal.credentials import JSON
from lichtspiel.storage import home

__all__ = [
    "KEPT_DAYS",
    "Entry",
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
"""How long an entry is kept, and how long the database refuses to delete it: the longest six months of a calendar, for
which Article 9 of China's Measures for Labelling AI-Generated Synthetic Content (2025) wants logs of videos that leave
without their label. It is written into the database, so another value is another version of the layout."""

_APPLICATION = 0x4C494348  # "LICH", where SQLite keeps whose file it is
_VERSION = 1  # of the layout; what meets a later one does not touch it
_PATIENCE = 30.0  # seconds to wait for other processes, which hold the file for milliseconds
_PAGE = 256  # rows that are read at once

# The clock of SQLite, so that pruning and the trigger that guards it read the same one. It has milliseconds; compared
# as text with the microseconds of an entry, the entry counts as younger when the rest is equal.
_OLDEST = f"strftime('%Y-%m-%dT%H:%M:%f', 'now', '-{KEPT_DAYS} days')"

# The only change that is allowed: texts that may hold personal data are erased, those of the prompts and the words of
# them that a verdict repeats. JSON has null in their place.
_ERASED = """json_replace({0}.body, '$.prompt', NULL, '$.negative', NULL,
  '$.verdicts.before.detail', NULL, '$.verdicts.after.detail', NULL)"""
_NEVER_CHANGED = f"""CREATE TRIGGER entry_is_never_changed BEFORE UPDATE ON entry
WHEN NOT (NEW.id IS OLD.id AND NEW.watermark IS OLD.watermark AND NEW.created IS OLD.created
  AND NEW.body IS {_ERASED.format("OLD")})
BEGIN SELECT RAISE(ABORT, 'the record is append-only: an entry is never changed'); END"""

# No row has a number besides its id: `REPLACE` deletes by any key without asking triggers, so there is only one key,
# and a trigger that runs before. `created` has a fixed width, so it sorts as text.
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

_COLUMNS = "id, watermark, created, CAST(body AS BLOB)"  # bytes, so that damaged text fails here and not in the driver

_ID = re.compile("[0-9a-f]{32}")

# When a process closes a file, it loses its locks on it, those of other threads and of SQLite included (POSIX). So no
# thread may go on to SQLite while another one, which made the file, has not closed it yet.
_making = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One video that was made: what was asked, what it was made from and how it is marked.

    `id` is 32 hexadecimal digits and `watermark` the number in its first 8, which is what the picture carries, or None
    when it carries nothing. `created` is aware. `request` is what took effect, without texts; `prompt` and `negative`
    are None when they were not to be kept, and stay out of `repr`; `prompt_digest` is there in any case. `inputs` are
    the files it was made from, each as {"role", "sha256"}; a tuple when read. `verdicts` are those of the policy before
    and after, and the statement of consent. `marks` is the profile of marks, or "none", and then `reason` says why.
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
        """The same as a plain dictionary, ready for `json.dumps`; `created` is ISO 8601 in UTC."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {**values, "created": _stamp(self.created), "inputs": [dict(item) for item in self.inputs]}


def add(entry: Entry) -> None:
    """Append an entry, and forget those that are older than KEPT_DAYS; both happen or neither does.

    The first call makes the record. Safe when several processes add at once. Raises LichtspielError, with the remedy,
    when it cannot be written or the id is there already.
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
            base.execute("PRAGMA secure_delete = ON")  # forgotten prompts are overwritten, not just unlinked
            base.execute("BEGIN IMMEDIATE")
            new = _is_new(base, path)
            if path.stat().st_mode & 0o077:  # as after a copy; the journal, which the first write makes, follows it
                path.chmod(0o600)
            if new:
                for statement in _LAYOUT:
                    base.execute(statement)
            base.execute(f"DELETE FROM entry WHERE created <= {_OLDEST}")
            try:
                # ASCII, in which any string can be written, also a path whose bytes are no text
                base.execute("INSERT INTO entry VALUES (?, ?, ?, ?)", (*row, json.dumps(body, allow_nan=False)))
            except sqlite3.IntegrityError as error:
                raise LichtspielError(
                    f"{path} has an entry {entry.id} already, and entries are never replaced; "
                    "make the video again, which gives it an id of its own"
                ) from error
            base.execute("COMMIT")


def check() -> None:
    """Raise the LichtspielError with which `add` would fail now: an entry is added and taken back at once."""
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
    """Erase the texts of an entry, prompts and quotations of them, and return what is left of it. The old text is
    overwritten on the disk. Raises LichtspielError when there is no such entry, or it cannot be written."""
    path = _path()
    if find(id) is None:
        raise LichtspielError(f"{path} has no entry {id}; see `lichtspiel record list`")
    with _as_errors(path, "written"), _connection(path) as base:
        base.execute("PRAGMA secure_delete = ON")
        base.execute("BEGIN IMMEDIATE")
        base.execute("DROP TRIGGER IF EXISTS entry_is_never_changed")  # of records that knew no erasing
        base.execute(_NEVER_CHANGED)
        base.execute(f"UPDATE entry SET body = {_ERASED.format('entry')} WHERE id = ?", (id,))
        base.execute("COMMIT")
    entry = find(id)
    assert entry is not None, id
    return entry


def search(text: str) -> Iterator[Entry]:
    """The entries whose id begins with a text, or whose prompt, model or path contains it, newest first."""
    wanted = text.casefold()
    for entry in entries():
        texts = (entry.prompt or "", entry.model, entry.path)
        if entry.id.startswith(wanted) or any(wanted in each.casefold() for each in texts):
            yield entry


def find(id: str) -> Entry | None:
    """The entry with this id, or None, also when nothing was ever recorded here. Makes nothing.

    Any string may be asked for, because ids are read from files that anybody wrote.
    """
    if not _ID.fullmatch(id):
        return None
    path = _path()
    return next(_parsed(path, _select(path, "WHERE id = ?", (id,))), None)


def find_watermark(watermark: int) -> list[Entry]:
    """The entries whose pictures carry this number, newest first. Makes nothing.

    32 bits are few enough for two videos to share them: among ten thousand videos the chance is one in 86.
    """
    path = _path()
    rows = _select(path, "WHERE watermark = ? ORDER BY created DESC, id DESC", (watermark,))
    return list(_parsed(path, rows))


def find_sha256(sha256: str) -> Entry | None:
    """The newest entry of a file with this digest, in hexadecimal, or None. Makes nothing."""
    path = _path()
    # The digest stands in the JSON of the body; a prompt that holds the same text is told apart below.
    rows = _select(path, "WHERE body LIKE ? ORDER BY created DESC, id DESC", (f'%"{sha256}"%',))
    return next((entry for entry in _parsed(path, rows) if entry.sha256 == sha256), None)


def entries(limit: int | None = None) -> Iterator[Entry]:
    """All entries, or the newest `limit` ones, newest first. Makes nothing, and holds no lock between two entries.

    A damaged row does not hide the others: they all come, and then LichtspielError names the damaged ones, because a
    record that leaves out entries in silence would be worse than none.
    """
    path = _path()
    return _parsed(path, _pages(path, limit, newest_first=True))


def export(out: TextIO) -> int:
    """Write all entries, oldest first, each as one line of JSON in ASCII; the count. Damage is met as in `entries`."""
    path, count = _path(), 0
    for entry in _parsed(path, _pages(path, None, newest_first=False)):
        out.write(json.dumps(entry.to_json()) + "\n")
        count += 1
    return count


def _path() -> Path:
    return home().absolute() / "record.sqlite"


def _stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def _make(path: Path) -> None:
    """An empty file that only its owner may read, if there is none. SQLite would make one that follows the umask; the
    journal that it puts beside takes its mode from the file."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _making, contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))


@contextlib.contextmanager
def _connection(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that makes no file, and what was not committed is undone when it closes.

    The journal is SQLite's default, which is deleted after each write: a write-ahead log needs memory that processes
    share, which network drives lack, and files beside, which a reader of a read-only folder cannot make. `rw` and not
    `ro` for readers, too: after a crash they must undo what was half written, and SQLite falls back by itself.
    """
    uri = f"{path.as_uri()}?mode=rw"
    with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=_PATIENCE, isolation_level=None)) as base:
        yield base


def _is_new(base: sqlite3.Connection, path: Path) -> bool:
    """Whether nothing was written yet. Raises LichtspielError when the file is another program's, or a later one's."""
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
    """The rows of one query, read at once: an open query would make writers wait for whoever looks at its rows."""
    with _as_errors(path, "read"):
        if not path.exists():
            return
        with _connection(path) as base:
            base.execute("PRAGMA query_only = ON")
            base.execute("BEGIN")  # one view for all that follows, also while another process makes the tables
            if _is_new(base, path):
                return
            rows = base.execute(f"SELECT {_COLUMNS} FROM entry {rest}", values).fetchall()
    yield from rows


def _pages(path: Path, limit: int | None, *, newest_first: bool) -> Iterator[tuple[Any, ...]]:
    """All rows by time, a page at a time; each page goes on where the last one ended, whatever was added meanwhile."""
    sign, order = ("<", "DESC") if newest_first else (">", "ASC")
    created, id = ("~", "") if newest_first else ("", "")  # after and before every time
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
    """The entries of these rows; when there are no more, LichtspielError if some of them could not be understood."""
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
    """Turn what SQLite and the system say into one line with a remedy."""
    try:
        yield
    except OSError as error:
        raise LichtspielError(_message(path, done, error.strerror or str(error))) from error
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF  # without details in the higher bits
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
