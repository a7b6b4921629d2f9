"""Any OpenAI-compatible server's embeddings, through the official client."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from afterword.embedders.checks import Checked
from afterword.errors import EmbedderUnavailable
from afterword.llms.client import CONNECT, LazyClient
from afterword.llms.outages import Service, explained, failures, too_slow

if TYPE_CHECKING:
    from afterword.ports import Vector, Vectors

PREFIX = "openai:"  # of a model's identity
BATCH_CHARACTERS = 200_000  # servers limit a request's tokens too (OpenAI: 300,000)


class OpenAIEmbedder:
    """An `Embedder` behind an OpenAI-compatible address (up to and with `/v1`).

    `batch` texts at most in a request, batches one after another; a query is a request of its own and waits for none.
    Timeouts in seconds, a request. `max_tokens` is the model's window. `setting` is the prefix of the settings that
    its errors name. It never retries.
    """

    def __init__(
        self,
        *,
        base_url: str,
        api_key: str,
        model: str,
        max_tokens: int = 8000,
        batch: int = 64,
        timeout: float = 30.0,
        query_timeout: float = 5.0,
        connect_timeout: float = CONNECT,
        setting: str = "AFTERWORD_EMBED",
    ) -> None:
        self.max_tokens = max_tokens
        self._name = model
        self._batch = batch
        self._timeout, self._query_timeout = timeout, query_timeout
        self._service = Service(EmbedderUnavailable, base_url, model, setting, api_key.strip())
        self._client = LazyClient(self._service, connect_timeout)
        self._checked = Checked(f"{model} at {base_url}", f"set {setting}_MODEL to an embedding model that is sound")

    @property
    def model(self) -> str:
        return PREFIX + self._name

    async def query(self, text: str) -> Vector:
        row: Vector = (await self._embed([text], self._query_timeout, "AFTERWORD_QUERY_EMBED_DEADLINE"))[0]
        return row

    async def passages(self, texts: Sequence[str]) -> Vectors:
        batches = _batches(texts, self._batch)
        made = [await self._embed(batch, self._timeout, "AFTERWORD_EMBED_DEADLINE") for batch in batches]
        return np.concatenate(made) if made else np.zeros((0, self._checked.dimensions or 0), dtype=np.float32)

    async def aclose(self) -> None:
        await self._client.aclose()

    async def _embed(self, texts: list[str], timeout: float, setting: str) -> Vectors:
        body = {"model": self._name, "input": texts, "encoding_format": "base64"}
        client = await self._client.get()  # made once, with no call to anybody: not counted against the deadline
        try:
            async with asyncio.timeout(timeout):
                # plain JSON: making the client's objects of a batch holds the loop for over 100 ms
                answer: Any = await client.post("/embeddings", cast_to=object, body=body)
            rows = sorted(answer["data"], key=lambda row: int(row["index"]))
            vectors = [_decoded(row["embedding"]) for row in rows]
        except TimeoutError:
            raise too_slow(self._service, timeout, setting) from None
        except failures() as error:
            raise explained(error, self._service) from None
        return self._checked.rows(vectors, len(texts))


def _decoded(embedding: Any) -> Any:
    """Asked for base64 (little-endian float32), some servers give numbers all the same."""
    return np.frombuffer(base64.b64decode(embedding), dtype="<f4") if isinstance(embedding, str) else embedding


def _batches(texts: Sequence[str], most: int) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        if batch and (len(batch) == most or size + len(text) > BATCH_CHARACTERS):
            yield batch
            batch, size = [], 0
        batch.append(text)
        size += len(text)
    if batch:
        yield batch
