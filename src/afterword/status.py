"""What a person should know about the memory as a whole, read anew each time it is asked for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from afterword.records import Status

if TYPE_CHECKING:
    from afterword.ports import LLM, Embedder, Index, Ledger
    from afterword.worker import Worker


def status_of(
    ledger: Ledger, index: Index, llm: LLM, embedder: Embedder | None, worker: Worker
) -> Callable[[], Awaitable[Status]]:
    async def status() -> Status:
        queue = await ledger.queue()
        return Status(
            llm=None if llm.quotes else llm.model,
            embedder=embedder.model if embedder else None,
            index=index.name,
            waiting=queue.count("queued"),
            running=queue.count("running"),
            dead=queue.count("dead"),
            backlog_turns=await ledger.backlog(),
            trouble=worker.trouble,
        )

    return status
