"""Finds an Ollama on this machine, without an HTTP client: this runs at each start that has no LLM set."""

from __future__ import annotations

import asyncio
import json
from urllib.parse import urlsplit

OLLAMA = "http://127.0.0.1:11434/v1"
LOOK = 0.3  # seconds
LIMIT = 1_000_000  # bytes of an answer
_NO_CHAT = ("embed", "bge-", "minilm", "e5-", "gte-", "rerank")


async def find_ollama(base_url: str = OLLAMA, within: float = LOOK) -> tuple[str, str] | None:
    """The base URL and the first chat model of an Ollama that answers `within` seconds, else None."""
    try:
        async with asyncio.timeout(within):
            models = await _models(base_url)
    except (OSError, ValueError, TimeoutError, EOFError):
        return None
    chat = [model for model in models if not any(part in model.lower() for part in _NO_CHAT)]
    return (base_url, chat[0]) if chat else None


async def _models(base_url: str) -> list[str]:
    address = urlsplit(base_url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port or 80)
    try:
        head = f"GET {address.path}/models HTTP/1.0\r\nHost: {address.netloc}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode("ascii"))
        await writer.drain()
        answer = await reader.read(LIMIT)
        while not reader.at_eof() and len(answer) < LIMIT:
            answer += await reader.read(LIMIT)
    finally:
        writer.close()
    first, _, rest = answer.partition(b"\r\n")
    if b" 200" not in first:
        return []
    body = json.loads(rest.partition(b"\r\n\r\n")[2])
    listed = body.get("data") if isinstance(body, dict) else None
    return [str(model["id"]) for model in listed or [] if isinstance(model, dict) and "id" in model]
