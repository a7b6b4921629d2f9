"""The ledger's database as a SQLite file: one writing thread, a few reading threads.

The functions that read and write are plain functions over a `Connection`. A whole transaction runs in one go in a
thread: measured, that costs under half the CPU of handing each statement to a thread, and a caller that is cancelled
can't stop it half-way. The writer takes the reply path first and commits together what waits together.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import queue
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import sqlalchemy as sa

from afterword.errors import Closed, LedgerDamaged, LedgerError
from afterword.glance import EVERYTHING
from afterword.ledger import dialect, migrate
from afterword.ledger.bell import Bell
from afterword.ledger.sqlite_file import put_in_place, rewrite, scrub
from afterword.ledger.tx import Tx

if TYPE_CHECKING:
    from collections.abc import Callable

    from afterword.glance import News
    from afterword.ports import Clock

T = TypeVar("T")

READERS = 4
BATCH_SECONDS = 0.02  # so that a reply never waits long behind what was begun before it
LAST = 99  # the rank of the sentinel that ends the writer

_WRITER = (
    "journal_mode=WAL",
    "synchronous=FULL",
    "secure_delete=ON",
    "wal_autocheckpoint=1000",
    "cache_size=-16000",
)
_READER = ("query_only=ON", "cache_size=-8000", "mmap_size=268435456")


@dataclass(order=True, slots=True)
class _Item(Generic[T]):
    """A write that waits, in the order of its rank and then of its coming."""

    rank: int
    number: int
    function: Callable[[Tx], T] | None = field(compare=False)  # None: the end
    future: asyncio.Future[T] | None = field(compare=False, default=None)
    result: T | None = field(compare=False, default=None)
    error: BaseException | None = field(compare=False, default=None)
    news: frozenset[News] = field(compare=False, default=EVERYTHING)
    erases: bool = field(compare=False, default=False)
    touched: frozenset[Any] = field(compare=False, default=frozenset())


class SqliteDatabase:
    """Opens the file, migrates it, and runs reads and writes."""

    def __init__(self, url: sa.URL, clock: Clock, poll_seconds: float, lock_seconds: float) -> None:
        self.bell = Bell()
        self._clock = clock
        self._poll_seconds = poll_seconds
        self._busy = f"busy_timeout={int(lock_seconds * 1000)}"
        self._path = Path(url.database or "")
        self._where = f"the ledger {self._path}"
        options = {"check_same_thread": False, "isolation_level": None, "cached_statements": 512}
        url = url.set(drivername="sqlite+pysqlite")
        self._engine = sa.create_engine(
            url, poolclass=sa.NullPool, connect_args=options, json_deserializer=dialect.read_json
        )
        self._waiting: queue.PriorityQueue[_Item[Any]] = queue.PriorityQueue()
        self._numbers = itertools.count()
        self._readers: ThreadPoolExecutor | None = None
        self._reading = threading.local()
        self._connections: list[sa.Connection] = []
        self._writer: threading.Thread | None = None
        self._writing: sa.Connection | None = None
        self._look_at = 0.0
        self._seen: int | None = None  # `data_version` when we last looked
        self._unscrubbed = False

    # ── life ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def open(self) -> None:
        """Migrate and start the threads. Raises `LedgerError`, `LedgerDamaged`."""
        self._loop = asyncio.get_running_loop()
        try:
            self._writing = await asyncio.to_thread(self._open_writer)
        except (sa.exc.SQLAlchemyError, sqlite3.Error, OSError) as error:
            raise dialect.explain(error, self._where) from error
        self._writer = threading.Thread(target=self._write_for_ever, name="afterword-ledger", daemon=True)
        self._writer.start()
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="afterword-read")

    def _open_writer(self) -> sa.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if not self._path.exists():
            self._create()
        elif self._path.stat().st_size == 0:  # SQLite would take it for a new one, and nobody would miss the old
            raise LedgerDamaged(
                f"{self._where} is empty, which none that we made ever is: stop Afterword and put a backup in its "
                "place, or delete the file to start anew"
            )
        # whoever left it may have been killed between erasing a text and emptying the log that still holds it
        log = self._path.with_name(f"{self._path.name}-wal")
        self._unscrubbed = log.exists() and log.stat().st_size > 0
        conn = self._connect(_WRITER)
        try:
            migrate.migrate(conn, begin="BEGIN IMMEDIATE")
            rewrite(_driver(conn), self._path)
        except BaseException:
            conn.close()
            raise
        return conn

    def _create(self) -> None:
        """Make the file whole under another name: so a start that is killed leaves no half of one, and an empty file
        is never ours."""
        new = self._path.with_name(f"{self._path.name}.new-{os.getpid()}")
        new.unlink(missing_ok=True)
        engine = sa.create_engine(self._engine.url.set(database=str(new)), poolclass=sa.NullPool)
        try:
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
                conn.exec_driver_sql("PRAGMA secure_delete=ON")
                migrate.migrate(conn, begin="BEGIN IMMEDIATE")
            put_in_place(new, self._path)
        finally:
            engine.dispose()
            new.unlink(missing_ok=True)

    def _connect(self, pragmas: tuple[str, ...]) -> sa.Connection:
        conn = self._engine.connect()
        try:
            for pragma in (self._busy, *pragmas):
                conn.exec_driver_sql(f"PRAGMA {pragma}")
        except BaseException:
            conn.close()
            raise
        return conn

    async def aclose(self) -> None:
        """End what waits, then the threads. May be called twice."""
        if self._writer is None or self._readers is None or self._writing is None:
            return
        writer, readers, self._writer = self._writer, self._readers, None
        self._waiting.put(_Item(LAST, next(self._numbers), None))
        await asyncio.to_thread(writer.join)
        await asyncio.to_thread(readers.shutdown)
        await asyncio.to_thread(self._close_connections)

    def _close_connections(self) -> None:
        for conn in self._connections:
            conn.close()
        self._connections.clear()
        if self._writing is not None:
            if self._unscrubbed:
                self._scrub_now()
            rewrite(_driver(self._writing), self._path)
            self._writing.close()
            self._writing = None
        self._engine.dispose()

    # ── reading ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def read(self, function: Callable[[sa.Connection], T]) -> T:
        """Run `function` on one snapshot, in a reading thread."""
        if self._readers is None or self._writer is None:
            raise Closed("the ledger is closed: open it before use")
        return await self._loop.run_in_executor(self._readers, self._read, function)

    def _read(self, function: Callable[[sa.Connection], T]) -> T:
        try:
            conn = self._reader()
            driver = _driver(conn)
            driver.execute("BEGIN")
            try:
                return function(conn)
            finally:
                driver.execute("ROLLBACK")
        except (sa.exc.DBAPIError, sqlite3.Error) as error:
            raise dialect.explain(error, self._where) from error

    def _reader(self) -> sa.Connection:
        conn: sa.Connection | None = getattr(self._reading, "conn", None)
        if conn is None:
            conn = self._reading.conn = self._connect(_READER)
            self._connections.append(conn)
        return conn

    # ── writing ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def write(
        self, function: Callable[[Tx], T], rank: int, *, news: frozenset[News] = EVERYTHING, erases: bool = False
    ) -> T:
        """Run `function` in a transaction; returns when it is durable. A lower rank goes first.

        `news`: what may have changed of the scopes it touches. `erases`: text was deleted and shall leave the write-ahead log too.

        Raises what `function` raises, or `LedgerError` when the commit failed: then nothing was written.
        """
        if self._writer is None:
            raise Closed("the ledger is closed: open it before use")
        item: _Item[T] = _Item(
            rank, next(self._numbers), function, self._loop.create_future(), news=news, erases=erases
        )
        self._waiting.put(item)
        assert item.future is not None
        return await item.future

    def _write_for_ever(self) -> None:
        while True:
            batch = self._batch(self._next_item())
            if not batch:
                return
            if any(item.erases and item.error is None for item in batch):
                self._scrub_now()
            self._tell(self._settle, batch)

    def _batch(self, item: _Item[Any]) -> list[_Item[Any]]:
        """Write `item` and what waits behind it with one commit, as far as time allows; but what is in it already does not
        wait for what is less urgent. Empty: the end was met."""
        done: list[_Item[Any]] = []
        if item.function is None:
            return done
        until = time.monotonic() + BATCH_SECONDS
        try:
            driver = self._begin()
            while True:
                done.append(item)
                self._one(driver, item)
                if time.monotonic() > until:
                    break
                item = self._waiting.get_nowait()
                if item.function is None or item.rank > done[-1].rank:
                    self._waiting.put(item)
                    break
        except queue.Empty:
            pass
        except (sa.exc.DBAPIError, sqlite3.Error) as error:
            self._rollback()
            if not done:  # nothing can be begun: what waits behind it must not wait as long again, one by one
                done = [item, *self._all_waiting()]
                return _failed(done, self._explain(error))
            return self._each_alone(done) if len(done) > 1 else _failed(done, self._explain(error))
        return self._commit(done)

    def _all_waiting(self) -> list[_Item[Any]]:
        waiting: list[_Item[Any]] = []
        with contextlib.suppress(queue.Empty):
            while (item := self._waiting.get_nowait()).function is not None:
                waiting.append(item)
            self._waiting.put(item)  # the end, which comes last
        return waiting

    def _begin(self) -> sqlite3.Connection:
        assert self._writing is not None
        driver = _driver(self._writing)
        driver.execute("BEGIN IMMEDIATE")
        return driver

    def _one(self, driver: sqlite3.Connection, item: _Item[Any]) -> None:
        """Run one item between savepoints: when it fails, it fails alone. Database errors go through."""
        assert self._writing is not None
        assert item.function is not None
        tx = Tx(self._writing, self._clock.now())
        driver.execute("SAVEPOINT item")
        try:
            item.result = item.function(tx)
            tx.flush()
        except (sa.exc.DBAPIError, sqlite3.Error):
            raise
        except Exception as error:  # noqa: BLE001 - the caller gets it; the writer must go on
            driver.execute("ROLLBACK TO item")
            item.error = error
        else:
            item.touched = frozenset(tx.touched)
            if item.erases:
                driver.execute("PRAGMA user_version=1")  # see `rewrite`; a kill must not forget it
        driver.execute("RELEASE item")

    def _commit(self, done: list[_Item[Any]]) -> list[_Item[Any]]:
        try:
            assert self._writing is not None
            _driver(self._writing).execute("COMMIT")
        except sqlite3.Error as error:
            self._rollback()
            return _failed(done, self._explain(error))
        return done

    def _rollback(self) -> None:
        assert self._writing is not None
        driver = _driver(self._writing)
        if driver.in_transaction:  # some errors, a full disk for one, have rolled back already
            with contextlib.suppress(sqlite3.Error):
                driver.execute("ROLLBACK")

    def _each_alone(self, items: list[_Item[Any]]) -> list[_Item[Any]]:
        """A database error in a batch: each of it is tried again in a transaction of its own."""
        settled: list[_Item[Any]] = []
        for place, item in enumerate(items):
            item.result, item.error, item.touched = None, None, frozenset()
            try:
                driver = self._begin()
            except (sa.exc.DBAPIError, sqlite3.Error) as error:
                return settled + _failed(items[place:], self._explain(error))
            try:
                self._one(driver, item)
                settled += self._commit([item])
            except (sa.exc.DBAPIError, sqlite3.Error) as error:
                self._rollback()
                settled += _failed([item], self._explain(error))
        return settled

    def _explain(self, error: BaseException) -> LedgerError:
        explained = dialect.explain(error, self._where)
        explained.__cause__ = error
        return explained

    def _settle(self, batch: list[_Item[Any]]) -> None:
        """Back on the loop: hand out what came of it, and wake the watchers."""
        for item in batch:
            if item.future is None or item.future.done():  # its caller was cancelled
                continue
            if item.error is not None:
                item.future.set_exception(item.error)
            else:
                item.future.set_result(item.result)
        for item in batch:
            self.bell.ring(item.touched, item.news)

    # ── other processes, erased text ───────────────────────────────────────────────────────────────────────────────

    def _next_item(self) -> _Item[Any]:
        """The next write; while there is none, and now and then while there are many, look around."""
        while True:
            if time.monotonic() >= self._look_at:
                self._look_around()
                self._look_at = time.monotonic() + self._poll_seconds
            with contextlib.suppress(queue.Empty):
                return self._waiting.get(timeout=self._poll_seconds)

    def _scrub_now(self) -> None:
        self._unscrubbed = True  # tried again when the writer is idle, and at the end
        with contextlib.suppress(sqlite3.Error):
            assert self._writing is not None
            self._unscrubbed = not scrub(_driver(self._writing))

    def _look_around(self) -> None:
        """Another process's commit shows in the writing connection's `data_version`; its own commits don't."""
        assert self._writing is not None
        driver = _driver(self._writing)
        with contextlib.suppress(sqlite3.Error):
            (version,) = driver.execute("PRAGMA data_version").fetchone()
            if self._seen is not None and version != self._seen:
                self._tell(self.bell.ring_all)
            self._seen = version
            if self._unscrubbed:
                self._unscrubbed = not scrub(driver)

    def _tell(self, function: Callable[..., None], *args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody is left to tell
            self._loop.call_soon_threadsafe(function, *args)


def _driver(conn: sa.Connection) -> sqlite3.Connection:
    """The connection below SQLAlchemy's: transactions are opened and ended here, by name."""
    driver = conn.connection.dbapi_connection
    assert isinstance(driver, sqlite3.Connection)
    return driver


def _failed(items: list[_Item[Any]], error: LedgerError) -> list[_Item[Any]]:
    for item in items:
        if item.error is None:
            item.result, item.error, item.touched = None, error, frozenset()
    return items
