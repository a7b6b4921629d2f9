"""The ledger's database as a PostgreSQL server, for N web processes and M workers beside each other."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa
import structlog
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from afterword.errors import AfterwordError, Closed
from afterword.glance import EVERYTHING
from afterword.ledger import dialect, migrate
from afterword.ledger.bell import Bell
from afterword.ledger.tx import Tx
from afterword.records import Scope

if TYPE_CHECKING:
    from collections.abc import Callable

    from afterword.glance import News
    from afterword.ports import Clock

T = TypeVar("T")

CHANNEL = "afterword_changed"
TRIES = 5
STATEMENT_SECONDS = 120.0  # no statement of ours takes as long: the server hangs, or the way to it is cut
TRY_AGAIN = {"40001", "40P01"}  # could not serialise, deadlock: the loser begins again
REJOIN_SECONDS = 2.0

log = structlog.get_logger(__name__)


class PostgresDatabase:
    """Migrates the database, and runs reads and writes. Ranks mean nothing here: writers don't queue."""

    def __init__(self, url: sa.URL, clock: Clock, poll_seconds: float, lock_seconds: float) -> None:
        self.bell = Bell()
        self._clock = clock
        self._where = f"the database {url.render_as_string(hide_password=True)}"
        self._engine = create_async_engine(
            url,
            pool_size=10,
            max_overflow=10,
            pool_pre_ping=True,
            connect_args={
                "timeout": lock_seconds,
                "command_timeout": max(STATEMENT_SECONDS, lock_seconds),
                "server_settings": {"lock_timeout": str(int(lock_seconds * 1000))},
            },
        )
        self._snapshots = self._engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        self._me = uuid.uuid4().hex
        self._writes: set[asyncio.Task[Any]] = set()
        self._listener: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Migrate and listen. Raises `LedgerError`."""
        try:
            async with self._engine.begin() as conn:
                await conn.run_sync(migrate.migrate)
        except (sa.exc.SQLAlchemyError, OSError) as error:
            await self._engine.dispose()
            raise dialect.explain(error, self._where) from error
        listening = asyncio.Event()
        self._listener = asyncio.create_task(self._listen(listening), name="afterword-ledger-listen")
        await listening.wait()

    async def aclose(self) -> None:
        """End what is under way. May be called twice."""
        listener, self._listener = self._listener, None
        if listener is None:
            return
        await asyncio.gather(*self._writes, return_exceptions=True)
        listener.cancel()
        await asyncio.gather(listener, return_exceptions=True)
        await self._engine.dispose()

    async def read(self, function: Callable[[sa.Connection], T]) -> T:
        """Run `function` on one snapshot."""
        self._check_open()
        try:
            async with self._snapshots.connect() as conn:
                return await conn.run_sync(function)
        except (sa.exc.SQLAlchemyError, OSError) as error:
            raise dialect.explain(error, self._where) from error

    async def write(
        self, function: Callable[[Tx], T], rank: int, *, news: frozenset[News] = EVERYTHING, erases: bool = False
    ) -> T:
        """Run `function` in a transaction; returns when it is durable. A caller that is cancelled doesn't stop it.

        Raises what `function` raises, or `LedgerError` when the commit failed: then nothing was written.
        """
        self._check_open()
        task = asyncio.create_task(self._write(function, news))
        self._writes.add(task)
        task.add_done_callback(self._written)
        return await asyncio.shield(task)

    def _check_open(self) -> None:
        if self._listener is None:
            raise Closed("the ledger is closed: open it before use")

    def _written(self, task: asyncio.Task[Any]) -> None:
        self._writes.discard(task)
        if not task.cancelled():
            task.exception()  # a caller that was cancelled no longer asks for it

    async def _write(self, function: Callable[[Tx], T], news: frozenset[News]) -> T:
        for left in reversed(range(TRIES)):
            try:
                return await self._once(function, news)
            except sa.exc.DBAPIError as error:
                if not left or getattr(error.orig, "sqlstate", None) not in TRY_AGAIN:
                    raise dialect.explain(error, self._where) from error
            except OSError as error:
                raise dialect.explain(error, self._where) from error
        raise AssertionError("the last try returns or raises")

    async def _once(self, function: Callable[[Tx], T], news: frozenset[News]) -> T:
        touched: set[Scope] = set()

        def run(conn: sa.Connection) -> T:
            tx = Tx(conn, self._clock.now(), touched=touched)
            result = function(tx)
            tx.flush()
            for scope in touched:
                note = json.dumps([self._me, scope.tenant, scope.user, sorted(news)], ensure_ascii=False)
                conn.execute(sa.select(sa.func.pg_notify(CHANNEL, note)))
            return result

        async with self._engine.begin() as conn:
            result = await conn.run_sync(run)
        self.bell.ring(touched, news)
        return result

    async def _listen(self, listening: asyncio.Event) -> None:
        """Hear of other processes' commits; after a lost connection anything may have changed."""
        while True:
            try:
                async with self._engine.connect() as conn:
                    await self._hear(conn, listening)
            except (sa.exc.SQLAlchemyError, OSError, AfterwordError) as error:
                log.warning("ledger.not_hearing_other_processes", error=error)
            listening.set()
            await asyncio.sleep(REJOIN_SECONDS)

    async def _hear(self, conn: AsyncConnection, listening: asyncio.Event) -> None:
        raw = await conn.get_raw_connection()
        driver: Any = raw.driver_connection
        lost = asyncio.Event()
        driver.add_termination_listener(lambda _: lost.set())
        await driver.add_listener(CHANNEL, self._heard)
        listening.set()
        self.bell.ring_all()
        try:
            await lost.wait()
        finally:
            with contextlib.suppress(Exception):  # the connection may be gone already
                await driver.remove_listener(CHANNEL, self._heard)

    def _heard(self, _driver: object, _pid: int, _channel: str, payload: str) -> None:
        sender, tenant, user, news = json.loads(payload)
        if sender != self._me:
            self.bell.ring([Scope(tenant, user)], frozenset(news))
