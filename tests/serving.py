"""A real server on loopback inside the test's own loop, and a client for it that can read events."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import anyio
import httpx
import uvicorn


class Event(NamedTuple):
    name: str
    data: dict[str, Any]


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()


@asynccontextmanager
async def served(app: Any) -> AsyncIterator[str]:
    """The address of a server that runs this application."""
    server = _Server(uvicorn.Config(app, port=0, lifespan="off", log_config=None, timeout_graceful_shutdown=1))
    task = asyncio.create_task(server._serve())  # without its signal handlers
    try:
        with anyio.fail_after(10):
            await server.listening.wait()
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


@asynccontextmanager
async def client_of(app: Any, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client whose requests go over a real socket."""
    async with served(app) as address, httpx.AsyncClient(base_url=address, timeout=20, **options) as client:
        yield client


async def events(response: httpx.Response) -> AsyncIterator[Event]:
    """Server-sent events as they come, pings left out."""
    name, data = "", ""
    async for line in response.aiter_lines():
        field, _, value = line.partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            data = value
        elif not line and name:
            yield Event(name, json.loads(data))
            name, data = "", ""
