"""The same chat with Afterword behind it and an LLM call of your own: `open_memory`, `turn`, `reply`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import gradio as gr
from fastapi import FastAPI

from afterword import AsyncMemory, Settings, open_memory

LLM = Callable[[list[dict[str, str]]], AsyncIterator[str]]  # messages → the pieces of a reply


# region: handler
class Chat:
    """A handler with an LLM call of your own."""

    memory: AsyncMemory

    def __init__(self, llm: LLM) -> None:
        self.llm = llm

    async def handler(self, message: str, history: list[Any], request: gr.Request) -> AsyncIterator[str]:
        chat_id = request.session_hash or "default"
        turn = await self.memory.turn(message, user_id="ann", chat_id=chat_id)  # durable, and recalled
        # your prompt, and the chat's earlier messages, go in here too
        messages = [{"role": "system", "content": turn.context}, {"role": "user", "content": message}]
        text, whole = "", False
        try:
            async for piece in self.llm(messages):
                text += piece
                yield text
            whole = True
        finally:
            if text:  # a closed tab and an LLM's error come here too, with the part that was made
                await turn.reply(text, cut=None if whole else "only a part came")


def build(llm: LLM, settings: Settings | None = None) -> FastAPI:
    chat = Chat(llm)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_memory(settings) as chat.memory:  # the worker behind the replies runs in here
            yield

    page = gr.ChatInterface(chat.handler, api_name="chat", analytics_enabled=False)
    page.max_threads = 1000
    page.queue(default_concurrency_limit=None)
    app: FastAPI = gr.mount_gradio_app(FastAPI(lifespan=lifespan), page, path="")
    return app


# endregion


# region: whole
async def whole_turn(memory: AsyncMemory, message: str, chat_id: str) -> AsyncIterator[str]:
    """With the LLM of the settings it is shorter, and the reply goes on when the tab is closed."""
    text = ""
    async for piece in await memory.chat(message, user_id="ann", chat_id=chat_id):
        text += piece
        yield text


# endregion
