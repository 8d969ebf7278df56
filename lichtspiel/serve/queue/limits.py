"""Limits: the rate limit of a key and the length of the queue. Both are checked by counting rows.

Both errors say when to try again. For a key that time is known; for the queue it is estimated from how long recent
videos took.
"""

from __future__ import annotations

import math
import re

from sqlalchemy import Connection, bindparam, delete, func, insert, select

from lichtspiel.errors import InvalidInput
from lichtspiel.serve.errors import LimitReached, QueueFull
from lichtspiel.serve.queue.schema import api_key, arrival, job

__all__ = ["check_limit", "check_queue", "parse_limit"]

SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86400}

RECENT = 20
"""Completed videos that the estimate is based on; without any, the estimate is one minute."""


def parse_limit(limit: str) -> tuple[int, int]:
    """Parse a limit into a count and a number of seconds: 20 and 3600 for `20/h`. Raises InvalidInput."""
    match = re.fullmatch(r"([1-9][0-9]{0,5})/(s|min|h|d)", limit)
    if match is None:
        raise InvalidInput(f"limit: {limit!r} is not valid: a number, a slash and one of s, min, h, d, as in 20/h")
    return int(match[1]), SECONDS[match[2]]


_FORGET = delete(arrival).where(arrival.c.created <= bindparam("before"))
_LIMIT = select(api_key.c.limit).where(api_key.c.id == bindparam("owner"))
_IN_WINDOW = arrival.c.owner == bindparam("owner"), arrival.c.created > bindparam("since")
# With a limit of n, the n-th newest arrival in the window: when it leaves, there is room for one more
_OLDEST = select(arrival.c.created).where(*_IN_WINDOW).order_by(arrival.c.created.desc())
_NEXT_TO_LEAVE = _OLDEST.offset(bindparam("newer")).limit(1)
_NOTE = insert(arrival)


def check_limit(connection: Connection, owner: str, now: float) -> None:
    """Record that `owner` requests a video now; raises LimitReached if the key's limit does not allow it.

    The window slides: 20/h means twenty in any sixty minutes. Requests still count after their jobs are deleted.
    """
    connection.execute(_FORGET, {"before": now - max(SECONDS.values())})
    limit = connection.scalar(_LIMIT, {"owner": owner})
    if limit is not None:
        count, seconds = parse_limit(limit)
        window = {"owner": owner, "since": now - seconds, "newer": count - 1}
        last = connection.scalar(_NEXT_TO_LEAVE, window)
        if last is not None:
            raise LimitReached(limit, max(1, math.ceil(last + seconds - now)))
    connection.execute(_NOTE, {"owner": owner, "created": now})


_OF_STATE = select(func.count()).select_from(job).where(job.c.state == bindparam("state"))
_RECENT = select(job.c.started, job.c.ended).where(job.c.state == "completed").order_by(job.c.ended.desc())


_OWNERS = select(job.c.owner, func.count()).where(job.c.state == "queued").group_by(job.c.owner)


def check_queue(connection: Connection, limit: int, owner: str) -> None:
    """Raise QueueFull if `limit` or more jobs wait, unless `owner` has fewer of them than their share.

    The share is the limit divided by the number of owners who wait, so nobody can lock others out. Because of these
    latecomers the queue can grow to at most twice its limit.
    """
    waiting = connection.scalar(_OF_STATE, {"state": "queued"}) or 0
    if waiting < limit:
        return
    counts: dict[str, int] = {row[0]: row[1] for row in connection.execute(_OWNERS)}
    mine = counts.pop(owner, 0)
    if counts and mine < limit // (len(counts) + 1) and waiting < 2 * limit:
        return
    took = [ended - started for started, ended in connection.execute(_RECENT.limit(RECENT))]
    workers = connection.scalar(_OF_STATE, {"state": "in_progress"}) or 1
    seconds = sum(took) / len(took) / workers if took else 60.0
    raise QueueFull(limit, min(600, max(1, math.ceil(seconds))))
