"""The index in this process: exact, one shard a user, built from the ledger when it is first needed."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple

import numpy as np
import structlog

from afterword.errors import Closed, IndexUnavailable
from afterword.index.legs import Legs, cosines_of_refs, cosines_of_rows, search
from afterword.index.shard import Shard, Snapshot

if TYPE_CHECKING:
    from collections.abc import Sequence

    from afterword.index.bm25 import Asked, Floats
    from afterword.ports import Candidates, Entry, Offload, Query, Reads
    from afterword.records import Ref, Scope, ScopeState

T = TypeVar("T")
Args = TypeVarTuple("Args")

log = structlog.get_logger(__name__)

PAGE = 2000  # records read at once
SLICE_TOKENS = 8_000  # taken in on the loop, about 1 ms
INLINE_ROWS = 1_000  # shards up to this size are frozen on the loop, in about 2 ms
INLINE_WORK = (
    120_000  # rows times the query's tokens that are searched on the loop, in about 3 ms: where Python is busy,
)
# the way to a thread and back takes longer
MIB = 1024 * 1024


@dataclass(slots=True)
class _Slot:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    shard: Shard | None = None


@dataclass(frozen=True, slots=True)
class Lead:
    """What a search by words brings up, for an index that keeps its vectors elsewhere.

    `wanted` names the records whose cosines the full search needs: candidates, and the turns beside them.
    """

    snapshot: Snapshot
    asked: Asked
    wanted: tuple[Ref, ...]


class ExactIndex:
    """Implements `ports.Index`. Least recently searched users are dropped above `memory_budget_bytes`.

    With `keep_vectors=False` it holds words and places only: an index with vectors elsewhere uses `lead` and `finish`,
    so that ranking is the same with either.
    """

    def __init__(
        self, reads: Reads, *, offload: Offload, memory_budget_bytes: int = 512 * MIB, keep_vectors: bool = True
    ) -> None:
        self._reads = reads
        self._offload = offload
        self._budget = memory_budget_bytes
        self._keep_vectors = keep_vectors
        self._slots: OrderedDict[Scope, _Slot] = OrderedDict()
        self._tasks: set[asyncio.Task[tuple[Shard, Snapshot]]] = set()
        self._closed = False

    @property
    def name(self) -> str:
        return "exact"

    @property
    def nbytes(self) -> int:
        """About what all shards hold."""
        return sum(slot.shard.nbytes for slot in self._slots.values() if slot.shard is not None)

    @property
    def scopes(self) -> tuple[Scope, ...]:
        """The users that have a shard, least recently searched first."""
        return tuple(scope for scope, slot in self._slots.items() if slot.shard is not None)

    async def open(self) -> None:
        self._closed = False

    async def aclose(self) -> None:
        self._closed = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._slots.clear()

    async def project(self, scope: Scope) -> None:
        """Nothing is kept outside this process."""

    async def rebuild(self, scope: Scope) -> None:
        """Searches use the old shard until the new one is there."""
        slot = self._slot(scope)
        shard = await self._build(scope)
        async with slot.lock:
            slot.shard = shard
        self._evict(scope)

    def expect(self, scope: Scope, state: ScopeState) -> None:
        slot = self._slot(scope)
        if not self._closed and not (slot.shard is not None and slot.shard.is_frozen_at(state)):
            self._catching_up(scope, slot, state)

    async def search(self, scope: Scope, query: Query) -> Candidates:
        """All of what a snapshot knows, as `legs` describes it."""
        shard, snapshot = await self._caught_up(scope, query.state)
        asked = shard.postings.asked(query.tokens, query.light, query.moments)
        if query.vector is None or query.model != shard.model:
            return await self._run(snapshot, asked, search, snapshot, query, asked, None)
        _check_dimensions(snapshot, query.vector)
        return await self._run(snapshot, asked, _search_both, snapshot, query, asked, query.vector)

    # ── for an index that keeps vectors elsewhere ─────────────────────────────────────────────────────────────────

    async def lead(self, scope: Scope, query: Query, found: Iterable[Ref] = ()) -> Lead:
        """Search by words; `found` are hits from elsewhere whose neighbours are wanted too."""
        shard, snapshot = await self._caught_up(scope, query.state)
        asked = shard.postings.asked(query.tokens, query.light, query.moments)
        wanted = await self._run(snapshot, asked, _wanted, snapshot, query, asked, tuple(found))
        return Lead(snapshot, asked, wanted)

    async def finish(self, lead: Lead, query: Query, cosines: Mapping[Ref, float]) -> Candidates:
        """Candidates as `search` gives them, with the cosines that are known."""
        known = cosines_of_refs(lead.snapshot, cosines) if cosines else None
        return await self._run(lead.snapshot, lead.asked, search, lead.snapshot, query, lead.asked, known)

    # ── shards ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _slot(self, scope: Scope) -> _Slot:
        slot = self._slots.setdefault(scope, _Slot())
        self._slots.move_to_end(scope)
        return slot

    async def _caught_up(self, scope: Scope, least: ScopeState | None) -> tuple[Shard, Snapshot]:
        """The shard with what was in the ledger at `least` (None: now). A search that gives up leaves the work going on,
        so that the next one finds it done."""
        if self._closed:
            raise Closed("the index was closed")
        slot = self._slot(scope)
        shard = slot.shard
        if least is not None and shard is not None and not slot.lock.locked() and shard.is_frozen_at(least):
            return shard, shard.frozen()
        return await asyncio.shield(self._catching_up(scope, slot, least))

    def _catching_up(self, scope: Scope, slot: _Slot, least: ScopeState | None) -> asyncio.Task[tuple[Shard, Snapshot]]:
        task = asyncio.create_task(self._catch_up(scope, slot, least))
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    async def _catch_up(self, scope: Scope, slot: _Slot, least: ScopeState | None) -> tuple[Shard, Snapshot]:
        async with slot.lock:
            shard, state = slot.shard, least
            if state is None or shard is None or not shard.is_of(state):
                state = await self._reads.state(scope)
            if shard is None or not shard.is_of(state) or shard.mostly_dead:
                slot.shard = None
                shard = slot.shard = await self._build(scope)
                self._evict(scope)
            elif shard.cursor < state.seq:
                await self._follow(scope, shard, state.seq)
            if shard.is_frozen() or (shard.size <= INLINE_ROWS and not shard.postings.worth_merging()):
                return shard, shard.frozen()
            return shard, await self._offload.thread(shard.frozen)

    async def _build(self, scope: Scope) -> Shard:
        while True:
            state, page = await self._reads.entries(scope, "", PAGE)
            shard = Shard(state.epoch, state.model, state.seq, keep_vectors=self._keep_vectors)
            while page and shard.is_of(state):
                following = self._reads.entries(scope, page[-1].ref.record, PAGE)
                _, (state, page) = await asyncio.gather(self._take_in(shard, page), following)
            if shard.is_of(state):
                # pages were read one after the other: what changed meanwhile comes now
                await self._follow(scope, shard, state.seq)
                return shard

    async def _follow(self, scope: Scope, shard: Shard, seq: int) -> None:
        """Take in the changes up to `seq`, or further."""
        while shard.cursor < seq:
            changes = await self._reads.changes(scope, shard.cursor, PAGE)
            for change in changes:
                if change.entry is None:
                    shard.drop(change.record)
            await self._take_in(shard, [change.entry for change in changes if change.entry is not None])
            shard.cursor = changes[-1].seq if changes else seq

    async def _take_in(self, shard: Shard, entries: Sequence[Entry]) -> None:
        """Put entries: a few on the loop, many in a thread, so that nobody waits for somebody else's cold start."""
        if sum(len(entry.tokens) + 50 for entry in entries) <= SLICE_TOKENS:
            shard.put(entries)
        else:
            await self._offload.thread(shard.put, entries)

    def _evict(self, keep: Scope) -> None:
        used = self.nbytes
        for scope, slot in list(self._slots.items()):
            if used <= self._budget:
                return
            if scope != keep and slot.shard is not None and not slot.lock.locked():
                used -= slot.shard.nbytes
                del self._slots[scope]
                log.info("index_shard_dropped", bytes=slot.shard.nbytes)

    def _done(self, task: asyncio.Task[tuple[Shard, Snapshot]]) -> None:
        self._tasks.discard(task)
        # a search that gave up is no longer there to see the error, so it is looked at here
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("index_catch_up_failed", error=type(error).__name__)

    async def _run(self, snapshot: Snapshot, asked: Asked, function: Callable[[*Args], T], *args: *Args) -> T:
        if snapshot.size * (len(asked.weights) + 1) <= INLINE_WORK:
            return function(*args)
        return await self._offload.thread(function, *args)


def _check_dimensions(snapshot: Snapshot, vector: Floats) -> None:
    kept = snapshot.matrix.shape[1]
    if len(snapshot.matrix) and len(vector) != kept:
        raise IndexUnavailable(
            f"the query's vector has {len(vector)} dimensions, the kept ones have {kept}",
            fix="set AFTERWORD_EMBED_MODEL to the model that was used before",
        )


def _search_both(snapshot: Snapshot, query: Query, asked: Asked, vector: Floats) -> Candidates:
    return search(snapshot, query, asked, cosines_of_rows(snapshot, vector))


def _wanted(snapshot: Snapshot, query: Query, asked: Asked, found: Sequence[Ref]) -> tuple[Ref, ...]:
    """The records that lead by words or were found elsewhere, and the turns beside them."""
    chosen = Legs(snapshot, query, asked, None).leading()
    elsewhere = [row for ref in found if (row := snapshot.rows.get(ref.record, -1)) >= 0 and row < snapshot.size]
    rows = np.union1d(chosen, np.array(elsewhere, np.int64))
    places = snapshot.place[rows]
    places = places[places >= 0]
    beside = np.concatenate([places, places - 1, places + 1])
    beside = beside[(beside >= 0) & (beside < len(snapshot.talk.rows))]
    both = np.union1d(rows, snapshot.talk.rows[beside])
    return tuple(snapshot.refs[row] for row in both.tolist())
