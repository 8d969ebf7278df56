"""The fifth schema: keys that expire, with priorities and limits for jobs at once and for storage.

It only adds, so servers of the version before go on working on the database while a new one is rolled out.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the columns. Files of jobs from before count as nothing."""
    op.add_column("job", sa.Column("bytes", sa.BigInteger()))
    op.add_column("api_key", sa.Column("expires", sa.Double()))
    op.add_column("api_key", sa.Column("at_once", sa.Integer()))
    op.add_column("api_key", sa.Column("storage", sa.BigInteger()))
    op.add_column("api_key", sa.Column("priority", sa.Integer()))
