"""Turns and the work behind them in one small SQLite file, and replies that outlive their tab.

Standard library only, small enough to copy. `outbox_page.py` puts a Gradio page on it.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Self

log = logging.getLogger(__name__)

# region: outbox
SCHEMA = """
create table if not exists turn (
    seq integer primary key, id text not null unique, chat text not null, message text not null,
    reply text, cut text,
    state text not null default 'waiting', attempt integer not null default 0, due real not null default 0, error text
)"""
# In one chat, in order: a turn waits for the earlier ones of its own chat, and for nobody else's.
NEXT = """
select id, chat, message, attempt from turn where state = 'waiting' and due <= ? and not exists (
    select 1 from turn as earlier
    where earlier.chat = turn.chat and earlier.seq < turn.seq and earlier.state = 'waiting'
) order by seq limit 1"""
ATTEMPTS = 5
LIMIT = 120.0  # seconds for one piece of work
POLL = 1.0  # seconds until rows that wait for their next try are looked at


class Job(NamedTuple):
    """The work behind one turn. It may come twice (after a crash): `id` says that it is the same."""

    id: str
    chat: str
    message: str
    attempt: int


class Outbox:
    """Turns and the work behind them, a row each in a SQLite file. One task does the work, one job at a time."""

    def __init__(self, path: Path, work: Callable[[Job], Awaitable[None]]) -> None:
        self._path = path
        self._work = work
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="outbox")  # SQLite blocks: it has its own thread
        self._something_new = asyncio.Event()

    async def __aenter__(self) -> Self:
        await self._call(self._open)
        self._worker = asyncio.create_task(self._run())  # it has an owner: kept here, ended below
        return self

    async def __aexit__(self, *_: object) -> None:
        self._worker.cancel()  # what it was doing is still in its row, for the next start
        with suppress(asyncio.CancelledError):
            await self._worker
        await self._call(lambda: self._db.close())
        self._thread.shutdown()

    async def put(self, chat: str, message: str) -> str:
        """Keep a message. When this returns it is on the disk, and so is the work behind it. Gives the turn's id."""
        turn_id = uuid.uuid4().hex
        await self._write("insert into turn (id, chat, message) values (?, ?, ?)", turn_id, chat, message)
        self._something_new.set()
        return turn_id

    async def answered(self, turn_id: str, reply: str, cut: str | None) -> None:
        """Keep the reply, or the part that was made and why it was cut."""
        await self._write("update turn set reply = ?, cut = ? where id = ?", reply, cut, turn_id)

    async def _run(self) -> None:
        while True:
            self._something_new.clear()
            try:
                job = await self._call(self._next)
                if job is not None:
                    await self._do(job)
                    continue
            except sqlite3.Error:
                log.exception("the outbox can't be read or written; trying again")  # e.g. the disk is full
            with suppress(TimeoutError):
                await asyncio.wait_for(self._something_new.wait(), POLL)

    async def _do(self, job: Job) -> None:
        try:
            async with asyncio.timeout(LIMIT):
                await self._work(job)
        except Exception as error:  # noqa: BLE001  whatever it is: it is kept in the row, and tried again
            log.warning("turn %s, attempt %s: %r", job.id, job.attempt + 1, error)
            state = "dead" if job.attempt + 1 >= ATTEMPTS else "waiting"  # a dead one holds its chat up no longer
            change = "update turn set state = ?, attempt = attempt + 1, due = ?, error = ? where id = ?"
            await self._write(change, state, time.time() + 2.0**job.attempt, repr(error), job.id)
        else:
            await self._write("update turn set state = 'done', error = null where id = ?", job.id)

    # ── in the outbox's own thread ─────────────────────────────────────────────────────────────────────────────────

    def _open(self) -> None:
        self._db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        self._db.execute("pragma journal_mode = wal")
        self._db.execute("pragma synchronous = full")  # a commit is on the disk when it returns
        self._db.execute(SCHEMA)

    def _next(self) -> Job | None:
        row = self._db.execute(NEXT, (time.time(),)).fetchone()
        return Job(*row) if row else None

    async def _write(self, statement: str, *values: object) -> None:
        await self._call(lambda: self._db.execute(statement, values))

    async def _call(self, function: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)


# endregion


# region: replies
class Reply:
    """A reply under way: the server makes it, whoever wants to may listen, and leave."""

    def __init__(self) -> None:
        self.text = ""
        self.over = False
        self._pulse = asyncio.Event()

    def changed(self) -> None:
        self._pulse.set()
        self._pulse = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[str]:
        shown = ""
        while True:
            pulse, over = self._pulse, self.over
            if self.text != shown:
                shown = self.text
                yield shown
            if over:
                return
            await pulse.wait()


class Replies:
    """Owns the tasks that make replies. A closed tab ends nobody's reply."""

    def __init__(self, outbox: Outbox, llm: Callable[[str], AsyncIterator[str]]) -> None:
        self._outbox = outbox
        self._llm = llm
        self._tasks: set[asyncio.Task[None]] = set()  # the loop itself keeps tasks only weakly

    def start(self, turn_id: str, message: str) -> Reply:
        reply = Reply()
        task = asyncio.create_task(self._make(reply, turn_id, message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return reply

    async def _make(self, reply: Reply, turn_id: str, message: str) -> None:
        cut: str | None = "stopped"
        try:
            async with asyncio.timeout(LIMIT):
                async for piece in self._llm(message):
                    reply.text += piece
                    reply.changed()
            cut = None
        except Exception as error:  # noqa: BLE001  the edge to the LLM: its error is kept and shown
            cut = repr(error)
            reply.text += f"\n\n(cut: {cut})"
        finally:
            reply.over = True
            reply.changed()
            await self._outbox.answered(turn_id, reply.text, cut)

    async def close(self) -> None:
        """Cut what is under way; `_make` keeps the part that was made."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


# endregion
