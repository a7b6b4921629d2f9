"""An embedder without a model: the same words give near vectors, other words far ones."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np

from afterword.language.tokens import tokens
from afterword.testing.gates import Failures, Gate

if TYPE_CHECKING:
    from afterword.ports import Clock, Vector, Vectors

Flaw = Literal["", "wrong_dimension", "nan", "not_unit"]


@lru_cache(maxsize=50_000)
def _place(token: str) -> tuple[int, float]:
    digest = hashlib.blake2b(token.encode("utf-8", "replace"), digest_size=8).digest()
    number = int.from_bytes(digest, "big")
    return number >> 1, 1.0 if number & 1 else -1.0


def hashed_vector(text: str, dimensions: int = 64) -> Vector:
    """A unit vector (float32, `dimensions` long): a signed count of each token at the place of its hash."""
    vector = np.zeros(dimensions, dtype=np.float32)
    for token in tokens(text):
        place, sign = _place(token)
        vector[place % dimensions] += sign
    length = float(np.linalg.norm(vector))
    if length == 0.0:  # no token, or two that cancelled out
        vector[_place(text)[0] % dimensions] = 1.0
        return vector
    return vector / np.float32(length)


class HashingEmbedder:
    """An `Embedder` over `hashed_vector`. `delay` is in seconds a call, on `clock` when there is one.

    `queries` and `batches` record what was asked; `flaw` spoils what comes back.
    """

    def __init__(
        self,
        dimensions: int = 64,
        delay: float = 0.0,
        *,
        model: str | None = None,
        max_tokens: int = 512,
        clock: Clock | None = None,
    ) -> None:
        self.dimensions = dimensions
        self.delay = delay
        self.model = model or f"hashing-{dimensions}"
        self.max_tokens = max_tokens
        self.flaw: Flaw = ""
        self.queries: list[str] = []
        self.batches: list[list[str]] = []
        self.cancelled = 0
        self.running = 0
        self.most_running = 0
        self.closed = False
        self._clock = clock
        self._gates: dict[str, list[Gate]] = {"query": [], "passages": []}
        self._failures = Failures()

    def hold_query(self) -> Gate:
        """Hold queries back from now on until released."""
        return self._hold("query")

    def hold_passages(self) -> Gate:
        """Hold passages back from now on until released."""
        return self._hold("passages")

    def fail_with(self, error: BaseException | type[BaseException], times: int | None = 1) -> None:
        """The next `times` calls raise this (None: all, until `heal`)."""
        self._failures.plan(error, times)

    def heal(self) -> None:
        """Forget planned failures."""
        self._failures.heal()

    async def query(self, text: str) -> Vector:
        self.queries.append(text)
        row: Vector = (await self._answer("query", [text]))[0]
        return row

    async def passages(self, texts: Sequence[str]) -> Vectors:
        self.batches.append(list(texts))
        return await self._answer("passages", list(texts))

    async def aclose(self) -> None:
        self.closed = True

    def _hold(self, kind: str) -> Gate:
        gate = Gate()
        self._gates[kind].append(gate)
        return gate

    async def _answer(self, kind: str, texts: list[str]) -> Vectors:
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            failure = self._failures.take()
            for gate in self._gates[kind]:
                await gate.wait()
            if self.delay:
                await (self._clock.sleep(self.delay) if self._clock else asyncio.sleep(self.delay))
            if failure:
                raise failure[1]
            return self._vectors(texts)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1

    def _vectors(self, texts: list[str]) -> Vectors:
        dimensions = self.dimensions + (self.flaw == "wrong_dimension")
        rows = np.zeros((len(texts), dimensions), dtype=np.float32)
        for row, text in enumerate(texts):
            rows[row] = hashed_vector(text, dimensions)
        if self.flaw == "nan":
            rows[:, 0] = np.nan
        elif self.flaw == "not_unit":
            rows *= np.float32(3.0)
        return rows
