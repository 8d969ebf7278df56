"""How much may be asked for: the limit of a key, and the length of the queue. Counts rows, and keeps none itself.

Both say when to come back. For a key that is known; for the queue it is a guess from how long recent videos took.
"""

from __future__ import annotations

import math
import re

from sqlalchemy import Connection, delete, func, insert, select

from lichtspiel.errors import InvalidInput
from lichtspiel.serve.errors import LimitReached, QueueFull
from lichtspiel.serve.schema import api_key, arrival, job

__all__ = ["check_limit", "check_queue", "understood"]

SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86400}

RECENT = 20
"""Finished videos that the guess looks at; before there is one, a place is promised in a minute."""


def understood(limit: str) -> tuple[int, int]:
    """How many, and in how many seconds: 20 and 3600 for `20/h`. Raises InvalidInput for what is no limit."""
    found = re.fullmatch(r"([1-9][0-9]{0,5})/(s|min|h|d)", limit)
    if found is None:
        raise InvalidInput(f"limit: {limit!r} is not valid: a number, a slash and one of s, min, h, d, as in 20/h")
    return int(found[1]), SECONDS[found[2]]


def check_limit(connection: Connection, owner: str, now: float) -> None:
    """Note that `owner` asks for a video now; raises LimitReached when the key's limit does not allow it.

    The window slides: 20/h are twenty in any sixty minutes. What was asked for stays counted when it is deleted.
    """
    connection.execute(delete(arrival).where(arrival.c.created <= now - max(SECONDS.values())))
    limit = connection.scalar(select(api_key.c.limit).where(api_key.c.id == owner))
    if limit is not None:
        count, seconds = understood(limit)
        window = arrival.c.owner == owner, arrival.c.created > now - seconds
        # Of the newest `count` that are still in the window the oldest one, which is the next to leave it
        query = select(arrival.c.created).where(*window).order_by(arrival.c.created.desc()).offset(count - 1).limit(1)
        last = connection.scalar(query)
        if last is not None:
            raise LimitReached(limit, max(1, math.ceil(last + seconds - now)))
    connection.execute(insert(arrival).values(owner=owner, created=now))


def check_queue(connection: Connection, limit: int) -> None:
    """Raise QueueFull when `limit` jobs or more are waiting."""
    of_state = select(func.count()).select_from(job)
    waiting = connection.scalar(of_state.where(job.c.state == "queued")) or 0
    if waiting < limit:
        return
    recent = select(job.c.started, job.c.ended).where(job.c.state == "completed").order_by(job.c.ended.desc())
    took = [ended - started for started, ended in connection.execute(recent.limit(RECENT))]
    workers = connection.scalar(of_state.where(job.c.state == "in_progress")) or 1
    seconds = sum(took) / len(took) / workers if took else 60.0
    raise QueueFull(limit, min(600, max(1, math.ceil(seconds))))
