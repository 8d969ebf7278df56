"""Whose turn it is, who holds a job, and how it ends: the statements that `jobs` is made of.

All work inside a transaction that is handed in. They know rows, no policy: durations and counts are arguments.
Statements are built once, with places for their values: to build one takes SQLAlchemy longer than SQLite to run it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, bindparam, func, insert, select, update

from lichtspiel.serve.queue.schema import job, turn

__all__ = [
    "BY_ID",
    "QUEUE_ORDER",
    "QUEUE_ORDER_OF",
    "acquire",
    "ended",
    "lock_held",
    "next_queued",
    "record_turn",
    "requeue_uncounted",
    "sweep",
    "write",
    "write_held",
]

REQUEUED: dict[str, Any] = {
    "state": "queued",
    "worker": None,
    "lease": None,
    "started": None,
    "stage": "",
    "progress": 0.0,
    "step": 0,
    "steps": 0,
    "eta": None,
}
"""What a job says that waits once more. Latents and preview stay: their files are there."""


def ended(state: str, now: float, keep: float) -> dict[str, Any]:
    """What every job says that has ended."""
    return {"state": state, "ended": now, "expires": now + keep, "lease": None, "cancel": False, "eta": None}


BY_ID = job.c.id == bindparam("this_id")
"""Holds for the job with this id."""

_OURS = (BY_ID, job.c.state == "in_progress", job.c.attempt == bindparam("ours"), job.c.worker == bindparam("us"))
"""Hold for a job that this worker still has since this claim, even if its lease ran out and nobody noticed."""

_LOCK_HELD = select(job.c.cancel).where(*_OURS).with_for_update()
_WRITE = update(job).where(BY_ID)
_WRITE_HELD = update(job).where(*_OURS).returning(job.c.cancel)


def lock_held(connection: Connection, id: str, attempt: int, worker: str | None) -> bool | None:
    """Whether a job that is held is to be cancelled, or None if it is not held; its row is locked until the end."""
    return connection.scalar(_LOCK_HELD, {"this_id": id, "ours": attempt, "us": worker})


def write_held(connection: Connection, id: str, attempt: int, worker: str | None, **values: Any) -> bool | None:
    """Write to a job that is held; the answer is that of `lock_held`, and None means that nothing was written."""
    cancel_requested: bool | None = connection.scalar(
        _WRITE_HELD, {"this_id": id, "ours": attempt, "us": worker, **values}
    )
    return cancel_requested


_ACQUIRE = update(job).where(BY_ID).values(state="in_progress", attempt=job.c.attempt + 1)
_REQUEUE_UNCOUNTED = update(job).where(BY_ID).values(**REQUEUED, uncounted_attempts=job.c.uncounted_attempts + 1)


def acquire(connection: Connection, id: str, worker: str, now: float, lease: float) -> None:
    """Give a job that waits to a worker, until `lease` at first."""
    connection.execute(_ACQUIRE, {"this_id": id, "worker": worker, "lease": lease, "started": now})


def requeue_uncounted(connection: Connection, id: str) -> None:
    """Let a job wait again, and not count this attempt."""
    connection.execute(_REQUEUE_UNCOUNTED, {"this_id": id})


def write(connection: Connection, id: str, values: Mapping[str, Any]) -> None:
    """Write to the job with this id, whoever holds it."""
    connection.execute(_WRITE, {"this_id": id, **values})


_MODELS = job.c.model.in_(bindparam("models", expanding=True))

_NEXT = (
    select(job.c.id, job.c.owner)
    .outerjoin(turn, turn.c.owner == job.c.owner)
    .where(job.c.state == "queued", _MODELS)
    .order_by(turn.c.started.asc().nulls_first(), job.c.number)
    .limit(1)
    .with_for_update(skip_locked=True, of=job)
)


def next_queued(connection: Connection, models: Collection[str]) -> tuple[str, str] | None:
    """Id and owner of the next job for one of `models`, its row locked.

    A row that another transaction changes just now, as to cancel it, is passed over instead of waited for.
    """
    row = connection.execute(_NEXT, {"models": list(models)}).one_or_none()
    return None if row is None else (row.id, row.owner)


_SERVED = update(turn).where(turn.c.owner == bindparam("this_owner"))
_FIRST_SERVED = insert(turn)


def record_turn(connection: Connection, owner: str, now: float) -> None:
    """Note that a job of `owner` was started; the caller is alone."""
    if not connection.execute(_SERVED, {"this_owner": owner, "started": now}).rowcount:
        connection.execute(_FIRST_SERVED, {"owner": owner, "started": now})


def _queue_order(*which: ColumnElement[bool]) -> Select[Any]:
    ranked = (
        select(
            job.c.id,
            job.c.owner,
            func.row_number().over(partition_by=job.c.owner, order_by=job.c.number).label("round"),
            func.min(job.c.number).over(partition_by=job.c.owner).label("oldest"),
        )
        .where(job.c.state == "queued", *which)
        .subquery()
    )
    return (
        select(ranked.c.id)
        .outerjoin(turn, turn.c.owner == ranked.c.owner)
        .order_by(ranked.c.round, turn.c.started.asc().nulls_first(), ranked.c.oldest)
    )


QUEUE_ORDER = _queue_order()
"""The ids of the jobs that wait, in the order in which they would be claimed.

Owners take turns, so the second job of one comes after the first of all others. Among owners it is as in
`next_queued`, and those who were never served come by their oldest job in every round.
"""

QUEUE_ORDER_OF = _queue_order(_MODELS).limit(bindparam("limit"))
"""The same of the jobs that wait for one of `models`, the first `limit` of them."""

_LAPSED = job.c.state == "in_progress", job.c.lease <= bindparam("now")
_CANCELLED = update(job).where(*_LAPSED, job.c.cancel)
_USED_UP = update(job).where(*_LAPSED, job.c.attempt - job.c.uncounted_attempts >= bindparam("attempts"))
_REQUEUE = update(job).where(*_LAPSED)


def sweep(connection: Connection, now: float, attempts: int, keep: float) -> None:
    """Cancel, fail or queue again every job whose lease ran out."""
    connection.execute(_CANCELLED, {"now": now, **ended("cancelled", now, keep)})
    used_up = {
        **ended("failed", now, keep),
        "error_code": "interrupted",
        "error_message": f"it was begun {attempts} times, and each time its worker stopped without a word",
    }
    connection.execute(_USED_UP, {"now": now, "attempts": attempts, **used_up})
    connection.execute(_REQUEUE, {"now": now, **REQUEUED})
