"""Whether an LLM or an embedder was asked by a step, and did answer: what a breaker needs to know of a job that ended.

A job that came to its end without asking anybody says nothing about whether they are there.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from afterword.ports import LLM, Desk, Embedder, Message, Prompt, Vector, Vectors
    from afterword.records import Json


class Witness:
    """Sees what lies on one job's desk being asked."""

    def __init__(self, desk: Desk, go_on: Callable[[], Awaitable[None]]) -> None:
        self.answered = False
        self.go_on = go_on
        llm = None if desk.llm is None else _SeenLLM(desk.llm, self)
        embedder = None if desk.embedder is None else _SeenEmbedder(desk.embedder, self)
        self.desk = replace(desk, llm=llm, embedder=embedder)


class _SeenLLM:
    def __init__(self, llm: LLM, witness: Witness) -> None:
        self.model, self.quotes = llm.model, llm.quotes
        self._llm, self._witness = llm, witness

    def stream(self, prompt: Prompt) -> AsyncGenerator[str, None]:
        return self._llm.stream(prompt)

    async def complete(self, messages: Sequence[Message], *, schema: Json, max_tokens: int) -> str:
        text = await self._llm.complete(messages, schema=schema, max_tokens=max_tokens)
        self._witness.answered = True
        await self._witness.go_on()
        return text

    async def aclose(self) -> None:
        """Its owner closes it."""


class _SeenEmbedder:
    def __init__(self, embedder: Embedder, witness: Witness) -> None:
        self.model, self.max_tokens = embedder.model, embedder.max_tokens
        self._embedder, self._witness = embedder, witness

    async def query(self, text: str) -> Vector:
        return await self._embedder.query(text)

    async def passages(self, texts: Sequence[str]) -> Vectors:
        made = await self._embedder.passages(texts)
        self._witness.answered = True
        await self._witness.go_on()
        return made

    async def aclose(self) -> None:
        """Its owner closes it."""
