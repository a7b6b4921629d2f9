"""What operators see: /metrics, /healthz, /readyz, in step with the queue itself."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import anyio
import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from afterword import retries
from afterword.errors import LedgerError, LLMUnavailable, NotRemembered
from afterword.interfaces import health
from afterword.interfaces.health import LoopLag
from afterword.interfaces.holder import MemoryHolder
from afterword.interfaces.http import create_app
from afterword.memory import AsyncMemory
from afterword.meter import Meter
from afterword.settings import Settings
from afterword.testing import HashingEmbedder, ScriptedLLM
from tests.conftest import OpenMemory
from tests.serving import client_of
from tests.waiting import idle

pytestmark = pytest.mark.anyio

ANN = {"user_id": "ann"}
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def llm() -> ScriptedLLM:
    return ScriptedLLM()


@pytest.fixture
async def memory(opened: OpenMemory, llm: ScriptedLLM) -> AsyncMemory:
    return await opened(llm=llm, embedder=HashingEmbedder())


@pytest.fixture
async def client(memory: AsyncMemory, settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(create_app(memory, settings)) as client:
        yield client


async def scraped(client: httpx.AsyncClient) -> Samples:
    """As Prometheus reads it."""
    answer = await client.get("/metrics")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain")
    families = list(text_string_to_metric_families(answer.text))
    assert all(family.documentation for family in families)
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples.get((f"afterword_{name}", frozenset(labels.items())), 0.0)


async def chat(client: httpx.AsyncClient, message: str) -> None:
    with anyio.fail_after(20):
        answer = await client.post("/api/chat", json={"message": message, **ANN})
        assert answer.status_code == 200


# ── /metrics ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_chat_is_counted_from_its_turn_to_its_memory(client: httpx.AsyncClient, memory: AsyncMemory) -> None:
    await chat(client, "My dog is called Bruno.")
    await idle(memory)
    found = await scraped(client)
    assert value(found, "turns_total", way="chat") == 1
    assert value(found, "turn_bytes_total", way="chat") == len("My dog is called Bruno.")
    assert value(found, "replies_total", outcome="whole") == 1
    assert value(found, "recall_seconds_count", outcome="ok") == 1
    assert value(found, "llm_seconds_count", use="chat", outcome="ok") == 1
    assert value(found, "llm_first_piece_seconds_count", use="chat") == 1
    assert value(found, "llm_seconds_count", use="decide", outcome="ok") >= 1
    assert value(found, "llm_tokens_total", use="chat", way="input", by="estimate") > 0
    assert value(found, "embedding_seconds_count", use="passages", outcome="ok") >= 1
    assert value(found, "job_seconds_count", kind="remember", outcome="done") >= 1
    assert value(found, "ledger_write_seconds_count", write="accept", outcome="ok") == 1
    assert value(found, "queue_depth", state="queued") == 0
    assert value(found, "waiting_turns") == 0
    assert ("process_open_fds", frozenset()) in found


async def test_the_buckets_of_a_histogram_add_up(client: httpx.AsyncClient) -> None:
    for _ in range(3):
        await chat(client, "Hello.")
    found = await scraped(client)
    buckets = {
        dict(labels)["le"]: number
        for (name, labels), number in found.items()
        if name == "afterword_recall_seconds_bucket"
    }
    assert buckets["+Inf"] == value(found, "recall_seconds_count", outcome="ok") == 3
    ordered = [buckets[bound] for bound in sorted(buckets, key=float)]
    assert ordered == sorted(ordered)
    assert value(found, "recall_seconds_sum", outcome="ok") > 0


async def test_waiting_work_and_its_age_are_seen_while_it_waits(
    client: httpx.AsyncClient, llm: ScriptedLLM, memory: AsyncMemory
) -> None:
    gate = llm.hold_complete()
    await memory.submit("I moved to Oslo.", "ann", "one")
    await memory.submit("I moved to Rome.", "ann", "two")
    with anyio.fail_after(10):
        await gate.reached()
    await asyncio.sleep(0.02)  # so that an age is an age; nothing is waited for
    found = await scraped(client)
    assert value(found, "jobs", kind="remember", state="running") == 1
    assert value(found, "jobs", kind="remember", state="queued") == 1
    assert value(found, "waiting_turns") == 2
    assert value(found, "oldest_job_age_seconds") > 0
    assert value(found, "oldest_due_job_age_seconds") > 0
    listed = (await client.get("/api/jobs", params=ANN)).json()["counts"]
    assert (listed["queued"], listed["running"]) == (
        value(found, "queue_depth", state="queued"),
        value(found, "queue_depth", state="running"),
    )
    gate.release()
    await idle(memory)
    assert value(await scraped(client), "oldest_job_age_seconds") == 0


async def test_an_outage_is_a_retry_and_a_bad_answer_ends_as_a_dead_letter(
    client: httpx.AsyncClient, llm: ScriptedLLM, memory: AsyncMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "BACKOFF", (0.001, 0.001))
    llm.fail_with(LLMUnavailable("the LLM is away", retry_after=0.01), on="complete")
    await memory.add("I moved to Oslo.", "ann", timeout=20)
    found = await scraped(client)
    assert value(found, "job_retries_total", kind="remember", reason="outage") == 1
    assert value(found, "llm_seconds_count", use="decide", outcome="LLMUnavailable") == 1
    assert value(found, "job_seconds_count", kind="remember", outcome="waits") == 1
    llm.answers = lambda messages, schema: "no JSON at all"
    with pytest.raises(NotRemembered):
        await memory.add("I moved to Rome.", "ann", "other", timeout=20)
    found = await scraped(client)
    assert value(found, "dead_letters_total", kind="remember") == 1
    assert value(found, "job_retries_total", kind="remember", reason="error") == retries.ATTEMPTS - 1
    assert value(found, "queue_depth", state="dead") == 1
    assert value(found, "jobs", kind="remember", state="dead") == 1


async def test_a_scrape_answers_while_the_ledger_can_not_be_read(
    client: httpx.AsyncClient, memory: AsyncMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    await chat(client, "Hello.")

    async def broken() -> Any:
        raise LedgerError("the disk is gone")

    monkeypatch.setattr(memory.ledger, "queue", broken)
    found = await scraped(client)
    assert value(found, "replies_total", outcome="whole") == 1
    assert ("afterword_waiting_turns", frozenset()) not in found


async def test_metrics_answer_before_the_memory_is_open(settings: Settings) -> None:
    async with client_of(create_app(MemoryHolder(), settings)) as client:
        assert ("process_cpu_seconds_total", frozenset()) in await scraped(client)


async def test_labels_never_hold_a_user_a_chat_or_a_text(client: httpx.AsyncClient, memory: AsyncMemory) -> None:
    body = {"message": "My password is Zanzibar.", "user_id": "user-Zanzibar", "chat_id": "chat-Zanzibar"}
    await client.post("/api/chat", json=body)
    await idle(memory)
    assert "Zanzibar" not in (await client.get("/metrics")).text


# ── /readyz ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each question probes anew."""
    monkeypatch.setattr(health, "PROBE_EVERY", 0.0)


async def test_ready_says_so_and_says_why_not(settings: Settings, memory: AsyncMemory) -> None:
    holder = MemoryHolder()
    async with client_of(create_app(holder, settings)) as client:
        starting = await client.get("/readyz")
        assert (starting.status_code, starting.json()["status"]) == (503, "starting")
        holder.set(memory)
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()) == (200, {"status": "ready", "reasons": []})
        holder.close()
        assert (await client.get("/readyz")).json()["status"] == "stopping"


async def test_a_dead_llm_degrades_and_its_return_heals(client: httpx.AsyncClient, llm: ScriptedLLM) -> None:
    llm.fail_with(LLMUnavailable("nothing answers at http://llm", fix="start it"), on="stream")
    await chat(client, "Hello?")
    answer = await client.get("/readyz")
    assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
    (reason,) = answer.json()["reasons"]
    assert (reason["part"], reason["why"], reason["fix"]) == ("llm", "nothing answers at http://llm", "start it")
    assert value(await scraped(client), "part_up", part="llm") == 0
    await chat(client, "Hello again?")
    assert (await client.get("/readyz")).json() == {"status": "ready", "reasons": []}
    assert value(await scraped(client), "part_up", part="llm") == 1


@pytest.mark.usefixtures("unhurried")
async def test_a_ledger_that_can_not_write_is_down_until_it_can(
    client: httpx.AsyncClient, memory: AsyncMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full() -> None:
        raise LedgerError("no space is left for the ledger: free some (disk full)", said="disk full")

    with monkeypatch.context() as patch:
        patch.setattr(memory.ledger, "probe", full)
        answer = await client.get("/readyz")
    assert (answer.status_code, answer.json()["status"]) == (503, "down")
    assert answer.json()["reasons"][0]["why"] == "no space is left for the ledger: free some"
    assert (await client.get("/readyz")).json()["status"] == "ready"


@pytest.mark.usefixtures("unhurried")
async def test_a_disk_that_fills_up_is_told_before_and_when_it_is_full(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for free, status, state in ((300_000_000, 200, "ready"), (50_000_000, 200, "degraded"), (4096, 503, "down")):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        answer = await client.get("/readyz")
        assert (answer.status_code, answer.json()["status"]) == (status, state)
        assert [reason["part"] for reason in answer.json()["reasons"]] == ["disk"] * (state != "ready")


async def test_what_waits_too_long_with_nobody_at_work_is_told(opened: OpenMemory, settings: Settings) -> None:
    memory = await opened(run_worker=False)
    await memory.submit("I moved to Oslo.", "ann")
    now = (await memory.ledger.queue()).due
    assert now is not None
    queue = await memory.ledger.queue()
    found = health._work(queue, 100, now + timedelta(seconds=health.STUCK + 60))
    assert [(reason.part, reason.state) for reason in found] == [("work", "degraded")]
    assert "11 minutes" in found[0].why
    assert health._work(queue, 100, now) == []


async def test_without_the_token_only_the_parts_are_told(
    memory: AsyncMemory, llm: ScriptedLLM, settings: Settings
) -> None:
    locked = settings.model_copy(update={"token": Settings(token="opensesame").token})  # type: ignore[arg-type]
    key = {"Authorization": "Bearer opensesame"}
    llm.fail_with(LLMUnavailable("nothing answers at http://10.0.0.7"), on="stream")
    async with client_of(create_app(memory, locked)) as client:
        await client.post("/api/chat", json={"message": "Hello?", **ANN}, headers=key)
        anybody = await client.get("/readyz")
        assert anybody.json() == {"status": "degraded", "reasons": [{"part": "llm", "state": "degraded"}]}
        assert "10.0.0.7" in (await client.get("/readyz", headers=key)).text
        assert (await client.get("/metrics")).status_code == 401
        assert (await client.get("/metrics", headers=key)).status_code == 200


# ── the event loop ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_loop_that_stood_still_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "SAMPLE", 0.01)
    lag, meter = LoopLag(), Meter()
    task = asyncio.create_task(lag.run(meter))
    await asyncio.sleep(0)  # it begins to sleep
    time.sleep(0.2)  # noqa: ASYNC251 - it is the fault that is looked for
    with anyio.fail_after(10):
        await asyncio.sleep(0.05)  # the sleeper is behind us in the loop's queue
    task.cancel()
    assert lag.worst > 0.1
    assert meter.loop_lag.of().sum > 0.1


def test_the_worst_lag_is_forgotten_after_a_minute() -> None:
    lag = LoopLag()
    now = time.monotonic()
    lag.add(now - health.WINDOW - 1, 9.0)
    lag.add(now - 30, 2.0)
    lag.add(now - 20, 0.5)
    lag.add(now - 10, 1.0)
    assert lag.worst == 2.0
    lag.add(now + health.WINDOW - 15, 0.1)
    assert lag._worst[0][1] == 1.0
