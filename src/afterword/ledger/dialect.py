"""Where SQLite and PostgreSQL differ, apart from connecting: how an insert yields, and what an error means.

`FOR UPDATE` needs no case of its own: SQLAlchemy leaves it out on SQLite, where the single writer does the locking.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from afterword.errors import LedgerDamaged, LedgerError

if TYPE_CHECKING:
    import sqlalchemy as sa
    from sqlalchemy.dialects import postgresql, sqlite

_FIXES = (
    ("disk is full", "no space is left for {where}: free some, then go on; what was acknowledged is kept"),
    ("readonly", "{where} is read-only: give this user the right to write the file and its folder"),
    ("read-only", "{where} is read-only: give this user the right to write the file and its folder"),
    ("lock timeout", "{where} is locked by another program's transaction: end that one and try again"),
    ("locked", "{where} is locked by another program: close it (a database browser, a backup) and try again"),
    (
        "unable to open",
        "{where} can't be opened: is the folder there, may this user write to it, are too many files open?",
    ),
    ("disk i/o", "{where} can't be read or written: check the disk, then start again"),
)
_DAMAGED = ("not a database", "malformed", "file is encrypted")


def read_json(text: str) -> Any:
    """What JSON says; most of what is kept is empty, and reading ten thousand records must not wait for a parser."""
    if text == "{}":
        return {}
    if text == "[]":
        return []
    return json.loads(text)


def _insert_into(name: str, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
    # the dialect in use is loaded already, the other one (a quarter of a second of CPU for PostgreSQL's) never
    made: sqlite.Insert | postgresql.Insert = import_module(f"sqlalchemy.dialects.{name}").insert(table)
    return made


def insert_new(conn: sa.Connection, table: sa.Table) -> sa.Insert:
    """An INSERT of what is not there yet. Rows are given at execution."""
    return _insert_new_of(conn.dialect.name, table)


@cache  # building it costs several times what running it does
def _insert_new_of(name: str, table: sa.Table) -> sa.Insert:
    return _insert_into(name, table).on_conflict_do_nothing()


def upsert(conn: sa.Connection, table: sa.Table, key: tuple[str, ...], stored: tuple[str, ...]) -> sa.Insert:
    """An INSERT that, where a row of this key stands, stores the named columns in it. Rows are given at execution."""
    return upsert_of(conn.dialect.name, table, key, stored)


@cache
def upsert_of(name: str, table: sa.Table, key: tuple[str, ...], stored: tuple[str, ...]) -> sa.Insert:
    new = _insert_into(name, table)
    values = {column: new.excluded[column] for column in stored}
    return new.on_conflict_do_update(index_elements=[table.c[column] for column in key], set_=values)


def explain(error: BaseException, where: str) -> LedgerError:
    """A database error as an exception whose text names the fix. `where` is the file or the server."""
    cause = str(getattr(error, "orig", None) or error)
    low = cause.lower()
    if any(sign in low for sign in _DAMAGED):
        return LedgerDamaged(
            f"{where} is damaged or is no ledger ({cause}): stop Afterword, move the file and those named -wal and -shm "
            "away, and put a backup in its place; without one, `sqlite3 FILE .recover` saves what can be read",
            said=cause,
        )
    for sign, text in _FIXES:
        if sign in low:
            return LedgerError(f"{text.format(where=where)} ({cause})", said=cause)
    return LedgerError(f"{where} can't be read or written: {cause}", said=cause)
