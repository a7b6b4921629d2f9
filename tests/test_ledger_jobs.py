"""The queue: what is claimed, when, by whom, and what becomes of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import anyio
import pytest

from afterword.errors import InvalidInput, LeaseLost, NotFound, QueueFull
from afterword.lanes import correction_job, embed_job, reconsolidate_job, remember_job
from afterword.plan import Plan
from afterword.ports import JobFilter, Queue
from afterword.records import Job, NewJob, NewTurn, Scope
from afterword.testing.clock import START
from tests.ledger_house import ANN, BACKENDS, BEN, LEASE, House, a_house

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


def ids(jobs: list[Job]) -> list[int]:
    return [job.id for job in jobs]


# ── claiming ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_claim_takes_a_job_with_a_lease_and_counts_the_attempt(house: House) -> None:
    (number,) = await put(house, job(payload={"a": 1}, key="k", stream="s"))
    claimed = await house.claim_one()
    assert (claimed.id, claimed.state, claimed.attempt, claimed.fence, claimed.worker) == (
        number,
        "running",
        1,
        1,
        "w1",
    )
    assert (claimed.payload, claimed.key, claimed.stream, claimed.scope, claimed.epoch) == ({"a": 1}, None, "s", ANN, 0)
    assert await house.ledger.job(number) == claimed
    assert await house.claim() == []


async def test_a_job_is_not_claimed_before_it_is_due(house: House) -> None:
    await put(house, job(delay=2.0))
    assert await house.claim() == []
    assert await house.ledger.next_due(["other"]) == START + timedelta(seconds=2)
    await house.clock.advance(2)
    assert len(await house.claim()) == 1


async def test_only_the_kinds_asked_for_are_claimed(house: House) -> None:
    await put(house, job(), replace(job(), kind="embed"))
    assert [one.kind for one in await house.claim("embed")] == ["embed"]
    assert await house.ledger.next_due(["remember"]) is None


async def test_a_lane_runs_one_job_at_a_time_in_the_order_of_their_time(house: House) -> None:
    late, early, other = await put(house, job(delay=1.0), job(), job("m", delay=0.5))
    await house.clock.advance(5)
    first = await house.claim()
    assert ids(first) == [early, other]
    assert await house.claim() == []
    await house.ledger.apply(first[0], Plan())
    assert ids(await house.claim()) == [late]


async def test_a_delayed_job_does_not_hold_up_its_lane(house: House) -> None:
    _, ready = await put(house, job(stream="a", delay=60.0), job(stream="b"))
    assert ids(await house.claim()) == [ready]


async def test_a_stream_keeps_its_order_even_when_its_first_is_put_off(house: House) -> None:
    first, second = await put(house, job("l", stream="s"), job("m", stream="s"))
    claimed = await house.claim_one()
    assert claimed.id == first
    await house.ledger.postpone(claimed, delay=60.0, waiting="the LLM is away", count_attempt=False)
    assert await house.claim() == []
    await house.clock.advance(60)
    await house.ledger.apply(await house.claim_one(), Plan())
    assert ids(await house.claim()) == [second]


async def test_a_user_with_many_jobs_holds_up_nobody(house: House) -> None:
    await put(house, *[job("ann") for _ in range(50)])
    (other,) = await put(house, job("ben"), scope=BEN)
    assert other in ids(await house.claim(count=2))


async def test_two_workers_never_get_the_same_job(house: House) -> None:
    await put(house, *[job(f"lane {number}") for number in range(12)])
    taken: list[int] = []

    async def work(worker: str) -> None:
        while claimed := await house.claim(worker=worker, count=2):
            taken.extend(ids(claimed))

    async with anyio.create_task_group() as tasks:
        for number in range(4):
            tasks.start_soon(work, f"w{number}")
    assert len(taken) == len(set(taken)) == 12


# ── coalescing ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_waiting_job_of_a_key_is_slid_rather_than_doubled(house: House) -> None:
    (first,) = await put(house, job(key="k", delay=2.0, max_wait=5.0))
    for seconds, due in [(1.0, 3.0), (3.0, 5.0)]:
        await house.clock.advance(seconds)
        assert await put(house, job(key="k", delay=2.0, max_wait=5.0)) == [first]
        assert (await house.ledger.job(first)).run_at == START + timedelta(seconds=due)


async def test_a_key_can_be_made_due_at_once(house: House) -> None:
    await put(house, job(key="k", delay=20.0, max_wait=60.0))
    await put(house, job(key="k", delay=0.0, max_wait=60.0))
    assert len(await house.claim()) == 1


async def test_a_claimed_job_gives_up_its_key(house: House) -> None:
    (first,) = await put(house, job(key="k"))
    claimed = await house.claim_one()
    (second,) = await put(house, job(key="k"))
    assert first != second
    await house.ledger.postpone(claimed, delay=0.0)
    assert await put(house, job(key="k")) == [second]
    assert len(await house.ledger.jobs(ANN, JobFilter(states=("queued",)))) == 2


async def test_a_key_belongs_to_one_user(house: House) -> None:
    (mine,) = await put(house, job(key="k"))
    (his,) = await put(house, job("m", key="k"), scope=BEN)
    assert mine != his


# ── leases ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_expired_lease_goes_back_to_the_queue_and_its_worker_is_fenced_off(house: House) -> None:
    await put(house, job())
    lost = await house.claim_one()
    await house.clock.advance(LEASE + 1)
    again = await house.claim_one(worker="w2")
    assert (again.id, again.attempt, again.fence) == (lost.id, 2, 2)
    for late in (
        house.ledger.apply(lost, Plan()),
        house.ledger.postpone(lost, delay=0),
        house.ledger.bury(lost, "late"),
        house.ledger.fix_window(lost, {"first": 0}),
    ):
        with pytest.raises(LeaseLost):
            await late
    assert await house.ledger.renew("w1", [lost], LEASE) == set()
    await house.ledger.apply(again, Plan())


async def test_a_lease_further_ahead_than_any_was_given_is_expired_too(house: House) -> None:
    await put(house, job())
    lost = await house.claim_one()
    house.clock.put_back(3600)
    assert ids(await house.claim(worker="w2")) == []  # the job itself is due later, by this clock
    assert (await house.ledger.job(lost.id)).state == "queued"
    with pytest.raises(LeaseLost):
        await house.ledger.apply(lost, Plan())


async def test_a_renewed_lease_is_kept(house: House) -> None:
    await put(house, job())
    claimed = await house.claim_one()
    await house.clock.advance(LEASE - 1)
    assert await house.ledger.renew("w1", [claimed], LEASE) == {claimed.id}
    await house.clock.advance(LEASE - 1)
    assert await house.claim(worker="w2") == []
    await house.ledger.apply(claimed, Plan())


async def test_a_window_once_fixed_stands(house: House) -> None:
    await put(house, job())
    claimed = await house.claim_one()
    fixed = await house.ledger.fix_window(claimed, {"first": 0, "last": 3})
    assert (await house.ledger.fix_window(claimed, {"first": 9})).window == fixed.window == {"first": 0, "last": 3}
    await house.ledger.postpone(fixed, delay=0.0, error="bad answer")
    again = await house.claim_one()
    assert (again.window, again.error, again.attempt) == ({"first": 0, "last": 3}, "bad answer", 2)


async def test_an_outage_uses_up_no_attempt(house: House) -> None:
    await put(house, job())
    for _ in range(7):
        claimed = await house.claim_one()
        assert claimed.attempt == 1
        await house.ledger.postpone(claimed, delay=1.0, waiting="refused", count_attempt=False)
        assert (await house.ledger.job(claimed.id)).waiting == "refused"
        await house.clock.advance(1)


# ── limits ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_full_queue_says_which_limit_it_met(narrow: House) -> None:
    await put(narrow, job(), job(), job())
    with pytest.raises(QueueFull, match="max_waiting_jobs_per_user"):
        await put(narrow, job())
    await put(narrow, job("m"), scope=BEN)
    with pytest.raises(QueueFull, match="max_waiting_jobs"):
        await put(narrow, job("m"), scope=BEN)


async def test_a_full_queue_takes_no_half_of_what_is_put(narrow: House) -> None:
    with pytest.raises(QueueFull):
        await put(narrow, *[job() for _ in range(4)])
    assert await narrow.ledger.job_counts(ANN) == {}


async def test_what_turns_took_back_is_put_into_a_full_queue_since_nothing_makes_it_again(narrow: House) -> None:
    await put(narrow, job(), job(), job())
    claimed = await narrow.claim_one()
    await put(narrow, job())
    await narrow.ledger.apply(claimed, Plan(jobs=(correction_job(ANN, "c", ["t"]), reconsolidate_job(ANN, "c", "r"))))
    waiting = [one.payload for one in await narrow.ledger.jobs(ANN, JobFilter(states=("queued",)))]
    assert [payload for payload in waiting if payload] == [{"chat_id": "c", "turn_ids": ["t"]}]


async def test_a_full_queue_costs_a_turn_only_its_job_which_a_sweep_makes_again(narrow: House) -> None:
    await put(narrow, job(), job(), job())
    (turn,) = await narrow.say("Hello?")
    await narrow.reply(turn, jobs=[reconsolidate_job(ANN, "c", "r")])
    assert len(await narrow.ledger.turns(ANN, "c")) == 2
    assert await narrow.ledger.sweep(model=None) == 0
    for _ in range(3):
        await narrow.ledger.apply(await narrow.claim_one(), Plan())
    assert await narrow.ledger.sweep(model=None) == 1
    assert [one.kind for one in await narrow.ledger.jobs(ANN, JobFilter(states=("queued",)))] == ["remember"]


# ── giving up ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_dead_remember_is_stepped_over_and_its_chat_goes_on(house: House) -> None:
    await house.say(*[f"line {n}" for n in range(6)])
    claimed = await house.ledger.fix_window(await house.claim_one(), {"first": 0, "last": 3})
    await house.ledger.bury(claimed, "no JSON, five times")
    assert await house.ledger.cursor(ANN, "c") == 4
    dead = await house.ledger.job(claimed.id)
    assert (dead.state, dead.error, dead.finished_at) == ("dead", "no JSON, five times", START)
    (decision,) = await house.ledger.decisions(ANN, claimed.id)
    assert (decision.by, decision.first, decision.last) == ("none", 0, 3)
    assert (await house.claim_one("remember")).payload == {"chat_id": "c"}


async def test_a_dead_remember_with_nothing_behind_it_puts_no_job(house: House) -> None:
    await house.say("one")
    claimed = await house.ledger.fix_window(await house.claim_one(), {"first": 0, "last": 0})
    await house.ledger.bury(claimed, "bad")
    assert await house.claim() == []
    assert await house.ledger.sweep(model=None) == 0


async def test_a_retried_job_has_its_window_and_goes_before_the_later_ones_of_its_stream(house: House) -> None:
    await house.say(*[f"line {n}" for n in range(6)])
    claimed = await house.ledger.fix_window(await house.claim_one(), {"first": 0, "last": 3})
    await house.ledger.bury(claimed, "bad")
    again = await house.ledger.retry(claimed.id)
    assert (again.state, again.attempt, again.window, again.error) == ("queued", 0, {"first": 0, "last": 3}, "")
    retried = await house.claim_one()
    assert retried.id == claimed.id
    await house.ledger.apply(retried, Plan())
    assert await house.ledger.cursor(ANN, "c") == 4
    assert (await house.claim_one()).id != claimed.id


async def test_only_what_was_given_up_can_be_tried_again(house: House) -> None:
    (number,) = await put(house, job())
    with pytest.raises(InvalidInput, match="queued"):
        await house.ledger.retry(number)
    for missing in (house.ledger.retry(99), house.ledger.cancel(99)):
        with pytest.raises(NotFound):
            await missing


async def test_a_cancelled_job_loses_its_worker(house: House) -> None:
    waiting, _ = await put(house, job(), job("m", delay=9.0))
    claimed = await house.claim_one()
    assert (await house.ledger.cancel(claimed.id)).state == "cancelled"
    with pytest.raises(LeaseLost):
        await house.ledger.apply(claimed, Plan())
    assert (await house.ledger.cancel(waiting)).state == "cancelled"
    assert (await house.ledger.job_counts(ANN)) == {"cancelled": 1, "queued": 1}


async def test_a_cancelled_remember_steps_over_one_window_and_no_more(house: House) -> None:
    await house.ledger.accept(ANN, [NewTurn("c", "user", f"line {n}") for n in range(60)], [remember_job(ANN, "c")])
    (waiting,) = await house.ledger.jobs(ANN, JobFilter())
    cancelled = await house.ledger.cancel(waiting.id)
    assert cancelled.window == {"chat_id": "c", "first": 0, "last": 23}
    assert await house.ledger.cursor(ANN, "c") == 24
    assert (await house.claim_one("remember")).id != waiting.id


async def test_a_cancelled_remember_leaves_to_the_one_before_it_what_that_one_is_deciding(house: House) -> None:
    await house.say("one")
    earlier = await house.claim_one("remember")
    await house.ledger.fix_window(earlier, {"chat_id": "c", "first": 0, "last": 0})
    await house.say("two")
    (waiting,) = await house.ledger.jobs(ANN, JobFilter(states=("queued",), kinds=("remember",)))
    assert (await house.ledger.cancel(waiting.id)).window == {"chat_id": "c", "first": 1, "last": 1}


async def test_a_cancelled_remember_steps_over_nothing_that_the_one_before_it_may_still_take(house: House) -> None:
    await house.say("one")
    await house.claim_one("remember")
    await house.say("two")
    (waiting,) = await house.ledger.jobs(ANN, JobFilter(states=("queued",), kinds=("remember",)))
    assert (await house.ledger.cancel(waiting.id)).window is None
    assert await house.ledger.cursor(ANN, "c") == 0


async def test_finished_jobs_are_pruned_and_dead_ones_kept(house: House) -> None:
    await put(house, job("a"), job("b"), job("c", delay=9999))
    done, dead = await house.claim()
    await house.ledger.apply(done, Plan())
    await house.ledger.bury(dead, "bad")
    assert await house.ledger.prune(START) == 0
    assert await house.ledger.prune(START + timedelta(seconds=1)) == 1
    assert await house.ledger.job_counts(ANN) == {"dead": 1, "queued": 1}


# ── listing ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_jobs_are_listed_newest_first_and_by_what_is_wanted(house: House) -> None:
    await house.say("one", chat="a")
    await house.say("one", chat="b")
    await house.ledger.put(BEN, [embed_job(BEN)])
    listed = await house.ledger.jobs(None, JobFilter())
    assert [one.kind for one in listed] == ["embed", "remember", "remember"]
    assert ids(await house.ledger.jobs(None, JobFilter(limit=1, before=listed[0].id))) == [listed[1].id]
    assert [one.payload for one in await house.ledger.jobs(ANN, JobFilter(chat_id="a"))] == [{"chat_id": "a"}]
    assert await house.ledger.jobs(ANN, JobFilter(kinds=("embed",))) == []
    assert await house.ledger.job_counts(None) == {"queued": 3}


async def test_scopes_are_listed_in_pages(house: House) -> None:
    for user in ("b", "a", "c"):
        await house.ledger.put(Scope("t", user), [job(user)])
    first = await house.ledger.scopes(None, 2)
    assert [scope.user for scope in first] == ["a", "b"]
    assert [scope.user for scope in await house.ledger.scopes(first[-1], 2)] == ["c"]


# ── the queue in figures ───────────────────────────────────────────────────────────────────────────────────────────


async def test_the_queue_in_figures_counts_every_user_and_knows_since_when(house: House) -> None:
    assert await house.ledger.queue() == Queue({}, None, None, 0)
    await house.say("one", "two", delay=5.0)
    await house.clock.advance(3.0)
    await house.say("three", scope=BEN)
    queue = await house.ledger.queue()
    assert queue.jobs == {("remember", "queued"): 2}
    assert (queue.oldest, queue.due, queue.turns) == (START, START + timedelta(seconds=3), 3)
    claimed = await house.claim_one()
    assert claimed.scope == BEN
    await house.ledger.bury(claimed, "it never could be read")
    queue = await house.ledger.queue()
    assert queue.jobs == {("remember", "queued"): 1, ("remember", "dead"): 1}
    assert (queue.count("dead"), queue.turns) == (1, 2)
