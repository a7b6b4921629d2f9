"""Who gets a turn while an LLM is waited for? Shown with events, not with a stopwatch."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable


class SlowLLM:
    """An LLM that answers once somebody else has had a turn, or when its patience (seconds) is over."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._for_threads = threading.Event()
        self._for_tasks = asyncio.Event()

    def somebody_else_was_served(self) -> None:
        self._for_threads.set()
        self._for_tasks.set()

    def ask(self, message: str) -> str:
        served = self._for_threads.wait(self._patience)
        return "the others were served meanwhile" if served else "the others stood still"

    async def ask_natively(self, message: str) -> str:
        await asyncio.wait_for(self._for_tasks.wait(), self._patience)
        return "the others were served meanwhile"


# region: handlers
async def blocking(llm: SlowLLM, message: str, add: Callable[[str], None]) -> str:
    reply = llm.ask(message)  # the event loop stands still until this returns
    threading.Thread(target=add, args=(message,)).start()  # "asynchronous" memory: it never was the problem
    return reply


async def in_a_thread(llm: SlowLLM, message: str) -> str:
    return await asyncio.to_thread(llm.ask, message)  # a thread waits, the loop goes on


async def native(llm: SlowLLM, message: str) -> str:
    return await llm.ask_natively(message)  # nobody waits: the loop comes back when there is something to read


# endregion


# region: two_users
async def two_users(handler: Callable[[], Awaitable[str]], llm: SlowLLM) -> str:
    """Start a handler, then serve a second user on the same loop. Gives what the first user's LLM saw."""

    async def second_user() -> None:
        llm.somebody_else_was_served()

    first = asyncio.ensure_future(handler())
    second = asyncio.ensure_future(second_user())
    reply, _ = await asyncio.gather(first, second)
    return reply


# endregion
