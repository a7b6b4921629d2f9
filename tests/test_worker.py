"""Background work is durable, bounded, and outlives its failures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from typing import Any, cast

import anyio
import pytest

from afterword.errors import BadAnswer, EmbedderUnavailable, LLMUnavailable, NotRemembered, StillPending
from afterword.memory import AsyncMemory
from afterword.ports import JobFilter, Ledger, Message
from afterword.records import Filters, Job, NewTurn, Scope
from afterword.retries import ATTEMPTS, Breaker, verdict
from afterword.settings import Settings
from afterword.testing import FrozenClock, HashingEmbedder, ScriptedLLM
from afterword.wiring import Around, open_memory
from tests.conftest import OpenMemory
from tests.waiting import eventually, idle

pytestmark = pytest.mark.anyio


def job(attempt: int) -> Job:
    now = FrozenClock().now()
    return Job(1, Scope("t", "u"), 1, "remember", "l", None, None, {}, "running", attempt, 1, now, now)


async def jobs(memory: AsyncMemory, **wanted: Any) -> list[Job]:
    """The user's jobs once there are any of this kind."""
    return await eventually(memory, "ann", lambda: memory.jobs("ann", JobFilter(**wanted)))


def test_an_outage_waits_and_uses_up_no_attempt() -> None:
    decided = verdict(LLMUnavailable("away"), job(ATTEMPTS), outages=1)
    assert decided.delay is not None
    assert not decided.count_attempt
    assert decided.waiting == "away"


def test_a_named_retry_time_is_honoured() -> None:
    assert verdict(LLMUnavailable("busy", retry_after=17.0), job(1), outages=1).delay == 17.0


def test_a_failure_is_tried_again_later_each_time_and_dead_lettered_after_five_attempts() -> None:
    delays = [verdict(BadAnswer("prose"), job(attempt), 0).delay for attempt in range(1, ATTEMPTS + 1)]
    assert delays[-1] is None
    bounds = [(0.5 * 2**n, 2.0**n) for n in range(ATTEMPTS - 1)]
    assert all(delay is not None and low <= delay <= high for delay, (low, high) in zip(delays, bounds, strict=False))


def test_a_breaker_lets_nothing_through_then_one_then_all() -> None:
    breaker = Breaker()
    assert breaker.room(0.0, 8) == 8
    delay = breaker.failed(LLMUnavailable("away"), now=0.0)
    assert breaker.room(delay / 2, 8) == 0
    assert breaker.room(delay, 8) == 1
    breaker.succeeded()
    assert breaker.room(delay, 8) == 8


async def test_a_dead_llm_is_not_asked_by_every_job_and_all_is_done_when_it_is_back(opened: OpenMemory) -> None:
    llm = ScriptedLLM()
    llm.fail_with(LLMUnavailable("nothing answers", fix="Start it.", retry_after=0.2), times=3, on="complete")
    memory = await opened(llm=llm)
    for number in range(12):
        await memory.submit(f"I have visited town number {number}.", "ann", f"chat{number}")
    await idle(memory)
    assert len(llm.completed) <= 3 + 12 + 8  # a first volley may be under way when the breaker opens
    jobs = await memory.jobs("ann", JobFilter(kinds=("remember",)))
    assert {found.state for found in jobs} == {"done"}
    assert len(await memory.get_all("ann")) == 12
    assert (await memory.status()).trouble == ()


class EndsAtOnce:
    """A ledger that has Ann's work ended whenever more is claimed: before a job just claimed took its first step."""

    def __init__(self, ledger: Ledger, memories: list[AsyncMemory]) -> None:
        self._ledger = ledger
        self._memories = memories

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    async def claim(self, *arguments: Any) -> list[Job]:
        for memory in self._memories:
            memory.worker.abandon(memory.scope("ann"))
        return await self._ledger.claim(*arguments)


async def test_a_job_that_is_ended_before_its_first_step_leaves_its_place_to_others(settings: Settings) -> None:
    opened: list[AsyncMemory] = []
    llm = ScriptedLLM()
    gate = llm.hold_complete()
    around = Around(ledger=lambda ledger: cast("Ledger", EndsAtOnce(ledger, opened)))
    two_places = settings.model_copy(update={"worker_concurrency": 2})
    async with open_memory(two_places, llm=llm, around=around) as memory:
        opened.append(memory)
        await memory.submit("I keep bees.", "ann", "c")
        with anyio.fail_after(20):
            await eventually(memory, "ann", lambda: memory.jobs("ann", JobFilter(states=("running",))))
            await memory.submit("I was in Oslo.", "bob", "c")
            await memory.submit("I was in Rome.", "cid", "c")
            await gate.reached(2)
        gate.release()


async def test_an_outage_is_shown_with_its_fix_while_it_lasts(opened: OpenMemory) -> None:
    llm = ScriptedLLM()
    llm.fail_with(LLMUnavailable("nothing answers", fix="Start it.", retry_after=60), times=None, on="complete")
    memory = await opened(llm=llm)
    await memory.submit("I moved to Oslo.", "ann")

    async def told() -> Job | None:
        found = await memory.jobs("ann", JobFilter(states=("queued",)))
        return found[0] if found and found[0].waiting else None

    waiting = await eventually(memory, "ann", told)
    assert waiting is not None
    assert "nothing answers" in waiting.waiting
    assert waiting.attempt == 0
    assert (await memory.status()).trouble == ("nothing answers: Start it.",)


async def test_an_input_that_keeps_failing_is_stepped_over_and_its_chat_goes_on(settings: Settings) -> None:
    answers = iter(["prose"] * 2 * ATTEMPTS)  # each attempt asks once more

    def answer(messages: Sequence[Message], schema: Any) -> str:
        return next(answers, json.dumps({"entries": []}))

    clock = FrozenClock()
    async with open_memory(settings, llm=ScriptedLLM(answers=answer), clock=clock) as memory:
        poison = await memory.submit("I said POISON.", "ann")

        async def failed_again(times: int) -> Job | None:
            found = await memory.jobs("ann", JobFilter(kinds=("remember",)))
            over = found and found[-1].attempt > times and found[-1].state in ("queued", "dead")
            return found[-1] if over else None

        failed = await eventually(memory, "ann", partial(failed_again, 0))
        while failed is not None and failed.state != "dead":
            await clock.advance(400)
            failed = await eventually(memory, "ann", partial(failed_again, failed.attempt))
        assert failed is not None
        assert failed.attempt == ATTEMPTS
        with pytest.raises(NotRemembered):
            await poison.ids(5)
        healthy = await memory.submit("I moved to Oslo.", "ann")
        assert len(await healthy.ids(10)) == 1
        assert [turn.text for turn in await memory.turns("ann", "default")] == ["I said POISON.", "I moved to Oslo."]


async def test_a_dead_job_can_be_retried_alone(opened: OpenMemory) -> None:
    llm = ScriptedLLM()
    memory = await opened(llm=llm)
    gate = llm.hold_complete()
    await memory.submit("I moved to Oslo.", "ann")
    with anyio.fail_after(10):
        await gate.reached()
    (running,) = await memory.jobs("ann", JobFilter(states=("running",)))
    await memory.cancel_job(running.id, "ann")
    gate.release()
    await jobs(memory, states=("cancelled",))
    assert await memory.get_all("ann") == []
    await memory.retry_job(running.id, "ann")
    await idle(memory)
    assert len(await memory.get_all("ann")) == 1


async def test_a_ticket_waits_for_its_own_job_though_the_next_one_was_cancelled(opened: OpenMemory) -> None:
    llm = ScriptedLLM()
    memory = await opened(llm=llm)
    gate = llm.hold_complete()
    first = await memory.submit("I moved to Oslo.", "ann")
    with anyio.fail_after(10):
        await gate.reached()
    second = await memory.submit("I bought a boat.", "ann")
    (waiting,) = await memory.jobs("ann", JobFilter(states=("queued",), kinds=("remember",)))
    await memory.cancel_job(waiting.id, "ann")
    with pytest.raises(NotRemembered):
        await second.ids(5)
    gate.release()
    assert len(await first.ids(10)) == 1
    await idle(memory)
    await memory.retry_job(waiting.id, "ann")
    await idle(memory)
    assert len(await memory.get_all("ann")) == 2


async def test_one_failing_chat_does_not_hold_up_the_users_other_chats(opened: OpenMemory) -> None:
    def answer(messages: Sequence[Message], schema: Any) -> str:
        return "prose" if any("POISON" in one.content for one in messages) else json.dumps({"entries": []})

    memory = await opened(llm=ScriptedLLM(answers=answer))
    await memory.submit("I said POISON.", "ann", "bad")
    ticket = await memory.submit("I moved to Oslo.", "ann", "good")
    with anyio.fail_after(10):
        assert len(await ticket.ids()) == 1


async def test_a_chat_has_at_most_one_waiting_job_however_much_is_said(opened: OpenMemory) -> None:
    memory = await opened(run_worker=False)
    for number in range(30):
        await memory.submit(f"Line {number}.", "ann")
    assert len(await memory.jobs("ann", JobFilter(kinds=("remember",)))) == 1


async def test_no_llm_call_gets_more_than_a_window_of_turns(opened: OpenMemory) -> None:
    lines: list[int] = []

    def answer(messages: Sequence[Message], schema: Any) -> str:
        lines.append(sum(message.content.count("marker") for message in messages))
        return json.dumps({"entries": []})

    memory = await opened(llm=ScriptedLLM(answers=answer), window_turns=10)
    turns = [NewTurn("long", "user", f"This is marker {number}.", turn_id=f"t{number}") for number in range(35)]
    ticket = await memory.add_turns(turns, "ann")
    with anyio.fail_after(20):
        await ticket.ids()
    assert len(lines) == 6  # six entries a call, 35 turns
    assert max(lines) <= 6 + 6 + 4  # the turns, their entries, and a few turns before as context


async def test_an_embedder_that_is_away_costs_no_attempt_and_heals(opened: OpenMemory) -> None:
    embedder = HashingEmbedder()
    embedder.fail_with(EmbedderUnavailable("away", retry_after=0.1), times=4)
    memory = await opened(embedder=embedder)
    await memory.submit("I moved to Oslo.", "ann")
    await idle(memory)
    scope = memory.scope("ann")
    have, total = await memory.ledger.vector_counts(scope, embedder.model)
    assert have == total > 0


async def test_waiting_for_ids_runs_out_of_time_without_losing_anything(opened: OpenMemory) -> None:
    llm = ScriptedLLM()
    gate = llm.hold_complete()
    memory = await opened(llm=llm)
    with pytest.raises(StillPending) as caught:
        await memory.add("I moved to Oslo.", "ann", timeout=0.05)
    gate.release()
    assert caught.value.ticket is not None
    with anyio.fail_after(10):
        ids = await caught.value.ticket.ids()
    assert [record.id for record in await memory.get_all("ann")] == ids


async def test_work_that_was_under_way_at_a_stop_is_done_by_the_next_start(settings: Settings) -> None:
    llm = ScriptedLLM()
    gate = llm.hold_complete()
    async with open_memory(settings.model_copy(update={"drain_deadline": 0.05}), llm=llm) as memory:
        await memory.submit("I moved to Oslo.", "ann")
        with anyio.fail_after(10):
            await gate.reached()
    assert llm.cancelled
    async with open_memory(settings, llm=ScriptedLLM()) as memory:
        await idle(memory)
        (found,) = await memory.jobs("ann", JobFilter(kinds=("remember",)))
        assert (found.state, found.attempt) == ("done", 1)
        assert len(await memory.get_all("ann")) == 1


async def test_a_persons_edit_made_while_a_step_decides_is_never_overwritten(opened: OpenMemory) -> None:
    llm = ScriptedLLM()
    memory = await opened(llm=llm)
    (memory_id,) = await memory.add("I live in Oslo.", "ann", timeout=10)
    gate = llm.hold_complete()
    await memory.reconsolidate("I moved, I now live in Bergen by the sea.", "ann")
    with anyio.move_on_after(2):
        await gate.reached()
    await memory.update(memory_id, "Ann lives in Trondheim.", "ann")
    gate.release()
    await idle(memory)
    assert (await memory.get(memory_id, "ann")).text == "Ann lives in Trondheim."


async def test_turns_that_came_without_an_llm_are_read_by_the_llm_later_and_rule_episodes_give_way(
    settings: Settings,
) -> None:
    from afterword.llms.quoting import QuotingLLM  # noqa: PLC0415

    async with open_memory(settings, llm=QuotingLLM()) as memory:
        await memory.add("I moved to Oslo.", "ann", timeout=10)
        assert [record.author for record in await memory.get_all("ann")] == ["rules"]
    async with open_memory(settings, llm=ScriptedLLM()) as memory:
        assert (await memory.status()).backlog_turns == 1
        handle = await memory.backfill("ann")
        with anyio.fail_after(20):
            assert (await handle.done()).state == "done"
        assert [record.author for record in await memory.get_all("ann")] == ["llm"]
        assert (await memory.status()).backlog_turns == 0


async def test_event_time_decides_a_listing_not_the_time_of_storing(opened: OpenMemory) -> None:
    memory = await opened()
    now = FrozenClock().now()
    turns = [NewTurn("old", "user", "I met Ida.", said_at=now - timedelta(days=400), turn_id="a")]
    with anyio.fail_after(10):
        await (await memory.add_turns(turns, "ann")).ids()
    (record,) = await memory.get_all("ann", Filters(until=now - timedelta(days=399)))
    assert record.said_at == now - timedelta(days=400)
