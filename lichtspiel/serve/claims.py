"""Whose turn it is, who holds a job, and how it ends: the statements that `jobs` is made of.

All work inside a transaction that is handed in. They know rows, no policy: durations and counts are arguments.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, func, insert, select, update

from lichtspiel.serve.schema import job, turn

__all__ = ["AGAIN", "end", "fence", "held", "line", "next_queued", "now_served", "sweep"]

AGAIN: dict[str, Any] = {
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


def end(state: str, now: float, keep: float) -> dict[str, Any]:
    """What every job says that has ended."""
    return {"state": state, "ended": now, "expires": now + keep, "lease": None, "cancel": False, "eta": None}


def fence(id: str, attempt: int, worker: str | None) -> tuple[ColumnElement[bool], ...]:
    """Holds for a job that this worker still has since this claim, even if its lease ran out and nobody noticed."""
    return job.c.id == id, job.c.state == "in_progress", job.c.attempt == attempt, job.c.worker == worker


def held(connection: Connection, id: str, attempt: int, worker: str | None) -> bool | None:
    """Whether a job that is held is to be cancelled, or None if it is not held; its row is locked until the end."""
    return connection.scalar(select(job.c.cancel).where(*fence(id, attempt, worker)).with_for_update())


def next_queued(connection: Connection, models: Collection[str]) -> tuple[str, str] | None:
    """Id and owner of the next job for one of `models`, its row locked.

    A row that another transaction changes just now, as to cancel it, is passed over instead of waited for.
    """
    query = (
        select(job.c.id, job.c.owner)
        .outerjoin(turn, turn.c.owner == job.c.owner)
        .where(job.c.state == "queued", job.c.model.in_(models))
        .order_by(turn.c.started.asc().nulls_first(), job.c.number)
        .limit(1)
        .with_for_update(skip_locked=True, of=job)
    )
    row = connection.execute(query).one_or_none()
    return None if row is None else (row.id, row.owner)


def now_served(connection: Connection, owner: str, now: float) -> None:
    """Note that a job of `owner` was started; the caller is alone."""
    if not connection.execute(update(turn).where(turn.c.owner == owner).values(started=now)).rowcount:
        connection.execute(insert(turn).values(owner=owner, started=now))


def line(models: Collection[str] | None) -> Select[Any]:
    """The ids of the jobs that wait for one of `models`, or for any, in the order in which they would be claimed.

    Owners take turns, so the second job of one comes after the first of all others. Among owners it is as in
    `next_queued`, and those who were never served come by their oldest job in every round.
    """
    waits = job.c.state == "queued" if models is None else (job.c.state == "queued") & job.c.model.in_(models)
    ranked = (
        select(
            job.c.id,
            job.c.owner,
            func.row_number().over(partition_by=job.c.owner, order_by=job.c.number).label("round"),
            func.min(job.c.number).over(partition_by=job.c.owner).label("oldest"),
        )
        .where(waits)
        .subquery()
    )
    return (
        select(ranked.c.id)
        .outerjoin(turn, turn.c.owner == ranked.c.owner)
        .order_by(ranked.c.round, turn.c.started.asc().nulls_first(), ranked.c.oldest)
    )


def sweep(connection: Connection, now: float, attempts: int, keep: float) -> None:
    """Cancel, fail or queue again every job whose lease ran out."""
    lapsed = job.c.state == "in_progress", job.c.lease <= now
    connection.execute(update(job).where(*lapsed, job.c.cancel).values(end("cancelled", now, keep)))
    used_up = {
        **end("failed", now, keep),
        "error_code": "interrupted",
        "error_message": f"it was begun {attempts} times, and each time its worker stopped without a word",
    }
    connection.execute(update(job).where(*lapsed, job.c.attempt - job.c.spared >= attempts).values(used_up))
    connection.execute(update(job).where(*lapsed).values(AGAIN))
