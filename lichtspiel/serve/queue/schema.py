"""The tables of the server's database.

Migrations create them (`migrations/`); a test checks that both agree. Times are UTC seconds. This module knows the
columns, not what they are used for.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

__all__ = [
    "VERSION_TABLE", "api_key", "arrival", "delivery", "job", "metadata", "record", "review", "turn", "webhook",
]  # fmt: skip

VERSION_TABLE = "lichtspiel_version"
"""The table in which Alembic keeps the schema version. Not its default name, so that a database can be shared."""

metadata = MetaData()

Number = BigInteger().with_variant(Integer(), "sqlite")  # SQLite autoincrements only an INTEGER

# JSON, not JSONB: JSONB rejects some characters that a prompt may contain, such as NUL.
Document = JSON(none_as_null=True)

job = Table(
    "job",
    metadata,
    Column("number", Number, primary_key=True, autoincrement=True),  # order of arrival
    Column("id", String(38), nullable=False, unique=True),
    Column("owner", String(64), nullable=False),
    Column("model", Text, nullable=False),
    Column("request", Document, nullable=False),
    Column("inputs", Document, nullable=False),
    Column("remixed_from", String(38)),
    Column("idempotency", String(64)),  # SHA-256 of the client's key, which can have any length
    Column("digest", Text, nullable=False),  # of the request that used this key
    Column("state", String(16), nullable=False),
    Column("created", Double, nullable=False),
    Column("started", Double),
    Column("ended", Double),
    Column("expires", Double),
    Column("attempt", Integer, nullable=False),  # never decreases: it is the fencing token
    Column("uncounted_attempts", Integer, nullable=False),  # attempts that were given back
    Column("worker", Text),
    Column("lease", Double),
    Column("cancel", Boolean, nullable=False),
    Column("stage", Text, nullable=False),
    Column("progress", Double, nullable=False),
    Column("step", Integer, nullable=False),
    Column("steps", Integer, nullable=False),
    Column("eta", Double),
    Column("latents", Text),
    Column("video", Text),
    Column("preview", Text),
    Column("error_code", Text),
    Column("error_message", Text),
    Column("result", Document),
    Column("told", Double),  # when its end was made known to the webhooks
    Column("bytes", BigInteger),  # of its files that are kept
    UniqueConstraint("owner", "idempotency", name="job_idempotency"),
    CheckConstraint("state IN ('queued', 'in_progress', 'completed', 'failed', 'cancelled')", name="job_state"),
    Index("job_by_state", "state", "number"),
    Index("job_by_owner", "owner", "number"),
    Index("job_by_expiry", "expires"),
    Index("job_by_told", "told"),
    sqlite_autoincrement=True,  # never reuse a number after a delete
)

turn = Table(
    "turn",
    metadata,
    Column("owner", String(64), primary_key=True),
    Column("started", Double, nullable=False),  # when a job of this owner was last started
)

arrival = Table(
    "arrival",
    metadata,
    # Owners can delete their jobs, but not what counts against a key's limit.
    Column("number", Number, primary_key=True, autoincrement=True),
    Column("owner", String(64), nullable=False),
    Column("created", Double, nullable=False),
    Column("job", String(38)),
    Column("video_seconds", Double),
    Column("worker_seconds", Double),  # once the job is deleted; until then its row says it
    Index("arrival_by_owner", "owner", "created"),
    Index("arrival_by_job", "job"),
)

webhook = Table(
    "webhook",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("owner", String(64)),  # whose jobs it is told of; of all, if NULL
    Column("url", Text, nullable=False),
    Column("secret", Text, nullable=False),  # it signs, so a digest would not do
    Column("private", Boolean, nullable=False),
    Column("created", Double, nullable=False),
    Column("disabled", Double),
)

delivery = Table(
    "delivery",
    metadata,
    Column("number", Number, primary_key=True, autoincrement=True),
    Column("webhook", String(64), nullable=False),
    Column("event", String(64), nullable=False),
    Column("body", Text, nullable=False),
    Column("created", Double, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("due", Double, nullable=False),
    Index("delivery_by_due", "due"),
)

api_key = Table(
    "api_key",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("name", Text, nullable=False),
    Column("prefix", String(16), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("limit", Text),
    Column("created", Double, nullable=False),
    Column("revoked", Double),
    Column("video_seconds", Text),
    Column("worker_seconds", Text),
    Column("expires", Double),
    Column("at_once", Integer),  # how many of its jobs may be in progress
    Column("storage", BigInteger),  # how many bytes of its files are kept at most
    Column("priority", Integer),  # NULL counts as 0
    Column("reviews", Boolean),  # whether it decides what needs review, of all owners; NULL is no
    Index("api_key_by_prefix", "prefix"),
)

review = Table(
    "review",
    metadata,
    # What people decided of moderated videos. Rows are added and never changed, and outlive their jobs.
    Column("number", Number, primary_key=True, autoincrement=True),
    Column("job", String(38), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("decision", String(16), nullable=False),
    Column("reviewer", Text, nullable=False),
    Column("key", String(64), nullable=False),  # of the reviewer; empty where the server needs none
    Column("note", Text, nullable=False),
    Column("created", Double, nullable=False),
    Index("review_by_job", "job"),
)

record = Table(
    "record",
    metadata,
    # What was sealed, where several machines share the database; on PostgreSQL a trigger guards it
    Column("id", String(32), primary_key=True),
    Column("watermark", BigInteger),
    Column("created", Double, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("body", Document, nullable=False),
    Column("texts", Document),  # NULL once they were erased
    Index("record_by_watermark", "watermark"),
    Index("record_by_created", "created"),
    Index("record_by_sha256", "sha256"),
)
