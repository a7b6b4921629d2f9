"""The load campaign in its short form: what must hold whatever the machine's speed. Times are its long form's matter."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from afterword.errors import LedgerError
from afterword.interfaces.server import TURN, serve
from afterword.memory import AsyncMemory
from afterword.settings import Settings
from afterword.testing import FakeOpenAI, ScriptedLLM, no_network
from bench.load import SHORT, bars, campaign, form_of, options_of
from bench.load_pace import Pace, Writers, at, sentence, under_writes
from bench.load_recall import READER, House, concurrency, opened
from bench.load_tabs import drive
from bench.reply_pages import build
from tests.serving import served


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    options = options_of(["--short"])
    assert form_of(options) == SHORT
    with no_network():
        return asyncio.run(campaign(["recall", "burst", "cycles", "fair"], SHORT, options, lambda *_: None))


def test_every_add_that_is_in_flight_becomes_a_memory(found: dict[str, Any]) -> None:
    for row in found["recall"]["levels"]:
        assert row["adds"] >= row["in_flight"]
        assert (row["adds_failed"], row["searches_failed"], row["first_failure"]) == (0, 0, "")
        assert row["memories_written"] == row["adds"]
        assert (row["jobs_left"], row["jobs_dead"]) == (0, 0)
    assert found["bars"]["nothing_lost"] is True


def test_so_many_adds_are_in_flight_at_every_search(found: dict[str, Any]) -> None:
    assert [row["in_flight"] for row in found["recall"]["levels"]] == [0, 6, 20]
    for row in found["recall"]["levels"]:
        assert row["in_flight_least"] == row["in_flight"]
        assert row["in_llm_call_most"] <= row["in_flight"]


async def test_all_adds_in_flight_are_with_the_llm_at_once_and_a_search_answers_meanwhile(tmp_path: Path) -> None:
    llm = ScriptedLLM()
    async with opened(House(tmp_path), concurrency(20), llm) as memory:
        await memory.add("I bought a red bicycle in Oslo.", READER)
        gate = llm.hold_complete()
        adds = [asyncio.create_task(memory.add("I live in Lima.", f"writer{n}")) for n in range(20)]
        with anyio.fail_after(60):
            await gate.reached(20)
            assert llm.running == 20
            hits = await memory.search("What did I buy in Oslo?", READER)
            assert hits[0].text.startswith("I bought a red bicycle")
            assert llm.running == 20
            gate.release()
            assert [len(ids) for ids in await asyncio.gather(*adds)] == [1] * 20


def test_searches_go_on_finding_while_others_write(found: dict[str, Any]) -> None:
    assert found["recall"]["fill"]["embedded"] == found["recall"]["fill"]["memories"] >= SHORT.memories
    assert [row["found_nothing"] for row in found["recall"]["levels"]] == [0, 0, 0]


def test_a_burst_drains_to_the_last_job_and_loses_no_turn(found: dict[str, Any]) -> None:
    drain = found["burst"]
    assert drain["queue_most"] > 0
    assert drain["queue_left"] == 0
    assert drain["turns_without_memory"] == 0
    assert drain["llm_calls"] >= drain["chats"]


def test_anothers_first_memory_comes_before_the_crowd_is_through(found: dict[str, Any]) -> None:
    fair = found["fair"]
    assert len(fair["beside_ms"]) == SHORT.crowd[2]
    assert fair["crowd_jobs_left"] > 0
    assert fair["crowd_memories"] == fair["turns"]


def test_the_bars_can_be_missed() -> None:
    row = {"adds_failed": 0, "searches_failed": 0, "jobs_left": 0, "jobs_dead": 0, "loop_lag_p99": 0.01}
    idle = {**row, "in_flight": 0, "search_ms": {"p95": 25.0}}

    def held(**busy: Any) -> dict[str, bool]:
        more = {**row, "in_flight": 50, "search_ms": {"p95": 30.0}, **busy}
        return bars({"recall": {"levels": [idle, more]}})

    assert set(held().values()) == {True}
    assert held(search_ms={"p95": 38.0})["recall_p95_with_50_near_idle"] is False
    assert held(search_ms={"p95": 51.0})["recall_p95_with_50_within_50_ms"] is False
    assert held(loop_lag_p99=0.06)["loop_lag_p99_with_50"] is False
    assert held(adds_failed=1)["nothing_lost"] is False


async def test_a_writer_counts_what_fails_and_goes_on() -> None:
    calls, third = 0, asyncio.Event()

    async def add(user: str, text: str) -> int:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0)
        if calls == 3:
            third.set()
        if calls == 2:
            raise RuntimeError("no")
        return 1

    writers = Writers(add, 1, 1)
    async with writers.running():
        await third.wait()
    assert writers.failed == ["RuntimeError: no"]
    assert writers.written == writers.ended - 1


async def test_a_late_search_counts_from_when_it_was_due() -> None:
    alone = asyncio.Lock()

    async def search(_: str) -> int:
        async with alone:
            await asyncio.sleep(0.05)
        return 1

    async def add(user: str, text: str) -> int:
        raise AssertionError("nobody writes")

    row = await under_writes(search, add, 0, Pace(10, 0.0, 0.0), lambda: 0)
    assert row["search_ms"]["max"] >= 500  # ten at once, one after the other


async def test_open_tabs_hear_the_news_look_and_lose_no_message(tmp_path: Path) -> None:
    async with FakeOpenAI() as llm:
        app = build(
            argparse.Namespace(
                design="product", llm_url=llm.base_url, embedder="hashing", embed_seconds=0.0, folder=tmp_path
            )
        )
        async with app.router.lifespan_context(app), served(app) as url:
            wanted = {"tabs": 4, "active": 2, "messages": 2, "seconds": 0.4, "opening": 0.2, "seed": 1}
            row = await drive(argparse.Namespace(url=url, **wanted))
    assert (row["failed"], row["first_failure"]) == (0, "")
    assert (row["messages"], row["tabs_open"]) == (4, 4)
    assert row["news"] >= 4  # each tab hears where its user stands, and the active ones of what is new
    assert row["looks"] >= 4


async def test_a_server_lets_threads_take_turns_often(settings: Settings) -> None:
    seen: list[float] = []

    @asynccontextmanager
    async def opening(_: Settings) -> AsyncIterator[AsyncMemory]:
        seen.append(sys.getswitchinterval())
        raise LedgerError("seen enough")
        yield

    before = sys.getswitchinterval()
    sys.setswitchinterval(0.005)
    try:
        with pytest.raises(LedgerError, match="seen enough"):
            await serve(settings.model_copy(update={"port": 0}), page=False, opening=opening)
    finally:
        sys.setswitchinterval(before)
    assert seen == [pytest.approx(TURN)]


def test_sentences_differ_and_shares_are_of_the_values() -> None:
    chance = random.Random(1)
    assert len({sentence(number, chance) for number in range(1000)}) == 1000
    assert at([3.0, 1.0, 2.0], 0.5) == 2.0
    assert at(list(map(float, range(100))), 0.95) == 95.0
    assert at([], 0.5) == 0.0
