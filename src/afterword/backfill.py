"""What rules alone decided is decided again by the LLM, newest first, one window a job, at a set rate."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from afterword.lanes import backfill_job, embed_job
from afterword.plan import Plan, Progress
from afterword.ports import Step
from afterword.remember import Span, decide_span

if TYPE_CHECKING:
    from afterword.ports import Desk
    from afterword.records import Job

COUNTED = 100_000


async def decide(job: Job, desk: Desk) -> Plan:
    """One window; `policy.backfill_per_minute` sets the rate. Raises `BadAnswer`, `LLMUnavailable`."""
    run_id, done = str(job.payload["run_id"]), int(job.payload.get("done", 0))
    total = int(job.payload.get("total", 0)) or len(await desk.reads.rule_decisions(job.scope, COUNTED))
    if desk.llm is None or desk.llm.quotes:
        return Plan((Progress(run_id, done, total, "no LLM is set: the rules' decisions stand", finished=True),))
    waiting = await desk.reads.rule_decisions(job.scope, 2)
    if not waiting:
        return Plan((Progress(run_id, done, max(done, total), finished=True),))
    old = waiting[0][1]
    if old.chat_id is None or old.first is None or old.last is None:
        raise ValueError(f"decision {old.id} names no turns")
    changes, decision = await decide_span(job.scope, Span(old.chat_id, old.first, old.last, old.id), desk)
    done, more = done + 1, len(waiting) > 1
    progress = Progress(run_id, done, max(done, total), finished=not more)
    jobs = [embed_job(job.scope)] if desk.embedder is not None else []
    if more:
        after = backfill_job(job.scope, {**job.payload, "done": done, "total": max(done, total)})
        jobs.append(replace(after, delay=60.0 / desk.policy.backfill_per_minute))
    return Plan((*changes, progress), decision, tuple(jobs))


STEP = Step("backfill", decide, timeout=300.0)
