"""Run by Alembic: migrates over the connection that `migrate.py` hands in."""

from __future__ import annotations

from alembic import context

from afterword.ledger.migrate import VERSION_TABLE
from afterword.ledger.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
)
with context.begin_transaction():
    context.run_migrations()
