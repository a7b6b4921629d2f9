"""How often it is tried again, how soon, and who is spared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import anyio
import pytest

from afterword.choosing import choose_llms
from afterword.errors import BadAnswer, EmbedderUnavailable, IndexUnavailable, LedgerError, LLMUnavailable
from afterword.memory import AsyncMemory
from afterword.ports import JobFilter, Message
from afterword.records import Filters, Job, Scope
from afterword.retries import ATTEMPTS, BUDGET, LONGEST_WAIT, Breaker, Breakers, NoUse, backoff, verdict
from afterword.settings import Settings
from afterword.testing import FakeOpenAI, FrozenClock, HashingEmbedder, ScriptedLLM
from afterword.wiring import Parts, open_memory
from tests.waiting import eventually, idle

pytestmark = pytest.mark.anyio
NEEDS = {"remember": "llm", "embed": "embedder"}


def job(kind: str = "remember", attempt: int = 1) -> Job:
    now = FrozenClock().now()
    return Job(1, Scope("t", "u"), 1, kind, "l", None, None, {}, "running", attempt, 1, now, now)


# ── values ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("named", [1e12, float("inf"), float("nan"), -5.0])
def test_a_retry_time_that_no_server_means_is_not_believed(named: float) -> None:
    delay = verdict(LLMUnavailable("busy", retry_after=named), job(), outages=1).delay
    assert delay is not None
    assert 0 < delay <= LONGEST_WAIT


def test_delays_double_within_their_bounds_and_spread() -> None:
    delays = {attempt: [backoff(attempt, (1.0, 300.0)) for _ in range(200)] for attempt in (1, 4, 2000)}
    for attempt, most in ((1, 1.0), (4, 8.0), (2000, 300.0)):
        assert most / 2 <= min(delays[attempt]) < max(delays[attempt]) <= most


def test_a_volley_that_fails_together_counts_as_one_failure() -> None:
    breaker = Breaker()
    delays = [breaker.failed(LLMUnavailable("away"), now=100.0 + number / 1000) for number in range(8)]
    assert breaker.failures == 1
    assert max(delays) <= 1.0
    assert breaker.room(101.1, 8) == 1


def test_a_volley_is_held_back_for_the_longest_time_that_any_of_it_was_told() -> None:
    breaker = Breaker()
    breaker.failed(LLMUnavailable("busy", retry_after=5.0), now=0.0)
    breaker.failed(LLMUnavailable("busy", retry_after=30.0), now=0.1)
    breaker.failed(LLMUnavailable("busy", retry_after=5.0), now=0.2)
    assert breaker.room(29.0, 8) == 0
    assert breaker.room(30.2, 8) == 1


def test_an_end_without_asking_closes_no_breaker() -> None:
    breakers = Breakers(NEEDS)
    breakers.failed(job(), LLMUnavailable("away"), 0.0)
    breakers.succeeded("remember", answered=False)
    assert breakers["llm"].trouble is not None
    breakers.succeeded("remember", answered=True)
    assert breakers["llm"].trouble is None


def test_what_hangs_on_one_thing_does_not_wait_for_another() -> None:
    breakers = Breakers(NEEDS)
    breakers.failed(job("embed"), EmbedderUnavailable("away", retry_after=50), 0.0)
    groups = dict(breakers.groups(("remember", "embed", "forget")))
    rooms = {name: breakers.room_of(name, 1.0, 8, ()) for name in groups}
    assert {groups[name][0]: room for name, room in rooms.items()} == {"forget": 8, "embed": 0, "remember": 8}
    breakers.succeeded("forget", answered=False)
    assert breakers["embedder"].trouble is not None


def test_a_ledger_that_takes_nothing_holds_all_work_back() -> None:
    breakers = Breakers(NEEDS)
    decided = breakers.failed(job(attempt=ATTEMPTS), LedgerError("no space is left"), 0.0)
    assert (decided.delay is not None, decided.count_attempt) == (True, False)
    assert breakers.room(0.1, 8, ()) == 0
    assert breakers.room(2.0, 8, ()) == 1
    assert breakers.room(2.0, 8, ("embed",)) == 0
    assert breakers.trouble == ("no space is left",)
    breakers.succeeded("embed", answered=False)
    assert breakers.room(2.0, 8, ("embed",)) == 8


def test_an_llm_that_gives_nothing_of_use_is_taken_for_away_before_all_work_is_given_up() -> None:
    breakers = Breakers(NEEDS)
    verdicts = [breakers.failed(job(attempt=ATTEMPTS), BadAnswer("prose"), 0.0) for _ in range(100)]
    assert sum(one.delay is None for one in verdicts) == BUDGET
    assert all(not one.count_attempt and one.delay is not None for one in verdicts[int(BUDGET) :])
    assert isinstance(breakers["llm"].trouble, NoUse)
    assert "prose" in breakers.trouble[0]


def test_answers_of_use_and_time_give_attempts_back() -> None:
    breakers = Breakers(NEEDS)
    for _ in range(int(BUDGET)):
        assert breakers.failed(job(), BadAnswer("prose"), 0.0).count_attempt
    assert not breakers.failed(job(), BadAnswer("prose"), 0.0).count_attempt
    for _ in range(2):
        breakers.succeeded("remember", answered=True)
    assert breakers.failed(job(), BadAnswer("prose"), 0.0).count_attempt
    assert not breakers.failed(job(), BadAnswer("prose"), 60.0).count_attempt
    assert breakers.failed(job(), BadAnswer("prose"), 3600.0).count_attempt


def test_a_failure_of_our_own_code_costs_the_llm_nothing() -> None:
    breakers = Breakers(NEEDS)
    assert all(breakers.failed(job(), KeyError("x"), 0.0).count_attempt for _ in range(100))
    assert breakers.trouble == ()


def test_an_index_that_can_not_be_written_is_told_until_it_can() -> None:
    breakers = Breakers(NEEDS)
    with pytest.raises(IndexUnavailable), breakers.watching_the_index(FrozenClock()):
        raise IndexUnavailable("no space", fix="free some")
    assert list(breakers.trouble) == ["no space: free some"]
    assert dict(breakers.groups(("remember",))) == {"llm": ["remember"]}
    assert breakers.room_of("llm", 0.0, 8, ()) == breakers.room(0.0, 8, ()) == 8
    with breakers.watching_the_index(FrozenClock()):
        pass
    assert list(breakers.trouble) == []


# ── in the worker ──────────────────────────────────────────────────────────────────────────────────────────────────


async def state_of(memory: AsyncMemory, state: Any) -> list[Job]:
    return await eventually(memory, "ann", lambda: memory.jobs("ann", JobFilter(states=(state,))))


async def test_a_babbling_llm_costs_few_calls_and_all_is_done_when_it_answers_again(settings: Settings) -> None:
    clock = FrozenClock()
    sound = False

    def answer(messages: Sequence[Message], schema: Any) -> str:
        return json.dumps({"entries": []}) if sound else "Sure! I think so."

    llm = ScriptedLLM(answers=answer)
    async with open_memory(settings, llm=llm, clock=clock) as memory:
        for number in range(40):
            await memory.submit(f"I have visited town number {number}.", "ann", f"chat{number}")
        with anyio.fail_after(60):
            while not any("nothing that the LLM answers" in text for text in (await memory.status()).trouble):
                await clock.advance(2.0)
                await anyio.sleep(0.005)
            for _ in range(30):
                await clock.advance(1.0)
                await anyio.sleep(0.005)
            assert len(llm.completed) <= 2 * (BUDGET + 8)  # each attempt asks twice
            assert not (await memory.job_counts("ann")).get("dead")
            sound = True
            while (await memory.job_counts("ann")).get("done", 0) < 40:
                await clock.advance(2.0)
                await anyio.sleep(0.005)
        assert (await memory.status()).trouble == ()


async def test_small_talk_does_not_let_everybody_ask_a_dead_llm_again(settings: Settings) -> None:
    clock = FrozenClock()
    llm = ScriptedLLM()
    llm.fail_with(LLMUnavailable("nothing answers"), times=None, on="complete")
    async with open_memory(settings, llm=llm, clock=clock) as memory:
        await memory.submit("I moved to Oslo.", "ann", "told")
        (waiting,) = await eventually(memory, "ann", lambda: _waiting(memory))
        assert waiting.attempt == 0
        for number in range(10):
            await memory.submit("Good morning!", "ben", f"chat{number}")
        with anyio.fail_after(20):
            while (await memory.job_counts("ben")).get("done", 0) < 10:
                await clock.advance(61.0)
                await anyio.sleep(0.01)
        assert (await memory.status()).trouble == ("nothing answers",)


async def _waiting(memory: AsyncMemory) -> list[Job]:
    return [
        found for found in await memory.jobs("ann", JobFilter(states=("queued",))) if found.waiting == "nothing answers"
    ]


async def test_a_cancelled_job_ends_its_call_at_the_llm_at_once(settings: Settings) -> None:
    async with FakeOpenAI() as server:
        server.always("complete", fault="hang")
        chosen = settings.model_copy(update={"llm_base_url": server.base_url, "llm_model": "fake-chat"})
        async with open_memory(chosen) as memory:
            await memory.submit("I moved to Oslo.", "ann")
            with anyio.fail_after(5):
                await server.until(lambda: server.counts["running"] == 1)
                (running,) = await memory.jobs("ann", JobFilter(states=("running",)))
                await memory.cancel_job(running.id, "ann")
                await server.until(lambda: server.counts["cancelled"] == 1)


async def test_a_suspended_worker_takes_its_own_job_for_nobodys_lost_one(settings: Settings) -> None:
    clock = FrozenClock()
    llm = ScriptedLLM()
    gate = llm.hold_complete()
    async with open_memory(settings, llm=llm, clock=clock) as memory:
        await memory.submit("I moved to Oslo.", "ann")
        with anyio.fail_after(10):
            await gate.reached()
            await clock.advance(3600.0)  # every lease has run out meanwhile
            clock.set_wall(clock.now())
            await memory.submit("I moved to Bergen.", "ben")
            await gate.reached(2)
            gate.release()
            await memory.worker.idle()
        (done,) = await memory.jobs("ann", JobFilter(kinds=("remember",)))
        assert (done.state, done.attempt) == ("done", 1)
        assert len(llm.completed) == 2
        assert len(await memory.get_all("ann")) == 1


async def test_nobody_waits_again_for_an_embedder_that_one_search_waited_for_in_vain(settings: Settings) -> None:
    clock = FrozenClock()
    embedder = HashingEmbedder()
    chosen = settings.model_copy(update={"recall_deadline": 1.0})
    async with open_memory(chosen, embedder=embedder, llm=ScriptedLLM(), clock=clock) as memory:
        await memory.submit("I moved to Oslo.", "ann")
        await clock.advance(1)
        await idle(memory)
        embedder.delay = 0.7
        slow = "searched by words only: the embedder did not answer within 0.6 s"
        assert (await (await memory.chat("Where is Oslo?", "ann")).recalled()).missed == slow
        asked = len(embedder.queries)
        assert (await (await memory.chat("And Bergen?", "ann")).recalled()).missed == slow
        assert len(embedder.queries) == asked
        embedder.delay = 0.0
        await clock.advance(5)
        assert (await (await memory.chat("And Moss?", "ann")).recalled()).missed == ""


async def test_an_embedder_whose_vectors_change_their_length_spoils_no_search(settings: Settings) -> None:
    async with open_memory(settings, embedder=HashingEmbedder(64, model="e"), llm=ScriptedLLM()) as memory:
        await memory.submit("I moved to Oslo.", "ann")
        await idle(memory)
    changed = HashingEmbedder(65, model="e")
    async with open_memory(settings, embedder=changed, llm=ScriptedLLM()) as memory:
        found = await memory.search("Who moved to Oslo?", "ann")
        assert "I moved to Oslo." in {hit.text for hit in found}, "by words, though not by meaning"
        await memory.submit("I have a cat.", "ann")

        async def told() -> bool:
            return any("65 dimensions" in text for text in (await memory.status()).trouble)

        assert await eventually(memory, "ann", told)
        changed.dimensions = 64
        await idle(memory)
        assert (await memory.status()).trouble == ()
        reply = await memory.chat("Who moved to Oslo?", "ann")
        assert (await reply.recalled()).missed == ""
        assert len(await memory.get_all("ann", Filters(kinds=("episodic",)))) == 2


async def test_where_no_decider_was_set_its_outage_names_the_settings_that_were() -> None:
    settings = Settings(llm_base_url="http://127.0.0.1:9/v1", llm_model="m", embedder="none")
    assert settings.decider_base_url == settings.llm_base_url
    chat, decider = await choose_llms(settings, Parts())
    assert decider is chat
    chat, other = await choose_llms(settings.model_copy(update={"decider_model": "small"}), Parts())
    assert other is not chat
    for llm in (chat, decider, other):
        assert llm is not None
        await llm.aclose()
