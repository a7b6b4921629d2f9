"""A chat page that replies first and remembers after, on the outbox beside it.

python -m docs.code.outbox_page
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import gradio as gr
import uvicorn
from fastapi import FastAPI

from docs.code.outbox import Job, Outbox, Replies, log


# region: handler
class Chat:
    """What a page needs: an outbox, the replies under way, and a handler."""

    outbox: Outbox
    replies: Replies

    async def handler(self, message: str, history: list[Any], request: gr.Request) -> AsyncIterator[str]:
        turn_id = await self.outbox.put(request.session_hash or "default", message)  # 1  durable, with its work
        reply = self.replies.start(turn_id, message)  # 2  owned by the server
        async for text in reply:  # 3  this tab listens
            yield text
        # Nothing may stand here: it would not run when the tab is closed.


def build(path: Path, llm: Callable[[str], AsyncIterator[str]], remember: Callable[[Job], Awaitable[None]]) -> FastAPI:
    chat = Chat()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with Outbox(path, remember) as chat.outbox:
            chat.replies = Replies(chat.outbox, llm)
            yield
            await chat.replies.close()  # before the outbox: it keeps their ends

    page = gr.ChatInterface(chat.handler, api_name="chat", analytics_enabled=False)
    page.max_threads = 1000  # Gradio's limit on events at once, asynchronous ones too; before queue()
    page.queue(default_concurrency_limit=None)  # its default is one user at a time
    app: FastAPI = gr.mount_gradio_app(FastAPI(lifespan=lifespan), page, path="")
    return app


# endregion


async def parrot(message: str) -> AsyncIterator[str]:
    """Stands where your LLM's asynchronous client goes."""
    for word in f"You said: {message}".split():
        await asyncio.sleep(0.2)
        yield word + " "


async def remember(job: Job) -> None:
    """Stands where your memory goes: an LLM that decides, an embedding, a write. Slow, may fail, may come twice."""
    await asyncio.sleep(2)
    log.warning("remembered: %s", job.message)


if __name__ == "__main__":
    uvicorn.run(build(Path("outbox.db"), parrot, remember), host="127.0.0.1", port=7861, timeout_graceful_shutdown=2)
