"""The same behind a program that blocks, or that has a loop of its own: `Memory` and its `add_async`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from uuid import uuid4

from afterword import Memory

LLM = Callable[[str, str], AsyncIterator[str]]  # context, message → the pieces of a reply


# region: handler
async def handler(memory: Memory, llm: LLM, message: str, chat_id: str) -> AsyncIterator[str]:
    turn_id = uuid4().hex
    # Blocking calls go into a thread. Recall comes first, or it would find the message itself.
    context = await asyncio.to_thread(memory.context, message, "ann")
    await asyncio.to_thread(memory.submit, message, "ann", chat_id, turn_id=turn_id)  # durable from here on
    text = ""
    async for piece in llm(context, message):
        text += piece
        yield text
    # The message is kept already: a known turn_id is one turn, so this only waits for what it became.
    # After a closed tab it does not run, and nothing is lost.
    ids = await memory.add_async(message, "ann", chat_id, turn_id=turn_id, timeout=60)
    yield f"{text}\n\n({len(ids)} remembered)"


# endregion


# region: note
async def note(memory: Memory, text: str) -> list[str]:
    """Anywhere else: an await that leaves the loop free. Cancelling it stops the waiting, not the work."""
    return await memory.add_async(text, "ann")


# endregion
