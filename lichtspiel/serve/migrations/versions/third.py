"""The third schema: webhooks with their deliveries, and quotas of keys by seconds.

It only adds, so servers of the version before go on working on the database while a new one is rolled out.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add the tables and columns. Jobs that ended before count as told, so that no webhook hears of them."""
    op.create_table(
        "webhook",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("owner", sa.String(64)),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("secret", sa.Text(), nullable=False),
        sa.Column("private", sa.Boolean(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("disabled", sa.Double()),
    )
    op.create_table(
        "delivery",
        sa.Column("number", NUMBER, primary_key=True, autoincrement=True),
        sa.Column("webhook", sa.String(64), nullable=False),
        sa.Column("event", sa.String(64), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("due", sa.Double(), nullable=False),
    )
    op.create_index("delivery_by_due", "delivery", ["due"])
    op.add_column("job", sa.Column("told", sa.Double()))
    op.create_index("job_by_told", "job", ["told"])
    op.execute("UPDATE job SET told = ended WHERE ended IS NOT NULL")
    op.add_column("api_key", sa.Column("video_seconds", sa.Text()))
    op.add_column("api_key", sa.Column("worker_seconds", sa.Text()))
    op.add_column("arrival", sa.Column("job", sa.String(38)))
    op.add_column("arrival", sa.Column("video_seconds", sa.Double()))
    op.add_column("arrival", sa.Column("worker_seconds", sa.Double()))
    op.create_index("arrival_by_job", "arrival", ["job"])
