"""Retention: what is older than the policy allows is erased, a batch a job."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from afterword.forget import STEP
from afterword.lanes import forget_job
from afterword.plan import Erase, Plan
from afterword.ports import Policy
from tests.fake_reads import NOW, SCOPE, FakeReads, desk, job

JOB = job(forget_job(SCOPE))
OLD = NOW - timedelta(days=40)
MONTH = Policy(retention_days=30)


def erased(plan: Plan) -> list[str]:
    return [change.record for change in plan.changes if isinstance(change, Erase)]


async def test_without_a_retention_nothing_is_forgotten() -> None:
    reads = FakeReads()
    reads.say("old", stored_at=OLD)
    assert (await STEP.decide(JOB, desk(reads))).changes == ()


async def test_old_turns_go_and_with_them_the_episodes_that_rest_on_nothing_else() -> None:
    reads = FakeReads()
    old = reads.say("old", stored_at=OLD)
    new = reads.say("new")
    alone = reads.remember("rests on the old turn", sources=(old.id,), said_at=OLD)
    reads.remember("rests on both", sources=(old.id, new.id), said_at=OLD)
    reads.remember("a fact", kind="semantic", sources=(alone.id,), said_at=OLD)
    plan = await STEP.decide(JOB, desk(reads, policy=MONTH))
    assert erased(plan) == [old.id, alone.id]
    assert [new.kind for new in plan.jobs] == ["forget"]


async def test_an_old_transcript_that_was_imported_today_is_kept() -> None:
    reads = FakeReads()
    reads.say("from long ago", said_at=NOW - timedelta(days=900), stored_at=NOW)
    assert erased(await STEP.decide(JOB, desk(reads, policy=MONTH))) == []


async def test_old_episodes_without_turns_go_last_and_the_work_ends() -> None:
    reads = FakeReads()
    orphan = reads.remember("its turn is gone", sources=("gone",), said_at=OLD)
    reads.remember("its turn is there", sources=(reads.say("hello").id,), said_at=OLD)
    plan = await STEP.decide(JOB, desk(reads, policy=MONTH))
    assert (erased(plan), plan.jobs) == ([orphan.id], ())


async def test_a_retired_episode_does_not_outlive_its_turn() -> None:
    reads = FakeReads()
    orphan = reads.remember("its turn is gone", sources=("gone",), said_at=OLD)
    reads.held[0] = replace(orphan, retired="merged")
    assert erased(await STEP.decide(JOB, desk(reads, policy=MONTH))) == [orphan.id]


async def test_a_job_erases_a_bounded_number_and_leaves_the_rest_to_the_next() -> None:
    reads = FakeReads()
    for n in range(900):
        reads.say("old", chat_id=f"c{n % 3}", stored_at=OLD)
    plan = await STEP.decide(JOB, desk(reads, policy=MONTH))
    assert 0 < len(erased(plan)) <= 500
    assert [new.kind for new in plan.jobs] == ["forget"]
