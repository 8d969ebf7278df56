"""The server's database: SQLite in one file, or PostgreSQL for several machines.

This module opens the database, migrates its schema and hands out transactions; it knows no tables. On SQLite only one
transaction can write at a time, and it takes the write lock when it begins. PostgreSQL locks single rows; operations
that must not run concurrently, such as counting the queue and then adding to it, also take an advisory lock.

The database holds requests, including their prompts. So a new file is readable only by its owner, and error messages
never contain values.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
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
"""Seconds to wait for a lock. Other processes hold one only for milliseconds."""

_MIGRATING, _ALONE = 0x4C494348, 0x4C494349  # keys of PostgreSQL's advisory locks, which are per database

# One thread at a time. Alembic keeps its state in a module, and a process that closes a file loses all its locks on it,
# so no other thread may have a database file open while it is being created.
_opening = threading.Lock()


class Database:
    """An open database with the current schema. Threads may share it; forked processes may not.

    `shared` says whether other machines can reach it, which PostgreSQL allows.

    `url` is `sqlite:///file` (four slashes for an absolute path) or `postgresql://user:password@host/name`. Raises
    InvalidInput for any other URL, and DatabaseError if the database cannot be reached, is damaged or was migrated by a
    later version.
    """

    def __init__(self, url: str) -> None:
        where = _parse_url(url)
        self.name = where.render_as_string(hide_password=True)
        self.shared = where.get_backend_name() == "postgresql"
        with _opening, self._explained():
            if not self.shared:
                _make(Path(str(where.database)))
            self._engine = _engine(where)
            self._writing = self._engine.execution_options(writes=True)
            # SQLite allows one writer at a time, and a waiting connection sleeps longer after each failed attempt.
            self._turn = threading.Lock()
            try:
                self._migrate()
            except BaseException:
                self._engine.dispose()
                raise

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """A read-only transaction, which sees one consistent state of the database."""
        with self._explained(), self._engine.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self, *, alone: bool = False) -> Iterator[Connection]:
        """A transaction that commits all of its writes or none. Only one `alone` transaction runs at a time."""
        with self._explained(), self._in_turn(), self._writing.begin() as connection:
            if alone and self.shared:
                connection.execute(select(func.pg_advisory_xact_lock(_ALONE)))
            yield connection

    @contextlib.contextmanager
    def _in_turn(self) -> Iterator[None]:
        """On SQLite, let one thread of this process write at a time."""
        if self.shared:
            yield
            return
        if not self._turn.acquire(timeout=PATIENCE):
            raise TimeoutError("another program holds it")
        try:
            yield
        finally:
            self._turn.release()

    def close(self) -> None:
        """Close all connections. The database must not be used afterwards."""
        self._engine.dispose()

    def _migrate(self) -> None:
        config = Config()
        folder = Path(__file__).parent.parent / "migrations"
        config.set_main_option("script_location", str(folder).replace("%", "%%"))
        with self._writing.begin() as connection:
            if self.shared:
                connection.execute(select(func.pg_advisory_xact_lock(_MIGRATING)))
            config.attributes["connection"] = connection
            try:
                upgrade(config, "head")
            except CommandError as error:  # the database has a revision that we do not know
                raise DatabaseError(
                    f"{self.name} has a layout that this version of Lichtspiel does not know; "
                    "update Lichtspiel, or use another database"
                ) from error

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn errors of the database into a DatabaseError with a one-line message that contains no values."""
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
    except (ArgumentError, ValueError):  # a port that is not a number raises a plain ValueError
        shown = re.sub(r"(//[^:/@]*):.*@", r"\1:***@", url)  # it may hold a password
        raise InvalidInput(f"{shown!r} is no address of a database; write sqlite:///FILE or postgresql://...") from None
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
    """Create a file that only its owner can read, with a write-ahead log, so that readers never wait for a writer."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    end = time.monotonic() + PATIENCE
    with contextlib.closing(sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)) as base:
        while True:
            try:
                base.execute("PRAGMA journal_mode = WAL")  # stored in the file
                return
            except sqlite3.OperationalError as error:
                # SQLite does not wait when two processes change the journal mode at once
                busy = getattr(error, "sqlite_errorcode", 0) & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
                if not busy or time.monotonic() > end:
                    raise
                time.sleep(0.02)


def _engine(where: URL) -> Engine:
    # ASCII can represent any string, even half a surrogate pair
    dumps = partial(json.dumps, allow_nan=False)
    if where.get_backend_name() == "postgresql":
        return create_engine(where, json_serializer=dumps, hide_parameters=True, pool_pre_ping=True)
    engine = create_engine(
        where, json_serializer=dumps, hide_parameters=True, connect_args={"timeout": PATIENCE, "isolation_level": None}
    )

    def connected(base: Any, _: object) -> None:
        base.execute("PRAGMA secure_delete = ON")  # deleted prompts are overwritten, not just unlinked

    def begun(connection: Connection) -> None:
        # A transaction that reads and then writes fails immediately if another one wrote in between.
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    event.listen(engine, "connect", connected)
    event.listen(engine, "begin", begun)
    return engine
