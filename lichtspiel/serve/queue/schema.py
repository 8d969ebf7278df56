"""The tables of the server's database.

A migration makes them (`migrations/`), and a test holds both equal. Times are UTC seconds. It knows columns, not what
is done with them.
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

__all__ = ["VERSION_TABLE", "api_key", "arrival", "job", "metadata", "turn"]

VERSION_TABLE = "lichtspiel_version"
"""Where alembic keeps the version of the layout; not its default, so that a database can be shared."""

metadata = MetaData()

Number = BigInteger().with_variant(Integer(), "sqlite")  # SQLite counts up by itself only in an INTEGER

# JSON and not JSONB: PostgreSQL refuses some texts in JSONB, as a zero character, that a prompt may contain.
Document = JSON(none_as_null=True)

job = Table(
    "job",
    metadata,
    Column("number", Number, primary_key=True, autoincrement=True),  # the order of arrival
    Column("id", String(38), nullable=False, unique=True),
    Column("owner", String(64), nullable=False),
    Column("model", Text, nullable=False),
    Column("request", Document, nullable=False),
    Column("inputs", Document, nullable=False),
    Column("remixed_from", String(38)),
    Column("idempotency", String(64)),  # SHA-256 of the client's key, which has any length
    Column("digest", Text, nullable=False),  # of what was asked with that key
    Column("state", String(16), nullable=False),
    Column("created", Double, nullable=False),
    Column("started", Double),
    Column("ended", Double),
    Column("expires", Double),
    Column("attempt", Integer, nullable=False),  # never goes down, because it fences
    Column("uncounted_attempts", Integer, nullable=False),  # attempts that were given back and do not count
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
    UniqueConstraint("owner", "idempotency", name="job_idempotency"),
    CheckConstraint("state IN ('queued', 'in_progress', 'completed', 'failed', 'cancelled')", name="job_state"),
    Index("job_by_state", "state", "number"),
    Index("job_by_owner", "owner", "number"),
    Index("job_by_expiry", "expires"),
    sqlite_autoincrement=True,  # a number is not used again after a delete
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
    # Jobs can be deleted by their owner; what counts for a key's limit cannot.
    Column("number", Number, primary_key=True, autoincrement=True),
    Column("owner", String(64), nullable=False),
    Column("created", Double, nullable=False),
    Index("arrival_by_owner", "owner", "created"),
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
    Index("api_key_by_prefix", "prefix"),
)
