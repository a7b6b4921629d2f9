"""What the ledger asks of a database, and which one a URL names."""

from __future__ import annotations

from enum import IntEnum
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, TypeVar

import sqlalchemy as sa

from afterword.errors import SettingsError
from afterword.glance import EVERYTHING
from afterword.ledger.sqlite import SqliteDatabase

if TYPE_CHECKING:
    from collections.abc import Callable

    from afterword.glance import News
    from afterword.ledger.bell import Bell
    from afterword.ledger.tx import Tx
    from afterword.ports import Clock

T = TypeVar("T")


class Rank(IntEnum):
    """Who goes first where writes queue."""

    REPLY = 0
    PERSON = 1
    BACKGROUND = 2


class Database(Protocol):
    """Runs plain functions over a connection: reads on a snapshot, writes in a transaction that is durable at return."""

    bell: Bell

    async def open(self) -> None: ...

    async def aclose(self) -> None: ...

    async def read(self, function: Callable[[sa.Connection], T]) -> T: ...

    async def write(
        self, function: Callable[[Tx], T], rank: int, *, news: frozenset[News] = EVERYTHING, erases: bool = False
    ) -> T:
        """`news`: what may have changed of the scopes it touches, told to who watches them."""
        ...


def database_at(url: str, clock: Clock, poll_seconds: float, lock_seconds: float) -> Database:
    """The database that `url` names, not opened yet. Raises `SettingsError`."""
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError as error:
        raise SettingsError(
            f"the ledger's URL {url!r} can't be read ({error}): give sqlite:////path/ledger.db "
            "or postgresql+asyncpg://user@host/name"
        ) from None
    backend = parsed.get_backend_name()
    if backend == "sqlite" and parsed.database not in (None, "", ":memory:"):
        return SqliteDatabase(parsed, clock, poll_seconds, lock_seconds)
    if backend == "postgresql":
        try:  # imported when chosen: it brings the ORM along, over half a second of CPU
            postgres = import_module("afterword.ledger.postgres")
            chosen: Database = postgres.PostgresDatabase(
                parsed.set(drivername="postgresql+asyncpg"), clock, poll_seconds, lock_seconds
            )
        except ModuleNotFoundError:
            raise SettingsError("PostgreSQL needs asyncpg: install afterword[postgres]") from None
        return chosen
    raise SettingsError(f"no ledger can be kept at {url!r}: give the path of an SQLite file, or a PostgreSQL URL")
