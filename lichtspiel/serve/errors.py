"""What can go wrong with the queue, its keys and its files; part of the tree in `lichtspiel.errors`.

    LichtspielError
    ├── InvalidInput
    │   ├── NotFound             not_found        404
    │   ├── BadName              invalid_request  400
    │   ├── TooLarge             too_large        413
    │   ├── InvalidKey           invalid_key      401
    │   └── Conflict             conflict         409
    │       ├── IdempotencyError
    │       └── Busy
    ├── QueueFull                queue_full       429   says when to come back
    ├── LimitReached             limit_reached    429   says when to come back
    ├── TooBusy                  busy         503   says when to come back
    ├── Interrupted, Cancelled
    │   └── Lost                 interrupted      500   meant for workers, not for clients
    ├── StoreError               failed           503   the queue's state cannot be reached; `public` says what of it
    │   ├── DatabaseError
    │   └── StorageError
    └── MachineFault             failed           503   meant for workers: the machine, not the job, is at fault

`code` is what the HTTP API says and `status` its HTTP status. No message contains a prompt.
"""

from __future__ import annotations

from lichtspiel.errors import Cancelled, InvalidInput, LichtspielError

__all__ = [
    "BadName",
    "Busy",
    "Conflict",
    "DatabaseError",
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
    """There is no such thing, or it belongs to somebody else; which of the two is not said."""

    code = "not_found"
    status = 404


class BadName(InvalidInput):
    """A name of a file that this server would not have made."""

    code = "invalid_request"
    status = 400


class TooLarge(InvalidInput):
    """More was sent than this server takes."""

    code = "too_large"
    status = 413


class InvalidKey(InvalidInput):
    """The request has no key, or one that is not known here or was revoked."""

    code = "invalid_key"
    status = 401


class Conflict(InvalidInput):
    """It contradicts what is there already."""

    code = "conflict"
    status = 409


class IdempotencyError(Conflict):
    """The idempotency key was used before, for another request."""


class Busy(Conflict):
    """The job has not ended, so it cannot be removed; cancel it first."""


class QueueFull(LichtspielError):
    """As many jobs wait as may wait; `retry_after` is a guess, in seconds, of when the next one starts."""

    code = "queue_full"
    status = 429

    def __init__(self, limit: int, retry_after: int) -> None:
        self.retry_after = retry_after
        super().__init__(f"{limit} videos are waiting already, which is the limit; try again in {retry_after} seconds")


class LimitReached(LichtspielError):
    """The key has made as many jobs as it may; `retry_after` is in how many seconds it may make the next one."""

    code = "limit_reached"
    status = 429

    def __init__(self, limit: str, retry_after: int) -> None:
        self.retry_after = retry_after
        super().__init__(f"this key may ask for {limit} videos, and has; try again in {retry_after} seconds")


class TooBusy(LichtspielError):
    """The server does as much of this as it may at once; `retry_after` is in how many seconds to try again."""

    code = "busy"
    status = 503

    def __init__(self, reason: str, retry_after: int) -> None:
        self.retry_after = retry_after
        super().__init__(f"{reason}; try again in {retry_after} seconds")


class Lost(Cancelled):
    """The job is not this worker's any more: its lease ran out, or the job has ended. Nothing was written."""

    code = "interrupted"
    status = 500

    def __init__(self, id: str, attempt: int) -> None:
        super().__init__(f"{id}: attempt {attempt} is not the current one any more; its result is not taken")


class StoreError(LichtspielError):
    """The database or the stored files cannot be read or written.

    The message says why and names addresses of this server, so it is for the log; clients read `public`.
    """

    code = "failed"
    status = 503
    public = "the server cannot reach its data"


class DatabaseError(StoreError):
    """The database cannot be read or written."""

    public = "the server cannot reach its database"


class StorageError(StoreError):
    """The folder or bucket of the files cannot be read or written."""

    public = "the server cannot read or write its files"


class MachineFault(LichtspielError):
    """Something of this machine failed, not the job, which was given back. The message is fit for clients."""

    code = "failed"
    status = 503
