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

from sqlalchemy import insert, select, update

from lichtspiel.errors import InvalidInput
from lichtspiel.serve.errors import Conflict, NotFound
from lichtspiel.serve.queue.jobs import Jobs
from lichtspiel.serve.queue.limits import parse_limit
from lichtspiel.serve.queue.schema import api_key

__all__ = ["KeyRow", "Keys"]

PREFIX = len("ls_") + 8
"""How many characters of a secret are stored; the other 35 still hold 210 bits."""


@dataclass(frozen=True, kw_only=True)
class KeyRow:
    """A key without its secret. `id` is the `owner` of its jobs.

    `limit` is how many videos it may ask for, such as 20/h, `video_seconds` of which length in all and `worker_seconds`
    for how much work, such as 600/d; None for no limit.
    """

    id: str
    name: str
    prefix: str
    limit: str | None
    created: float
    revoked: float | None
    video_seconds: str | None = None
    worker_seconds: str | None = None


_COLUMNS = [api_key.c[each.name] for each in fields(KeyRow)]


class Keys:
    """The API keys, which are stored in the same database as the jobs."""

    def __init__(self, jobs: Jobs) -> None:
        self._database, self._clock = jobs.database, jobs.watch.now

    def create(
        self,
        name: str,
        limit: str | None = None,
        *,
        video_seconds: str | None = None,
        worker_seconds: str | None = None,
    ) -> tuple[KeyRow, str]:
        """Create a key; returns it and its secret, which is not stored.

        The name of a revoked key can be reused, but the jobs of the old key still belong to the old key. Raises
        InvalidInput for an invalid name or limit, and Conflict if the name is in use.
        """
        if not re.fullmatch(r"\w[\w .@-]{0,63}", name):
            raise InvalidInput(f"name: {name!r} is not valid: up to 64 letters, digits, spaces and any of . _ - @")
        for quota in (limit, video_seconds, worker_seconds):
            if quota is not None:
                parse_limit(quota)
        secret = f"ls_{secrets.token_urlsafe(32)}"
        with self._database.writing(alone=True) as connection:
            used = select(api_key.c.id).where(api_key.c.name == name, api_key.c.revoked.is_(None))
            if connection.scalar(used) is not None:
                raise Conflict(f"there is a key {name!r} already; revoke it first, or choose another name")
            row = KeyRow(
                id=f"key_{secrets.token_hex(8)}",
                name=name,
                prefix=secret[:PREFIX],
                limit=limit,
                created=self._clock(),
                revoked=None,
                video_seconds=video_seconds,
                worker_seconds=worker_seconds,
            )
            connection.execute(insert(api_key).values(**vars(row), digest=_digest(secret)))
        return row, secret

    def find(self, secret: str) -> KeyRow | None:
        """The key with this secret, or None if there is none or it was revoked. Accepts any string.

        Timing reveals only whether the prefix, which is not secret, belongs to a key.
        """
        if not re.fullmatch(r"ls_[A-Za-z0-9_-]{43}", secret):
            return None
        same = select(*_COLUMNS, api_key.c.digest).where(api_key.c.prefix == secret[:PREFIX])
        with self._database.reading() as connection:
            rows = connection.execute(same.where(api_key.c.revoked.is_(None))).all()
        digest = _digest(secret)
        for *values, stored_digest in rows:
            if hmac.compare_digest(stored_digest, digest):
                return _row(values)
        return None

    def list(self) -> Sequence[KeyRow]:
        """All keys, including revoked ones, oldest first."""
        with self._database.reading() as connection:
            rows = connection.execute(select(*_COLUMNS).order_by(api_key.c.created, api_key.c.id))
            return [_row(row) for row in rows]

    def revoke(self, name: str) -> KeyRow:
        """Revoke a key; its jobs stay. Raises NotFound if no active key has this name."""
        with self._database.writing(alone=True) as connection:
            live = api_key.c.name == name, api_key.c.revoked.is_(None)
            row = connection.execute(select(*_COLUMNS).where(*live)).one_or_none()
            if row is None:
                raise NotFound(f"there is no key {name!r} in use")
            connection.execute(update(api_key).where(api_key.c.id == row.id).values(revoked=self._clock()))
            return _row(connection.execute(select(*_COLUMNS).where(api_key.c.id == row.id)).one())


def _row(values: Sequence[object]) -> KeyRow:
    return KeyRow(**{column.name: value for column, value in zip(_COLUMNS, values, strict=True)})  # type: ignore[arg-type]


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
