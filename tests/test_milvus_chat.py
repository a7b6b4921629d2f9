"""The chat on Milvus Lite: the same product, another index."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import anyio
import pytest

from afterword.index.milvus import MilvusIndex
from afterword.settings import Settings
from afterword.testing import HashingEmbedder, ScriptedLLM
from afterword.wiring import open_memory
from tests.waiting import eventually, idle

pytest.importorskip("milvus_lite")
pytestmark = pytest.mark.anyio


async def test_a_chat_on_milvus_recalls_remembers_survives_its_loss_and_forgets(
    settings: Settings, tmp_path: Path
) -> None:
    chosen = settings.model_copy(update={"milvus_uri": str(tmp_path / "milvus.db")})
    llm = ScriptedLLM()
    with anyio.fail_after(60):
        await _talk(chosen, llm)


async def _talk(chosen: Settings, llm: ScriptedLLM) -> None:
    async with open_memory(chosen, llm=llm, embedder=HashingEmbedder()) as memory:
        assert memory.index.name.startswith("milvus")
        for text in ("My dog is called Bruno.", "My sister likes green tea."):
            await memory.submit(text, "ann", "old")
        await memory.submit("My dog is called Rex.", "ben", "old")
        await idle(memory)

        async def by_meaning() -> bool:
            return "meaning" in (await memory.search("dog called", "ann"))[0].parts

        assert await eventually(memory, "ann", by_meaning)
        with anyio.fail_after(20):
            await (await memory.chat("What is my dog called?", "ann", "new")).done()
        assert "Bruno" in llm.streamed[-1].messages[0].content
        assert "Rex" not in llm.streamed[-1].messages[0].content

        index = memory.index
        assert isinstance(index, MilvusIndex)
        assert index.store.lite is not None
        served = index.store.lite.served()
        assert served is not None
        os.kill(served.pid, signal.SIGKILL)
        hits = await memory.search("dog called", "ann")
        assert "Bruno" in hits[0].text, "found by words, or by a Milvus that was started again"

        await memory.reset("ann")
        assert await memory.search("dog called", "ann") == []
        assert "Rex" in (await memory.search("dog called", "ben"))[0].text
