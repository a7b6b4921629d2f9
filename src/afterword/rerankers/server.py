"""A server's `/v1/rerank`, as Jina and Cohere shaped it (vLLM, llama.cpp, Infinity, SiliconFlow and others have it)."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any

from afterword.errors import RerankerUnavailable
from afterword.llms.client import CONNECT, LazyClient
from afterword.llms.outages import Service, explained, failures, too_slow


class RerankServer:
    """A `Reranker` behind an address (up to and with `/v1`). `timeout` is in seconds, a request. It never retries."""

    def __init__(
        self, *, base_url: str, api_key: str, model: str, timeout: float = 0.3, connect_timeout: float = CONNECT
    ) -> None:
        self.model = model
        self._timeout = timeout
        self._service = Service(RerankerUnavailable, base_url, model, "AFTERWORD_RERANK", api_key.strip())
        self._client = LazyClient(self._service, connect_timeout)

    async def scores(self, query: str, texts: Sequence[str]) -> list[float]:
        body = {"model": self.model, "query": query, "documents": list(texts), "top_n": len(texts)}
        client = await self._client.get()
        try:
            async with asyncio.timeout(self._timeout):
                answer: Any = await client.post("/rerank", cast_to=object, body={**body, "return_documents": False})
            return _in_order(answer, len(texts))
        except TimeoutError:
            raise too_slow(self._service, self._timeout, "AFTERWORD_RERANK_DEADLINE") from None
        except failures() as error:
            raise explained(error, self._service) from None

    async def aclose(self) -> None:
        await self._client.aclose()


def _in_order(answer: Any, count: int) -> list[float]:
    """One score a text. Raises `ValueError` for an answer that lacks one."""
    found = {int(row["index"]): float(row["relevance_score"]) for row in answer["results"]}
    if sorted(found) != list(range(count)) or not all(map(math.isfinite, found.values())):
        raise ValueError(f"{len(found)} scores for {count} texts, or some that are no numbers")
    return [found[place] for place in range(count)]
