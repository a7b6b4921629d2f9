"""What is made again when its job is lacking, and runs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from afterword.lanes import consolidate_job, embed_job
from afterword.plan import Plan, Progress
from afterword.ports import JobFilter
from afterword.records import NewJob, NewTurn, Scope
from afterword.testing.clock import START
from tests.ledger_house import ANN, BACKENDS, BEN, House, a_house

pytestmark = pytest.mark.anyio


@pytest.fixture(params=BACKENDS)
async def house(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[House]:
    async with a_house(request.param, tmp_path) as house:
        yield house


@pytest.fixture(params=BACKENDS)
async def narrow(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[House]:
    async with a_house(request.param, tmp_path, max_waiting_jobs=4, max_waiting_per_scope=3) as house:
        yield house


def job(lane: str = "l", **details: object) -> NewJob:
    return NewJob("other", lane, **details)  # type: ignore[arg-type]


async def put(house: House, *jobs: NewJob, scope: Scope = ANN) -> list[int]:
    return await house.ledger.put(scope, jobs)


# ── sweeping ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_chat_that_lags_gets_its_job_again_once(house: House) -> None:
    await house.ledger.accept(ANN, [NewTurn("c", "user", "no job")])
    await house.ledger.accept(ANN, [NewTurn("d", "assistant", "only an answer")])
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(lambda: house.ledger.sweep(model=None))
    assert [one.payload for one in await house.ledger.jobs(ANN, JobFilter())] == [{"chat_id": "c"}]


async def test_records_without_vectors_get_an_embedding_job(house: House) -> None:
    await house.remember("Ann lives in Oslo")
    assert await house.ledger.sweep(model=None) == 0
    assert await house.ledger.sweep(model="m1") == 1
    assert await house.ledger.sweep(model="m1") == 0
    assert (await house.claim_one("embed")).scope == ANN


async def test_a_receipt_that_was_forgotten_is_worked_through_after_a_while(house: House) -> None:
    (turn,) = await house.say("Hello?")
    await house.decide()
    reply = await house.reply(turn)
    assert await house.ledger.sweep(model=None) == 0
    await house.clock.advance(61)
    assert await house.ledger.sweep(model=None) == 1
    job = await house.claim_one("reconsolidate")
    assert job.payload == {"chat_id": "c", "reply_id": reply.id}
    await house.ledger.bury(job, "bad")
    assert await house.ledger.sweep(model=None) == 0


# ── runs ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_second_start_joins_the_run_that_is_under_way(house: House) -> None:
    run, fresh = await house.ledger.start_run(ANN, "consolidate", 5, consolidate_job(ANN))
    again, second = await house.ledger.start_run(ANN, "consolidate", 9, consolidate_job(ANN))
    assert (fresh, second, again) == (True, False, run)
    other, third = await house.ledger.start_run(BEN, "consolidate", 1, consolidate_job(BEN))
    assert third
    assert other.id != run.id
    (job,) = await house.ledger.jobs(ANN, JobFilter())
    assert job.payload == {"run_id": run.id}


async def test_a_run_shows_its_progress_and_its_end(house: House) -> None:
    run, _ = await house.ledger.start_run(ANN, "consolidate", 2, consolidate_job(ANN))
    follow = consolidate_job(ANN, {"run_id": run.id})
    plan = Plan((Progress(run.id, 1, 2, "half", cursor=7),), jobs=(follow,))
    await house.ledger.apply(await house.claim_one("consolidate"), plan)
    (now,) = await house.ledger.runs(ANN, "consolidate")
    assert (now.state, now.done, now.message) == ("running", 1, "half")
    plan = Plan((Progress(run.id, 2, 2, "all", finished=True),))
    await house.ledger.apply(await house.claim_one("consolidate"), plan)
    (now,) = await house.ledger.runs(ANN)
    assert (now.state, now.done, now.finished_at) == ("done", 2, START)
    assert await house.ledger.consolidated_to(ANN) == 7
    assert await house.ledger.consolidated_to(BEN) == 0


async def test_a_run_whose_job_dies_has_failed_and_goes_on_when_that_is_retried(house: House) -> None:
    await house.ledger.start_run(ANN, "consolidate", 2, consolidate_job(ANN))
    dead = await house.claim_one("consolidate")
    await house.ledger.bury(dead, "no JSON")
    (run,) = await house.ledger.runs(ANN)
    assert (run.state, run.message) == ("failed", "no JSON")
    await house.ledger.retry(dead.id)
    assert (await house.ledger.runs(ANN))[0].state == "running"


async def test_the_next_job_of_a_run_goes_in_though_the_queue_is_full(narrow: House) -> None:
    run, _ = await narrow.ledger.start_run(ANN, "consolidate", 2, consolidate_job(ANN))
    job_ = await narrow.claim_one("consolidate")
    await put(narrow, job(), job(), job())
    await narrow.ledger.apply(job_, Plan(jobs=(consolidate_job(ANN, {"run_id": run.id}), embed_job(ANN))))
    kinds = [one.kind for one in await narrow.ledger.jobs(ANN, JobFilter(states=("queued",)))]
    assert sorted(kinds) == ["consolidate", "other", "other", "other"]


async def test_a_clock_that_was_put_back_a_day_keeps_no_job_waiting_for_that_day(house: House) -> None:
    await house.say("just said", delay=2.0)
    (tried,) = await put(house, job("tried"))
    await house.ledger.postpone(await house.claim_one("other"), delay=60.0, waiting="away", count_attempt=False)
    house.clock.put_back(24 * 3600.0)
    assert await house.ledger.sweep(model=None) == 2
    assert {found.kind for found in await house.claim()} == {"remember", "other"}
    assert tried in [found.id for found in await house.ledger.jobs(ANN, JobFilter(states=("running",)))]


async def test_a_job_that_was_put_for_later_is_not_made_due(house: House) -> None:
    await put(house, job("l", delay=20 * 3600.0), job("m", delay=5.0))
    assert await house.ledger.sweep(model=None) == 0
    assert await house.claim() == []
