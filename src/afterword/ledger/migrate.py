"""Brings a database to the newest schema. Alembic is loaded only where there is something to do."""

from __future__ import annotations

import importlib
from pathlib import Path

import sqlalchemy as sa

from afterword.errors import LedgerError

HEAD = "0001"
VERSION_TABLE = "afterword_version"

_version = sa.table(VERSION_TABLE, sa.column("version_num"))


def migrate(conn: sa.Connection, begin: str = "") -> None:
    """Migrate to `HEAD` unless the database is there. `begin`: SQL that starts a transaction, where that is by hand.

    Raises `LedgerError` for a database that a newer Afterword has written.
    """
    if _at_head(conn):
        return
    if begin:
        conn.exec_driver_sql(begin)
    try:
        _lock(conn)
        if not _at_head(conn):  # another process may have been quicker
            _upgrade(conn)
    except BaseException:
        if begin:
            conn.exec_driver_sql("ROLLBACK")
        raise
    if begin:
        conn.exec_driver_sql("COMMIT")


def _lock(conn: sa.Connection) -> None:
    if conn.dialect.name == "postgresql":
        conn.exec_driver_sql("SELECT pg_advisory_xact_lock(7246190357)")


def _at_head(conn: sa.Connection) -> bool:
    if not sa.inspect(conn).has_table(VERSION_TABLE):
        return False
    at = conn.execute(sa.select(_version.c.version_num)).scalar()
    if at is not None and at > HEAD:
        raise LedgerError(f"the ledger was written by a newer Afterword (schema {at}, this one knows {HEAD}): upgrade")
    return bool(at == HEAD)


def _upgrade(conn: sa.Connection) -> None:
    command = importlib.import_module("alembic.command")
    config_type = importlib.import_module("alembic.config").Config
    config = config_type()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = conn
    command.upgrade(config, "head")
