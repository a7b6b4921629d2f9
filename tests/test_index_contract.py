"""What every index must do, whatever it is made of. Adapters are listed in `index_adapters`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import anyio
import pytest

from afterword.language.tokens import tokens
from afterword.ports import Index, Query
from afterword.records import Filters, Role, Scope
from afterword.testing import InlineOffload, hashed_vector
from tests.index_adapters import ANN, BEN, INDEXES, MODEL, START, IndexFactory, Shelf


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture(params=[factory for _, factory in INDEXES], ids=[name for name, _ in INDEXES])
async def index(request: pytest.FixtureRequest, shelf: Shelf, tmp_path: Path) -> AsyncIterator[Index]:
    factory: IndexFactory = request.param
    made = await factory(shelf.reads, InlineOffload(), tmp_path)
    await made.open()
    yield made
    await made.aclose()


def asked(text: str, *, filters: Filters | None = None, limit: int = 50, vector: bool = True) -> Query:
    return Query(tokens(text), hashed_vector(text) if vector else None, MODEL, filters or Filters(), limit)


async def found(index: Index, text: str, scope: Scope = ANN, **details: object) -> dict[str, dict[str, float]]:
    """The legs of each candidate."""
    query = replace(asked(text), **details)  # type: ignore[arg-type]
    candidates = await index.search(scope, query)
    return {ref.record: legs for ref, legs in candidates.legs_of(candidates.refs).items()}


async def by_words(index: Index, text: str, scope: Scope = ANN, filters: Filters | None = None) -> list[str]:
    """Ids, best first, of what shares a word with the text."""
    hits = await found(index, text, scope, vector=None, filters=filters or Filters())
    return sorted((name for name in hits if hits[name]["bm25"] > 0), key=lambda name: -hits[name]["bm25"])


async def test_an_empty_scope_has_no_candidates(index: Index) -> None:
    assert len(await index.search(ANN, asked("anything"))) == 0
    assert len(await index.search(ANN, asked(""))) == 0


async def test_the_record_that_shares_rare_words_scores_best(index: Index, shelf: Shelf) -> None:
    shelf.say("We talked about the weather")
    shelf.say("My dog is called Rex")
    shelf.say("The weather was fine and the dog slept")
    assert (await by_words(index, "what is the dog called"))[0] == "chat-00001"


async def test_chinese_is_found_by_its_words(index: Index, shelf: Shelf) -> None:
    shelf.say("我昨天去了上海的博物馆")
    shelf.say("今天天气很好")
    assert (await by_words(index, "哪个博物馆"))[0] == "chat-00000"


async def test_meaning_finds_what_shares_the_vector(index: Index, shelf: Shelf) -> None:
    shelf.say("alpha beta gamma")
    shelf.say("delta epsilon zeta")
    await index.project(ANN)
    hits = await found(index, "alpha beta gamma")
    assert hits["chat-00000"]["dense"] == pytest.approx(1.0, abs=1e-5)
    assert hits["chat-00000"]["dense"] > hits["chat-00001"]["dense"]


async def test_a_write_is_seen_by_the_next_search(index: Index, shelf: Shelf) -> None:
    shelf.say("The first thing")
    assert await by_words(index, "penguin") == []
    shelf.say("A penguin at the zoo")
    assert await by_words(index, "penguin") == ["chat-00001"]


async def test_a_record_is_found_by_words_before_it_is_embedded_and_by_meaning_after(
    index: Index, shelf: Shelf
) -> None:
    shelf.say("alpha beta", embedded=False)
    shelf.say("gamma delta")
    hits = await found(index, "alpha beta")
    assert hits["chat-00000"]["bm25"] > 0
    assert "dense" not in hits["chat-00000"]
    shelf.embed("chat-00000")
    await index.project(ANN)
    assert (await found(index, "alpha beta"))["chat-00000"]["dense"] == pytest.approx(1.0, abs=1e-5)


async def test_vectors_that_were_withdrawn_are_used_no_more(index: Index, shelf: Shelf) -> None:
    shelf.say("alpha beta")
    shelf.say("gamma delta")
    await index.project(ANN)
    assert "dense" in (await found(index, "alpha beta"))["chat-00000"]
    shelf.withdraw("chat-00000")
    await index.project(ANN)
    assert "dense" not in (await found(index, "alpha beta"))["chat-00000"]
    shelf.embed("chat-00000")
    await index.project(ANN)
    assert "dense" in (await found(index, "alpha beta"))["chat-00000"]


async def test_a_revision_replaces_the_version_before_it(index: Index, shelf: Shelf) -> None:
    memory = shelf.remember("Ann lives in Oslo")
    assert await by_words(index, "oslo") == [memory.id]
    shelf.revise(memory.id, "Ann lives in Bergen")
    assert await by_words(index, "oslo") == []
    assert (await index.search(ANN, asked("bergen"))).refs == [(memory.id, 2)]


async def test_an_erased_record_is_gone_at_the_next_search(index: Index, shelf: Shelf) -> None:
    turn = shelf.say("A secret about penguins")
    shelf.say("Nothing else")
    assert await by_words(index, "penguins") == [turn.id]
    shelf.erase(turn.id)
    assert turn.id not in await found(index, "A secret about penguins")


async def test_after_a_reset_nothing_of_before_is_found(index: Index, shelf: Shelf) -> None:
    shelf.say("Old news about penguins")
    assert await by_words(index, "penguins") == ["chat-00000"]
    shelf.reset()
    assert await found(index, "Old news about penguins") == {}
    shelf.say("New facts about walruses")
    assert await by_words(index, "walruses penguins") == ["chat-00000"]


async def test_another_serving_model_drops_the_vectors_of_the_one_before(index: Index, shelf: Shelf) -> None:
    shelf.say("alpha beta")
    shelf.say("gamma")
    await found(index, "alpha")
    shelf.book().model = "another"
    hits = await found(index, "alpha beta")
    assert "dense" not in hits["chat-00000"], "the query's vector is of a model that no longer serves"


async def test_two_users_never_see_each_other(index: Index, shelf: Shelf) -> None:
    shelf.say("Ann likes penguins")
    shelf.say("Ben likes penguins", scope=BEN)
    shelf.say("Ben has more to say", scope=BEN)
    ann, ben = await found(index, "penguins"), await found(index, "penguins", BEN)
    assert set(ann) == {"chat-00000"}
    assert len(ben) == 2
    other = await found(index, "penguins", Scope("other tenant", "ann"))
    assert other == {}


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (Filters(), {"a-00000", "a-00001", "b-00000", "memory-00003"}),
        (Filters(kinds=("episodic",)), {"memory-00003"}),
        (Filters(kinds=("turn",)), {"a-00000", "a-00001", "b-00000"}),
        (Filters(chat_id="a"), {"a-00000", "a-00001"}),
        (Filters(chat_id="unknown"), set()),
        (Filters(role="assistant"), {"a-00001"}),
        (Filters(since=START + timedelta(minutes=1)), {"a-00001", "b-00000", "memory-00003"}),
        (Filters(until=START + timedelta(minutes=1)), {"a-00000"}),
        (Filters(metadata={"mood": 'quoted " or 1 == 1'}), {"b-00000"}),
        (Filters(metadata={"mood": "else"}), set()),
        (Filters(exclude=frozenset({"a-00000", "nobody"})), {"a-00001", "b-00000", "memory-00003"}),
    ],
)
async def test_filters_hold_for_every_leg(index: Index, shelf: Shelf, filters: Filters, expected: set[str]) -> None:
    assistant: Role = "assistant"
    shelf.say("penguin one", chat="a")
    shelf.say("penguin two", chat="a", role=assistant)
    shelf.say("penguin three", chat="b", metadata={"mood": 'quoted " or 1 == 1'})
    shelf.remember("penguin four")
    await index.project(ANN)
    assert set(await found(index, "penguin", filters=filters)) == expected


async def test_a_filter_holds_before_the_limit_so_that_it_does_not_starve(index: Index, shelf: Shelf) -> None:
    for _ in range(30):
        shelf.say("penguin penguin penguin", chat="loud")
    wanted = shelf.say("one penguin among many other things that were said", chat="quiet")
    await index.project(ANN)
    assert set(await found(index, "penguin", filters=Filters(chat_id="quiet"), limit=3)) == {wanted.id}


async def test_neighbours_lift_a_turn_that_shares_no_word(index: Index, shelf: Shelf) -> None:
    for number in range(12):
        shelf.say(f"filler{number}", chat="far")
    shelf.say("Did you name the puppy", chat="near")
    shelf.say("Rex", chat="near")
    hits = await found(index, "puppy name", limit=100)
    assert hits["near-00001"]["bm25"] == 0
    assert hits["near-00001"]["bm25_window"] > 0
    assert all(legs["bm25_window"] == 0 for name, legs in hits.items() if name.startswith("far"))


async def test_a_long_silence_ends_a_session(index: Index, shelf: Shelf) -> None:
    shelf.say("About the puppy", minutes=0)
    shelf.say("Still here", minutes=30)
    shelf.say("Back again", minutes=24 * 60)
    hits = await found(index, "puppy still again", vector=None)
    sessions = [hits[f"chat-{number:05}"]["session"] for number in range(3)]
    assert sessions[0] == sessions[1] != sessions[2]
    assert "chat-00002" not in await found(index, "puppy", vector=None)


async def test_a_memory_stands_where_its_source_turn_stands(index: Index, shelf: Shelf) -> None:
    shelf.say("We spoke of puppies", chat="a")
    turn = shelf.say("It is called Rex", chat="a")
    episode = shelf.remember("The dog's name is Rex", sources=(turn.id,))
    fact = shelf.remember("Has a dog, Rex", kind="semantic", sources=(episode.id,))
    hits = await found(index, "puppies", limit=100)
    assert hits[episode.id]["session"] == hits[turn.id]["session"] == hits[fact.id]["session"]
    assert hits[episode.id]["bm25_window"] == hits[turn.id]["bm25_window"] > 0


async def test_every_candidate_has_every_leg(index: Index, shelf: Shelf) -> None:
    for number in range(20):
        shelf.say(f"penguin number {number}" if number % 3 else f"walrus {number}", chat=f"c{number % 4}")
    await index.project(ANN)
    hits = await found(index, "penguin", limit=5)
    names = {frozenset(legs) for legs in hits.values()}
    assert len(names) == 1
    assert {"bm25", "bm25_window", "ideal", "ideal_window", "dense", "dense_window", "session"} <= next(iter(names))
    assert all(0 <= legs["bm25"] <= legs["ideal"] for legs in hits.values())


async def test_what_is_searched_while_it_is_rebuilt_is_found(index: Index, shelf: Shelf) -> None:
    for number in range(50):
        shelf.say(f"penguin {number}")
    await found(index, "penguin")
    with anyio.fail_after(20):
        rebuilding = asyncio.create_task(index.rebuild(ANN))
        answers = await asyncio.gather(*(by_words(index, "penguin") for _ in range(3)))
        await rebuilding
    assert [len(answer) for answer in answers] == [50, 50, 50]
    shelf.say("the last penguin")
    assert "chat-00050" in await by_words(index, "last penguin")


async def test_searches_of_one_user_may_run_at_once(index: Index, shelf: Shelf) -> None:
    for number in range(30):
        shelf.say(f"penguin {number}")
    with anyio.fail_after(20):
        answers = await asyncio.gather(*(by_words(index, f"penguin {number}") for number in range(10)))
    assert all(len(answer) == 30 for answer in answers)


@pytest.mark.parametrize(
    "text", ["", "   ", "!!! ??? 。。。", "' or 1=1; DROP TABLE turns; --", "🌧️🌧️", "\u200b\u202e", "word " * 5000]
)
async def test_hostile_queries_are_answered(index: Index, shelf: Shelf, text: str) -> None:
    shelf.say("a word about turns")
    await index.project(ANN)
    await index.search(ANN, asked(text))


async def test_hostile_ids_and_texts_round_trip(index: Index, shelf: Shelf) -> None:
    scope = Scope('t" or 1 == 1', "ann' -- \\ 🌧️ {u}")
    shelf.say("penguin", scope=scope, chat='c" or chat == "')
    shelf.say("penguin", scope=ANN)
    await index.project(scope)
    hits = await found(index, "penguin", scope, filters=Filters(chat_id='c" or chat == "'))
    assert set(hits) == {'c" or chat == "-00000'}
