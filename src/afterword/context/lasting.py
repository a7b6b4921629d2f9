"""What holds beyond a single search: a person's standing facts, which facts were superseded and when, and which turns
were said before their episode was revised.

Read once a user from the ledger, newest memories first, and from then on kept up with what changed.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from afterword.context.standing import slot_of, standing
from afterword.context.wording import Ended
from afterword.records import Filters, MemoryRecord

if TYPE_CHECKING:
    from collections.abc import Iterable

    from afterword.ports import Reads
    from afterword.records import Scope, ScopeState

PAGE = 200  # memories read and looked at in one go: the event loop is free in between
MOST = 5000  # newest memories that are looked at
FACTS = 1000  # lasting facts that are read, with those that were superseded
FEW = 200  # changes that are followed one by one; after more, everything is read again
USERS = 1000  # whose standing facts are held
SUPERSEDED = "superseded: "


@dataclass(frozen=True, slots=True)
class Lasting:
    """Standing facts, the weightiest first; by the id of a record, until when it held; by the id of a fact, what held
    before it; by the id of a turn, what was said later that revised its episode."""

    standing: tuple[MemoryRecord, ...] = ()
    ended: Mapping[str, Ended] = field(default_factory=dict)
    before: Mapping[str, Ended] = field(default_factory=dict)
    later: Mapping[str, str] = field(default_factory=dict)


class _Held:
    """One user's, as of change number `seq`."""

    def __init__(self, state: ScopeState) -> None:
        self.epoch = state.epoch
        self.seq = state.seq
        self.read = 0  # memories looked at so far
        self.whole = False
        self.candidates: dict[str, MemoryRecord] = {}
        self.revised: dict[str, MemoryRecord] = {}
        self.ended: dict[str, Ended] = {}
        self.before: dict[str, Ended] = {}
        self.facts_read = False
        self.lock = asyncio.Lock()  # two messages at once would each count the same page

    def look_at(self, memories: Iterable[MemoryRecord]) -> None:
        for memory in memories:
            if slot_of(memory) is not None:
                self.candidates[memory.id] = memory
            if memory.kind == "episodic" and memory.version > 1:
                self.revised[memory.id] = memory

    def let_go(self, record: str) -> None:
        self.candidates.pop(record, None)
        self.revised.pop(record, None)

    @property
    def later(self) -> dict[str, str]:
        """A revision adds the turn that led to it to the sources, as the last; those before told the older version."""
        return {
            source: memory.text if memory.author == "person" else memory.why or memory.text
            for memory in self.revised.values()
            for source in (memory.sources[:-1] or memory.sources)
        }


class LastingFacts:
    """The standing facts of every user of a memory."""

    def __init__(self, reads: Reads) -> None:
        self._reads = reads
        self._held: OrderedDict[Scope, _Held] = OrderedDict()

    async def of(self, scope: Scope) -> Lasting:
        """As of now. Where it is ended by a deadline, the next call goes on from there."""
        state = await self._reads.state(scope)
        held = self._held.get(scope)
        if held is None or held.epoch != state.epoch or state.seq - held.seq > FEW:
            held = self._held[scope] = _Held(state)
            while len(self._held) > USERS:
                self._held.popitem(last=False)
        self._held.move_to_end(scope)
        async with held.lock:
            await self._follow(scope, held, state)
            if not held.facts_read:
                await self._read_facts(scope, held)
            while not held.whole:
                await self._read_page(scope, held)
        return Lasting(tuple(standing(held.candidates.values())), held.ended, held.before, held.later)

    async def _follow(self, scope: Scope, held: _Held, state: ScopeState) -> None:
        if state.seq <= held.seq:
            return
        changes = await self._reads.changes(scope, held.seq, FEW + 1)
        refs = [change.entry.ref for change in changes if change.entry is not None and change.entry.kind != "turn"]
        current = await self._reads.read(scope, refs)
        for change in changes:
            held.let_go(change.record)
        held.look_at(found for found in current.values() if isinstance(found, MemoryRecord))
        if any(change.entry is None or change.entry.kind == "semantic" for change in changes):
            held.facts_read = False
        held.seq = max([held.seq, *(change.seq for change in changes)])

    async def _read_page(self, scope: Scope, held: _Held) -> None:
        page = await self._reads.memories(scope, Filters(), limit=PAGE, offset=held.read)
        held.look_at(page)
        held.read += len(page)
        held.whole = len(page) < PAGE or held.read >= MOST

    async def _read_facts(self, scope: Scope, held: _Held) -> None:
        facts = await self._reads.memories(scope, Filters(kinds=("semantic",)), limit=FACTS, retired=True)
        held.ended, held.before = {}, {}
        old = {fact.id: fact for fact in facts if (fact.retired or "").startswith(SUPERSEDED)}
        for fact in facts:
            replaced = old.get(str(fact.metadata.get("supersedes")))
            if replaced is not None and fact.retired is None:
                held.before[fact.id] = Ended(replaced.valid_to or fact.said_at, fact.utc_offset, replaced.text)
        for fact in old.values():
            now = (fact.retired or "").removeprefix(SUPERSEDED)
            ended = Ended(fact.valid_to or fact.said_at, fact.utc_offset, now)
            held.ended.update((source, ended) for source in fact.sources)
        for fact in facts:
            if fact.retired is None:
                for source in fact.sources:  # what still carries a fact that holds has not ended
                    held.ended.pop(source, None)
        held.look_at(fact for fact in facts if fact.retired is None)
        held.facts_read = True
