"""The second schema: rename the column of attempts that do not count."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Rename the column with a statement that both SQLite (since 3.25) and PostgreSQL accept."""
    op.execute("ALTER TABLE job RENAME COLUMN spared TO uncounted_attempts")
