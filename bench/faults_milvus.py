"""Milvus Lite on a disk of its own that fills up: what it loses then, the ledger has, and it is written again."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from afterword.errors import IndexUnavailable
from afterword.memory import AsyncMemory
from afterword.ports import Query
from afterword.records import Filters
from afterword.settings import Settings
from afterword.testing import HashingEmbedder, ScriptedLLM
from afterword.wiring import open_memory
from bench.faults_house import Form, Row
from bench.faults_storage import disk, fill_up

USER = "storm"
HEALS = 60.0  # seconds


async def disk_full(folder: Path, form: Form) -> Row:
    """Full while it is written, then free again, then its process is killed."""
    if not find_spec("pymilvus") or not find_spec("milvus_lite"):
        return Row(skipped="Milvus Lite is not installed")
    with disk(folder / "disk") as mounted:
        if mounted is None:
            return Row(skipped="no small disk can be mounted here")
        settings = Settings(
            data_dir=folder / "data",
            embedder="none",
            debounce=0.0,
            timezone="UTC",
            milvus_uri=str(mounted / "milvus.db"),
        )
        llm = ScriptedLLM(answers=lambda *_: json.dumps({"entries": []}))
        async with open_memory(settings, llm=llm, embedder=HashingEmbedder()) as memory:
            return await _spoilt(memory, mounted / "ballast")


async def _spoilt(memory: AsyncMemory, ballast: Path) -> Row:
    row, figures = Row(), dict[str, Any]()
    await _say(memory, 0, 40)
    await _until(lambda: _equal(memory))
    fill_up(ballast)
    await _say(memory, 40, 80)
    await _until(lambda: _troubled(memory))
    row.seen = "; ".join((await memory.status()).trouble)
    figures["found_while_full"] = await _found(memory, 79)
    os.unlink(ballast)
    began = time.monotonic()
    await _say(memory, 80, 100)
    healed = await _until(lambda: _equal(memory))
    row.healed_seconds = round(time.monotonic() - began, 1)
    index: Any = memory.index
    os.kill(index.store.lite.served().pid, signal.SIGKILL)
    figures["found_after_the_kill"] = await _found(memory, 99)
    reached = await _until(lambda: _all_by_meaning(memory))
    figures["rows_after_the_kill"] = await _rows(memory)
    await _say(memory, 100, 101)
    row.healed = healed and reached and await _until(lambda: _equal(memory)) and not (await memory.status()).trouble
    figures["rows_in_the_end"] = await _rows(memory)
    turns = await memory.turns(USER, "c", 1000)
    row.kept = len(turns) == 101 and bool(figures["found_while_full"]) and bool(figures["found_after_the_kill"])
    row.figures = figures
    return row


async def _say(memory: AsyncMemory, first: int, last: int) -> None:
    for number in range(first, last):
        await memory.submit(f"I have visited town number {number} and liked it. " + "Nice. " * 20, USER, "c")
    await memory.worker.idle()


async def _found(memory: AsyncMemory, number: int) -> bool:
    return any(f"number {number} " in hit.text for hit in await memory.search(f"town number {number}", USER))


async def _until(look: Callable[[], Awaitable[bool]]) -> bool:
    ends = time.monotonic() + HEALS
    while time.monotonic() < ends:
        if await look():
            return True
        await asyncio.sleep(0.1)
    return False


async def _troubled(memory: AsyncMemory) -> bool:
    return bool((await memory.status()).trouble)


async def _equal(memory: AsyncMemory) -> bool:
    """Whether Milvus has what the ledger has vectors of."""
    have, total = await memory.ledger.vector_counts(memory.scope(USER), HashingEmbedder().model)
    return have == total == await _rows(memory)


async def _all_by_meaning(memory: AsyncMemory) -> bool:
    """Whether a search by meaning alone reaches every record, be it in Milvus or in what is merged from the ledger."""
    scope, embedder = memory.scope(USER), HashingEmbedder()
    vector = await embedder.query("I have visited a town")
    try:
        found = await memory.index.search(scope, Query((), vector, embedder.model, Filters(), 1000))
    except IndexUnavailable:
        return False
    have, total = await memory.ledger.vector_counts(scope, embedder.model)
    return have == total == sum("dense" in legs for legs in found.legs_of(found.refs).values())


async def _rows(memory: AsyncMemory) -> int:
    from afterword.index.milvus_rows import MARK, literal, scope_key  # noqa: PLC0415 (an extra)

    index: Any = memory.index
    where = f"scope == {literal(scope_key(memory.scope(USER)))} and kind != {literal(MARK)}"
    try:
        name = index.store.name(HashingEmbedder().model)
        rows = await index.store.query(name, where, ("record",)) if await index.store.exists(name) else []
    except IndexUnavailable:
        return -1
    return len({row["record"] for row in rows})


FAULTS: dict[str, Callable[[Path, Form], Awaitable[Row]]] = {"disk_full": disk_full}
