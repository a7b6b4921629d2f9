"""Waiting for what happens behind the reply, on the memory's own events."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from afterword.memory import AsyncMemory

T = TypeVar("T")


async def idle(memory: AsyncMemory, seconds: float = 30) -> None:
    """Until no job of anybody waits or runs."""
    with anyio.fail_after(seconds):
        await memory.worker.idle()


async def eventually(memory: AsyncMemory, user_id: str, look: Callable[[], Awaitable[T]], seconds: float = 20) -> T:
    """What `look` gives once that is true, looked at after each change of this user's data."""
    with anyio.fail_after(seconds):
        async for _ in memory.events(user_id):
            if found := await look():
                return found
    raise AssertionError("unreachable")
