"""How search time grows: with one user's memories, with the number of users, right after a write, and from cold.

    scripts/bench scale [--sizes 1000,10000,100000] [--users 1000 --per-user 1000] [--searches 100]
                        [--folder DIR [--fill-only]] [--bm25s]

Searches go through `AsyncMemory.search` on the exact index and the SQLite ledger, reading back included; the query's
vector is given, so its embedding is no part of the times. Beside them stands the floor, with no ledger, no rights and no
reading back: the same vectors in one numpy matrix and, with `--bm25s`, as many texts in that library, which is installed
for it in an environment of its own. `held` is the longest time that one callback kept the event loop, in CPU time of its thread, so that a busy
machine doesn't count. Times in milliseconds. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from asyncio import events
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from afterword.index.exact import ExactIndex
from afterword.interfaces.heap import SettledHeap
from afterword.llms.quoting import QuotingLLM
from afterword.records import NewTurn
from afterword.settings import Settings
from afterword.wiring import open_memory
from bench.scale_filling import GivenEmbedder, Talk, copy_users, fill
from bench.scale_floor import LIMIT, QUESTION, SEED, bm25s_floors, floor, spread

if TYPE_CHECKING:
    from afterword.memory import AsyncMemory

USER = "one"


class LoopWatch:
    """The longest that one callback kept the loop: CPU milliseconds of the loop's thread."""

    def __init__(self) -> None:
        self.longest = 0.0

    def take(self) -> float:
        longest, self.longest = self.longest, 0.0
        return round(1000 * longest, 2)

    @contextmanager
    def watching(self) -> Iterator[LoopWatch]:
        run = events.Handle._run

        def timed(handle: events.Handle) -> None:
            began = time.thread_time()
            run(handle)
            self.longest = max(self.longest, time.thread_time() - began)

        events.Handle._run = timed  # type: ignore[method-assign, assignment]
        try:
            yield self
        finally:
            events.Handle._run = run  # type: ignore[method-assign]


@asynccontextmanager
async def memory_in(folder: Path, embedder: GivenEmbedder) -> AsyncIterator[AsyncMemory]:
    """Without a worker: what is measured is search. A long deadline: a slow search must be seen, not cut."""
    settings = Settings(data_dir=folder, embedder="none", recall_deadline=60.0, index_memory_mb=8192)
    async with open_memory(settings, llm=QuotingLLM(), embedder=embedder, run_worker=False) as memory:
        yield memory


async def times(memory: AsyncMemory, queries: Sequence[str], user: Callable[[int], str]) -> dict[str, float]:
    taken = []
    for number, query in enumerate(queries):
        began = time.perf_counter()
        hits = await memory.search(query, user(number), limit=LIMIT)
        taken.append(time.perf_counter() - began)
        assert hits, "a search found nothing: what is measured is no search"
    return spread(taken)


async def after_writes(memory: AsyncMemory, talk: Talk, queries: Sequence[str]) -> dict[str, float]:
    """Each search right after a turn was kept: it must see it, and must not pay for all the others."""
    taken = []
    for number, query in enumerate(queries):
        (turn,) = await memory.ledger.accept(
            memory.scope(USER), [NewTurn("fresh", "user", f"{query} {talk.text(5)}", utc_offset=0)]
        )
        began = time.perf_counter()
        hits = await memory.search(query, USER, limit=LIMIT)
        taken.append(time.perf_counter() - began)
        if number == 0:
            assert turn.id in {hit.id for hit in hits}, "a search did not see the write before it"
    return spread(taken)


async def one_user(folder: Path, sizes: Sequence[int], options: argparse.Namespace) -> list[dict[str, Any]]:
    """A memory of each size, filled once and then opened anew."""
    talk = Talk(SEED, options.dimensions)
    embedder = GivenEmbedder(talk, options.dimensions)
    rows = []
    for size in sizes:
        place = folder / f"one-{size}"
        if not place.exists():
            async with memory_in(place, embedder) as memory:
                await fill(memory, USER, talk, embedder.model, 0, size)
        if options.fill_only:
            continue
        rows.append({"memories": size, **await at_size(place, talk, embedder, options)})
        print(json.dumps(rows[-1]), flush=True)
    return rows


async def at_size(folder: Path, talk: Talk, embedder: GivenEmbedder, options: argparse.Namespace) -> dict[str, Any]:
    queries = [talk.text(QUESTION) for _ in range(options.searches)]
    async with memory_in(folder, embedder) as memory:
        with SettledHeap().kept(), LoopWatch().watching() as watch:
            began = time.perf_counter()
            await memory.search(queries[0], USER, limit=LIMIT)
            cold = time.perf_counter() - began
            cold_held = watch.take()
            await times(memory, queries[:5], lambda _: USER)
            watch.take()
            warm = await times(memory, queries, lambda _: USER)
            warm_held = watch.take()
            fresh = await after_writes(memory, talk, queries[: options.searches // 4])
            fresh_held = watch.take()
        index = memory.index
        assert isinstance(index, ExactIndex)
        held = index.nbytes
    return {
        "warm": warm,
        "after_write": fresh,
        "cold": round(1000 * cold, 1),
        "held": {"warm": warm_held, "after_write": fresh_held, "cold": cold_held},
        "index_mb": round(held / 2**20, 1),
    }


async def many_users(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Others beside one user: the same search must cost the same whether there are few of them or many."""
    talk = Talk(2, options.dimensions)
    embedder = GivenEmbedder(talk, options.dimensions)
    few, many = folder / f"few-{options.per_user}", folder / f"many-{options.per_user}-{options.users}"
    for place, users in ((few, 0), (many, options.users - 1)):
        if not place.exists():
            async with memory_in(place, embedder) as memory:
                await fill(memory, USER, talk, embedder.model, 0, options.per_user)
            await asyncio.to_thread(copy_users, place / "ledger.db", USER, users)
    rows: dict[str, Any] = {"per_user": options.per_user, "users": options.users}
    if options.fill_only:
        return rows
    queries = [talk.text(QUESTION) for _ in range(options.searches)]
    rows["alone"] = await among(few, embedder, queries, lambda _: USER)
    rows["among_all"] = await among(many, embedder, queries, lambda _: USER)
    rows["each_another"] = await among(many, embedder, queries, lambda n: f"other-{n % (options.users - 1)}")
    return rows


async def among(
    folder: Path, embedder: GivenEmbedder, queries: Sequence[str], user: Callable[[int], str]
) -> dict[str, Any]:
    """Cold: each user's first search. Warm: the same ones again."""
    async with memory_in(folder, embedder) as memory:
        users = len({user(number) for number in range(len(queries))})
        cold = await times(memory, queries[:users], user)
        warm = await times(memory, queries, user)
        index = memory.index
        assert isinstance(index, ExactIndex)
        return {"cold": cold, "warm": warm, "users_searched": users, "index_mb": round(index.nbytes / 2**20, 1)}


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    sizes = [int(part) for part in options.sizes.split(",") if part]
    result: dict[str, Any] = {"dimensions": options.dimensions, "searches": options.searches}
    with tempfile.TemporaryDirectory() as fresh:
        folder = options.folder or Path(fresh)
        result["one_user"] = await one_user(folder, sizes, options)
        if options.users > 1:
            result["many_users"] = await many_users(folder, options)
    if not options.fill_only:
        result["floor"] = [floor(size, options.dimensions, options.searches) for size in sizes]
        if options.bm25s:
            with tempfile.TemporaryDirectory() as own:
                by_size = await asyncio.to_thread(bm25s_floors, Path(own), sizes, options.searches)
            for row in result["floor"]:
                row["bm25s"] = by_size[row["memories"]]
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1000,10000,100000", help="memories of one user, rising, comma-separated")
    parser.add_argument("--users", type=int, default=1000, help="0 leaves that part out")
    parser.add_argument("--per-user", type=int, default=1000)
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--searches", type=int, default=100)
    parser.add_argument("--folder", type=Path, help="keeps what is filled in, for the next run")
    parser.add_argument("--bm25s", action="store_true", help="the floor of words too; downloads the library")
    parser.add_argument("--fill-only", action="store_true", help="measure nothing yet")
    result = asyncio.run(measure(parser.parse_args()))
    for name in ("one_user", "many_users", "floor"):
        print(f"{name}: {json.dumps(result.get(name), indent=1)}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
