"""The sixth schema: what people decided of moderated videos, and keys that may.

It only adds, so servers of the version before go on working on the database while a new one is rolled out.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add the table and the column. No key from before may review."""
    op.create_table(
        "review",
        sa.Column("number", NUMBER, primary_key=True, autoincrement=True),
        sa.Column("job", sa.String(38), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("decision", sa.String(16), nullable=False),
        sa.Column("reviewer", sa.Text(), nullable=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
    )
    op.create_index("review_by_job", "review", ["job"])
    op.add_column("api_key", sa.Column("reviews", sa.Boolean()))
