"""Three ways in which work behind a reply is lost when nothing but a task knows of it."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator


# region: collected
async def collected() -> bool:
    """Whether a task that nobody keeps is gone before it has ended."""

    async def remember() -> None:
        await asyncio.get_running_loop().create_future()  # waits for something that only it knows of

    task = asyncio.create_task(remember())
    await asyncio.sleep(0)  # it has begun
    seen = weakref.ref(task)
    del task  # as after a bare `asyncio.create_task(remember())`
    gc.collect()
    return seen() is None


# endregion


# region: closed_tab
async def reply_then_remember(message: str, remembered: list[str]) -> AsyncIterator[str]:
    """A streaming handler as it is often written."""

    async def remember() -> None:
        remembered.append(message)

    for piece in ("Noted", ", no nuts", " for Ann."):
        yield piece  # a closed tab ends the generator here, with GeneratorExit
    await asyncio.create_task(remember())  # and this never runs


# endregion


# region: ended
behind: set[asyncio.Task[None]] = set()  # kept, so that it is not collected


async def reply_and_remember(message: str, remembered: list[str]) -> str:
    """The same without a tab: the server ends before the work does."""

    async def remember() -> None:
        await asyncio.sleep(0.1)  # the LLM that decides what to remember
        remembered.append(message)

    behind.add(asyncio.create_task(remember()))
    return "Noted."  # `asyncio.run` cancels what is left. After a crash there is not even that.


# endregion
