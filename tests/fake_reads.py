"""A ledger's reading side in memory, for tests of steps: only what steps read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, cast

from afterword.errors import NotFound
from afterword.plan import Decided, Insert, Plan, Retire, Revise
from afterword.ports import LLM, Desk, Embedder, Offload, Policy
from afterword.records import (
    Author,
    Chat,
    Filters,
    Job,
    Json,
    MemoryKind,
    MemoryRecord,
    NewJob,
    Receipt,
    ReceiptItem,
    Ref,
    Role,
    Scope,
    ScopeState,
    Turn,
)
from afterword.testing import FrozenClock

if TYPE_CHECKING:
    from afterword.ports import Decision, Reads

SCOPE = Scope("t", "ann")
NOW = FrozenClock().now()


@dataclass
class FakeReads:
    """Turns, memories and what else a test puts there; one scope."""

    talk: dict[str, list[Turn]] = field(default_factory=dict)
    held: list[MemoryRecord] = field(default_factory=list)
    cursors: dict[str, int] = field(default_factory=dict)
    given: dict[str, Receipt] = field(default_factory=dict)
    rules_decided: list[Decision] = field(default_factory=list)
    texts: list[tuple[Ref, str]] = field(default_factory=list)
    embedded: set[tuple[str, str]] = field(default_factory=set)  # record, model
    model: str | None = None
    seqs: dict[str, int] = field(default_factory=dict)
    reached: int = 0

    # ── putting things there ───────────────────────────────────────────────────────────────────────────────────────

    def say(
        self,
        text: str,
        *,
        chat_id: str = "c",
        role: Role = "user",
        speaker: str | None = None,
        said_at: datetime = NOW,
        utc_offset: int = 0,
        reply_to: str | None = None,
        stored_at: datetime | None = None,
    ) -> Turn:
        position = len(self.talk.setdefault(chat_id, []))
        turn = Turn(
            f"{chat_id}-{position}",
            chat_id,
            position,
            role,
            text,
            said_at,
            utc_offset,
            stored_at or said_at,
            speaker,
            reply_to,
        )
        self.talk[chat_id].append(turn)
        return turn

    def remember(
        self,
        text: str,
        *,
        kind: MemoryKind = "episodic",
        author: Author = "llm",
        sources: tuple[str, ...] = (),
        said_at: datetime = NOW,
        metadata: Json | None = None,
        version: int = 1,
    ) -> MemoryRecord:
        record = f"m{len(self.held)}"
        memory = MemoryRecord(
            record, version, kind, text, said_at, 0, said_at, author, sources, metadata=dict(metadata or {})
        )
        self.held.append(memory)
        self.seqs[record] = max(self.seqs.values(), default=0) + 1
        return memory

    def recalled(self, reply: Turn, memories: Sequence[MemoryRecord]) -> None:
        items = tuple(ReceiptItem(memory.ref, memory.kind, 1.0, {}) for memory in memories)
        self.given[reply.id] = Receipt(items)

    # ── the port, as far as steps need it ──────────────────────────────────────────────────────────────────────────

    async def state(self, scope: Scope) -> ScopeState:
        return ScopeState(max(self.seqs.values(), default=0), 0, self.model)

    async def chats(self, scope: Scope, limit: int = 200) -> list[Chat]:
        return [Chat(name, name, len(turns), NOW) for name, turns in self.talk.items() if turns][:limit]

    async def turns(
        self, scope: Scope, chat_id: str, *, first: int = 0, last: int | None = None, limit: int = 1000
    ) -> list[Turn]:
        kept = [
            turn
            for turn in self.talk.get(chat_id, [])
            if turn.position >= first and (last is None or turn.position <= last)
        ]
        return kept[:limit]

    async def turn(self, scope: Scope, turn_id: str) -> Turn:
        for turns in self.talk.values():
            for turn in turns:
                if turn.id == turn_id:
                    return turn
        raise NotFound(f"no turn {turn_id}")

    async def receipt(self, scope: Scope, reply_id: str) -> Receipt | None:
        return self.given.get(reply_id)

    async def receipts(self, scope: Scope, reply_ids: Sequence[str]) -> dict[str, Receipt]:
        return {reply: self.given[reply] for reply in reply_ids if reply in self.given}

    async def cursor(self, scope: Scope, chat_id: str) -> int:
        return self.cursors.get(chat_id, 0)

    async def memory(self, scope: Scope, record: str) -> MemoryRecord:
        for memory in self.held:
            if memory.id == record:
                return memory
        raise NotFound(f"no memory {record}")

    async def memories(
        self, scope: Scope, filters: Filters, *, limit: int = 100, offset: int = 0, retired: bool = False
    ) -> list[MemoryRecord]:
        held = self.held if retired else self._current()
        kept = [m for m in held if not filters.kinds or m.kind in filters.kinds]
        kept = [m for m in kept if filters.until is None or m.said_at < filters.until]
        newest = sorted(kept, key=lambda memory: memory.said_at, reverse=True)
        return newest[offset : offset + limit]

    async def memories_of(self, scope: Scope, turn_ids: Sequence[str]) -> list[MemoryRecord]:
        return [memory for memory in self._current() if set(turn_ids) & set(memory.sources)]

    async def read(self, scope: Scope, refs: Sequence[Ref]) -> dict[Ref, Turn | MemoryRecord]:
        everything: list[Turn | MemoryRecord] = [turn for turns in self.talk.values() for turn in turns]
        everything += self._current()
        return {one.ref: one for one in everything if one.ref in set(refs)}

    async def episodes_after(self, scope: Scope, seq: int, limit: int) -> list[tuple[int, MemoryRecord]]:
        pairs = sorted((self.seqs[m.id], m) for m in self._current() if m.kind == "episodic")
        return [pair for pair in pairs if pair[0] > seq][:limit]

    async def consolidated_to(self, scope: Scope) -> int:
        return self.reached

    async def unembedded(self, scope: Scope, model: str, limit: int) -> list[tuple[Ref, str]]:
        return [(ref, text) for ref, text in self.texts if (ref.record, model) not in self.embedded][:limit]

    async def vector_counts(self, scope: Scope, model: str) -> tuple[int, int]:
        return sum(1 for _, name in self.embedded if name == model), len(self.texts)

    async def rule_decisions(self, scope: Scope | None, limit: int) -> list[tuple[Scope, Decision]]:
        return [(SCOPE, decision) for decision in self.rules_decided][:limit]

    def _current(self) -> list[MemoryRecord]:
        return [memory for memory in self.held if memory.retired is None]


def desk(
    reads: FakeReads,
    *,
    llm: LLM | None = None,
    embedder: Embedder | None = None,
    policy: Policy | None = None,
    later: timedelta = timedelta(0),
) -> Desk:
    """A desk whose clock stands `later` than the fake's first moment."""
    clock = FrozenClock(NOW + later)
    return Desk(cast("Reads", reads), llm, embedder, cast("Offload", None), clock, policy or Policy())


def job(new: NewJob, *, window: Json | None = None) -> Job:
    """The job as the worker would have claimed it."""
    return Job(
        1, SCOPE, 0, new.kind, new.lane, new.stream, new.key, new.payload, "running", 1, 1, NOW, NOW, window=window
    )


def inserts(plan: Plan) -> list[Insert]:
    return [change for change in plan.changes if isinstance(change, Insert)]


def decided(plan: Plan) -> Decided:
    (found,) = (change for change in plan.changes if isinstance(change, Decided))
    return found


def revisions(plan: Plan) -> list[Revise]:
    return [change for change in plan.changes if isinstance(change, Revise)]


def retired(plan: Plan) -> list[Retire]:
    return [change for change in plan.changes if isinstance(change, Retire)]


def apply(reads: FakeReads, plan: Plan) -> None:
    """Carry out a plan's inserts, revisions, retirements and cursor, as far as the next step must see them."""
    for change in plan.changes:
        if isinstance(change, Insert):
            reads.remember(change.text, kind=change.kind, author=change.author, sources=change.sources)
        elif isinstance(change, Revise):
            place = next(i for i, memory in enumerate(reads.held) if memory.ref == change.ref)
            old = reads.held[place]
            reads.held[place] = replace(old, text=change.text, version=old.version + 1)
        elif isinstance(change, Retire):
            place = next(i for i, memory in enumerate(reads.held) if memory.ref == change.ref)
            reads.held[place] = replace(reads.held[place], retired=change.why)
        elif isinstance(change, Decided):
            reads.cursors[change.chat_id] = change.last + 1
