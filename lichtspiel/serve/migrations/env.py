"""Run the missing migrations. Alembic calls this with a connection on which the caller has begun a transaction.

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
