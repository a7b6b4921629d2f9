"""`Memory`: `AsyncMemory` for scripts and notebooks, over one event loop in one thread (anyio's `BlockingPortal`).

No twin: every method hands its arguments to the asynchronous one of the same name and waits.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar

import anyio
from anyio.from_thread import BlockingPortal

from afterword.errors import Closed
from afterword.wiring import open_memory

if TYPE_CHECKING:
    from afterword.chat import OpenTurn
    from afterword.memory import AsyncMemory
    from afterword.records import Filters, Hit, Job, Json, MemoryRecord, NewTurn, Run, Turn
    from afterword.settings import Settings

P = ParamSpec("P")
R = TypeVar("R")


class BlockingReply:
    """A reply under way: iterate it for its pieces."""

    def __init__(self, memory: Memory, inner: Any) -> None:
        self._memory = memory
        self._inner = inner

    def __iter__(self) -> Iterator[str]:
        pieces: AsyncIterator[str] = aiter(self._inner)
        while True:
            piece = self._memory._call(_next, pieces)
            if piece is None:
                return
            yield piece

    def done(self) -> Turn | None:
        """Wait for its end; the stored reply."""
        stored: Turn | None = self._memory._call(self._inner.done)
        return stored

    @property
    def hits(self) -> tuple[Hit, ...]:
        """What was recalled for it."""
        recalled = self._memory._call(self._inner.recalled)
        return tuple(recalled.hits)

    @property
    def cut(self) -> str | None:
        """Why it is only a part; None when it is whole."""
        cut: str | None = self._inner.cut
        return cut


class BlockingTurn:
    """A kept message with what was recalled for it, waiting for your reply."""

    def __init__(self, memory: Memory, inner: OpenTurn) -> None:
        self._memory = memory
        self._inner = inner
        self.turn = inner.turn
        self.hits = inner.hits
        self.context = inner.context

    def reply(self, text: str) -> Turn:
        """Hand in the reply; the stored turn."""
        return self._memory._call(self._inner.reply, text)


class BlockingTicket:
    """A promise for turns that are durable already."""

    def __init__(self, memory: Memory, inner: Any) -> None:
        self._memory = memory
        self._inner = inner

    @property
    def turn_ids(self) -> tuple[str, ...]:
        ids: tuple[str, ...] = self._inner.turn_ids
        return ids

    def ids(self, timeout: float | None = None) -> list[str]:
        """Wait at most `timeout` seconds for the ids. Raises `StillPending`, `NotRemembered`."""
        found: list[str] = self._memory._call(self._inner.ids, timeout)
        return found


class Memory:
    """Long-term memory that blocks. May be used from any thread but its own; close it, or use it with `with`.

    Takes `Settings`, or settings as keyword arguments (`Memory(data_dir="…", llm_model="…")`). Methods and errors are
    those of `AsyncMemory`. `Closed` is raised after `close()`, after a fork, and in a callback on its own thread,
    where waiting would wait for itself.
    """

    def __init__(self, settings: Settings | None = None, **flags: Any) -> None:
        self._pid = os.getpid()
        started: Future[BlockingPortal] = Future()
        # A daemon of our own, not anyio's `start_blocking_portal`: that one waits for its thread when a script ends
        # without `close()`, at a moment when no thread can end any more. What is acknowledged is durable anyway.
        self._thread = threading.Thread(target=_run_loop, args=(started,), name="afterword-memory", daemon=True)
        self._thread.start()
        self._portal: BlockingPortal | None = started.result()
        try:
            manager = self._portal.wrap_async_context_manager(open_memory(settings, **flags))
            self._memory_manager: AbstractContextManager[AsyncMemory] = manager
            self._memory = manager.__enter__()
        except BaseException:
            self._end_loop()
            raise

    def close(self) -> None:
        """Drain background work for its limit (setting `drain_deadline`) and end; the rest waits for the next start."""
        if self._portal is None or os.getpid() != self._pid:
            return
        try:
            self._memory_manager.__exit__(None, None, None)
        finally:
            self._end_loop()

    def _end_loop(self) -> None:
        portal, self._portal = self._portal, None
        if portal is not None:
            portal.call(portal.stop)
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # ── handing over ───────────────────────────────────────────────────────────────────────────────────────────────

    def _open_portal(self) -> BlockingPortal:
        if os.getpid() != self._pid:
            raise Closed("this Memory was made before a fork: make a new one in the child process")
        if self._portal is None:
            raise Closed("this Memory is closed: make a new one")
        if threading.get_ident() == self._thread.ident:
            raise Closed("called on Memory's own thread, where it would wait for itself: use AsyncMemory there")
        return self._portal

    def _call(self, function: Callable[P, Awaitable[R]], *args: P.args, **kwargs: P.kwargs) -> R:
        async def call() -> R:
            return await function(*args, **kwargs)

        return self._open_portal().call(call)

    async def _hand_over(self, function: Callable[P, Awaitable[R]], *args: P.args, **kwargs: P.kwargs) -> R:
        """Await on the caller's loop what runs on ours. Cancelling the wait leaves the work alone."""

        async def call() -> R:
            return await function(*args, **kwargs)

        future: Future[R] = self._open_portal().start_task_soon(call)
        waiting = asyncio.wrap_future(future)
        try:
            return await asyncio.shield(waiting)
        except asyncio.CancelledError:
            with suppress(asyncio.InvalidStateError):
                waiting.add_done_callback(_look_at)
            raise

    # ── the methods of AsyncMemory ─────────────────────────────────────────────────────────────────────────────────

    async def add_async(self, text: str, user_id: str, chat_id: str = "default", **details: Any) -> list[str]:
        """`add`, awaitable from any asyncio loop. Cancelling the await stops the waiting, not the work."""
        return await self._hand_over(self._memory.add, text, user_id, chat_id, **details)

    async def reconsolidate_async(self, query: str, user_id: str, limit: int = 10) -> list[int]:
        """`reconsolidate`, awaitable from any asyncio loop."""
        return await self._hand_over(self._memory.reconsolidate, query, user_id, limit)

    def search(
        self,
        query: str,
        user_id: str,
        limit: int = 10,
        reconsolidate: bool = False,
        filters: Filters | None = None,
    ) -> list[Hit]:
        return self._call(self._memory.search, query, user_id, limit, reconsolidate, filters)

    def context(self, query: str, user_id: str, budget_tokens: int = 2000, **details: Any) -> str:
        return self._call(self._memory.context, query, user_id, budget_tokens, **details)

    def submit(
        self,
        text: str,
        user_id: str,
        chat_id: str = "default",
        metadata: Json | None = None,
        turn_id: str | None = None,
        **details: Any,
    ) -> BlockingTicket:
        ticket = self._call(self._memory.submit, text, user_id, chat_id, metadata, turn_id, **details)
        return BlockingTicket(self, ticket)

    def add(self, text: str, user_id: str, chat_id: str = "default", **details: Any) -> list[str]:
        return self._call(self._memory.add, text, user_id, chat_id, **details)

    def add_turns(self, turns: Iterable[NewTurn], user_id: str) -> BlockingTicket:
        return BlockingTicket(self, self._call(self._memory.add_turns, turns, user_id))

    def chat(self, message: str, user_id: str, chat_id: str = "default", **details: Any) -> BlockingReply:
        return BlockingReply(self, self._call(self._memory.chat, message, user_id, chat_id, **details))

    def turn(self, message: str, user_id: str, chat_id: str = "default", **details: Any) -> BlockingTurn:
        return BlockingTurn(self, self._call(self._memory.turn, message, user_id, chat_id, **details))

    def reconsolidate(self, query: str, user_id: str, limit: int = 10) -> list[int]:
        return self._call(self._memory.reconsolidate, query, user_id, limit)

    def consolidate(self, user_id: str, progress: Callable[[Run], object] | None = None) -> Run:
        """Run to its end; `progress` is called with the run after each change."""

        async def follow() -> Run:
            handle = await self._memory.consolidate(user_id)
            async for run in handle.progress():
                if progress is not None:
                    progress(run)
            return handle.run

        return self._call(follow)

    def reset(self, user_id: str) -> None:
        self._call(self._memory.reset, user_id)

    def get(self, memory_id: str, user_id: str) -> MemoryRecord:
        return self._call(self._memory.get, memory_id, user_id)

    def get_all(
        self, user_id: str, filters: Filters | None = None, limit: int = 100, offset: int = 0
    ) -> list[MemoryRecord]:
        return self._call(self._memory.get_all, user_id, filters, limit, offset)

    def update(self, memory_id: str, text: str, user_id: str) -> MemoryRecord:
        return self._call(self._memory.update, memory_id, text, user_id)

    def delete(self, memory_id: str, user_id: str) -> None:
        self._call(self._memory.delete, memory_id, user_id)

    def history(self, memory_id: str, user_id: str) -> list[MemoryRecord]:
        return self._call(self._memory.history, memory_id, user_id)

    def jobs(self, user_id: str) -> list[Job]:
        return self._call(self._memory.jobs, user_id)


def _run_loop(started: Future[BlockingPortal]) -> None:
    async def main() -> None:
        async with BlockingPortal() as portal:
            started.set_result(portal)
            await portal.sleep_until_stopped()

    anyio.run(main)


async def _next(pieces: AsyncIterator[str]) -> str | None:
    return await anext(pieces, None)


def _look_at(future: asyncio.Future[R]) -> None:
    """Take the outcome of work that nobody waits for any more, so that it is not reported as never looked at."""
    if not future.cancelled():
        future.exception()
