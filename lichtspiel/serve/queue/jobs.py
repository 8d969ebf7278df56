"""The queue: every job from the moment it is accepted until its row goes, in a database that processes share.

    queued ──claim──> in_progress ──> completed | failed | cancelled
       ^                   │
       └── give_back, or the lease ran out

A worker holds a job by a lease that it renews. If it dies, the lease runs out and the next claim of anyone puts that
right, so every job ends as long as somebody claims or sweeps. `attempt` counts claims and fences: a worker whose job
was taken away can write nothing to it. Cancelling is asked for here and done by the worker, at its next beat.

It knows no pipeline and no files, only their names. Times are UTC seconds of the clock that is given; where several
machines share a database, their clocks must agree to much less than a lease.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, bindparam, case, delete, func, insert, select

from lichtspiel.serve.errors import Busy, IdempotencyError, Lost, NotFound
from lichtspiel.serve.queue import leases
from lichtspiel.serve.queue.database import Database
from lichtspiel.serve.queue.limits import check_limit, check_queue
from lichtspiel.serve.queue.schema import job as table

__all__ = ["ENDED", "Job", "Jobs", "State"]

State = Literal["queued", "in_progress", "completed", "failed", "cancelled"]

ENDED: frozenset[str] = frozenset({"completed", "failed", "cancelled"})
"""The states that a job never leaves."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One row as it was when it was read.

    `owner` is the id of an API key, or empty where none is needed. `request` has the fields of a `Request` without
    files; `inputs` names those, by the field they are for ("image", "references/1"). `lease` is when the worker's hold
    ends, `cancel` says that the job is to stop but has not yet. `latents`, `video`, `preview` are names in `Files`.
    `result` is what the finished work says of itself. What was asked stays out of `repr`, and so out of logs.
    """

    id: str
    owner: str
    model: str
    request: Mapping[str, Any] = field(repr=False)
    inputs: Mapping[str, str]
    remixed_from: str | None
    state: State
    created: float
    started: float | None
    ended: float | None
    expires: float | None
    attempt: int
    uncounted_attempts: int
    worker: str | None
    lease: float | None
    cancel: bool
    stage: str
    progress: float
    step: int
    steps: int
    eta: float | None
    latents: str | None
    video: str | None
    preview: str | None
    error_code: str | None
    error_message: str | None
    result: Mapping[str, Any] | None = field(repr=False)

    @property
    def files(self) -> list[str]:
        """The names of all files that belong to this job, which go when it goes."""
        return [name for name in (*self.inputs.values(), self.latents, self.video, self.preview) if name is not None]


STAGES = ("load", "encode", "denoise", "decode", "upscale", "seal")
"""The stages of a job, as its result names them."""

_COLUMNS = [table.c[each.name] for each in fields(Job)]

# Built once, see `claims`
_READ = select(*_COLUMNS).where(leases.BY_ID)
_READ_LOCKED = _READ.with_for_update()
_KNOWN = select(table.c.digest, *_COLUMNS).where(
    table.c.owner == bindparam("owner"), table.c.idempotency == bindparam("key")
)
_ADD = insert(table)
_FRESH = {"state": "queued", "attempt": 0, "uncounted_attempts": 0, "cancel": False}
_FRESH |= {"stage": "", "progress": 0.0, "step": 0, "steps": 0}


class Jobs:
    """The jobs of one database. Threads may share it; each process opens its own."""

    def __init__(
        self, database: Database, queue_limit: int, attempts: int, keep_seconds: float, clock: Callable[[], float]
    ) -> None:
        assert queue_limit > 0, queue_limit
        assert attempts > 0, attempts
        assert keep_seconds > 0, keep_seconds
        self.database, self.clock = database, clock
        self._queue_limit, self._attempts, self._keep = queue_limit, attempts, keep_seconds

    @classmethod
    def open(
        cls,
        url: str,
        *,
        queue_limit: int = 100,
        attempts: int = 3,
        keep_seconds: float = 30 * 86400,
        clock: Callable[[], float] = time.time,
    ) -> Jobs:
        """The jobs at `url` (see `Database`), which is made or brought up to date if it has to be.

        At most `queue_limit` jobs wait; a job is tried `attempts` times when its workers die; one that ended expires
        after `keep_seconds`.
        """
        return cls(Database(url), queue_limit, attempts, keep_seconds, clock)

    def add(
        self,
        *,
        owner: str,
        model: str,
        request: Mapping[str, Any],
        inputs: Mapping[str, str],
        remixed_from: str | None = None,
        idempotency: str | None = None,
        digest: str = "",
    ) -> tuple[Job, bool]:
        """A job that waits, and whether it is new: an `idempotency` key that this owner used before gives that job.

        `digest` stands for everything that was asked, files included; with the same key it must be the same. A repeated
        request counts for no limit. Raises IdempotencyError, LimitReached, or QueueFull.
        """
        key = None if idempotency is None else hashlib.sha256(idempotency.encode("utf-8", "surrogatepass")).hexdigest()
        with self.database.writing(alone=True) as connection:
            now = self.clock()
            if key is not None:
                match = connection.execute(_KNOWN, {"owner": owner, "key": key}).one_or_none()
                if match is not None:
                    stored_digest, *row = match
                    if stored_digest != digest:
                        raise IdempotencyError("this Idempotency-Key was used for another request; use a new one")
                    return _job(row), False
            check_queue(connection, self._queue_limit, owner)
            check_limit(connection, owner, now)
            id = f"video_{uuid.uuid4().hex}"
            values: dict[str, Any] = {
                "id": id,
                "owner": owner,
                "model": model,
                "request": dict(request),
                "inputs": dict(inputs),
            }
            values |= {"remixed_from": remixed_from, "idempotency": key, "digest": digest, "created": now}
            connection.execute(_ADD, {**_FRESH, **values})
            return _read(connection, id, None), True

    def get(self, id: str, owner: str | None) -> Job:
        """The job with this id. Raises NotFound if there is none, or `owner` is given and it is another's."""
        with self.database.reading() as connection:
            return _read(connection, id, owner)

    def page(
        self, owner: str | None, *, limit: int = 20, after: str | None = None, order: Literal["asc", "desc"] = "desc"
    ) -> tuple[list[Job], bool]:
        """Up to `limit` jobs by arrival, those that follow the job `after` in this order, and whether there are more.

        Raises NotFound when there is no job `after`, as it may have been deleted.
        """
        assert limit > 0, limit
        number, rising = table.c.number, order == "asc"
        query = select(*_COLUMNS).order_by(number.asc() if rising else number.desc()).limit(limit + 1)
        if owner is not None:
            query = query.where(table.c.owner == owner)
        with self.database.reading() as connection:
            if after is not None:
                last = connection.scalar(select(number).where(table.c.id == _read(connection, after, owner).id))
                query = query.where(number > last if rising else number < last)
            jobs = [_job(row) for row in connection.execute(query)]
        return jobs[:limit], len(jobs) > limit

    def claim(self, worker: str, models: Collection[str], lease: float) -> Job | None:
        """The next job for a worker that can run `models`, held for `lease` seconds, or None. No two get the same.

        The owner whose last start is longest ago comes first, and of an owner the oldest job. Before that, whatever is
        left by workers whose leases ran out is put right, see `sweep`.
        """
        with self.database.writing(alone=True) as connection:
            now = self.clock()
            leases.sweep(connection, now, self._attempts, self._keep)
            candidate = leases.next_queued(connection, models)
            if candidate is None:
                return None
            id, owner = candidate
            leases.acquire(connection, id, worker, now, now + lease)
            leases.record_turn(connection, owner, now)
            return _read(connection, id, None)

    def sweep(self) -> None:
        """Put right what dead workers left, for any model; `claim` does so, too.

        A job whose lease ran out is cancelled if that was asked for, failed as "interrupted" if its attempts are used
        up, and else waits again, at its old place.
        """
        with self.database.writing(alone=True) as connection:
            leases.sweep(connection, self.clock(), self._attempts, self._keep)

    def waiting(self, models: Collection[str], limit: int) -> list[Job]:
        """The first `limit` jobs that wait for one of `models`, in the order in which they would be claimed."""
        with self.database.reading() as connection:
            ids = list(connection.scalars(leases.QUEUE_ORDER_OF, {"models": list(models), "limit": limit}))
            jobs = {row.id: _job(row) for row in connection.execute(select(*_COLUMNS).where(table.c.id.in_(ids)))}
        return [jobs[id] for id in ids if id in jobs]  # on PostgreSQL one may be deleted between

    def positions(self) -> dict[str, int]:
        """The position in the queue of every job that waits, from 1, if nobody else comes and all models take turns."""
        with self.database.reading() as connection:
            return {id: position for position, id in enumerate(connection.scalars(leases.QUEUE_ORDER), start=1)}

    def beat(
        self,
        job: Job,
        lease: float,
        *,
        stage: str = "",
        progress: float = 0.0,
        step: int = 0,
        steps: int = 0,
        eta: float | None = None,
        preview: str | None = None,
    ) -> Literal["go on", "cancel", "lost"]:
        """Hold the job for `lease` seconds from now, and say how far it is; the answer says what the worker must do.

        `progress` is 0 to 1. A `preview` stays until there is another one.
        """
        assert 0 <= progress <= 1, progress
        values: dict[str, Any] = {"stage": stage, "progress": progress, "step": step, "steps": steps, "eta": eta}
        if preview is not None:
            values["preview"] = preview
        with self.database.writing() as connection:
            cancel_requested = leases.write_held(
                connection, job.id, job.attempt, job.worker, lease=self.clock() + lease, **values
            )
        return "lost" if cancel_requested is None else "cancel" if cancel_requested else "go on"

    def keep_latents(self, job: Job, name: str) -> None:
        """Note where the latents are, so that another attempt need only decode. Raises Lost."""
        self._write(job, latents=name)

    def complete(self, job: Job, *, video: str, result: Mapping[str, Any], preview: str | None = None) -> None:
        """End the job with its video, also when it was to be cancelled: it is done. Raises Lost."""
        ended = {**leases.ended("completed", self.clock(), self._keep), "progress": 1.0, "result": dict(result)}
        ended["latents"] = None  # they are for another attempt
        self._write(job, **ended, video=video, **({} if preview is None else {"preview": preview}))

    def fail(self, job: Job, code: str, message: str) -> None:
        """End the job with an error for its owner. Raises Lost."""
        # Names of files may not be text, and PostgreSQL knows no zero character.
        message = message.encode("utf-8", "replace").decode().replace("\0", "?")
        self._write(job, **leases.ended("failed", self.clock(), self._keep), error_code=code, error_message=message)

    def end_cancelled(self, job: Job) -> None:
        """Confirm that the job has stopped because that was asked for. Raises Lost."""
        self._write(job, **leases.ended("cancelled", self.clock(), self._keep))

    def give_back(self, job: Job) -> None:
        """Let the job wait again, for a worker that is asked to stop; the attempt does not count. Raises Lost.

        If it was to be cancelled, it is. Its latents are kept.
        """
        with self.database.writing() as connection:
            cancel_requested = leases.lock_held(connection, job.id, job.attempt, job.worker)
            if cancel_requested is None:
                raise Lost(job.id, job.attempt)
            if cancel_requested:
                leases.write(connection, job.id, leases.ended("cancelled", self.clock(), self._keep))
            else:
                leases.requeue_uncounted(connection, job.id)

    def cancel(self, id: str, owner: str | None) -> Job:
        """Stop a job: at once if it waits or its worker is gone, else at the worker's next beat. Raises NotFound.

        One that has ended stays as it is.
        """
        with self.database.writing() as connection:
            job, now = _read(connection, id, owner, lock=True), self.clock()
            if job.state in ENDED:
                return job
            gone = job.lease is None or job.lease <= now
            values = leases.ended("cancelled", now, self._keep) if gone else {"cancel": True}
            leases.write(connection, id, values)
            return _read(connection, id, owner)

    def delete(self, id: str, owner: str | None) -> Job:
        """Remove a job that waits or has ended; it is returned because its files are to go, too.

        Raises NotFound, or Busy when a worker is at it.
        """
        with self.database.writing() as connection:
            job = _read(connection, id, owner, lock=True)
            if job.state == "in_progress":
                raise Busy(f"{id} is being made; cancel it first, and delete it when it has ended")
            connection.execute(delete(table).where(table.c.id == id))
            return job

    def expired(self, limit: int = 100) -> list[Job]:
        """Jobs that ended and are past their time, those first that are longest; remove their files, then `forget`."""
        query = select(*_COLUMNS).where(table.c.state.in_(ENDED), table.c.expires <= self.clock())
        with self.database.reading() as connection:
            return [_job(row) for row in connection.execute(query.order_by(table.c.expires).limit(limit))]

    def forget(self, id: str) -> None:
        """Remove the row of a job that has ended; nothing happens if it is gone already. Raises Busy if it has not."""
        with self.database.writing() as connection:
            gone = connection.execute(delete(table).where(table.c.id == id, table.c.state.in_(ENDED)))
            if not gone.rowcount and connection.scalar(select(table.c.id).where(table.c.id == id)) is not None:
                raise Busy(f"{id} has not ended; cancel it first")

    def counts(self) -> dict[State, int]:
        """How many jobs are in each state; all states are there."""
        states: tuple[State, ...] = ("queued", "in_progress", "completed", "failed", "cancelled")
        with self.database.reading() as connection:
            query = select(table.c.state, func.count().label("jobs")).group_by(table.c.state)
            counts = {row.state: row.jobs for row in connection.execute(query)}
        return {state: counts.get(state, 0) for state in states}

    def waiting_by_model(self) -> dict[str, tuple[int, float]]:
        """How many jobs wait for each model, and for how many seconds the oldest of them does."""
        query = select(table.c.model, func.count(), func.min(table.c.created)).where(table.c.state == "queued")
        with self.database.reading() as connection:
            rows = connection.execute(query.group_by(table.c.model)).all()
        return {row[0]: (row[1], max(self.clock() - row[2], 0.0)) for row in rows}

    def histograms(self, bounds: Sequence[float]) -> dict[str, list[tuple[list[int], float]]]:
        """By model, two histograms of completed jobs: seconds from asking to start, and from start to end. Each has
        the numbers of jobs up to each bound and in all, and the sum."""
        spans = (table.c.started - table.c.created, table.c.ended - table.c.started)
        columns: list[ColumnElement[Any]] = []
        for span in spans:
            columns += [func.sum(case((span <= bound, 1), else_=0)) for bound in bounds]
            columns += [func.count(), func.sum(span)]
        query = select(table.c.model, *columns).where(table.c.state == "completed").group_by(table.c.model)
        with self.database.reading() as connection:
            rows = connection.execute(query).all()
        size = len(bounds) + 2
        halves = {row[0]: (row[1 : size + 1], row[size + 1 :]) for row in rows}
        return {model: [([*map(int, half[:-1])], float(half[-1])) for half in pair] for model, pair in halves.items()}

    def totals(self) -> tuple[dict[str, int], dict[str, float]]:
        """How many jobs failed, by code, and seconds spent in finished ones, by stage; of jobs that are still kept."""
        timings = table.c.result["timings"]
        sums = [func.sum(timings[stage].as_float()) for stage in STAGES]
        with self.database.reading() as connection:
            failed = select(table.c.error_code, func.count()).where(table.c.state == "failed").group_by("error_code")
            failures = {row[0]: row[1] for row in connection.execute(failed)}
            spent = connection.execute(select(*sums).where(table.c.state == "completed")).one()
        return failures, {stage: seconds or 0.0 for stage, seconds in zip(STAGES, spent, strict=True)}

    def close(self) -> None:
        """Close the database."""
        self.database.close()

    def _write(self, job: Job, **values: Any) -> None:
        """Write to a job that is still held as it is in `job`, or raise Lost."""
        with self.database.writing() as connection:
            if leases.write_held(connection, job.id, job.attempt, job.worker, **values) is None:
                raise Lost(job.id, job.attempt)


_NAMES = [column.name for column in _COLUMNS]


def _job(row: Sequence[Any]) -> Job:
    return Job(**dict(zip(_NAMES, row, strict=True)))


def _read(connection: Connection, id: str, owner: str | None, *, lock: bool = False) -> Job:
    """The job, its row locked if it is to be changed. Any string may be asked for, also one that no database takes."""
    query = _READ_LOCKED if lock else _READ
    row = connection.execute(query, {"this_id": id}).one_or_none() if id.isascii() and id.isprintable() else None
    if row is None or owner not in {None, row.owner}:
        raise NotFound(f"there is no video {id[:64]!r}")
    return _job(row)
