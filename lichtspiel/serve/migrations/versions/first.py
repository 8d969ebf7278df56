"""The first schema: jobs, turns, arrivals and API keys.

A version never changes once it was released, so it repeats what `schema.py` says. There is no way back but a backup.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Create all tables."""
    _job()
    op.create_table(
        "turn",
        sa.Column("owner", sa.String(64), primary_key=True),
        sa.Column("started", sa.Double(), nullable=False),
    )
    op.create_table(
        "arrival",
        sa.Column("number", NUMBER, primary_key=True, autoincrement=True),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
    )
    op.create_index("arrival_by_owner", "arrival", ["owner", "created"])
    op.create_table(
        "api_key",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("prefix", sa.String(16), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("limit", sa.Text()),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("revoked", sa.Double()),
    )
    op.create_index("api_key_by_prefix", "api_key", ["prefix"])


def _job() -> None:
    op.create_table(
        "job",
        sa.Column("number", NUMBER, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(38), nullable=False, unique=True),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("request", sa.JSON(), nullable=False),
        sa.Column("inputs", sa.JSON(), nullable=False),
        sa.Column("remixed_from", sa.String(38)),
        sa.Column("idempotency", sa.String(64)),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        *(sa.Column(name, sa.Double(), nullable=name != "created") for name in ("created", "started", "ended")),
        sa.Column("expires", sa.Double()),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("spared", sa.Integer(), nullable=False),
        sa.Column("worker", sa.Text()),
        sa.Column("lease", sa.Double()),
        sa.Column("cancel", sa.Boolean(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("progress", sa.Double(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("steps", sa.Integer(), nullable=False),
        sa.Column("eta", sa.Double()),
        *(sa.Column(name, sa.Text()) for name in ("latents", "video", "preview", "error_code", "error_message")),
        sa.Column("result", sa.JSON()),
        sa.UniqueConstraint("owner", "idempotency", name="job_idempotency"),
        sa.CheckConstraint("state IN ('queued', 'in_progress', 'completed', 'failed', 'cancelled')", name="job_state"),
        sqlite_autoincrement=True,
    )
    op.create_index("job_by_state", "job", ["state", "number"])
    op.create_index("job_by_owner", "job", ["owner", "number"])
    op.create_index("job_by_expiry", "job", ["expires"])
