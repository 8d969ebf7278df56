"""API keys. Whoever runs the server creates and revokes them; the database stores only their digests.

A secret is 256 random bits, so a plain SHA-256 digest reveals nothing and needs no salt. The secret is shown once. The
database keeps its digest and its first characters, which let a person tell keys apart.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, fields

from sqlalchemy import ColumnElement, insert, or_, select, update

from lichtspiel.errors import InvalidInput
from lichtspiel.serve.errors import Conflict, NotFound
from lichtspiel.serve.queue.jobs import Jobs
from lichtspiel.serve.queue.limits import parse_limit, parse_size
from lichtspiel.serve.queue.schema import api_key

__all__ = ["KeyRow", "Keys", "Quotas"]

PREFIX = len("ls_") + 8
"""How many characters of a secret are stored; the other 35 still hold 210 bits."""

MAX_DAYS = 3650
"""The longest life of a key that expires."""


@dataclass(frozen=True, kw_only=True)
class KeyRow:
    """A key without its secret. `id` is the `owner` of its jobs.

    `expires` is when it stops working. The others are those of `Quotas`, with `storage` in bytes; a `priority` of None
    is 0. With `reviews`, it sees all moderations and decides what needs review.
    """

    id: str
    name: str
    prefix: str
    limit: str | None
    created: float
    revoked: float | None
    video_seconds: str | None = None
    worker_seconds: str | None = None
    expires: float | None = None
    at_once: int | None = None
    storage: int | None = None
    priority: int | None = None
    reviews: bool | None = None

    def state(self, now: float) -> str:
        """In a word: valid, revoked or expired."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and self.expires <= now else "valid"


@dataclass(frozen=True, kw_only=True)
class Quotas:
    """What a key may use; None for no limit.

    `limit` is how many videos it may ask for, such as 20/h, `video_seconds` of which length in all and `worker_seconds`
    for how much work, such as 600/d. `at_once` is how many of its jobs may be in progress together, `storage` how much
    its files may take, such as 10GB. Jobs of keys with a higher `priority` come first.
    """

    limit: str | None = None
    video_seconds: str | None = None
    worker_seconds: str | None = None
    at_once: int | None = None
    storage: str | None = None
    priority: int = 0

    def __post_init__(self) -> None:
        for quota in (self.limit, self.video_seconds, self.worker_seconds):
            if quota is not None:
                parse_limit(quota)
        if self.storage is not None:
            parse_size(self.storage)
        if self.at_once is not None and self.at_once < 1:
            raise InvalidInput(f"at once: {self.at_once} is not valid: a whole number from 1 on")


_COLUMNS = [api_key.c[each.name] for each in fields(KeyRow)]


class Keys:
    """The API keys, which are stored in the same database as the jobs."""

    def __init__(self, jobs: Jobs) -> None:
        self._database, self._clock = jobs.database, jobs.watch.now

    def create(
        self, name: str, quotas: Quotas | None = None, *, days: float | None = None, reviews: bool = False
    ) -> tuple[KeyRow, str]:
        """Create a key that works for some days, or forever; returns it and its secret, which is not stored.

        The name of a revoked or expired key can be reused, but the jobs of the old key still belong to the old key.
        Raises InvalidInput for an invalid name or time, and Conflict if the name is in use.
        """
        if not re.fullmatch(r"\w[\w .@-]{0,63}", name):
            raise InvalidInput(f"name: {name!r} is not valid: up to 64 letters, digits, spaces and any of . _ - @")
        secret, quotas = _secret(), quotas or Quotas()
        with self._database.writing(alone=True) as connection:
            if connection.scalar(select(api_key.c.id).where(api_key.c.name == name, self._live())) is not None:
                raise Conflict(f"there is a key {name!r} already; revoke it first, or choose another name")
            row = KeyRow(
                id=f"key_{secrets.token_hex(8)}",
                name=name,
                prefix=secret[:PREFIX],
                created=self._clock(),
                revoked=None,
                expires=self._end(days),
                reviews=reviews,
                **{**vars(quotas), "storage": None if quotas.storage is None else parse_size(quotas.storage)},
            )
            connection.execute(insert(api_key).values(**vars(row), digest=_digest(secret)))
        return row, secret

    def renew(self, name: str, *, days: float | None = None) -> tuple[KeyRow, str]:
        """Give a key another secret, in place of the one it has, and another end. Its jobs and quotas stay.

        Raises NotFound if no key of this name is in use, and InvalidInput for an invalid time.
        """
        secret = _secret()
        with self._database.writing(alone=True) as connection:
            named = select(api_key.c.id).where(api_key.c.name == name, api_key.c.revoked.is_(None))
            id = connection.scalar(named.order_by(api_key.c.created.desc()).limit(1))  # one that expired counts, too
            if id is None:
                raise NotFound(f"there is no key {name!r} in use")
            values = {"prefix": secret[:PREFIX], "digest": _digest(secret), "expires": self._end(days)}
            connection.execute(update(api_key).where(api_key.c.id == id).values(**values))
            return _row(connection.execute(select(*_COLUMNS).where(api_key.c.id == id)).one()), secret

    def _end(self, days: float | None) -> float | None:
        if days is not None and not 0 < days <= MAX_DAYS:
            raise InvalidInput(f"days: {days:g} is not valid: more than 0 and at most {MAX_DAYS:,}")
        return None if days is None else self._clock() + 86400 * days

    def _live(self) -> ColumnElement[bool]:
        """Matches keys that were not revoked and have not expired."""
        return api_key.c.revoked.is_(None) & or_(api_key.c.expires.is_(None), api_key.c.expires > self._clock())

    def find(self, secret: str) -> KeyRow | None:
        """The key with this secret, or None if there is none, it was revoked or has expired. Accepts any string.

        Timing reveals only whether the prefix, which is not secret, belongs to a key.
        """
        if not re.fullmatch(r"ls_[A-Za-z0-9_-]{43}", secret):
            return None
        same = select(*_COLUMNS, api_key.c.digest).where(api_key.c.prefix == secret[:PREFIX])
        with self._database.reading() as connection:
            rows = connection.execute(same.where(self._live())).all()
        digest = _digest(secret)
        for *values, stored_digest in rows:
            if hmac.compare_digest(stored_digest, digest):
                return _row(values)
        return None

    def list(self) -> Sequence[KeyRow]:
        """All keys, including revoked and expired ones, oldest first."""
        with self._database.reading() as connection:
            rows = connection.execute(select(*_COLUMNS).order_by(api_key.c.created, api_key.c.id))
            return [_row(row) for row in rows]

    def revoke(self, name: str) -> KeyRow:
        """Revoke a key; its jobs stay. Raises NotFound if no active key has this name."""
        with self._database.writing(alone=True) as connection:
            row = connection.execute(select(*_COLUMNS).where(api_key.c.name == name, self._live())).one_or_none()
            if row is None:
                raise NotFound(f"there is no key {name!r} in use")
            connection.execute(update(api_key).where(api_key.c.id == row.id).values(revoked=self._clock()))
            return _row(connection.execute(select(*_COLUMNS).where(api_key.c.id == row.id)).one())


def _row(values: Sequence[object]) -> KeyRow:
    return KeyRow(**{column.name: value for column, value in zip(_COLUMNS, values, strict=True)})  # type: ignore[arg-type]


def _secret() -> str:
    return f"ls_{secrets.token_urlsafe(32)}"


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
