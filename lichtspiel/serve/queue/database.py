"""The server's database: SQLite in one file, or PostgreSQL for several machines.

It opens the database, brings its layout up to date, and hands out transactions; it knows no table. On SQLite one
transaction writes at a time, from its beginning. On PostgreSQL rows are locked one by one, and what must not happen
twice at once, as counting the queue and adding to it, asks for a lock of its own.

Requests are in this database, prompts included: a file that is made is for its owner's eyes, and no error tells values.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from alembic.command import upgrade
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import URL, Connection, Engine, create_engine, event, func, make_url, select
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from lichtspiel.errors import InvalidInput
from lichtspiel.serve.errors import DatabaseError

__all__ = ["Database"]

PATIENCE = 30.0
"""Seconds to wait for other processes, which hold the database for milliseconds."""

_MIGRATING, _ALONE = 0x4C494348, 0x4C494349  # numbers of PostgreSQL's advisory locks, which belong to one database

# One thread at a time: alembic keeps what it works on in a module, and a process that closes a file loses its locks on
# it, so no other thread may have opened a file that is being made.
_opening = threading.Lock()


class Database:
    """An open database of the present layout; safe to share between threads, not between forks.

    `url` is `sqlite:///file` (four slashes for an absolute path) or `postgresql://user:password@host/name`. Raises
    InvalidInput for any other, and DatabaseError when it cannot be reached, is damaged or has a later layout.
    """

    def __init__(self, url: str) -> None:
        where = _parse_url(url)
        self.name = where.render_as_string(hide_password=True)
        self._postgresql = where.get_backend_name() == "postgresql"
        with _opening, self._explained():
            if not self._postgresql:
                _make(Path(str(where.database)))
            self._engine = _engine(where)
            self._writing = self._engine.execution_options(writes=True)
            # SQLite lets one write at a time, and whoever waits for it sleeps longer and longer between two looks.
            self._turn = threading.Lock()
            try:
                self._migrate()
            except BaseException:
                self._engine.dispose()
                raise

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that only reads, and sees one state of the database."""
        with self._explained(), self._engine.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self, *, alone: bool = False) -> Iterator[Connection]:
        """A transaction that writes, all or nothing; of those that want to be `alone` there is one at a time."""
        with self._explained(), self._in_turn(), self._writing.begin() as connection:
            if alone and self._postgresql:
                connection.execute(select(func.pg_advisory_xact_lock(_ALONE)))
            yield connection

    @contextlib.contextmanager
    def _in_turn(self) -> Iterator[None]:
        """On SQLite, the turn of one thread to write. Those that wait for a held database wait side by side."""
        if self._postgresql:
            yield
            return
        if not self._turn.acquire(timeout=PATIENCE):
            raise TimeoutError("another program holds it")
        try:
            yield
        finally:
            self._turn.release()

    def close(self) -> None:
        """Close all connections; nothing may use them any more."""
        self._engine.dispose()

    def _migrate(self) -> None:
        config = Config()
        folder = Path(__file__).parent.parent / "migrations"
        config.set_main_option("script_location", str(folder).replace("%", "%%"))
        with self._writing.begin() as connection:
            if self._postgresql:
                connection.execute(select(func.pg_advisory_xact_lock(_MIGRATING)))
            config.attributes["connection"] = connection
            try:
                upgrade(config, "head")
            except CommandError as error:  # it names a version that is not among ours
                raise DatabaseError(
                    f"{self.name} has a layout that this version of Lichtspiel does not know; "
                    "update Lichtspiel, or use another database"
                ) from error

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what the database says into one line, without the values of the statement."""
        try:
            yield
        except DBAPIError as error:
            reason = " ".join(str(error.orig).split())
            raise DatabaseError(f"{self.name} cannot be used: {reason}; see that it is there and writable") from error
        except (sqlite3.Error, PoolTimeout, OSError) as error:
            raise DatabaseError(f"{self.name} cannot be used: {error}; see that it is there and writable") from error


def _parse_url(url: str) -> URL:
    try:
        where = make_url(url)
    except (ArgumentError, ValueError) as error:  # a port that is no number is a plain ValueError
        raise InvalidInput(f"{url!r} is no address of a database; write sqlite:///FILE or postgresql://...") from error
    name = where.render_as_string(hide_password=True)
    if where.drivername in {"postgresql", "postgres", "postgresql+psycopg"}:
        return where.set(drivername="postgresql+psycopg")
    if where.drivername not in {"sqlite", "sqlite+pysqlite"}:
        raise InvalidInput(
            f"{name}: only SQLite and PostgreSQL are supported; write sqlite:///FILE or postgresql://..."
        )
    if not where.database or where.database.startswith((":memory:", "file:")):
        raise InvalidInput(f"{name}: jobs are kept in a file; write sqlite:///FILE")
    return where.set(drivername="sqlite+pysqlite", database=str(Path(where.database).absolute()))


def _make(path: Path) -> None:
    """A file that only its owner may read, with a write-ahead log, so that readers never wait for a writer."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    end = time.monotonic() + PATIENCE
    with contextlib.closing(sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)) as base:
        while True:
            try:
                base.execute("PRAGMA journal_mode = WAL")  # written into the file
                return
            except sqlite3.OperationalError as error:
                # SQLite does not wait by itself when two processes change the journal at once
                busy = getattr(error, "sqlite_errorcode", 0) & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
                if not busy or time.monotonic() > end:
                    raise
                time.sleep(0.02)


def _engine(where: URL) -> Engine:
    # ASCII, in which any string can be written, also half a surrogate pair
    dumps = partial(json.dumps, allow_nan=False)
    if where.get_backend_name() == "postgresql":
        return create_engine(where, json_serializer=dumps, hide_parameters=True, pool_pre_ping=True)
    engine = create_engine(
        where, json_serializer=dumps, hide_parameters=True, connect_args={"timeout": PATIENCE, "isolation_level": None}
    )

    def connected(base: Any, _: object) -> None:
        base.execute("PRAGMA secure_delete = ON")  # forgotten prompts are overwritten, not just unlinked

    def begun(connection: Connection) -> None:
        # A transaction that first reads and then writes fails when another one wrote in between, without waiting.
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    event.listen(engine, "connect", connected)
    event.listen(engine, "begin", begun)
    return engine
