"""The second layout: attempts that do not count are named for what they are."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Rename the column, in a statement that SQLite (since 3.25) and PostgreSQL share."""
    op.execute("ALTER TABLE job RENAME COLUMN spared TO uncounted_attempts")
