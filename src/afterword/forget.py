"""Retention: turns older than the policy allows are erased, and with them the episodes that rest on nothing else.

Age is counted from when a turn was stored: an old transcript that is imported today is kept like one of today.
Decay needs no work here: a memory's strength falls by itself when it is ranked.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from afterword.lanes import embed_job, forget_job
from afterword.plan import Change, Erase, Plan
from afterword.ports import Step
from afterword.records import Filters, MemoryRecord, Ref

if TYPE_CHECKING:
    from afterword.ports import Desk
    from afterword.records import Job, Scope, Turn

MOST = 500  # erased a job
PAGE = 500
CHATS = 1_000_000


async def decide(job: Job, desk: Desk) -> Plan:
    """Erase what is too old, at most 500 records; the rest in a job of its own."""
    days = desk.policy.retention_days
    if days <= 0:
        return Plan(decision={"note": "nothing is forgotten: no retention is set"})
    before = desk.clock.now() - timedelta(days=days)
    turns = await _old_turns(job.scope, before, desk)
    episodes = await _orphans(job.scope, turns, desk) if turns else []
    episodes += [] if turns else await _old_episodes(job.scope, before, desk)
    chosen = [turn.id for turn in turns] + [episode.id for episode in episodes]
    changes: tuple[Change, ...] = tuple(Erase(record) for record in dict.fromkeys(chosen))
    jobs = (forget_job(job.scope, job.payload),) if turns or len(episodes) >= MOST else ()
    if turns and desk.embedder is not None:  # the turns that follow erased ones are embedded again
        jobs = (*jobs, embed_job(job.scope))
    return Plan(changes, {"turns": len(turns), "episodes": len(episodes), "before": before.isoformat()}, jobs)


STEP = Step("forget", decide)


async def _old_turns(scope: Scope, before: datetime, desk: Desk) -> list[Turn]:
    old: list[Turn] = []
    for chat in await desk.reads.chats(scope, CHATS):
        for turn in await desk.reads.turns(scope, chat.id, limit=MOST):
            if turn.stored_at >= before:
                break
            old.append(turn)
        if len(old) >= MOST // 2:
            break
    return old[: MOST // 2]


async def _orphans(scope: Scope, turns: list[Turn], desk: Desk) -> list[MemoryRecord]:
    """Episodes whose last sources are among these turns."""
    gone = {turn.id for turn in turns}
    resting = await desk.reads.memories_of(scope, sorted(gone))
    others = {source for memory in resting for source in memory.sources} - gone
    alive = {ref.record for ref in await desk.reads.read(scope, [Ref(source, 1) for source in sorted(others)])}
    return [memory for memory in resting if memory.kind == "episodic" and not alive.intersection(memory.sources)]


async def _old_episodes(scope: Scope, before: datetime, desk: Desk) -> list[MemoryRecord]:
    """Episodes, retired ones too, that were written too long ago and whose turns, if they had any, are gone."""
    found: list[MemoryRecord] = []
    offset = 0
    wanted = Filters(kinds=("episodic",), until=before)
    while len(found) < MOST:
        page = await desk.reads.memories(scope, wanted, limit=PAGE, offset=offset, retired=True)
        old = [memory for memory in page if memory.written_at < before]
        sources = sorted({source for memory in old for source in memory.sources})
        alive = {ref.record for ref in await desk.reads.read(scope, [Ref(source, 1) for source in sources])}
        found += [memory for memory in old if not alive.intersection(memory.sources)]
        if len(page) < PAGE:
            break
        offset += PAGE
    return found[:MOST]
