"""Recall while others write: in one process, through the public face, on fakes that take their time."""

from __future__ import annotations

import asyncio
import gc
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from afterword.interfaces.heap import SettledHeap
from afterword.interfaces.server import share_the_interpreter
from afterword.memory import AsyncMemory
from afterword.plan import Insert, Plan
from afterword.records import NewTurn
from afterword.settings import Settings
from afterword.testing import HashingEmbedder, ScriptedLLM
from afterword.wiring import open_memory
from bench.load_pace import Pace, Writers, resident_mb, searched, sentence, under_writes

if TYPE_CHECKING:
    from afterword.ports import Embedder

READER = "reader"
DIMENSIONS = 384
CHUNK = 500  # memories written at once while filling
MOST_JOBS = 256


@dataclass(frozen=True)
class House:
    """Whose memory it is that is under load. Delays in seconds."""

    folder: Path
    memories: int = 10_000
    llm_delay: float = 1.0
    embed_delay: float = 0.02
    embedder: str = "hashing"
    seed: int = 1
    pace: Pace = field(default_factory=Pace)


def concurrency(in_flight: int) -> int:
    """Jobs at once so that all of these adds can be with the LLM, with places for the embedding beside them."""
    return min(MOST_JOBS, in_flight + in_flight // 4 + 4)


def embedder_of(house: House, delay: float) -> Embedder:
    if house.embedder == "local":
        from afterword.embedders.local import LocalEmbedder  # noqa: PLC0415  (an extra)

        return LocalEmbedder()
    return HashingEmbedder(DIMENSIONS, delay)


def forget_calls(llm: ScriptedLLM, embedder: Embedder) -> None:
    """The fakes' own records of what they were asked are no part of the memory that is measured."""
    llm.completed.clear()
    if isinstance(embedder, HashingEmbedder):
        embedder.queries.clear()
        embedder.batches.clear()


@asynccontextmanager
async def opened(
    house: House, jobs: int, llm: ScriptedLLM, embedder: Embedder | None = None
) -> AsyncIterator[AsyncMemory]:
    """The memory of this house, `jobs` at once, in a process set up as the server sets its own up."""
    share_the_interpreter()
    settings = Settings(
        data_dir=house.folder,
        embedder="none",  # it is handed in
        debounce=0.0,
        debounce_most=0.0,
        consolidate_cron="",
        timezone="UTC",
        worker_concurrency=jobs,
        recall_deadline=60.0,  # a late search shall be seen as late, not as one without results
        log_level="warning",
    )
    embedder = embedder or embedder_of(house, house.embed_delay)
    try:
        async with open_memory(settings, llm=llm, embedder=embedder) as memory:
            with SettledHeap().kept():
                yield memory
    finally:
        await embedder.aclose()


async def fill(house: House) -> dict[str, Any]:
    """Give the reader so many episodic memories, embedded."""
    chance, began = random.Random(house.seed), time.perf_counter()
    start = datetime(2024, 1, 1, tzinfo=UTC)
    async with opened(house, 8, ScriptedLLM(), embedder_of(house, 0.0)) as memory:
        scope = memory.scope(READER)
        for first in range(0, house.memories, CHUNK):
            numbers = range(first, min(first + CHUNK, house.memories))
            inserts = tuple(
                Insert("episodic", sentence(n, chance), start + timedelta(hours=n), 0, (), "person") for n in numbers
            )
            await memory.ledger.edit(scope, Plan(inserts))
        # the turn brings the job that embeds what has no vectors yet
        await memory.submit(sentence(house.memories, chance), READER)
        await memory.worker.idle()
        model = (await memory.ledger.state(scope)).model or ""
        embedded, kept = await memory.ledger.vector_counts(scope, model)
    return {"memories": kept, "embedded": embedded, "seconds": round(time.perf_counter() - began, 1)}


async def level(house: House, in_flight: int) -> dict[str, Any]:
    """One row of the table: search latency with so many adds in flight."""
    llm = ScriptedLLM(complete_delay=house.llm_delay)
    async with opened(house, concurrency(in_flight), llm) as memory:
        await memory.search("warm up", READER)

        async def search(query: str) -> int:
            return len(await memory.search(query, READER))

        async def add(user: str, text: str) -> int:
            return len(await memory.add(text, user, timeout=120))

        row = await under_writes(search, add, in_flight, house.pace, lambda: llm.running)
        await memory.worker.idle()
        counts = await memory.ledger.job_counts(None)
    return {**row, "jobs_left": counts.get("queued", 0) + counts.get("running", 0), "jobs_dead": counts.get("dead", 0)}


async def drained(house: House, jobs: int, turns: int, chats: int) -> dict[str, Any]:
    """A burst of turns of many users in many chats: how deep the queue gets, how long it takes to empty, and recall
    meanwhile."""
    llm = ScriptedLLM(complete_delay=house.llm_delay)
    chance = random.Random(house.seed)
    depths: list[int] = []
    async with opened(house, concurrency(jobs), llm) as memory:
        await memory.search("warm up", READER)
        began = time.perf_counter()
        tickets = [
            await memory.submit(sentence(n, chance), f"burst{n % chats}", f"chat{n % chats}") for n in range(turns)
        ]
        submitted = time.perf_counter() - began
        asked = llm.completed.__len__

        async def watched() -> None:
            while True:
                depths.append((await memory.ledger.queue()).count("queued"))
                await asyncio.sleep(0.25)

        watching = asyncio.create_task(watched())
        await memory.worker.idle()
        seconds = time.perf_counter() - began
        watching.cancel()
        written = [len(await ticket.ids(10)) for ticket in tickets]
        left = (await memory.ledger.queue()).count("queued")
    return {
        "turns": turns,
        "chats": chats,
        "jobs_at_once": jobs,
        "submit_seconds": round(submitted, 2),
        "queue_most": max(depths, default=0),
        "queue_left": left,
        "llm_calls": asked(),
        "llm_at_once_most": llm.most_running,
        "drain_seconds": round(seconds, 2),
        "drain_seconds_least": round(asked() * house.llm_delay / concurrency(jobs), 2),
        "turns_without_memory": sum(not count for count in written),
    }


async def cycles(house: House, count: int, writers: int, seconds: float) -> dict[str, Any]:
    """The same work again and again, its users reset after each time: what stays resident?"""
    llm = ScriptedLLM(complete_delay=house.llm_delay)
    embedder = embedder_of(house, house.embed_delay)
    sizes: list[float] = []
    async with opened(house, concurrency(writers), llm, embedder) as memory:

        async def add(user: str, text: str) -> int:
            return len(await memory.add(text, user, timeout=120))

        async def search(query: str) -> int:
            return len(await memory.search(query, READER))

        for number in range(count):
            pace = Pace(int(seconds / 0.02), 0.02, 0.0, house.seed + number)
            async with Writers(add, writers, house.seed + number).running():
                await searched(search, pace, lambda: None)
            await memory.worker.idle()
            for place in range(writers):
                await memory.reset(f"writer{place}")
            forget_calls(llm, embedder)
            gc.collect()
            sizes.append(resident_mb())
    return {"resident_mb": sizes, "growth_mb": round(sizes[-1] - sizes[len(sizes) // 3], 1)}


async def crowded(house: House, turns: int, chats: int, others: int) -> dict[str, Any]:
    """How long another user's first memory takes, alone and while one user has so many turns waiting."""
    llm = ScriptedLLM(complete_delay=house.llm_delay)
    async with opened(house, 8, llm) as memory:
        await _first_memory(memory, "warm")
        alone = [await _first_memory(memory, f"alone{n}") for n in range(others)]
        chance = random.Random(house.seed)
        crowd = [NewTurn(f"chat{n % chats}", "user", sentence(n, chance)) for n in range(turns)]
        began = time.perf_counter()
        ticket = await memory.add_turns(crowd, "crowd")
        accepted = time.perf_counter() - began
        beside = [await _first_memory(memory, f"beside{n}") for n in range(others)]
        counts = await memory.job_counts("crowd")
        left = counts.get("queued", 0) + counts.get("running", 0)
        whole = await ticket.ids(0.001 + len(crowd)) if turns <= 500 else None
    return {
        "turns": turns,
        "chats": chats,
        "accept_seconds": round(accepted, 2),
        "alone_ms": [round(1000 * seconds) for seconds in alone],
        "beside_ms": [round(1000 * seconds) for seconds in beside],
        "crowd_jobs_left": left,
        "crowd_memories": None if whole is None else len(whole),
    }


async def _first_memory(memory: AsyncMemory, user: str) -> float:
    began = time.perf_counter()
    ids = await (await memory.submit("I bought a red bicycle in Oslo.", user)).ids(120)
    if not ids:
        raise RuntimeError("the turn became no memory")
    return time.perf_counter() - began
