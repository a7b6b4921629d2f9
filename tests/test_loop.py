"""Nothing blocks the event loop."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

import anyio
import pytest

from afterword.records import NewTurn
from afterword.testing import HashingEmbedder, ScriptedLLM
from tests.conftest import OpenMemory
from tests.waiting import idle

pytestmark = pytest.mark.anyio

BEAT = 0.01
# Far above what a busy machine adds by itself, far below what the same work takes when it is done on the loop.
LONGEST = 0.5
LINE = (
    "In the year {} we went to the market, bought {} apples and talked with the baker about the weather. 我们去了市场。"
)


class Heartbeat:
    longest = 0.0

    async def beat(self) -> None:
        while True:
            wanted = time.perf_counter() + BEAT
            await asyncio.sleep(BEAT)
            self.longest = max(self.longest, time.perf_counter() - wanted)


async def test_the_loop_beats_on_while_twenty_chats_run_and_a_long_transcript_is_imported(opened: OpenMemory) -> None:
    memory = await opened(llm=ScriptedLLM(stream_delay=0.05, gap_delay=0.01), embedder=HashingEmbedder())
    turns = [NewTurn("old", "user", LINE.format(n, n) * 4, turn_id=f"t{n}") for n in range(3000)]
    await memory.chat("Warm up.", "user0", "warm")
    heartbeat = Heartbeat()
    beating = asyncio.create_task(heartbeat.beat())

    async def talk(number: int) -> None:
        for question in ("Where did we go?", "What did we buy?"):
            reply = await memory.chat(question, f"user{number}")
            assert (await reply.done()) is not None

    with anyio.fail_after(120):
        async with anyio.create_task_group() as group:
            group.start_soon(memory.add_turns, turns, "user0")
            for number in range(20):
                group.start_soon(talk, number)
    beating.cancel()
    with suppress(asyncio.CancelledError):
        await beating
    assert len(await memory.turns("user0", "old", limit=5000)) == 3000
    assert heartbeat.longest < LONGEST


async def test_a_reply_is_not_held_up_by_an_import_of_the_same_user(opened: OpenMemory) -> None:
    llm = ScriptedLLM()
    decide = llm.hold_complete()
    memory = await opened(llm=llm)
    turns = [NewTurn("old", "user", LINE.format(n, n), turn_id=f"t{n}") for n in range(500)]
    await memory.add_turns(turns, "ann")
    with anyio.fail_after(10):
        reply = await memory.chat("Where did we go?", "ann", "new")
        assert (await reply.done()) is not None
    decide.release()
    await idle(memory, 60)
