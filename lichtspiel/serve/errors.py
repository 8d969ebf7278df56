"""The errors of the queue, its API keys and its files; part of the tree in `lichtspiel.errors`.

    LichtspielError
    ├── InvalidInput
    │   ├── NotFound             not_found        404
    │   ├── BadName              invalid_request  400
    │   ├── TooLarge             too_large        413
    │   ├── InvalidKey           invalid_key      401
    │   ├── Forbidden            forbidden        403
    │   └── Conflict             conflict         409
    │       ├── IdempotencyError
    │       └── Busy
    ├── QueueFull                queue_full       429   says when to try again
    ├── LimitReached             limit_reached    429   says when to try again
    ├── TooBusy                  busy             503   says when to try again
    ├── Interrupted
    │   └── Cancelled
    │       └── Lost             interrupted      500   for workers, not for clients
    ├── StoreError               failed           503   the data cannot be reached; `public` is for clients
    │   ├── DatabaseError
    │   └── StorageError
    ├── GroupEnded               failed           503   for workers: a process of the group is gone
    └── MachineFault             failed           503   for workers: the machine is at fault, not the job

`code` and `status` are the error code and the status of the HTTP response. No message contains a prompt.
"""

from __future__ import annotations

from lichtspiel.errors import Cancelled, InvalidInput, LichtspielError

__all__ = [
    "BadName",
    "Busy",
    "Conflict",
    "DatabaseError",
    "Forbidden",
    "GroupEnded",
    "IdempotencyError",
    "InvalidKey",
    "LimitReached",
    "Lost",
    "MachineFault",
    "NotFound",
    "QueueFull",
    "StorageError",
    "StoreError",
    "TooBusy",
    "TooLarge",
]


class NotFound(InvalidInput):
    """It does not exist or belongs to somebody else; the error does not reveal which."""

    code = "not_found"
    status = 404


class BadName(InvalidInput):
    """A file name that this server would never generate."""

    code = "invalid_request"
    status = 400


class TooLarge(InvalidInput):
    """The client sent more than this server accepts."""

    code = "too_large"
    status = 413


class InvalidKey(InvalidInput):
    """The request has no API key, or one that is unknown or revoked."""

    code = "invalid_key"
    status = 401


class Forbidden(InvalidInput):
    """The API key is valid, but may not do this."""

    code = "forbidden"
    status = 403


class Conflict(InvalidInput):
    """The request conflicts with what already exists."""

    code = "conflict"
    status = 409


class IdempotencyError(Conflict):
    """The idempotency key was already used for a different request."""


class Busy(Conflict):
    """The job has not ended, so it cannot be deleted; cancel it first."""


class QueueFull(LichtspielError):
    """The queue is full; `retry_after` estimates in how many seconds the next job starts."""

    code = "queue_full"
    status = 429

    def __init__(self, limit: int, retry_after: int) -> None:
        self.retry_after = retry_after
        super().__init__(f"{limit} videos are waiting already, which is the limit; try again in {retry_after} seconds")


class LimitReached(LichtspielError):
    """The key has used up a quota, such as "20/h videos"; in `retry_after` seconds it can create the next job."""

    code = "limit_reached"
    status = 429

    def __init__(self, limit: str, retry_after: int) -> None:
        self.retry_after = retry_after
        super().__init__(f"the quota of this key, {limit}, is used up; try again in {retry_after} seconds")


class StorageUsedUp(Conflict):
    """The files of this key take as much storage as it may use."""

    code = "storage_used_up"

    def __init__(self, most: int, kept: int) -> None:
        super().__init__(
            f"the videos of this key take {kept / 1e6:,.0f} MB of the {most / 1e6:,.0f} MB that it may keep; "
            "delete some first"
        )


class TooBusy(LichtspielError):
    """The server has too much of this kind of work at once; try again in `retry_after` seconds."""

    code = "busy"
    status = 503

    def __init__(self, reason: str, retry_after: int) -> None:
        self.retry_after = retry_after
        super().__init__(f"{reason}; try again in {retry_after} seconds")


class Lost(Cancelled):
    """This worker no longer holds the job: its lease expired, or the job has ended. Nothing was written."""

    code = "interrupted"
    status = 500

    def __init__(self, id: str, attempt: int) -> None:
        super().__init__(f"{id}: attempt {attempt} is not the current one any more; its result is not taken")


class StoreError(LichtspielError):
    """The database or the stored files cannot be read or written.

    The message gives the reason and internal addresses, so it goes to the log; clients see `public`.
    """

    code = "failed"
    status = 503
    public = "the server cannot reach its data"


class DatabaseError(StoreError):
    """The database cannot be read or written."""

    public = "the server cannot reach its database"


class StorageError(StoreError):
    """The folder or bucket that stores the files cannot be read or written."""

    public = "the server cannot read or write its files"


class GroupEnded(LichtspielError):
    """A process of the worker's group is gone, so the others end, too; the job was given back."""

    code = "failed"
    status = 503


class MachineFault(LichtspielError):
    """The machine failed, not the job, which was given back. The message may be shown to clients."""

    code = "failed"
    status = 503
