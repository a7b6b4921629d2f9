"""All that a page shows of a scope, of one snapshot: what is sought of it, and no more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from afterword.glance import Glance, Panel, Talk, Work
from afterword.ledger import job_reads, memories, runs, turn_reads
from afterword.records import Filters, MemoryKind

if TYPE_CHECKING:
    import sqlalchemy as sa

    from afterword.glance import Sought

KINDS: tuple[MemoryKind, ...] = ("episodic", "semantic")
CHATS = 200
RUNS = 20


def glance(conn: sa.Connection, scope_id: int, sought: Sought) -> Glance:
    news = sought.news
    return Glance(
        talk=_talk(conn, scope_id, sought) if "turns" in news else None,
        panel=_panel(conn, scope_id, sought) if "memories" in news else None,
        work=_work(conn, scope_id, sought) if "jobs" in news else None,
        runs=runs.runs(conn, scope_id, None, RUNS) if "runs" in news else None,
    )


def _talk(conn: sa.Connection, scope_id: int, sought: Sought) -> Talk:
    turns = turn_reads.last_turns(conn, scope_id, sought.chat_id, sought.turns) if sought.chat_id else []
    return Talk(turn_reads.chats(conn, scope_id, CHATS), turns)


def _panel(conn: sa.Connection, scope_id: int, sought: Sought) -> Panel:
    listed = memories.listed(conn, scope_id, Filters(kinds=(sought.kind,)), sought.memories, 0, False)
    others = {kind: memories.number(conn, scope_id, kind, sought.memories) for kind in KINDS if kind != sought.kind}
    numbers = {sought.kind: len(listed), **others}
    return Panel(listed, {kind: numbers[kind] for kind in KINDS})


def _work(conn: sa.Connection, scope_id: int, sought: Sought) -> Work:
    jobs, counts = job_reads.work(conn, scope_id, sought.since)
    return Work(jobs, counts, job_reads.backlog(conn) if sought.backlog else 0)
