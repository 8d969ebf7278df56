"""Limits: the quotas of a key and the length of the queue. All are checked by counting rows.

A key may have a quota of videos, of seconds of video, of seconds of work and of storage. Errors say when to try again.
For a key that time is known; for the queue it is estimated from how long recent videos took. Storage gets room when its
owner deletes videos, or when they expire.
"""

from __future__ import annotations

import math
import re

from sqlalchemy import Connection, bindparam, delete, func, insert, select, update

from lichtspiel.errors import InvalidInput
from lichtspiel.serve.errors import LimitReached, QueueFull, StorageUsedUp
from lichtspiel.serve.queue.schema import api_key, arrival, job

__all__ = ["charge", "check_limit", "check_queue", "check_storage", "parse_limit", "parse_size"]

SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86400}

RECENT = 20
"""Completed videos that the estimate is based on; without any, the estimate is one minute."""


def parse_limit(limit: str) -> tuple[int, int]:
    """Parse a limit into a count and a number of seconds: 20 and 3600 for `20/h`. Raises InvalidInput."""
    match = re.fullmatch(r"([1-9][0-9]{0,5})/(s|min|h|d)", limit)
    if match is None:
        raise InvalidInput(f"limit: {limit!r} is not valid: a number, a slash and one of s, min, h, d, as in 20/h")
    return int(match[1]), SECONDS[match[2]]


def parse_size(size: str) -> int:
    """Parse a size into bytes: 10,000,000,000 for `10GB`. Raises InvalidInput."""
    match = re.fullmatch(r"([1-9][0-9]{0,5})(MB|GB|TB)", size)
    if match is None:
        raise InvalidInput(f"storage: {size!r} is not valid: a number and one of MB, GB, TB, as in 10GB")
    return int(match[1]) * {"MB": 10**6, "GB": 10**9, "TB": 10**12}[match[2]]


_FORGET = delete(arrival).where(arrival.c.created <= bindparam("before"))
_LIMITS = select(api_key.c.limit, api_key.c.video_seconds, api_key.c.worker_seconds)
_LIMITS = _LIMITS.where(api_key.c.id == bindparam("owner"))
_IN_WINDOW = arrival.c.owner == bindparam("owner"), arrival.c.created > bindparam("since")
# What a job has cost so far: its row says so as long as it is there. Of an earlier attempt nothing is counted.
_WORKED = func.coalesce(job.c.ended, bindparam("now")) - job.c.started
_USED = (
    select(arrival.c.created, arrival.c.video_seconds, func.coalesce(arrival.c.worker_seconds, _WORKED, 0.0))
    .outerjoin(job, job.c.id == arrival.c.job)
    .where(*_IN_WINDOW)
    .order_by(arrival.c.created)
)
_NOTE = insert(arrival)
_CHARGE = update(arrival).where(arrival.c.job == bindparam("this_job"))
_COST = select(job.c.started, job.c.ended).where(job.c.id == bindparam("this_job"))


def check_limit(connection: Connection, owner: str, now: float, job: str = "", seconds: float = 0.0) -> None:
    """Record that `owner` requests a video of `seconds` now, as `job`; raises LimitReached if a quota is used up.

    The window slides: 20/h means twenty in any sixty minutes. Requests still count after their jobs are deleted. How
    long a worker will need is not known before, so a quota of work is used up once that much was worked.
    """
    connection.execute(_FORGET, {"before": now - max(SECONDS.values())})
    quotas = connection.execute(_LIMITS, {"owner": owner}).one_or_none() or (None, None, None)
    for kind, quota in zip(("videos", "seconds of video", "seconds of work"), quotas, strict=True):
        if quota is not None:
            _check_quota(connection, owner, now, (kind, quota), seconds)
    connection.execute(_NOTE, {"owner": owner, "created": now, "job": job, "video_seconds": seconds})


def _check_quota(connection: Connection, owner: str, now: float, quota: tuple[str, str], seconds: float) -> None:
    kind, limit = quota
    most, window = parse_limit(limit)
    rows = connection.execute(_USED, {"owner": owner, "since": now - window, "now": now}).all()
    costs = [(row[0], {"videos": 1.0, "seconds of video": row[1] or 0.0}.get(kind, row[2])) for row in rows]
    # A quota of work has to have some left; of the others there has to be enough for this video.
    room = most - {"videos": 1.0, "seconds of video": seconds}.get(kind, 1e-9)
    used = sum(cost for _, cost in costs)
    if used <= room:
        return
    freed = now  # a video that alone is more than the quota
    for created, cost in costs:
        used -= cost
        if used <= room:
            freed = created
            break
    raise LimitReached(f"{limit} {kind}", max(1, math.ceil(freed + window - now)))


def charge(connection: Connection, id: str) -> None:
    """Keep what a job has cost before its row is deleted, so that deleting it gives no quota back."""
    row = connection.execute(_COST, {"this_job": id}).one_or_none()
    if row is not None and row.started is not None and row.ended is not None:
        connection.execute(_CHARGE, {"this_job": id, "worker_seconds": max(row.ended - row.started, 0.0)})


_STORAGE = select(api_key.c.storage).where(api_key.c.id == bindparam("owner"))
_KEPT = select(func.coalesce(func.sum(job.c.bytes), 0)).where(job.c.owner == bindparam("owner"))


def check_storage(connection: Connection, owner: str, incoming: int) -> None:
    """Raise StorageUsedUp if the files of `owner` and `incoming` bytes of a new job are more than the key may keep.

    How large a video becomes is not known before, so a quota is used up once that much is kept.
    """
    most = connection.scalar(_STORAGE, {"owner": owner})
    if most is None:
        return
    kept = int(connection.scalar(_KEPT, {"owner": owner}) or 0)
    if kept + incoming > most or kept >= most:
        raise StorageUsedUp(most, kept)


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
