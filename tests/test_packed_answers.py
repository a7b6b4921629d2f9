"""A server's answer that would unpack to any size."""

from __future__ import annotations

import asyncio
import gzip
import resource
from contextlib import suppress

import pytest

from afterword.errors import LLMUnavailable
from afterword.llms.openai import OpenAILLM
from afterword.ports import Message

pytestmark = pytest.mark.anyio


async def test_an_answer_that_is_packed_though_a_plain_one_was_asked_for_is_not_unpacked() -> None:
    asked: list[bytes] = []
    ended = asyncio.Event()

    async def bomb(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        body = b"".join([gzip.compress(b" " * 1_000_000, 1)] * 300)
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: "
        writer.write(head + str(len(body)).encode() + b"\r\n\r\n" + body)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        ended.set()

    async with await asyncio.start_server(bomb, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        llm = OpenAILLM(base_url=f"http://127.0.0.1:{port}/v1", api_key="", model="m")
        with pytest.raises(LLMUnavailable) as refused:
            await llm.complete([Message("user", "hi")], schema={"type": "object"}, max_tokens=10)
        await llm.aclose()
        await ended.wait()
    assert "packed (gzip)" in str(refused.value)
    assert b"accept-encoding: identity" in asked[0].lower()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150_000, "KB: the answer was not unpacked"
