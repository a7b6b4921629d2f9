"""What may be handed in to the wiring: adapters in place of those that settings choose, and wrappers around them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from afterword.handed_memory import HandedMemory
    from afterword.ports import LLM, Clock, Embedder, Index, Ledger, Reranker

T = TypeVar("T")


def _as_it_is(part: T) -> T:
    return part


@dataclass(frozen=True, slots=True)
class Around:
    """What is put around the ports once their adapters are chosen: to count, to slow down, to break off (`testing`)."""

    ledger: Callable[[Ledger], Ledger] = _as_it_is
    index: Callable[[Index], Index] = _as_it_is
    llm: Callable[[LLM], LLM] = _as_it_is
    embedder: Callable[[Embedder], Embedder] = _as_it_is


@dataclass(frozen=True, slots=True)
class Parts:
    """Adapters handed in rather than chosen by settings (tests, people with components of their own)."""

    llm: LLM | None = None
    decider: LLM | None = None
    embedder: Embedder | None = None
    memory: HandedMemory | None = None
    clock: Clock | None = None
    around: Around = field(default_factory=Around)
    count_tokens: Callable[[str], int] | None = None
    reranker: Reranker | None = None
