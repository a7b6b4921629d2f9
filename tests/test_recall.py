"""Search as a whole: a real index over a ledger in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import cast

import anyio
import numpy as np
import pytest

from afterword.errors import EmbedderUnavailable, IndexUnavailable
from afterword.index.exact import ExactIndex
from afterword.ports import Candidates, Embedder, Index, Query
from afterword.recall import MOST_AHEAD, Recall, Recalled, shortened
from afterword.records import Filters, Ref, Scope, ScopeState
from afterword.testing import FrozenClock, HashingEmbedder, InlineOffload
from tests.index_adapters import ANN, BEN, MODEL, Shelf


@dataclass
class Search:
    """A recall that a test can take apart."""

    shelf: Shelf
    index: Index
    embedder: Embedder | None = None
    deadline: float = 5.0
    clock: FrozenClock = field(default_factory=FrozenClock)

    async def __call__(
        self,
        query: str,
        *,
        scope: Scope = ANN,
        limit: int = 10,
        filters: Filters | None = None,
        exclude: frozenset[str] = frozenset(),
    ) -> Recalled:
        recall = self.recall()
        return await recall.search(scope, query, limit=limit, filters=filters or Filters(), exclude=exclude)

    def recall(self) -> Recall:
        return Recall(
            self.shelf.reads,
            self.index,
            lambda model: self.embedder if model == MODEL else None,
            offload=InlineOffload(),
            clock=self.clock,
            deadline=self.deadline,
            half_life_days=60.0,
        )

    async def ids(self, query: str, **details: object) -> list[str]:
        recalled = await self(query, **details)  # type: ignore[arg-type]
        assert recalled.missed == ""
        return [hit.id for hit in recalled.hits]


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture(params=["words", "words and meaning"])
def embedder(request: pytest.FixtureRequest) -> HashingEmbedder | None:
    return HashingEmbedder() if request.param != "words" else None


@pytest.fixture
async def index(shelf: Shelf) -> AsyncIterator[ExactIndex]:
    made = ExactIndex(shelf.reads, offload=InlineOffload())
    yield made
    await made.aclose()


@pytest.fixture
def search(shelf: Shelf, index: ExactIndex, embedder: HashingEmbedder | None) -> Search:
    return Search(shelf, index, embedder)


def ask(shelf: Shelf, question: str, reply: str, given: tuple[str, ...]) -> str:
    """A question and its reply, as the chat keeps them; the question's id."""
    turn = shelf.say(question, chat="now")
    shelf.say(reply, chat="now", role="assistant", reply_to=turn.id, given=given)
    return turn.id


@pytest.mark.parametrize(
    ("told", "question", "reply"),
    [
        ("By the way, my dog is called Rex.", "What is my dog called?", "Your dog is called Rex, you told me."),
        ("我家的狗叫旺财。", "我的狗叫什么？", "你告诉过我，你的狗叫旺财。"),
    ],
)
async def test_the_same_question_asked_three_times_brings_up_the_turn_that_holds_the_answer(
    shelf: Shelf, search: Search, told: str, question: str, reply: str
) -> None:
    shelf.say("Hello there, how are you", chat="then")
    answer = shelf.say(told, chat="then")
    shelf.say("Nice to hear", chat="then", role="assistant")
    for _ in range(3):
        now = shelf.say(question, chat="now")
        recalled = await search(question, exclude=frozenset({now.id}))
        assert recalled.hits[0].id == answer.id
        assert not {hit.id for hit in recalled.hits if hit.chat_id == "now"}, "neither the question nor a reply"
        given = tuple(hit.id for hit in recalled.hits)
        shelf.say(reply, chat="now", role="assistant", reply_to=now.id, given=given)


@pytest.mark.parametrize(
    ("answer", "chatter", "question"),
    [
        (
            "Kitten arrived today",
            "When did she go there, and how did she get to the place",
            "When did she get the kitten?",
        ),
        ("小猫今天到家", "你们什么时候去的那里，怎么去的那里", "你的小猫是什么时候来的？"),
    ],
)
async def test_words_that_say_little_do_not_outweigh_the_one_that_matters(
    shelf: Shelf, index: ExactIndex, answer: str, chatter: str, question: str
) -> None:
    search = Search(shelf, index)  # by words: the fake embedder takes all words alike
    for number in range(20):
        shelf.say(f"Paper {number} printed", chat=f"filler-{number}")
    shelf.say(chatter, chat="chatter")
    told = shelf.say(answer, chat="kitten")
    assert (await search.ids(question))[0] == told.id


async def test_chinese_words_that_share_a_character_find_one_another(shelf: Shelf, index: ExactIndex) -> None:
    search = Search(shelf, index)
    for number, text in enumerate(("今天下雨", "她喜欢游泳", "晚饭吃面")):
        shelf.say(text, chat=f"other-{number}")
    told = shelf.say("小李去听了一场讲座", chat="told")
    assert (await search.ids("那次演讲怎么样"))[0] == told.id


async def test_a_hit_says_why_it_was_found(shelf: Shelf, search: Search) -> None:
    turn = shelf.say("My dog is called Rex", speaker="Ann", metadata={"mood": "good"})
    shelf.say("Unrelated talk")
    (hit, *_) = (await search("dog called")).hits
    assert hit.ref == turn.ref
    assert (hit.text, hit.speaker, hit.role, hit.metadata) == (turn.text, "Ann", "user", {"mood": "good"})
    assert hit.score == pytest.approx(sum(hit.parts.values()))
    assert hit.parts["words"] > 0


async def test_a_memory_comes_with_its_sources_and_its_decayed_strength(shelf: Shelf, search: Search) -> None:
    turn = shelf.say("Rex barked all night", chat="a")
    memory = shelf.remember("The user's dog Rex barked all night", sources=(turn.id,), strength=2.0)
    hits = {hit.id: hit for hit in (await search("Rex barked", filters=Filters(kinds=("episodic",)))).hits}
    assert set(hits) == {memory.id}
    assert hits[memory.id].sources == (turn.id,)
    assert 0 < hits[memory.id].strength < 2.0


async def test_a_stale_hit_of_an_index_is_never_shown(shelf: Shelf, search: Search) -> None:
    kept, stale = shelf.say("A penguin"), shelf.say("Another penguin")
    assert set(await search.ids("penguin")) == {kept.id, stale.id}
    shelf.gone.add(stale.id)
    assert await search.ids("penguin") == [kept.id]


async def test_another_version_than_the_current_one_is_never_shown(shelf: Shelf) -> None:
    memory = shelf.remember("Lives in Oslo")

    class Stale:
        def expect(self, scope: Scope, state: ScopeState) -> None:
            return

        async def search(self, scope: Scope, query: Query) -> Candidates:
            return Candidates.of({Ref(memory.id, 1): {"bm25": 1.0, "ideal": 1.0}})

    search = Search(shelf, cast("Index", Stale()))
    assert await search.ids("Oslo") == [memory.id]
    shelf.revise(memory.id, "Lives in Bergen")
    assert await search.ids("Oslo") == []


async def test_excluded_records_are_never_shown_nor_lift_their_neighbours(shelf: Shelf, search: Search) -> None:
    shelf.say("Quite another subject", chat="a")
    question = shelf.say("Tell me about the zebra", chat="a")
    recalled = await search("Tell me about the zebra", exclude=frozenset({question.id}))
    assert question.id not in [hit.id for hit in recalled.hits]
    assert all(hit.parts.get("around", 0.0) == 0.0 for hit in recalled.hits)


async def test_filters_reach_the_index(shelf: Shelf, search: Search) -> None:
    shelf.say("penguin", chat="a")
    shelf.say("penguin", chat="b")
    assert await search.ids("which penguin", filters=Filters(chat_id="b")) == ["b-00000"]


async def test_the_limit_holds(shelf: Shelf, search: Search) -> None:
    for number in range(150):
        shelf.say(f"penguin {number}")
    assert len(await search.ids("penguins everywhere", limit=7)) == 7
    assert len(await search.ids("penguins everywhere", limit=120)) == 120


async def test_two_users_see_only_their_own(shelf: Shelf, search: Search) -> None:
    shelf.say("My dog is called Rex", chat="a")
    shelf.say("My dog is called Fido", chat="b", scope=BEN)
    assert await search.ids("dog called") == ["a-00000"]
    assert await search.ids("dog called", scope=BEN) == ["b-00000"]


async def test_a_reset_user_has_no_hits(shelf: Shelf, search: Search) -> None:
    shelf.say("My dog is called Rex")
    assert await search.ids("dog called")
    shelf.reset()
    assert await search.ids("dog called") == []


async def test_both_languages_in_one_memory(shelf: Shelf, search: Search) -> None:
    shelf.say("我在杭州长大", chat="zh")
    shelf.say("I grew up near a lake", chat="en")
    assert (await search.ids("我在哪里长大"))[0] == "zh-00000"
    assert (await search.ids("where did I grow up"))[0] == "en-00000"


@pytest.mark.parametrize(
    "query",
    [
        "dog " * 25_000,
        "狗" * 100_000,
        "x" * 100_000,
        "?!。，…—" * 30,
        "'; DROP TABLE turns; -- \" OR 1=1 {u} %s",
        "🐕🐕🐕",
        "\u202e\u200b",
        "(((((((" * 1000,
        "did you " * 12_000,
        "what " * 20_000 + "?",
    ],
)
async def test_hostile_queries_are_answered_soon(shelf: Shelf, search: Search, query: str) -> None:
    shelf.say("My dog is called Rex")
    shelf.say("我的狗叫旺财", role="assistant")
    with anyio.fail_after(2):
        recalled = await search(query)
    assert recalled.missed == ""


async def test_a_query_without_words_finds_nothing_and_is_no_error(shelf: Shelf, search: Search) -> None:
    shelf.say("My dog is called Rex")
    assert await search("") == Recalled((), "", 0.0)
    assert (await search("?!…")).hits == ()


def test_of_a_long_query_the_beginning_and_the_end_count() -> None:
    text = "start " + "x" * 1000 + " end"
    cut = shortened(text, 100)
    assert len(cut) == 101
    assert cut.startswith("start")
    assert cut.endswith("end")


# ── outages ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Away:
    """An embedder or index that hangs or breaks."""

    model = MODEL
    max_tokens = 512
    name = "away"

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    async def _fail(self) -> None:
        if self.error is None:
            await anyio.sleep_forever()
        else:
            raise self.error

    async def query(self, text: str) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        await self._fail()
        raise AssertionError("unreachable")

    def expect(self, scope: Scope, state: ScopeState) -> None:
        return

    async def search(self, scope: Scope, query: Query) -> Candidates:
        await self._fail()
        raise AssertionError("unreachable")


async def test_an_embedder_that_hangs_costs_only_meaning(shelf: Shelf, index: ExactIndex) -> None:
    turn = shelf.say("My dog is called Rex")
    search = Search(shelf, index, cast("Embedder", Away()), deadline=1.0)
    await search.index.search(ANN, Query((), None, None, Filters(), 1))
    with anyio.fail_after(0.95):
        recalled = await search("dog called")
    assert [hit.id for hit in recalled.hits] == [turn.id]
    assert recalled.missed == "searched by words only: the embedder did not answer within 0.6 s"


@pytest.mark.parametrize("error", [EmbedderUnavailable("the embedder refused"), RuntimeError("the embedder refused")])
async def test_an_embedder_that_breaks_costs_only_meaning(shelf: Shelf, index: ExactIndex, error: Exception) -> None:
    turn = shelf.say("My dog is called Rex")
    recalled = await Search(shelf, index, cast("Embedder", Away(error)))("dog called")
    assert [hit.id for hit in recalled.hits] == [turn.id]
    assert recalled.missed == "searched by words only: the embedder refused"


async def test_an_index_that_hangs_costs_the_memories_and_says_so(shelf: Shelf) -> None:
    shelf.say("My dog is called Rex")
    search = Search(shelf, cast("Index", Away()), deadline=0.1)
    with anyio.fail_after(1):
        recalled = await search("dog called")
    assert recalled.hits == ()
    assert recalled.missed == "searched nothing: the index did not answer within 0.1 s"


@pytest.mark.parametrize("error", [IndexUnavailable("no index"), ValueError("no index")])
async def test_an_index_that_breaks_costs_the_memories_and_says_so(shelf: Shelf, error: Exception) -> None:
    recalled = await Search(shelf, cast("Index", Away(error)))("dog called")
    assert recalled.hits == ()
    assert recalled.missed == "searched nothing: no index"


async def test_a_search_that_is_cancelled_is_cancelled(shelf: Shelf) -> None:
    search = Search(shelf, cast("Index", Away()), deadline=60)
    task = asyncio.create_task(search("dog"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_without_vectors_the_embedder_is_not_asked(shelf: Shelf, index: ExactIndex) -> None:
    shelf.say("My dog is called Rex")
    shelf.book().model = None
    embedder = HashingEmbedder()
    assert await Search(shelf, index, embedder).ids("dog called")
    assert embedder.queries == []


async def test_a_query_that_is_expected_is_embedded_at_once_and_only_once(shelf: Shelf, index: ExactIndex) -> None:
    shelf.say("My dog is called Rex")
    embedder = HashingEmbedder()
    recall = Search(shelf, index, embedder).recall()
    recall.expect("dog called")
    await recall.search(ANN, "dog called", limit=5, filters=Filters())
    assert embedder.queries == ["dog called"], "the first search tells which model serves"
    for query in ("dog", "what is it called"):
        recall.expect(query)
        recall.expect(query)
    await asyncio.sleep(0)
    assert embedder.queries == ["dog called", "dog", "what is it called"]
    found = await recall.search(ANN, "dog", limit=5, filters=Filters())
    assert embedder.queries == ["dog called", "dog", "what is it called"]
    assert found.hits[0].text == "My dog is called Rex"


async def test_what_is_expected_and_never_asked_for_is_bounded(shelf: Shelf, index: ExactIndex) -> None:
    shelf.say("My dog is called Rex")
    embedder = HashingEmbedder()
    recall = Search(shelf, index, embedder).recall()
    await recall.search(ANN, "dog", limit=5, filters=Filters())
    gate = embedder.hold_query()
    for number in range(3 * MOST_AHEAD):
        recall.expect(f"dog {number}")
    await asyncio.sleep(0)
    gate.release()
    await recall.search(ANN, "dog", limit=5, filters=Filters())
    assert len(embedder.queries) <= MOST_AHEAD + 2


async def test_what_failed_to_be_embedded_ahead_is_embedded_anew_when_it_is_expected_again(
    shelf: Shelf, index: ExactIndex
) -> None:
    shelf.say("My dog is called Rex")
    embedder = HashingEmbedder()
    recall = Search(shelf, index, embedder).recall()
    await recall.search(ANN, "dog", limit=5, filters=Filters())
    embedder.fail_with(EmbedderUnavailable("the embedder refused"))
    recall.expect("dog called")  # and no search comes
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    recall.expect("dog called")
    assert (await recall.search(ANN, "dog called", limit=5, filters=Filters())).missed == ""
