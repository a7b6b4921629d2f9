"""Somebody's own memory behind the same chat: their `search` recalls, their `add` remembers, behind the reply.

What they keep is theirs: our ledger holds turns, replies, receipts and jobs, not their memories. `add` is called at
least once for each turn of a person: a crash between their `add` and our commit calls it again.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import structlog

from afterword.errors import Outage
from afterword.plan import Decided, Plan
from afterword.ports import Step
from afterword.recall import Recalled
from afterword.records import Filters, Hit, Ref
from afterword.remember import window

if TYPE_CHECKING:
    from collections.abc import Sequence

    from afterword.ports import Clock, Desk
    from afterword.records import Job, Scope

log = structlog.get_logger(__name__)
TEXT_NAMES = ("text", "memory", "content")


class HandedMemory(Protocol):
    """An awaitable memory; `threaded.ThreadedMemory` makes one of a blocking memory."""

    async def search(self, query: str, user_id: str) -> Sequence[object]: ...

    async def add(self, text: str, user_id: str) -> object: ...


class HandedRecall:
    """`Recall` over somebody's memory: the same deadline, the same word about what went wrong."""

    def __init__(self, memory: HandedMemory, clock: Clock, deadline: float) -> None:
        self._memory = memory
        self._clock = clock
        self._deadline = deadline

    def expect(self, query: str) -> None:
        """They know when they are asked."""

    async def search(
        self, scope: Scope, query: str, *, limit: int, filters: Filters, exclude: frozenset[str] = frozenset()
    ) -> Recalled:
        """Their best `limit`, in their order. Filters are ours and can't be asked of them."""
        began = self._clock.monotonic()
        found: Sequence[object] = ()
        missed = ""
        try:
            async with asyncio.timeout(self._deadline):
                found = await self._memory.search(query, scope.user)
        except TimeoutError as late:
            missed = f"searched nothing: the memory did not answer within {self._deadline:g} s"
            log.warning("handed_memory.not_searched", error=late, deadline=self._deadline)
        except Outage as error:
            missed = f"searched nothing: {error}"
            log.warning("handed_memory.not_searched", error=error)
        hits = tuple(self._hit(one, place) for place, one in enumerate(list(found)[:limit]))
        return Recalled(hits, missed, 1000 * (self._clock.monotonic() - began))

    def _hit(self, found: object, place: int) -> Hit:
        text = _text(found)
        name = hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
        score = 1.0 / (1 + place)
        return Hit(Ref(f"handed:{name}", 1), "episodic", text, score, {"place": score}, self._clock.now(), 0)


def remember_step(memory: HandedMemory) -> Step:
    """The step that hands each turn of a person to somebody's memory, in order."""

    async def decide(job: Job, desk: Desk) -> Plan:
        fixed = job.window or await window(job, desk)
        chat_id, first, last = fixed["chat_id"], fixed["first"], fixed["last"]
        if last < first:
            return Plan(decision={"note": "no new turns"})
        turns = await desk.reads.turns(job.scope, chat_id, first=first, last=last)
        told = [turn for turn in turns if turn.role == "user"]
        for turn in told:
            await memory.add(turn.text, job.scope.user)
        return Plan((Decided(chat_id, first, last, "import"),), {"handed_over": len(told)})

    return Step("remember", decide, window, timeout=300.0)


def _text(found: object) -> str:
    """A result as people's memories give them: text, a mapping or an object that has it."""
    if isinstance(found, str):
        return found
    for name in TEXT_NAMES:
        value = found.get(name) if isinstance(found, Mapping) else getattr(found, name, None)
        if isinstance(value, str):
            return value
    return str(found)
