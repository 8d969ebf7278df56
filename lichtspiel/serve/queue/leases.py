"""Whose turn it is, who holds a job and how a job ends: the SQL statements behind `jobs`.

All functions work inside a transaction that the caller passes. They know rows but no policy: durations and counts are
arguments. Each statement is built once, with bound parameters, because SQLAlchemy takes longer to build one than SQLite
takes to run it.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Mapping
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, bindparam, func, insert, or_, select, update

from lichtspiel.serve.queue.schema import api_key, job, turn

__all__ = [
    "BY_ID",
    "QUEUE_ORDER",
    "QUEUE_ORDER_OF",
    "acquire",
    "ended",
    "expire_by",
    "let_go",
    "lock_held",
    "new_name",
    "next_queued",
    "record_turn",
    "requeue_uncounted",
    "shorten",
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
"""The columns of a job that returns to the queue. Its latents and preview stay, because their files still exist."""


def ended(state: str, now: float, keep: float) -> dict[str, Any]:
    """The columns of a job that has ended."""
    return {"state": state, "ended": now, "expires": now + keep, "lease": None, "cancel": False, "eta": None}


BY_ID = job.c.id == bindparam("this_id")
"""Matches the job with the bound id."""

_OURS = (BY_ID, job.c.state == "in_progress", job.c.attempt == bindparam("ours"), job.c.worker == bindparam("us"))
"""Match a job that this worker still holds from this claim, even if the lease has expired and nobody noticed."""

_LOCK_HELD = select(job.c.cancel).where(*_OURS).with_for_update()
_WRITE = update(job).where(BY_ID)
_WRITE_HELD = update(job).where(*_OURS).returning(job.c.cancel)


def lock_held(connection: Connection, id: str, attempt: int, worker: str | None) -> bool | None:
    """Whether a held job was asked to cancel, or None if it is not held. Locks its row until the transaction ends."""
    return connection.scalar(_LOCK_HELD, {"this_id": id, "ours": attempt, "us": worker})


def write_held(connection: Connection, id: str, attempt: int, worker: str | None, **values: Any) -> bool | None:
    """Write to a held job. Returns what `lock_held` returns; None means that nothing was written."""
    cancel_requested: bool | None = connection.scalar(
        _WRITE_HELD, {"this_id": id, "ours": attempt, "us": worker, **values}
    )
    return cancel_requested


_ACQUIRE = update(job).where(BY_ID).values(state="in_progress", attempt=job.c.attempt + 1)
_REQUEUE_UNCOUNTED = update(job).where(BY_ID).values(**REQUEUED, uncounted_attempts=job.c.uncounted_attempts + 1)


def acquire(connection: Connection, id: str, worker: str, now: float, lease: float) -> None:
    """Assign a waiting job to a worker, with a lease until `lease`."""
    connection.execute(_ACQUIRE, {"this_id": id, "worker": worker, "lease": lease, "started": now})


def requeue_uncounted(connection: Connection, id: str) -> None:
    """Return a job to the queue without counting this attempt."""
    connection.execute(_REQUEUE_UNCOUNTED, {"this_id": id})


def write(connection: Connection, id: str, values: Mapping[str, Any]) -> None:
    """Write to the job with this id, whoever holds it."""
    connection.execute(_WRITE, {"this_id": id, **values})


_MODELS = job.c.model.in_(bindparam("models", expanding=True))

_other = job.alias()
_BUSY = (
    select(func.count()).where(_other.c.owner == job.c.owner, _other.c.state == "in_progress").scalar_subquery()
)  # fmt: skip
_PRIORITY = func.coalesce(api_key.c.priority, 0)

_NEXT = (
    select(job.c.id, job.c.owner)
    .outerjoin(turn, turn.c.owner == job.c.owner)
    .outerjoin(api_key, api_key.c.id == job.c.owner)
    .where(job.c.state == "queued", _MODELS, or_(api_key.c.at_once.is_(None), api_key.c.at_once > _BUSY))
    .order_by(_PRIORITY.desc(), turn.c.started.asc().nulls_first(), job.c.number)
    .limit(1)
    .with_for_update(skip_locked=True, of=job)
)


def next_queued(connection: Connection, models: Collection[str]) -> tuple[str, str] | None:
    """Id and owner of the next job for one of `models`, of an owner who may have one more in progress; locks its row.

    Skips rows that another transaction is changing, for example to cancel the job, instead of waiting for them.
    """
    row = connection.execute(_NEXT, {"models": list(models)}).one_or_none()
    return None if row is None else (row.id, row.owner)


_SERVED = update(turn).where(turn.c.owner == bindparam("this_owner"))
_FIRST_SERVED = insert(turn)


def record_turn(connection: Connection, owner: str, now: float) -> None:
    """Record that a job of `owner` was started. The caller's transaction must be `alone`."""
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
        .outerjoin(api_key, api_key.c.id == ranked.c.owner)
        .order_by(_PRIORITY.desc(), ranked.c.round, turn.c.started.asc().nulls_first(), ranked.c.oldest)
    )


QUEUE_ORDER = _queue_order()
"""The ids of the waiting jobs, in the order in which they would be claimed.

Keys of a higher priority come first. Among equals, owners take turns, so the second job of one owner comes after the
first job of every other. Owners are ordered as in
`next_queued`; in every round, those whose jobs were never started are ordered by their oldest job.
"""

QUEUE_ORDER_OF = _queue_order(_MODELS).limit(bindparam("limit"))
"""The same, but only the first `limit` of the jobs that wait for one of `models`."""

_LAPSED = job.c.state == "in_progress", job.c.lease <= bindparam("now")
_CANCELLED = update(job).where(*_LAPSED, job.c.cancel)
_USED_UP = update(job).where(*_LAPSED, job.c.attempt - job.c.uncounted_attempts >= bindparam("attempts"))
_REQUEUE = update(job).where(*_LAPSED)


def sweep(connection: Connection, now: float, attempts: int, ended_as: Callable[[str], Mapping[str, Any]]) -> None:
    """Cancel, fail or requeue every job whose lease has expired. `ended_as` has the columns of one that ends."""
    connection.execute(_CANCELLED, {"now": now, **ended_as("cancelled")})
    used_up = {
        **ended_as("failed"),
        "error_code": "interrupted",
        "error_message": f"it was begun {attempts} times, and each time its worker stopped without a word",
    }
    connection.execute(_USED_UP, {"now": now, "attempts": attempts, **used_up})
    connection.execute(_REQUEUE, {"now": now, **REQUEUED})


_LET_GO = update(job).where(job.c.state == "in_progress", job.c.worker == bindparam("us"))


def new_name(device: str) -> str:
    """A name for a worker of a device, which no other one has ever had."""
    return f"{device}-{uuid.uuid4().hex[:12]}"


def let_go(connection: Connection, worker: str, now: float) -> None:
    """End the leases of a worker now."""
    connection.execute(_LET_GO, {"us": worker, "lease": now})


_TOO_LONG = update(job).where(job.c.state == "in_progress", job.c.lease > bindparam("latest"))
_TOO_LATE = update(job).where(job.c.state.not_in(("queued", "in_progress")), job.c.expires > bindparam("beyond"))


def shorten(connection: Connection, latest: float) -> None:
    """Let no lease end later than `latest`, as those do that were written before the clock was set back."""
    connection.execute(_TOO_LONG, {"latest": latest, "lease": latest})


def expire_by(connection: Connection, latest: float, beyond: float) -> None:
    """Let ended jobs that would expire after `beyond` expire at `latest`."""
    connection.execute(_TOO_LATE, {"beyond": beyond, "expires": latest})
