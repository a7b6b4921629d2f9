"""As much of HTTP/1.1 (RFC 9112) as a fake server needs: keep-alive, lengths, chunks, and seeing a client go.

A protocol rather than streams: the end of a connection arrives as a call, so that the task that answers is cancelled
the moment its client is gone, and hundreds of open streams cost nothing while they wait.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

HEAD_LIMIT = 64 * 1024


@dataclass(frozen=True, slots=True)
class Incoming:
    method: str
    path: str
    headers: dict[str, str]  # names in lower case
    body: bytes


class Connection(asyncio.Protocol):
    """One connection; `answer` is called with each request in turn, and cancelled when the client leaves."""

    def __init__(self, answer: Callable[[Incoming, Connection], Awaitable[None]], open_ones: set[Connection]) -> None:
        self._answer = answer
        self._open = open_ones
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()

    # what asyncio calls
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._open.add(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._open.discard(self)
        self._writable.set()
        if self._task:
            self._task.cancel()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # what an answer calls
    async def send(self, data: bytes) -> None:
        """Write; waits while the client is slower than we are."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("the client is gone")
        self._transport.write(data)
        await self._writable.wait()

    async def send_json(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        await self.send_body(status, json.dumps(value).encode(), "application/json", headers)

    async def send_body(self, status: int, body: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
        lines = {"content-type": kind, "content-length": str(len(body)), **(headers or {})}
        await self.send(head(status, lines) + body)

    async def start_chunks(self, kind: str) -> None:
        await self.send(head(200, {"content-type": kind, "transfer-encoding": "chunked"}))

    async def chunk(self, data: bytes) -> None:
        """One chunk; an empty one ends the body."""
        await self.send(b"%x\r\n%b\r\n" % (len(data), data))

    def cut(self) -> None:
        """Close in the middle of whatever is being sent."""
        if self._transport:
            self._transport.abort()

    async def aclose(self) -> None:
        self.cut()
        if self._task:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _next(self) -> None:
        if self._task is not None or self._transport is None:
            return
        try:
            incoming = _parsed(self._buffer)
        except ValueError:
            self._transport.write(head(400, {"content-length": "0", "connection": "close"}))
            self._transport.close()
            return
        if incoming is not None:
            self._task = asyncio.get_running_loop().create_task(self._answer_one(incoming))
            self._task.add_done_callback(self._answered)

    async def _answer_one(self, incoming: Incoming) -> None:
        try:
            await self._answer(incoming, self)
        except ConnectionError:
            self.cut()
        if incoming.headers.get("connection", "").lower() == "close" and self._transport:
            self._transport.close()

    def _answered(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if task.cancelled():
            return
        if task.exception() is not None:  # a fault of the fake: fail the request, and let asyncio report it
            self.cut()
            task.get_loop().call_exception_handler({"message": "fake server", "exception": task.exception()})
            return
        self._next()


def head(status: int, headers: dict[str, str]) -> bytes:
    """A response's head with its empty line."""
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _parsed(buffer: bytearray) -> Incoming | None:
    """Take one whole request off the buffer; None while it is not whole. Raises `ValueError` when it is none."""
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        if len(buffer) > HEAD_LIMIT:
            raise ValueError("head too long")
        return None
    first, *lines = buffer[:end].decode("latin-1").split("\r\n")
    method, target, _version = first.split(" ")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if "transfer-encoding" in headers:
        raise ValueError("requests need a content-length here")
    whole = end + 4 + int(headers.get("content-length", "0"))
    if len(buffer) < whole:
        return None
    body = bytes(buffer[end + 4 : whole])
    del buffer[:whole]
    return Incoming(method, target, headers, body)
