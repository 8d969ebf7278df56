"""What alembic runs: the versions that are missing, on a connection and inside a transaction that are handed in.

Only `lichtspiel.serve.queue.database` starts it, which holds the lock that keeps two processes from doing so at once.
"""

from __future__ import annotations

from alembic import context

from lichtspiel.serve.queue.schema import VERSION_TABLE, metadata

context.configure(
    connection=context.config.attributes["connection"], target_metadata=metadata, version_table=VERSION_TABLE
)
with context.begin_transaction():
    context.run_migrations()
