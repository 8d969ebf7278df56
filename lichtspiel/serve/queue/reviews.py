"""Reviews: what people decided of moderated videos that need it, and what still waits for a person.

A review never lifts a refusal. Whatever was not judged to its end needs review, too, so nothing is let through because
something failed. Reviews are added, never changed, and outlive their jobs; the last one of a job counts.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import Literal

from sqlalchemy import ColumnElement, and_, delete, insert, or_, select

from lichtspiel.errors import RequestError
from lichtspiel.seal.record import KEPT_DAYS
from lichtspiel.serve.errors import Conflict
from lichtspiel.serve.queue.jobs import DRAFT, ENDED, MODERATION, Job, Jobs
from lichtspiel.serve.queue.schema import job, review

__all__ = ["IS_MODERATION", "IS_VIDEO", "MAX_NOTE", "MAX_REVIEWER", "NEEDS_REVIEW", "Review", "Reviews", "judged"]

Decision = Literal["allowed", "needs_review", "refused"]

MAX_NOTE, MAX_REVIEWER = 2000, 100
"""The most characters of a note, and of the name of a reviewer."""

IS_MODERATION: ColumnElement[bool] = job.c.model == MODERATION
IS_VIDEO: ColumnElement[bool] = job.c.model.not_in([MODERATION, DRAFT])

NEEDS_REVIEW: ColumnElement[bool] = and_(
    IS_MODERATION,
    or_(job.c.state == "failed", job.c.result["decision"].as_string() == "needs_review"),
    ~select(review.c.number).where(review.c.job == job.c.id).exists(),
)
"""Matches the moderations that wait for a person."""


@dataclass(frozen=True, kw_only=True)
class Review:
    """What a person decided. `key` is the id of the API key that it was sent with, or empty; `created` the time."""

    job: str
    decision: str
    reviewer: str
    key: str
    note: str
    created: float


_COLUMNS = [review.c[each.name] for each in fields(Review)]


def judged(job: Job) -> Decision | None:
    """What the policy says of a video, before any person; None while nothing is known or the job was cancelled."""
    if job.state == "failed":
        return "needs_review"
    decision = (job.result or {}).get("decision")
    return decision if decision in {"allowed", "needs_review", "refused"} else None


class Reviews:
    """The reviews in the database of some jobs."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    def add(self, id: str, *, decision: str, reviewer: str, key: str, note: str) -> Review:
        """Record what a person decided of the moderation `id`, which must need review; a later review counts more.

        Raises RequestError for values that are not valid, NotFound, and Conflict for one that needs no review.
        """
        if decision not in {"allowed", "refused"}:
            raise RequestError("decision", decision, "it is allowed or refused")
        _check_text("reviewer", reviewer, MAX_REVIEWER, least=1)
        _check_text("note", note, MAX_NOTE)
        found = self._jobs.get(id, None)
        said = judged(found)
        if said != "needs_review":
            state = found.state if found.state not in ENDED or said is None else said
            raise Conflict(f"{id} is {state}; a person decides only what needs review")
        made = Review(
            job=id, decision=decision, reviewer=reviewer.strip(), key=key, note=note, created=self._jobs.watch.now()
        )
        digest = str((found.result or {}).get("sha256") or "")
        with self._jobs.database.writing() as connection:
            connection.execute(delete(review).where(review.c.created <= made.created - KEPT_DAYS * 86400))
            connection.execute(insert(review).values(**vars(made), sha256=digest))
        return made

    def of(self, ids: Collection[str]) -> dict[str, Review]:
        """The last review of each of these jobs that has one."""
        query = select(*_COLUMNS).where(review.c.job.in_([*ids])).order_by(review.c.number)
        with self._jobs.database.reading() as connection:
            rows = connection.execute(query).all()
        return {row.job: Review(**row._mapping) for row in rows}


def _check_text(field: str, value: object, most: int, *, least: int = 0) -> None:
    if not isinstance(value, str) or not least <= len(value.strip()) or len(value) > most or "\0" in value:
        rule = (
            f"it is a text of {least} to {most} characters" if least else f"it is a text of at most {most} characters"
        )
        shown = value[:40] if isinstance(value, str) else value
        raise RequestError(field, shown, rule)
