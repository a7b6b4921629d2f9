"""What was said can be recalled at once, wherever it is asked; and it is decided in the order in which it was said."""

from __future__ import annotations

import asyncio
import json
import random
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from afterword.errors import BadAnswer
from afterword.ports import JobFilter
from afterword.records import NewTurn
from afterword.settings import Settings
from afterword.testing import HashingEmbedder, ScriptedLLM
from afterword.wiring import open_memory
from tests.conftest import OpenMemory
from tests.waiting import eventually, idle

pytestmark = pytest.mark.anyio

SAID = "My zither stands in the cellar in Bonn."


# ── read your writes ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("embedder", [None, HashingEmbedder()], ids=["words", "words and vectors"])
async def test_a_turn_is_recalled_in_the_very_next_turn_of_another_chat_while_its_decision_waits(
    opened: OpenMemory, embedder: HashingEmbedder | None
) -> None:
    llm = ScriptedLLM()
    gate = llm.hold_complete()
    memory = await opened(llm=llm, embedder=embedder)
    await memory.submit(SAID, "ann", "first")
    reply = await memory.chat("Where does my zither stand?", "ann", "second")
    with anyio.fail_after(20):
        await reply.done()
    assert any(SAID in message.content for message in llm.streamed[-1].messages if message.role == "system")
    assert await memory.get_all("ann") == [], "it was recalled verbatim: nothing is decided yet"
    gate.release()
    await idle(memory)


async def test_a_turn_is_recalled_by_another_open_memory_at_once(settings: Settings) -> None:
    llm = ScriptedLLM()
    gate = llm.hold_complete()
    async with open_memory(settings, llm=llm) as one, open_memory(settings, llm=llm, run_worker=False) as other:
        assert await other.search("zither", "ann") == [], "its index has looked before"
        for number in range(5):
            await one.submit(f"{SAID} It is the {number}th time that I say so.", "ann", f"chat{number}")
            assert len(await other.search("zither", "ann")) == number + 1
        gate.release()


async def test_a_turn_is_recalled_by_another_process_at_once(settings: Settings, tmp_path: Path) -> None:
    llm = ScriptedLLM()
    gate = llm.hold_complete()
    async with open_memory(settings, llm=llm) as memory:
        await memory.submit(SAID, "ann", "first")
        flags = ["--data-dir", str(settings.data_dir), "--embedder", "none", "--user", "ann", "--json"]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "afterword.cli", "search", "zither", *flags, stdout=-1, stderr=-1, cwd=tmp_path
        )
        with anyio.fail_after(60):
            out, err = await process.communicate()
        assert process.returncode == 0, err.decode()
        assert SAID in out.decode()
        assert await memory.get_all("ann") == []
        gate.release()


# ── order ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def nothing(schema: Any) -> str:
    """An answer that decides for nothing."""
    return json.dumps({name: [] for name in schema["properties"]})


async def test_an_import_stands_and_is_decided_in_the_order_in_which_it_was_said(opened: OpenMemory) -> None:
    memory = await opened(window_turns=1)
    began = datetime(2026, 3, 2, 9, tzinfo=UTC)
    words = ["anchor", "basket", "candle", "drum", "easel", "fiddle"]
    turns = [
        NewTurn("c", "user", f"My {word} was a gift from Lena.", said_at=began + timedelta(hours=place))
        for place, word in enumerate(words)
    ]
    random.Random(3).shuffle(turns)
    await memory.add_turns(turns, "ann")
    await idle(memory)
    stored = await memory.turns("ann", "c")
    assert [turn.text.split()[1] for turn in stored] == words
    decided = [
        (found.first, found.last)
        for job in reversed(await memory.jobs("ann", JobFilter(kinds=("remember",))))
        for found in await memory.decisions("ann", job.id)
    ]
    assert decided == [(place, place) for place in range(len(words))]


async def test_a_chats_turns_are_decided_in_the_order_in_which_they_were_accepted(opened: OpenMemory) -> None:
    """Even where an early one fails again and again."""
    words = ["anchor", "basket", "candle", "drum"]
    failures = {"anchor": 1, "candle": 1}
    decided: list[str] = []

    def answer(messages: Any, schema: Any) -> str:
        new = messages[-1].content.rpartition("\nNEW\n")[2]
        (word,) = [word for word in words if word in new]
        if failures.get(word, 0):
            failures[word] -= 1
            raise BadAnswer("not this time")
        decided.append(word)
        return nothing(schema)

    memory = await opened(llm=ScriptedLLM(answers=answer), window_turns=1)
    for word in words:
        await memory.submit(f"My {word} was a gift from Lena.", "ann", "c")
    await idle(memory)
    assert decided == words
    assert not any(failures.values())


async def test_users_dont_wait_for_each_other(opened: OpenMemory) -> None:
    llm = ScriptedLLM()
    gate = llm.hold_complete()
    memory = await opened(llm=llm)
    for user in ("ann", "bob", "cleo"):
        await memory.submit("My anchor was a gift from Lena.", user, "c")
    with anyio.fail_after(20):
        await gate.reached(3)  # all three are being decided at once
    gate.release()
    await idle(memory)


async def test_a_failing_chat_holds_up_neither_its_users_other_chats_nor_their_other_work(opened: OpenMemory) -> None:
    def answer(messages: Any, schema: Any) -> str:
        if "anchor" in messages[-1].content:
            raise BadAnswer("never")
        return nothing(schema)

    memory = await opened(llm=ScriptedLLM(answers=answer))
    await memory.submit("My anchor was a gift from Lena.", "ann", "failing")
    await memory.submit("My basket was a gift from Lena.", "ann", "sound")

    async def the_other_is_decided() -> bool:
        return await memory.ledger.cursor(memory.scope("ann"), "sound") == 1

    await eventually(memory, "ann", the_other_is_decided)
    assert await memory.ledger.cursor(memory.scope("ann"), "failing") == 0
    run = await memory.consolidate("ann")
    with anyio.fail_after(20):
        assert (await run.done()).state == "done"
    assert await memory.ledger.cursor(memory.scope("ann"), "failing") == 0, "it waits for its next attempt"
