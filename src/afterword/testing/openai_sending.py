"""The bodies of the fake server's answers, whole and in pieces, sound and spoilt."""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from afterword.language.tokens import tokens
from afterword.testing.embedder import hashed_vector
from afterword.testing.openai_answers import pieces

if TYPE_CHECKING:
    from afterword.testing.http11 import Connection
    from afterword.testing.openai_behaviour import Behaviour, Request

HUGE = 1_000_000  # characters
DRIP_GAP = 0.02  # seconds between meaningless bytes, where the behaviour names no gap
GARBAGE = b"<html>not an API</html>"
SSE = "text/event-stream"
_CREATED = 1_777_777_777


@dataclass(frozen=True, slots=True)
class Received:
    """A request as it came. A chat request that doesn't stream is of the kind `complete`."""

    request: Request
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def texts(self) -> list[str]:
        """The messages' texts, or what is to be embedded."""
        if self.request == "embeddings":
            given = self.body.get("input", [])
            return [given] if isinstance(given, str) else list(given)
        return [str(message.get("content", "")) for message in self.body.get("messages", [])]

    @property
    def asked(self) -> str:
        """The last message of the user."""
        said = [m for m in self.body.get("messages", []) if m.get("role") == "user"]
        return str(said[-1].get("content", "")) if said else ""


class Sender:
    """Sends one chat completion."""

    def __init__(self, connection: Connection, behaviour: Behaviour, request: dict[str, Any]) -> None:
        self._connection = connection
        self._behaviour = behaviour
        self._model = str(request.get("model", "fake-chat"))
        self._prompt_words = sum(len(str(m.get("content", "")).split()) for m in request.get("messages", []))
        self._usage_wanted = bool((request.get("stream_options") or {}).get("include_usage"))

    async def whole(self, text: str) -> None:
        """A completion in one body."""
        behaviour = self._behaviour
        if behaviour.fault == "drip":
            await self._drip("application/json", b" ")
        if behaviour.fault == "silent":
            await self._connection.start_chunks("application/json")
            await asyncio.Event().wait()
        await asyncio.sleep(behaviour.first_delay)
        if behaviour.fault == "garbage":
            await self._connection.send_body(200, GARBAGE, "text/html")
            return
        text = self._spoilt(text)
        message = {"role": "assistant", "content": text}
        if behaviour.reasoning:
            message["reasoning_content"] = behaviour.reasoning
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        body = {**self._frame("chat.completion"), "choices": [choice], "usage": self._usage(text)}
        encoded = json.dumps(body).encode()
        if behaviour.fault == "cut":
            await self._connection.start_chunks("application/json")
            await self._connection.chunk(encoded[: len(encoded) // 2])
            self._connection.cut()
            return
        await self._connection.send_body(200, encoded, "application/json")

    async def stream(self, text: str) -> None:
        """A completion as server-sent events, ended by `[DONE]`."""
        behaviour, connection = self._behaviour, self._connection
        if behaviour.fault == "garbage":
            await connection.send_body(200, GARBAGE, "text/html")
            return
        if behaviour.fault == "drip":
            await self._drip(SSE, b": keep-alive\n\n")
        await connection.start_chunks(SSE)
        if behaviour.fault == "silent":
            await asyncio.Event().wait()
        await asyncio.sleep(behaviour.first_delay)
        await self._event({"role": "assistant", "content": ""})
        if behaviour.reasoning:
            await self._event({"reasoning_content": behaviour.reasoning})
        if behaviour.fault == "error_event":
            error = {"message": behaviour.message or "the engine died", "type": "server_error", "code": behaviour.code}
            await connection.chunk(_sse({"error": error}))
            return
        text = self._spoilt(text)
        await self._tokens(text)
        if behaviour.fault == "cut":
            connection.cut()
            return
        if behaviour.fault != "short":
            await self._end(text)
        await connection.chunk(b"")

    async def _end(self, text: str) -> None:
        await self._event({}, "stop")
        if self._usage_wanted:
            frame = self._frame("chat.completion.chunk")
            await self._connection.chunk(_sse({**frame, "choices": [], "usage": self._usage(text)}))
        await self._connection.chunk(b"data: [DONE]\n\n")

    async def _tokens(self, text: str) -> None:
        behaviour = self._behaviour
        parts = pieces(text)
        if behaviour.fault in ("cut", "short"):
            parts = parts[: max(1, len(parts) // 2)]
        for number, part in enumerate(parts):
            if number and behaviour.gap:
                await asyncio.sleep(behaviour.gap)
            await self._event({"content": part})
        while behaviour.fault == "endless":
            await asyncio.sleep(behaviour.gap or DRIP_GAP)
            await self._event({"content": "and "})

    async def _drip(self, kind: str, data: bytes) -> None:
        await self._connection.start_chunks(kind)
        while True:
            await self._connection.chunk(data)
            await asyncio.sleep(self._behaviour.gap or DRIP_GAP)

    async def _event(self, delta: dict[str, Any], finish: str | None = None) -> None:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        await self._connection.chunk(_sse({**self._frame("chat.completion.chunk"), "choices": [choice]}))

    def _frame(self, kind: str) -> dict[str, Any]:
        return {"id": "chatcmpl-fake", "object": kind, "created": _CREATED, "model": self._model}

    def _usage(self, text: str) -> dict[str, int]:
        made = len(pieces(text))
        return {
            "prompt_tokens": self._prompt_words,
            "completion_tokens": made,
            "total_tokens": self._prompt_words + made,
        }

    def _spoilt(self, text: str) -> str:
        match self._behaviour.fault:
            case "empty":
                return ""
            case "prose":
                return "Sure! I think that this is worth remembering, because it is personal."
            case "truncated":
                return text[: max(1, len(text) // 2)]
            case "huge":
                return (text + " ") * (HUGE // (len(text) + 1) + 1)
        return text


async def send_scores(connection: Connection, behaviour: Behaviour, received: Received) -> None:
    """Of each document, which share of the query's tokens it has."""
    await asyncio.sleep(behaviour.first_delay)
    if behaviour.fault == "garbage":
        await connection.send_body(200, GARBAGE, "text/html")
        return
    wanted = set(tokens(str(received.body.get("query", ""))))
    texts = [str(text) for text in received.body.get("documents", [])]
    scores = [len(wanted & set(tokens(text))) / max(1, len(wanted)) for text in texts]
    results = [{"index": place, "relevance_score": score} for place, score in enumerate(scores)]
    results = results[:-1] if behaviour.fault == "missing" else results
    await connection.send_json(200, {"results": sorted(results, key=lambda row: -float(row["relevance_score"]))})


async def send_embeddings(
    connection: Connection, behaviour: Behaviour, received: Received, dimensions: int, *, coded: bool
) -> None:
    """Embeddings of the texts, as numbers or, `coded`, in base64."""
    texts = received.texts
    await asyncio.sleep(behaviour.first_delay)
    if behaviour.fault in ("garbage", "prose"):
        await connection.send_body(200, GARBAGE, "text/html")
        return
    if behaviour.fault in ("cut", "truncated", "drip"):
        await connection.start_chunks("application/json")
        await connection.chunk(b'{"data": [')
        if behaviour.fault == "truncated":
            await connection.chunk(b"")
        while behaviour.fault == "drip":
            await connection.chunk(b" ")
            await asyncio.sleep(behaviour.gap or DRIP_GAP)
        if behaviour.fault == "cut":
            connection.cut()
        return
    rows = [_row(behaviour, text, dimensions) for text in texts]
    if behaviour.fault in ("missing", "empty"):
        rows = rows[:-1] if behaviour.fault == "missing" else []
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": base64.b64encode(row.astype("<f4").tobytes()).decode() if coded else row.tolist(),
        }
        for index, row in enumerate(rows)
    ]
    words = sum(len(text.split()) for text in texts)
    usage = {"prompt_tokens": words, "total_tokens": words}
    data.reverse()  # the protocol orders them by `index`, not by place
    model = str(received.body.get("model", ""))
    await connection.send_json(200, {"object": "list", "model": model, "data": data, "usage": usage})


def _row(behaviour: Behaviour, text: str, dimensions: int) -> Any:
    row = hashed_vector(text, dimensions + (behaviour.fault == "wrong_dimension"))
    if behaviour.fault == "nan":
        row = row.copy()
        row[0] = np.nan
    return row


def _sse(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"
