"""The queue: every job from the moment it is accepted until its row is deleted, in a database that processes share.

    queued ──claim──> in_progress ──> completed | failed | cancelled
       ^                   │
       └── give_back, or the lease expired

A worker holds a job by a lease, which it renews. If the worker dies, the lease expires, and the next claim by any
worker cleans up. So every job ends as long as somebody claims or sweeps. `attempt` counts the claims and serves as a
fencing token: a worker that has lost its job can no longer write to it. A request to cancel is recorded here; the
worker acts on it at its next heartbeat.

This module knows no pipeline, and only the names of files. Times are UTC seconds; which clock they follow, and what
happens when it jumps, says `queue.clock`. Where several machines share a database, their clocks must differ by much
less than a lease.
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
from lichtspiel.serve.queue.clock import JUMP, Watch
from lichtspiel.serve.queue.database import Database
from lichtspiel.serve.queue.limits import charge, check_limit, check_queue, check_storage
from lichtspiel.serve.queue.schema import job as table

__all__ = ["DRAFT", "ENDED", "IS_DRAFT", "MODERATION", "PREFIXES", "Job", "Jobs", "Kind", "State", "Takes"]

State = Literal["queued", "in_progress", "completed", "failed", "cancelled"]

Kind = Literal["video", "moderation"]

MODERATION = "moderation"
"""The model of a job that judges an existing video. Its id begins with PREFIXES["moderation"]."""

DRAFT = "translation-draft"
"""The model of a job that translates what is said in a video; it ends with words, not with a video."""

IS_DRAFT: ColumnElement[bool] = table.c.model == DRAFT

PREFIXES: dict[Kind, str] = {"video": "video_", "moderation": "modr_"}

ENDED: frozenset[str] = frozenset({"completed", "failed", "cancelled"})
"""The final states."""

GRACE = 60.0
"""Seconds after a jump of the clock in which nobody is taken for dead. Living workers renew their leases in one."""

LONGEST = 120.0
"""Seconds that a lease can have left. More says that the clock has been set back since."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A snapshot of one row.

    `owner` is the id of an API key, or empty where the server needs none. `request` holds the fields of a `Request`
    except its files; `inputs` holds the names of the files by field ("image", "references/1"). `lease` is when the
    worker's lease expires. `cancel` means that the job was asked to stop but has not stopped yet. `latents`, `video`
    and `preview` are names in `Files`. `result` describes the finished video, `bytes` counts its files that are kept.
    The request is left out of `repr`, and so out of logs.
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
    bytes: int | None

    @property
    def kind(self) -> Kind:
        """What is to be done: a video to be made, or one to be judged."""
        return "moderation" if self.model == MODERATION else "video"

    @property
    def files(self) -> list[str]:
        """The names of all files that belong to this job and are deleted with it."""
        return [name for name in (*self.inputs.values(), self.latents, self.video, self.preview) if name is not None]


@dataclass(frozen=True, kw_only=True)
class Takes:
    """What a new job takes of quotas: the seconds of its video, and the bytes of the files that it came with."""

    seconds: float = 0.0
    bytes: int = 0


STAGES = ("load", "encode", "denoise", "decode", "upscale", "seal")
"""The stages of a job, under the names that its result uses."""

_COLUMNS = [table.c[each.name] for each in fields(Job)]

# Built once, see `leases`
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
        self.watch = Watch(clock) if clock is time.time else Watch(clock, clock)
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
        """The jobs in the database at `url` (see `Database`), which is created or migrated if necessary.

        At most `queue_limit` jobs can wait. A job whose workers die is tried `attempts` times. An ended job expires
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
        takes: Takes | None = None,
    ) -> tuple[Job, bool]:
        """Add a job to the queue; returns it and whether it is new.

        If this owner has used the `idempotency` key before, the job from back then is returned. `digest` identifies
        the whole request, including its files, and must be the same whenever the key is the same. `takes` is
        what it takes of the quotas of the owner. Repeating a request does not count against any limit. Raises
        IdempotencyError, LimitReached, StorageUsedUp or QueueFull.
        """
        takes = takes or Takes()
        key = None if idempotency is None else hashlib.sha256(idempotency.encode("utf-8", "surrogatepass")).hexdigest()
        with self.database.writing(alone=True) as connection:
            now = self.watch.now()
            if key is not None:
                match = connection.execute(_KNOWN, {"owner": owner, "key": key}).one_or_none()
                if match is not None:
                    stored_digest, *row = match
                    if stored_digest != digest:
                        raise IdempotencyError("this Idempotency-Key was used for another request; use a new one")
                    return _job(row), False
            check_queue(connection, self._queue_limit, owner)
            id = f"{PREFIXES['moderation' if model == MODERATION else 'video']}{uuid.uuid4().hex}"
            check_storage(connection, owner, takes.bytes)
            check_limit(connection, owner, now, id, takes.seconds)
            values: dict[str, Any] = {
                "id": id,
                "owner": owner,
                "model": model,
                "request": dict(request),
                "inputs": dict(inputs),
            }
            values |= {"remixed_from": remixed_from, "idempotency": key, "digest": digest, "created": now}
            values["bytes"] = takes.bytes
            connection.execute(_ADD, {**_FRESH, **values})
            return _read(connection, id, None), True

    def get(self, id: str, owner: str | None) -> Job:
        """The job with this id. Raises NotFound if there is none, or if it belongs to somebody other than `owner`."""
        with self.database.reading() as connection:
            return _read(connection, id, owner)

    def page(
        self,
        owner: str | None,
        *,
        limit: int = 20,
        after: str | None = None,
        order: Literal["asc", "desc"] = "desc",
        where: ColumnElement[bool] | None = None,
    ) -> tuple[list[Job], bool]:
        """Up to `limit` jobs in order of arrival, and whether there are more. With `after`, start behind that job;
        `where` chooses among them.

        Raises NotFound if the job `after` does not exist; it may have been deleted.
        """
        assert limit > 0, limit
        number, rising = table.c.number, order == "asc"
        query = select(*_COLUMNS).order_by(number.asc() if rising else number.desc()).limit(limit + 1)
        if owner is not None:
            query = query.where(table.c.owner == owner)
        if where is not None:
            query = query.where(where)
        with self.database.reading() as connection:
            if after is not None:
                last = connection.scalar(select(number).where(table.c.id == _read(connection, after, owner).id))
                query = query.where(number > last if rising else number < last)
            jobs = [_job(row) for row in connection.execute(query)]
        return jobs[:limit], len(jobs) > limit

    def claim(self, worker: str, models: Collection[str], lease: float) -> Job | None:
        """Claim the next job for a worker that can run `models`, for `lease` seconds; None if no job waits.

        No two workers get the same job. Keys of a higher priority come first; among equals, the owner whose last job
        started longest ago, with their oldest job. A key that has as many jobs in progress as it may waits. Jobs whose
        lease has expired are cleaned up before that, see `sweep`.
        """
        with self.database.writing(alone=True) as connection:
            now = self.watch.now()
            self._sweep(connection, max(LONGEST, lease))
            candidate = leases.next_queued(connection, models)
            if candidate is None:
                return None
            id, owner = candidate
            leases.acquire(connection, id, worker, now, self.clock() + lease)
            leases.record_turn(connection, owner, now)
            return _read(connection, id, None)

    def sweep(self) -> None:
        """Clean up after dead workers, for all models; `claim` does this too.

        A job whose lease has expired is cancelled if that was requested, fails as "interrupted" if its attempts are
        used up, and otherwise returns to its old place in the queue.
        """
        with self.database.writing(alone=True) as connection:
            self._sweep(connection, LONGEST)

    def _sweep(self, connection: Connection, longest: float) -> None:
        """Clean up after dead workers, unless the clock jumped: then the living ones first renew their leases."""
        now = self.clock()
        leases.shorten(connection, now + longest)
        if not self.watch.jumped_within(GRACE):
            leases.sweep(connection, now, self._attempts, self._ended)

    def _ended(self, state: str) -> dict[str, Any]:
        """The columns of a job that has ended."""
        return leases.ended(state, self.watch.now(), self._keep)

    def waiting(self, models: Collection[str], limit: int) -> list[Job]:
        """The first `limit` jobs that wait for one of `models`, in the order in which they would be claimed."""
        with self.database.reading() as connection:
            ids = list(connection.scalars(leases.QUEUE_ORDER_OF, {"models": list(models), "limit": limit}))
            jobs = {row.id: _job(row) for row in connection.execute(select(*_COLUMNS).where(table.c.id.in_(ids)))}
        return [jobs[id] for id in ids if id in jobs]  # on PostgreSQL one may be deleted between the two queries

    def positions(self) -> dict[str, int]:
        """The position in the queue, from 1, of every waiting job, if no more jobs arrive and all models run."""
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
        """Renew the lease for `lease` seconds from now and report progress; returns what the worker must do.

        `progress` runs from 0 to 1. A `preview` stays until the next one replaces it.
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
        """Record where the latents are, so that another attempt only has to decode them. Raises Lost."""
        self._write(job, latents=name)

    def complete(self, job: Job, *, video: str | None, result: Mapping[str, Any], preview: str | None = None) -> None:
        """Complete the job, even if it was asked to cancel: the work is done. Raises Lost.

        A moderation makes no video, and neither does a draft of a translation.

        `bytes` of the result, if there, is the size of what was made, and counts as storage of its owner.
        """
        ended = {**self._ended("completed"), "progress": 1.0, "result": dict(result)}
        ended["latents"] = None  # only another attempt would need them
        ended["bytes"] = (job.bytes or 0) + int(result.get("bytes") or 0)
        self._write(job, **ended, video=video, **({} if preview is None else {"preview": preview}))

    def fail(self, job: Job, code: str, message: str) -> None:
        """Fail the job with an error that its owner will see. Raises Lost."""
        # A file name need not be valid text, and PostgreSQL accepts no NUL character.
        message = message.encode("utf-8", "replace").decode().replace("\0", "?")
        self._write(job, **self._ended("failed"), error_code=code, error_message=message)

    def end_cancelled(self, job: Job) -> None:
        """Confirm that the job has stopped as requested. Raises Lost."""
        self._write(job, **self._ended("cancelled"))

    def give_back(self, job: Job) -> None:
        """Return the job to the queue because this worker cannot go on; the attempt does not count. Raises Lost.

        A job that was asked to cancel is cancelled instead. Its latents are kept.
        """
        with self.database.writing() as connection:
            cancel_requested = leases.lock_held(connection, job.id, job.attempt, job.worker)
            if cancel_requested is None:
                raise Lost(job.id, job.attempt)
            if cancel_requested:
                leases.write(connection, job.id, self._ended("cancelled"))
            else:
                leases.requeue_uncounted(connection, job.id)

    def let_go(self, worker: str) -> None:
        """End the leases of a worker that is known to be gone, so that nobody waits for them to run out."""
        with self.database.writing() as connection:
            leases.let_go(connection, worker, self.clock())

    def cancel(self, id: str, owner: str | None) -> Job:
        """Cancel a job: at once if it waits or its lease has expired, otherwise at the worker's next heartbeat.

        A job that has ended stays as it is. Raises NotFound.
        """
        with self.database.writing() as connection:
            job, now = _read(connection, id, owner, lock=True), self.clock()
            if job.state in ENDED:
                return job
            gone = job.lease is None or job.lease <= now
            values = self._ended("cancelled") if gone else {"cancel": True}
            leases.write(connection, id, values)
            return _read(connection, id, owner)

    def delete(self, id: str, owner: str | None) -> Job:
        """Delete a job that waits or has ended; returns it so that the caller can delete its files.

        Raises NotFound, or Busy if a worker is working on it.
        """
        with self.database.writing() as connection:
            job = _read(connection, id, owner, lock=True)
            if job.state == "in_progress":
                raise Busy(f"{id} is being made; cancel it first, and delete it when it has ended")
            charge(connection, id)
            connection.execute(delete(table).where(table.c.id == id))
            return job

    def expired(self, limit: int = 100) -> list[Job]:
        """Ended jobs that have expired, longest expired first. Remove their files, then call `forget`.

        None before the clock has settled: one that was set wrong for a moment must not remove everything.
        """
        if not self.watch.settled():
            return []
        now = self.watch.now()
        query = select(*_COLUMNS).where(table.c.state.in_(ENDED), table.c.expires <= now)
        with self.database.writing() as connection:
            # what ended while the clock was ahead, or when videos were kept for longer
            leases.expire_by(connection, now + self._keep, now + self._keep + JUMP)
            return [_job(row) for row in connection.execute(query.order_by(table.c.expires).limit(limit))]

    def forget(self, id: str) -> None:
        """Delete the row of an ended job; does nothing if it is already gone. Raises Busy if the job has not ended."""
        with self.database.writing() as connection:
            charge(connection, id)
            gone = connection.execute(delete(table).where(table.c.id == id, table.c.state.in_(ENDED)))
            if not gone.rowcount and connection.scalar(select(table.c.id).where(table.c.id == id)) is not None:
                raise Busy(f"{id} has not ended; cancel it first")

    def counts(self) -> dict[State, int]:
        """How many jobs are in each state, including states that no job is in."""
        states: tuple[State, ...] = ("queued", "in_progress", "completed", "failed", "cancelled")
        with self.database.reading() as connection:
            query = select(table.c.state, func.count().label("jobs")).group_by(table.c.state)
            counts = {row.state: row.jobs for row in connection.execute(query)}
        return {state: counts.get(state, 0) for state in states}

    def waiting_by_model(self) -> dict[str, tuple[int, float]]:
        """By model: how many jobs wait, and for how many seconds the oldest of them has waited."""
        query = select(table.c.model, func.count(), func.min(table.c.created)).where(table.c.state == "queued")
        with self.database.reading() as connection:
            rows = connection.execute(query.group_by(table.c.model)).all()
        return {row[0]: (row[1], max(self.watch.now() - row[2], 0.0)) for row in rows}

    def histograms(self, bounds: Sequence[float]) -> dict[str, list[tuple[list[int], float]]]:
        """By model, two histograms of completed jobs: seconds from request to start, and from start to end.

        Each holds the number of jobs up to each bound, then the number of all jobs, and the sum of the seconds.
        """
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

    def peaks(self) -> dict[str, float]:
        """By model, the largest peak of memory in bytes that a completed job reported."""
        most = func.max(table.c.result["peak_bytes"].as_float())
        query = select(table.c.model, most).where(table.c.state == "completed").group_by(table.c.model)
        with self.database.reading() as connection:
            return {row[0]: row[1] or 0.0 for row in connection.execute(query)}

    def totals(self) -> tuple[dict[str, int], dict[str, float]]:
        """Failed jobs by error code, and seconds spent on completed jobs by stage; counts only jobs not yet deleted."""
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
        """Write to a job if the attempt in `job` still holds it, otherwise raise Lost."""
        with self.database.writing() as connection:
            if leases.write_held(connection, job.id, job.attempt, job.worker, **values) is None:
                raise Lost(job.id, job.attempt)


_NAMES = [column.name for column in _COLUMNS]


def _job(row: Sequence[Any]) -> Job:
    return Job(**dict(zip(_NAMES, row, strict=True)))


def _read(connection: Connection, id: str, owner: str | None, *, lock: bool = False) -> Job:
    """Read a job and, with `lock`, lock its row. Accepts any string as id, even one that no database accepts."""
    query = _READ_LOCKED if lock else _READ
    row = connection.execute(query, {"this_id": id}).one_or_none() if id.isascii() and id.isprintable() else None
    if row is None or owner not in {None, row.owner}:
        kind = "moderation" if id.startswith(PREFIXES["moderation"]) else "video"
        raise NotFound(f"there is no {kind} {id[:64]!r}")
    return _job(row)
