"""Somebody's own blocking memory behind the same chat."""

from __future__ import annotations

import threading
from typing import Any

import anyio
import pytest

from afterword.settings import Settings
from afterword.testing import ScriptedLLM
from afterword.threaded import ThreadedMemory
from afterword.wiring import open_memory
from tests.waiting import idle

pytestmark = pytest.mark.anyio


class Shelf:
    """As many write one: a list, and calls that block."""

    def __init__(self) -> None:
        self.kept: list[tuple[str, str]] = []
        self.may_add = threading.Event()
        self.may_add.set()
        self.may_search = threading.Event()
        self.may_search.set()

    def add(self, text: str, user_id: str) -> None:
        self.may_add.wait(20)
        self.kept.append((user_id, text))

    def search(self, query: str, user_id: str) -> list[dict[str, Any]]:
        self.may_search.wait(20)
        return [{"memory": text} for user, text in self.kept if user == user_id]


async def test_it_recalls_and_remembers_behind_the_reply_even_while_its_add_blocks(settings: Settings) -> None:
    shelf, llm = Shelf(), ScriptedLLM()
    shelf.may_add.clear()
    async with open_memory(settings, llm=llm, memory=ThreadedMemory(shelf)) as memory:
        with anyio.fail_after(20):
            assert await (await memory.chat("My dog is called Bruno.", "ann", "one")).done()
            assert await (await memory.chat("Hello?", "bob", "one")).done()
        assert shelf.kept == []
        shelf.may_add.set()
        await idle(memory)
        assert ("ann", "My dog is called Bruno.") in shelf.kept
        with anyio.fail_after(20):
            await (await memory.chat("What is my dog called?", "ann", "two")).done()
        assert "Bruno" in llm.streamed[-1].messages[0].content


async def test_a_search_of_theirs_that_hangs_costs_the_reply_its_memories_not_its_life(settings: Settings) -> None:
    shelf = Shelf()
    shelf.may_search.clear()
    quick = settings.model_copy(update={"recall_deadline": 0.1})
    async with open_memory(quick, llm=ScriptedLLM(), memory=ThreadedMemory(shelf)) as memory:
        reply = await memory.chat("What is my dog called?", "ann")
        with anyio.fail_after(20):
            assert await reply.done()
        assert "did not answer" in (await reply.recalled()).missed
        shelf.may_search.set()


async def test_what_they_raise_is_an_outage_that_waits_and_heals(settings: Settings) -> None:
    class Broken(Shelf):
        failures = 2

        def add(self, text: str, user_id: str) -> None:
            if self.failures:
                self.failures -= 1
                raise RuntimeError("their disk is full")
            super().add(text, user_id)

    shelf = Broken()
    async with open_memory(settings, llm=ScriptedLLM(), memory=ThreadedMemory(shelf)) as memory:
        await memory.submit("My dog is called Bruno.", "ann")
        await idle(memory)
    assert shelf.kept == [("ann", "My dog is called Bruno.")]
