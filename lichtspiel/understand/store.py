"""The index: one SQLite file with what is known of videos, by content, so that copies and moved files share it.

A file's analysis is written in one transaction: after a kill, a file is in the index or it is not. Several processes
may write at the same time.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lichtspiel.errors import InvalidInput
from lichtspiel.understand.footage import Finding

if TYPE_CHECKING:
    from lichtspiel.understand.analysis import Analysis

__all__ = ["Index", "searchable"]

VERSION = 1

_SCHEMA = """
CREATE TABLE contents (
    digest TEXT PRIMARY KEY, duration REAL NOT NULL, width INTEGER NOT NULL, height INTEGER NOT NULL,
    fps REAL NOT NULL, frames INTEGER NOT NULL, caption TEXT NOT NULL, used TEXT NOT NULL, missed TEXT NOT NULL
);
CREATE TABLE paths (path TEXT PRIMARY KEY, digest TEXT NOT NULL, size INTEGER NOT NULL, mtime INTEGER NOT NULL);
CREATE INDEX paths_digest ON paths (digest);
CREATE TABLE failures (path TEXT PRIMARY KEY, size INTEGER NOT NULL, mtime INTEGER NOT NULL, reason TEXT NOT NULL);
CREATE TABLE shots (
    id INTEGER PRIMARY KEY, digest TEXT NOT NULL REFERENCES contents ON DELETE CASCADE, number INTEGER NOT NULL,
    start REAL NOT NULL, end REAL NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
    picture BLOB NOT NULL, hash BLOB NOT NULL, UNIQUE (digest, number)
);
CREATE TABLE vectors (
    shot INTEGER NOT NULL REFERENCES shots ON DELETE CASCADE, space TEXT NOT NULL, vector BLOB NOT NULL,
    PRIMARY KEY (space, shot)
) WITHOUT ROWID;
CREATE TABLE findings (
    digest TEXT NOT NULL REFERENCES contents ON DELETE CASCADE, start REAL NOT NULL, end REAL NOT NULL,
    kind TEXT NOT NULL, text TEXT NOT NULL, score REAL NOT NULL, box TEXT, facts TEXT NOT NULL
);
CREATE INDEX findings_digest ON findings (digest, kind, start);
CREATE VIRTUAL TABLE words USING fts5 (caption, speech, writing, label, tokenize = "unicode61 remove_diacritics 2");
"""

_COLUMNS = {"speech": "speech", "text": "writing", "label": "label", "prompt": "caption"}
"""Which column of `words` holds the texts of a kind of finding."""

_WIDE = re.compile("([\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff])")


def searchable(text: str) -> str:
    """A text in which each character of scripts without spaces is a word of its own."""
    return _WIDE.sub(r" \1 ", text)


class Index:
    """An open index. Raises InvalidInput for a file that is none, or one of another version."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        if not create and not path.is_file():
            raise InvalidInput(f"{path}: there is no index; make one: lichtspiel index FOLDER --index {path}")
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.database = sqlite3.connect(path, timeout=60, isolation_level=None)
            self.database.execute("PRAGMA journal_mode = WAL")
            self.database.execute("PRAGMA foreign_keys = ON")
            self._prepare()
        except (sqlite3.DatabaseError, OSError) as error:
            raise InvalidInput(f"{path}: is no index that can be opened ({error}); name another file") from error

    def _prepare(self) -> None:
        with self.writing():
            version = self.database.execute("PRAGMA user_version").fetchone()[0]
            if version == VERSION:
                return
            if version or self.database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                raise InvalidInput(f"{self.path}: is not an index of this version; make a new one")
            for statement in _SCHEMA.split(";\n"):
                self.database.execute(statement)
            self.database.execute(f"PRAGMA user_version = {VERSION}")

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it is there afterwards, or nothing."""
        self.database.execute("BEGIN IMMEDIATE")
        try:
            yield self.database
        except BaseException:
            self.database.execute("ROLLBACK")
            raise
        self.database.execute("COMMIT")

    def close(self) -> None:
        """Close the file."""
        self.database.close()

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """The rows of a query."""
        return self.database.execute(query, values).fetchall()

    def known(self, path: Path, size: int, mtime: int, captions: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
        """Whether this state of a file is in the index with everything that is wanted."""
        query = "SELECT digest FROM paths WHERE path = ? AND size = ? AND mtime = ?"
        rows = self.rows(query, str(path), size, mtime)
        return bool(rows) and self.complete(rows[0][0], path, captions, wanted)

    def complete(self, digest: str, path: Path, captions: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
        """Whether a content was looked at by all that is wanted, in these versions, and with the caption of its file at
        this path, or of one of its other files. What failed is not tried again. `captions` are those of all files."""
        rows = self.rows("SELECT used, missed, caption FROM contents WHERE digest = ?", digest)
        if not rows:
            return False
        if captions.get(str(path), rows[0][2]) != rows[0][2]:
            others = self.rows("SELECT path FROM paths WHERE digest = ?", digest)
            if not any(captions.get(other) == rows[0][2] for (other,) in others):
                return False
        used, missed = json.loads(rows[0][0]), json.loads(rows[0][1])
        return all(used.get(name) == version or str(missed.get(name, "")).startswith("failed")
                   for name, version in wanted.items())  # fmt: skip

    def names(self, path: Path) -> set[str]:
        """The extractors that looked at a file before."""
        rows = self.rows("SELECT used FROM contents JOIN paths USING (digest) WHERE path = ?", str(path))
        return set(json.loads(rows[0][0])) if rows else set()

    def add(self, analysis: Analysis, size: int, mtime: int) -> None:
        """Write a file's analysis; what was known of another content at this path is forgotten."""
        with self.writing() as database:
            database.execute("DELETE FROM failures WHERE path = ?", (analysis.path,))
            self._forget_content(analysis.digest)
            database.execute(
                "INSERT INTO contents VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    analysis.digest, analysis.duration, analysis.width, analysis.height, analysis.fps, analysis.frames,
                    analysis.caption, json.dumps(dict(analysis.used), sort_keys=True),
                    json.dumps(dict(analysis.missed), sort_keys=True),
                ),
            )  # fmt: skip
            database.executemany(
                "INSERT INTO findings VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [_finding_row(analysis.digest, finding) for finding in analysis.findings],
            )
            for shot in analysis.shots:
                cursor = database.execute(
                    "INSERT INTO shots (digest, number, start, end, first, last, picture, hash) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        analysis.digest,
                        shot.number,
                        shot.start,
                        shot.end,
                        shot.first,
                        shot.last,
                        shot.picture,
                        shot.hash,
                    ),
                )
                database.executemany(
                    "INSERT INTO vectors VALUES (?, ?, ?)",
                    [(cursor.lastrowid, space, vector) for space, vector in sorted(shot.vectors.items())],
                )
                texts = _texts(analysis, shot.start, shot.end)
                columns = [searchable(" . ".join(texts[name])) for name in ("caption", "speech", "writing", "label")]
                database.execute(
                    "INSERT INTO words (rowid, caption, speech, writing, label) VALUES (?, ?, ?, ?, ?)",
                    (cursor.lastrowid, *columns),
                )
            self._set_path(analysis.path, analysis.digest, size, mtime)

    def add_copy(self, path: Path, digest: str, size: int, mtime: int) -> None:
        """Note that a path has a content that is known already."""
        with self.writing() as database:
            database.execute("DELETE FROM failures WHERE path = ?", (str(path),))
            self._set_path(str(path), digest, size, mtime)

    def add_failure(self, path: Path, size: int, mtime: int, reason: str) -> None:
        """Note that a file cannot be read, and why; what was known of another content at this path is forgotten."""
        with self.writing() as database:
            database.execute("DELETE FROM paths WHERE path = ?", (str(path),))
            self._forget_orphans()
            database.execute("INSERT OR REPLACE INTO failures VALUES (?, ?, ?, ?)", (str(path), size, mtime, reason))

    def remove_missing(self, folder: Path, present: Iterable[Path]) -> int:
        """Forget the files in a folder that are not there any more; returns how many."""
        here = {str(path) for path in present}
        inside = f"{folder}/"
        known = self.rows("SELECT path FROM paths UNION SELECT path FROM failures")
        gone = [path for (path,) in known if path.startswith(inside) and path not in here]
        with self.writing() as database:
            for path in gone:
                database.execute("DELETE FROM paths WHERE path = ?", (path,))
                database.execute("DELETE FROM failures WHERE path = ?", (path,))
            self._forget_orphans()
        return len(gone)

    def finding_rows(self, digest: str, *kinds: str) -> list[Finding]:
        """What was found in a content, of these kinds or of all."""
        rows = self.rows("SELECT start, end, kind, text, score, box, facts FROM findings WHERE digest = ? "
                         "ORDER BY start, kind", digest)  # fmt: skip
        return [
            Finding(start, end, kind, text, score, box and tuple(json.loads(box)), json.loads(facts))
            for start, end, kind, text, score, box, facts in rows
            if not kinds or kind in kinds
        ]

    def dump(self) -> list[tuple[Any, ...]]:
        """Everything but the order in which it came, for comparing two indexes."""
        tables = {
            "paths": "SELECT path, digest FROM paths ORDER BY path",
            "contents": "SELECT * FROM contents ORDER BY digest",
            "shots": "SELECT digest, number, start, end, first, last, picture, hash FROM shots ORDER BY digest, number",
            "vectors": "SELECT digest, number, space, vector FROM vectors JOIN shots ON shots.id = shot "
            "ORDER BY digest, number, space",
            "findings": "SELECT * FROM findings ORDER BY digest, start, kind, text, score",
            "words": "SELECT digest, number, words.* FROM words JOIN shots ON shots.id = words.rowid "
            "ORDER BY digest, number",
        }
        return [(name, *row) for name, query in tables.items() for row in self.rows(query)]

    def _set_path(self, path: str, digest: str, size: int, mtime: int) -> None:
        self.database.execute("INSERT OR REPLACE INTO paths VALUES (?, ?, ?, ?)", (path, digest, size, mtime))
        self._forget_orphans()

    def _forget_orphans(self) -> None:
        query = "SELECT digest FROM contents WHERE digest NOT IN (SELECT digest FROM paths)"
        for (digest,) in self.rows(query):
            self._forget_content(digest)

    def _forget_content(self, digest: str) -> None:
        self.database.execute("DELETE FROM words WHERE rowid IN (SELECT id FROM shots WHERE digest = ?)", (digest,))
        self.database.execute("DELETE FROM contents WHERE digest = ?", (digest,))


def _finding_row(digest: str, finding: Finding) -> tuple[Any, ...]:
    # Six digits: the last bits of a mean depend on where in memory its numbers lie.
    facts = json.dumps({name: float(f"{value:.6g}") for name, value in sorted(finding.values.items())})
    box = None if finding.box is None else json.dumps(list(finding.box))
    return digest, finding.start, finding.end, finding.kind, finding.text, float(finding.score), box, facts


def _texts(analysis: Analysis, start: float, end: float) -> dict[str, list[str]]:
    """The texts that belong to a shot, by column."""
    texts: dict[str, list[str]] = {"caption": [analysis.caption], "speech": [], "writing": [], "label": []}
    for finding in analysis.findings:
        inside = start == end or min(finding.end, end) > max(finding.start, start)
        if finding.kind in _COLUMNS and finding.text and inside:
            texts[_COLUMNS[finding.kind]].append(finding.text)
    return texts
