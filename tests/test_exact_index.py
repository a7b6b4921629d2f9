"""The shards of the exact index: built once, followed, dropped, and never holding the loop."""

from __future__ import annotations

import asyncio
from typing import cast

import anyio
import pytest

from afterword.index.exact import ExactIndex
from afterword.language.tokens import tokens
from afterword.ports import Entry, IndexChange, Offload, Query, Reads
from afterword.records import Filters, Scope, ScopeState
from afterword.testing import InlineOffload, hashed_vector
from tests.index_adapters import ANN, BEN, MODEL, Shelf
from tests.test_recall import Search


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def search(shelf: Shelf) -> Search:
    return Search(shelf, ExactIndex(shelf.reads, offload=InlineOffload()))


async def test_a_search_that_gave_up_on_a_large_shard_leaves_it_being_built(shelf: Shelf) -> None:
    held, started = asyncio.Event(), asyncio.Event()

    class Slow(Shelf):
        async def entries(self, scope: Scope, after: str = "", limit: int = 2000) -> tuple[ScopeState, list[Entry]]:
            started.set()
            await held.wait()
            return await super().entries(scope, after, limit)

    slow = Slow()
    turn = slow.say("My dog is called Rex")
    index = ExactIndex(slow.reads, offload=InlineOffload())
    assert (await Search(slow, index, deadline=0.05)("dog")).hits == ()
    assert started.is_set()
    held.set()
    assert await Search(slow, index).ids("dog") == [turn.id]
    assert slow.pages == 2, "built once: a page of entries, and an empty one"
    await index.aclose()


async def test_a_warm_shard_reads_only_what_changed(shelf: Shelf, search: Search) -> None:
    shelf.say("My dog is called Rex")
    await search.ids("dog")
    pages = shelf.pages
    await search.ids("dog")
    assert shelf.pages == pages
    shelf.say("A penguin")
    assert await search.ids("penguin")
    assert shelf.pages == pages + 1


async def test_what_is_expected_is_taken_in_before_the_search_comes(shelf: Shelf) -> None:
    read = asyncio.Event()

    class Told(Shelf):
        async def changes(self, scope: Scope, after: int, limit: int = 2000) -> list[IndexChange]:
            answer = await super().changes(scope, after, limit)
            read.set()
            return answer

    told = Told()
    told.say("My dog is called Rex")
    index = ExactIndex(told.reads, offload=InlineOffload())
    search = Search(told, index)
    await search.ids("dog")
    told.say("A penguin")
    read.clear()
    index.expect(ANN, await told.state(ANN))
    with anyio.fail_after(5):
        await read.wait()
    pages = told.pages
    assert await search.ids("penguin")
    assert told.pages == pages
    await index.aclose()


async def test_the_least_recently_searched_user_is_dropped_above_the_budget(shelf: Shelf) -> None:
    for scope in (ANN, BEN):
        for number in range(40):
            shelf.say(f"penguin {number}", scope=scope)
    index = ExactIndex(shelf.reads, offload=InlineOffload(), memory_budget_bytes=60_000)
    search = Search(shelf, index)
    await search.ids("penguin 3 please")
    await search.ids("penguin 3 please", scope=BEN)
    assert index.scopes == (BEN,)
    assert len(await search.ids("penguin 3 please")) == 10
    assert index.scopes == (ANN,)
    await index.aclose()


async def test_pages_read_one_after_the_other_miss_nothing_that_changed_between(shelf: Shelf) -> None:
    class Busy(Shelf):
        async def entries(self, scope: Scope, after: str = "", limit: int = 2000) -> tuple[ScopeState, list[Entry]]:
            answer = await super().entries(scope, after, 2 if limit == 2000 else limit)
            if not after:
                self.erase("chat-00000")
                self.say("late penguin", chat="a")
            return answer

    busy = Busy()
    for number in range(5):
        busy.say(f"penguin {number}")
    index = ExactIndex(busy.reads, offload=InlineOffload())
    found = await Search(busy, index).ids("all penguins")
    assert sorted(found) == ["a-00000", *(f"chat-{number:05}" for number in range(1, 5))]
    await index.aclose()


async def test_records_taken_in_one_by_one_are_found_like_those_of_a_cold_start(shelf: Shelf) -> None:
    texts = (
        "A penguin of Oslo",
        "!!!",
        "讲座在周三，演讲很长",
        "word " * 300 + "penguin",
        "penguins " * 128,
        "Oslo, 演讲",
    )
    followed, asked = ExactIndex(shelf.reads, offload=InlineOffload()), Query(("penguin",), None, None, Filters(), 50)
    for number, text in enumerate(texts * 2):
        shelf.say(text, chat=f"c{number % 2}", embedded=number % 3 > 0)
        await followed.search(ANN, asked)
    shelf.embed("c0-00000")
    episode = shelf.remember("Gave a talk on penguins", sources=("c1-00001",))
    await followed.search(ANN, asked)
    shelf.revise(episode.id, "Gave a talk on penguins in Oslo")
    cold = ExactIndex(shelf.reads, offload=InlineOffload())
    for question in ("penguin", "oslo 演讲", "word", "周三 talk"):
        query = Query(tokens(question), hashed_vector(question), MODEL, Filters(), 50)
        found, expected = await followed.search(ANN, query), await cold.search(ANN, query)
        theirs, ours = expected.legs_of(expected.refs), found.legs_of(found.refs)
        assert ours.keys() == theirs.keys()
        for ref, legs in theirs.items():
            # chats are numbered as they come, and so are their sessions
            same = {name: score for name, score in legs.items() if name != "session"}
            assert same == pytest.approx({name: ours[ref][name] for name in same}, rel=1e-5), (question, ref)
    await followed.aclose()
    await cold.aclose()


class Counting:
    """An offload that knows how much was handed to it, and whether any of it runs."""

    def __init__(self) -> None:
        self.handed: list[str] = []
        self.running = 0

    async def thread(self, function: object, *args: object) -> object:
        self.handed.append(getattr(function, "__name__", ""))
        self.running += 1
        try:
            return await asyncio.to_thread(function, *args)  # type: ignore[arg-type]
        finally:
            self.running -= 1


async def test_a_large_shard_is_built_and_searched_without_holding_the_loop(shelf: Shelf) -> None:
    for number in range(6000):
        shelf.say(f"penguin number {number} said something about topic{number % 97} and more", chat=f"c{number % 50}")
    _, entries = await shelf.entries(ANN, "", 10_000)
    offload = Counting()

    class Ready:
        async def state(self, scope: Scope) -> ScopeState:
            return ScopeState(1, 0, MODEL)

        async def entries(self, scope: Scope, after: str = "", limit: int = 2000) -> tuple[ScopeState, list[Entry]]:
            return await self.state(scope), [one for one in entries if one.ref.record > after][:limit]

        async def changes(self, scope: Scope, after: int, limit: int = 2000) -> list[object]:
            return []

    index = ExactIndex(cast("Reads", Ready()), offload=cast("Offload", offload))
    query = Query(("penguin", *(f"topic{number}" for number in range(30))), None, None, Filters(), 50)
    turns = await _turns_of_the_loop(index, query, offload)
    assert offload.handed == ["put"] * 3 + ["frozen", "search"], "each page, sorting the postings, scoring"
    assert turns >= 30, "others had the loop meanwhile"
    await index.aclose()


async def _turns_of_the_loop(index: ExactIndex, query: Query, offload: Counting) -> int:
    """How often another task ran while a search had something done in a thread."""
    turns, done = 0, asyncio.Event()

    async def beat() -> None:
        nonlocal turns
        while not done.is_set():
            turns += bool(offload.running)
            await asyncio.sleep(0)

    heart = asyncio.create_task(beat())
    assert await index.search(ANN, query)
    done.set()
    await heart
    return turns
