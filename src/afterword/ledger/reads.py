"""The reading half of the ledger: each method is one function on one snapshot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import sqlalchemy as sa

from afterword.ledger import glances, job_reads, memories, runs, schema, shadow, turn_reads

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from afterword.glance import Glance, Sought
    from afterword.ledger.database import Database
    from afterword.ports import Decision, Entry, IndexChange, JobFilter, Opening, Watch
    from afterword.records import (
        Chat,
        Filters,
        Job,
        MemoryRecord,
        Receipt,
        Ref,
        Run,
        Scope,
        ScopeState,
        Turn,
    )

T = TypeVar("T")
P = ParamSpec("P")

NOBODY = -1  # the number of a scope that has no row
KNOWN_SCOPES = 10_000

_number = sa.select(schema.scope.c.id).where(
    schema.scope.c.tenant == sa.bindparam("tenant"), schema.scope.c.user_id == sa.bindparam("user")
)


class SqlReads:
    """See `ports.Reads`."""

    _db: Database

    def __init__(self) -> None:
        self._numbers: dict[Scope, int] = {}  # a scope's number never changes, a reset keeps its row

    async def _of(
        self, scope: Scope, function: Callable[Concatenate[sa.Connection, int, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await self._db.read(lambda conn: function(conn, self._number(conn, scope), *args, **kwargs))

    def _number(self, conn: sa.Connection, scope: Scope) -> int:
        number = self._numbers.get(scope)
        if number is None:
            number = conn.execute(_number, {"tenant": scope.tenant, "user": scope.user}).scalar()
            if number is None:
                return NOBODY
            if len(self._numbers) >= KNOWN_SCOPES:
                self._numbers.clear()
            self._numbers[scope] = number
        return number

    async def _of_any(self, scope: Scope | None, function: Callable[..., T], *args: Any) -> T:
        if scope is None:
            return await self._db.read(lambda conn: function(conn, None, *args))
        return await self._of(scope, function, *args)

    # ── turns ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def state(self, scope: Scope) -> ScopeState:
        return await self._of(scope, shadow.state)

    async def chats(self, scope: Scope, limit: int = 200) -> list[Chat]:
        return await self._of(scope, turn_reads.chats, limit)

    async def turns(
        self, scope: Scope, chat_id: str, *, first: int = 0, last: int | None = None, limit: int = 1000
    ) -> list[Turn]:
        return await self._of(scope, turn_reads.turns, chat_id, first, last, limit)

    async def turns_at(self, scope: Scope, places: Sequence[tuple[str, int]]) -> list[Turn]:
        return await self._of(scope, turn_reads.turns_at, places)

    async def last_turns(self, scope: Scope, chat_id: str, count: int) -> list[Turn]:
        return await self._of(scope, turn_reads.last_turns, chat_id, count)

    async def turn(self, scope: Scope, turn_id: str) -> Turn:
        return await self._of(scope, turn_reads.turn, turn_id)

    async def opening(self, scope: Scope, turn_id: str, most: int) -> Opening:
        return await self._of(scope, turn_reads.opening, turn_id, most)

    async def receipt(self, scope: Scope, reply_id: str) -> Receipt | None:
        return await self._of(scope, turn_reads.receipt, reply_id)

    async def receipts(self, scope: Scope, reply_ids: Sequence[str]) -> dict[str, Receipt]:
        return await self._of(scope, turn_reads.receipts, reply_ids)

    async def cursor(self, scope: Scope, chat_id: str) -> int:
        return await self._of(scope, turn_reads.cursor, chat_id)

    # ── memories ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def read(self, scope: Scope, refs: Sequence[Ref]) -> dict[Ref, Turn | MemoryRecord]:
        return await self._of(scope, memories.read, refs) if refs else {}

    async def memory(self, scope: Scope, record: str) -> MemoryRecord:
        return await self._of(scope, memories.memory, record)

    async def memories(
        self, scope: Scope, filters: Filters, *, limit: int = 100, offset: int = 0, retired: bool = False
    ) -> list[MemoryRecord]:
        memories.check_filters(filters)
        return await self._of(scope, memories.listed, filters, limit, offset, retired)

    async def history(self, scope: Scope, record: str) -> list[MemoryRecord]:
        return await self._of(scope, memories.history, record)

    async def memories_of(self, scope: Scope, turn_ids: Sequence[str]) -> list[MemoryRecord]:
        return await self._of(scope, memories.memories_of, turn_ids)

    async def episodes_after(self, scope: Scope, seq: int, limit: int) -> list[tuple[int, MemoryRecord]]:
        return await self._of(scope, memories.episodes_after, seq, limit)

    # ── what an index sees ─────────────────────────────────────────────────────────────────────────────────────────

    async def changes(self, scope: Scope, after: int, limit: int = 2000) -> list[IndexChange]:
        return await self._of(scope, shadow.changes, after, limit)

    async def entries(self, scope: Scope, after: str = "", limit: int = 2000) -> tuple[ScopeState, list[Entry]]:
        return await self._of(scope, shadow.entries, after, limit)

    async def unembedded(self, scope: Scope, model: str, limit: int) -> list[tuple[Ref, str]]:
        return await self._of(scope, shadow.unembedded, model, limit)

    async def vector_counts(self, scope: Scope, model: str) -> tuple[int, int]:
        return await self._of(scope, shadow.vector_counts, model)

    # ── decisions, jobs, runs ──────────────────────────────────────────────────────────────────────────────────────

    async def rule_decisions(self, scope: Scope | None, limit: int) -> list[tuple[Scope, Decision]]:
        return await self._of_any(scope, job_reads.rule_decisions, limit)

    async def decisions(self, scope: Scope, job_id: int) -> list[Decision]:
        return await self._of(scope, job_reads.decisions, job_id)

    async def jobs(self, scope: Scope | None, wanted: JobFilter) -> list[Job]:
        return await self._of_any(scope, job_reads.jobs, wanted)

    async def job(self, job_id: int) -> Job:
        return await self._db.read(lambda conn: job_reads.job(conn, job_id))

    async def job_counts(self, scope: Scope | None) -> dict[str, int]:
        return await self._of_any(scope, job_reads.job_counts)

    async def runs(self, scope: Scope, kind: str | None = None, limit: int = 20) -> list[Run]:
        return await self._of(scope, runs.runs, kind, limit)

    async def consolidated_to(self, scope: Scope) -> int:
        return await self._of(scope, runs.consolidated_to)

    async def backlog(self) -> int:
        return await self._db.read(job_reads.backlog)

    # ── all at once ────────────────────────────────────────────────────────────────────────────────────────────────

    async def glance(self, scope: Scope, sought: Sought) -> Glance:
        return await self._of(scope, glances.glance, sought)

    def watch(self, scope: Scope | None) -> AbstractContextManager[Watch]:
        return self._db.bell.watch(scope)
