"""Reranking what was found, by a model that reads query and text together: off unless one is chosen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from afterword import open_memory
from afterword.errors import RerankerUnavailable, SettingsError
from afterword.memory import AsyncMemory
from afterword.records import NewTurn
from afterword.rerankers.server import RerankServer
from afterword.settings import Settings
from afterword.testing import FakeOpenAI, ScriptedLLM

pytestmark = pytest.mark.anyio
TOLD = ("My boat lies in Oslo.", "My sister paints boats.", "Boats need varnish each spring.")


class LongestFirst:
    """A reranker that can be told from our own order."""

    model = "longest-first"

    def __init__(self) -> None:
        self.asked: list[tuple[str, list[str]]] = []
        self.raises: BaseException | None = None
        self.hangs = False
        self.answer: Sequence[float] | None = None

    async def scores(self, query: str, texts: Sequence[str]) -> Sequence[float]:
        self.asked.append((query, list(texts)))
        if self.raises is not None:
            raise self.raises
        if self.hangs:
            await asyncio.Event().wait()
        return [float(len(text)) for text in texts] if self.answer is None else self.answer

    async def aclose(self) -> None:
        """Nothing is open."""


@pytest.fixture
async def server() -> AsyncIterator[FakeOpenAI]:
    async with FakeOpenAI() as server:
        yield server


def told(folder: Path, **more: object) -> Settings:
    return Settings(data_dir=folder, embedder="none", debounce=0, debounce_most=0, recall_deadline=0.5, **more)  # type: ignore[arg-type]


async def found(memory: AsyncMemory) -> list[str]:
    return [hit.text for hit in await memory.search("Where does my boat lie?", "ann")]


async def tell(memory: AsyncMemory) -> None:
    turns = [NewTurn(f"chat {number}", "user", text) for number, text in enumerate(TOLD)]
    await memory.add_turns(turns, "ann")


async def test_what_is_found_comes_in_the_rerankers_order_and_says_so(tmp_path: Path) -> None:
    reranker = LongestFirst()
    async with open_memory(told(tmp_path), llm=ScriptedLLM(), reranker=reranker, run_worker=False) as memory:
        await tell(memory)
        assert await found(memory) == sorted(TOLD, key=len, reverse=True)
        query, texts = reranker.asked[-1]
        assert query == "Where does my boat lie?"
        assert set(TOLD) <= set(texts)
        best, *_ = await memory.search("Where does my boat lie?", "ann")
        assert best.parts["reranked"] > 0


@pytest.mark.parametrize("answer", [[1.0], [float("nan")] * len(TOLD), []])
async def test_a_reranker_that_answers_amiss_costs_nothing_but_its_order(
    tmp_path: Path, answer: Sequence[float]
) -> None:
    reranker = LongestFirst()
    async with open_memory(told(tmp_path), llm=ScriptedLLM(), reranker=reranker, run_worker=False) as memory:
        await tell(memory)
        reranker.answer = answer
        assert (await found(memory))[0] == TOLD[0]


async def test_a_reranker_that_is_away_or_late_leaves_our_own_order_and_is_told_of(tmp_path: Path) -> None:
    reranker = LongestFirst()
    async with open_memory(told(tmp_path), llm=ScriptedLLM(), reranker=reranker, run_worker=False) as memory:
        await tell(memory)
        for reranker.raises, reranker.hangs in ((RerankerUnavailable("away"), False), (None, True)):
            turn = await memory.turn("Where does my boat lie?", "ann", "now")
            assert turn.hits[0].text == TOLD[0]
            assert "not reranked" in turn.missed


async def test_a_server_with_v1_rerank_is_asked_and_its_failures_say_what_to_do(server: FakeOpenAI) -> None:
    reranker = RerankServer(base_url=server.base_url, api_key="", model="fake-rerank", timeout=5.0)
    try:
        scores = await reranker.scores("green boat", ["a red car", "a green boat", "my boat"])
        assert scores[1] > scores[2] > scores[0]
        assert server.received[-1].body["model"] == "fake-rerank"
        server.script.next("rerank", status=401)
        with pytest.raises(RerankerUnavailable) as refused:
            await reranker.scores("boat", ["a boat"])
        assert "AFTERWORD_RERANK_API_KEY" in refused.value.fix
        for fault in ("garbage", "missing"):
            server.script.next("rerank", fault=fault)
            with pytest.raises(RerankerUnavailable):
                await reranker.scores("boat", ["a boat", "a car"])
    finally:
        await reranker.aclose()


async def test_a_slow_server_is_given_up_after_its_deadline(server: FakeOpenAI) -> None:
    reranker = RerankServer(base_url=server.base_url, api_key="", model="fake-rerank", timeout=0.05)
    server.script.always("rerank", fault="hang")
    with pytest.raises(RerankerUnavailable) as late:
        await reranker.scores("boat", ["a boat"])
    assert "AFTERWORD_RERANK_DEADLINE" in late.value.fix
    await reranker.aclose()


async def test_it_is_chosen_by_settings(tmp_path: Path, server: FakeOpenAI) -> None:
    chosen = told(tmp_path, rerank_base_url=server.base_url, rerank_model="fake-rerank", rerank_deadline=5.0)
    async with open_memory(chosen, llm=ScriptedLLM()) as memory:
        await tell(memory)
        await found(memory)
    assert any(received.request == "rerank" for received in server.received)
    with pytest.raises(SettingsError, match="go together"):
        async with open_memory(data_dir=tmp_path, rerank_model="x"):
            pass
