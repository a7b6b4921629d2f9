"""What happens at each limit: told to its caller, counted, nothing dropped, and never a reply that waits."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from afterword.commands.transcript import import_file
from afterword.errors import QueueFull
from afterword.interfaces import guard
from afterword.interfaces.http import create_app
from afterword.interfaces.rates import Rates
from afterword.limits import Gate, Limits
from afterword.meter import Meter
from afterword.records import NewTurn, Scope
from afterword.settings import Settings
from afterword.testing import FrozenClock, ScriptedLLM
from tests.conftest import OpenMemory
from tests.serving import client_of
from tests.waiting import idle

pytestmark = pytest.mark.anyio

ANN = {"user_id": "ann"}
SCOPE = Scope("default", "ann")


def turns(count: int, text: str = "I have a cat.", chat: str = "c") -> list[NewTurn]:
    return [NewTurn(chat, "user", text, turn_id=f"{chat}-{number}") for number in range(count)]


# ── turns and bytes that wait ──────────────────────────────────────────────────────────────────────────────────────


async def test_turns_over_a_users_limit_are_refused_whole_and_told(opened: OpenMemory) -> None:
    memory = await opened(run_worker=False, max_waiting_turns_per_user=100)
    await memory.add_turns(turns(98), "ann")
    with pytest.raises(QueueFull, match=r"98 turns of this user wait.*100 may \(max_waiting_turns_per_user\)") as full:
        await memory.add_turns(turns(3, chat="d"), "ann")
    assert full.value.retry_after > 0
    assert await memory.turns("ann", "d") == []
    await memory.add_turns(turns(2, chat="d"), "ann")
    await memory.add_turns(turns(50), "bob")
    assert memory.watch.meter.refused.of("max_waiting_turns_per_user") == 1
    assert (await memory.ledger.waiting(SCOPE))[0] == 100


async def test_the_limit_over_all_users_holds_too(opened: OpenMemory) -> None:
    memory = await opened(run_worker=False, max_waiting_turns=100)
    await memory.add_turns(turns(60), "ann")
    with pytest.raises(QueueFull, match=r"of all users.*\(max_waiting_turns\)"):
        await memory.add_turns(turns(60), "bob")


async def test_bytes_are_counted_as_utf8_and_limited(opened: OpenMemory) -> None:
    memory = await opened(run_worker=False, max_waiting_mb_per_user=0.001)
    await memory.submit("猫" * 300, "ann")  # 900 bytes
    assert await memory.ledger.waiting(SCOPE) == (1, 900)
    assert await memory.ledger.waiting(None) == (1, 900)
    with pytest.raises(QueueFull, match="max_waiting_mb_per_user"):
        await memory.submit("x" * 101, "ann")
    await memory.submit("x" * 100, "ann")


async def test_a_chat_at_its_users_limit_is_answered_and_kept_all_the_same(
    opened: OpenMemory, settings: Settings
) -> None:
    memory = await opened(run_worker=False, max_waiting_turns_per_user=100)
    await memory.add_turns(turns(100), "ann")
    async with client_of(create_app(memory, settings)) as client:
        refused = await client.post("/api/turns", json={"text": "one more", **ANN})
        assert (refused.status_code, refused.json()["error"]) == (429, "QueueFull")
        assert int(refused.headers["Retry-After"]) > 0
        with anyio.fail_after(20):
            answer = await client.post("/api/chat", json={"message": "Hello?", "chat_id": "new", **ANN})
    assert "You said: Hello?" in answer.text.replace('"}\n\nevent: piece\ndata: {"text": "', "").replace("\r", "")
    assert [turn.text for turn in await memory.turns("ann", "new")] == ["Hello?", "You said: Hello?"]


async def test_room_comes_back_when_turns_are_decided(opened: OpenMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("afterword.limits.SOONEST", 0.0)
    memory = await opened(max_waiting_turns_per_user=100)
    for number in range(4):
        await memory.add_turns(turns(90, chat=f"chat-{number}"), "ann")
        await idle(memory)
    assert (await memory.ledger.waiting(SCOPE))[0] == 0


class Waiting:
    """A ledger of which only what waits is asked."""

    def __init__(self, turns: int) -> None:
        self.turns = turns
        self.asked = 0

    async def waiting(self, scope: Scope | None) -> tuple[int, int]:
        self.asked += 1
        return self.turns, 0


async def test_who_stands_at_a_limit_and_asks_again_costs_no_more_reading() -> None:
    ledger, clock = Waiting(10), FrozenClock()
    gate = Gate(Limits(waiting_turns_per_user=10), ledger, clock, Meter())  # type: ignore[arg-type]
    for _ in range(50):
        with pytest.raises(QueueFull):
            await gate.admit(SCOPE, turns(1))
    assert ledger.asked == 1
    ledger.turns = 0
    await clock.advance(2.0)
    await gate.admit(SCOPE, turns(1))


@given(parts=st.lists(st.integers(1, 30), max_size=20))
async def test_no_more_than_the_limit_ever_waits(parts: list[int]) -> None:
    ledger, clock = Waiting(0), FrozenClock()
    gate = Gate(Limits(waiting_turns_per_user=100), ledger, clock, Meter())  # type: ignore[arg-type]
    for part in parts:
        try:
            await gate.admit(SCOPE, turns(part))
        except QueueFull:
            assert ledger.turns + part > 100
        else:
            ledger.turns += part
        assert ledger.turns <= 100
        await clock.advance(1.5)


# ── jobs ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_full_queue_keeps_the_turn_and_its_work_is_made_again(opened: OpenMemory) -> None:
    memory = await opened(run_worker=False, max_waiting_jobs_per_user=10)
    for number in range(12):
        await memory.submit("I have a cat.", "ann", f"chat-{number}")
    assert (await memory.job_counts("ann"))["queued"] == 10
    assert (await memory.ledger.queue()).turns == 12
    first = (await memory.jobs("ann"))[-1]
    await memory.cancel_job(first.id)
    await memory.ledger.sweep(model=None)
    assert (await memory.job_counts("ann"))["queued"] == 10


# ── replies ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def llm() -> ScriptedLLM:
    return ScriptedLLM()


async def test_replies_at_once_are_limited_and_the_message_is_not_kept(opened: OpenMemory, llm: ScriptedLLM) -> None:
    memory = await opened(llm=llm, max_replies_per_user=2, max_replies=3)
    gate = llm.hold_stream()
    replies = [await memory.chat("Hello?", "ann", f"chat-{number}", turn_id=f"t{number}") for number in range(2)]
    with pytest.raises(QueueFull, match=r"2 of 2 replies to this user are under way \(max_replies_per_user\)"):
        await memory.chat("Hello?", "ann", "chat-2")
    assert await memory.turns("ann", "chat-2") == []
    same = await memory.chat("Hello?", "ann", "chat-0", turn_id="t0")  # sent again by a browser: the reply under way
    assert same.turn.id == "t0"
    replies.append(await memory.chat("Hello?", "bob"))
    with pytest.raises(QueueFull, match=r"\(max_replies\)"):
        await memory.chat("Hello?", "cleo")
    gate.release()
    with anyio.fail_after(20):
        await asyncio.gather(*(reply.done() for reply in replies))
    await (await memory.chat("Hello?", "ann", "chat-2")).done()


# ── requests ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def client(opened: OpenMemory, settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    limited = settings.model_copy(update={"max_requests_per_minute": 3})
    async with client_of(create_app(await opened(), limited)) as client:
        yield client


async def test_an_address_that_asks_too_often_is_told_when_to_come_back(client: httpx.AsyncClient) -> None:
    answers = [await client.get("/api/chats", params=ANN) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert answers[3].json()["error"] == "TooManyRequests"
    assert 1 <= int(answers[3].headers["Retry-After"]) <= 20
    assert (await client.get("/readyz")).status_code == 200


def test_a_bucket_refills_and_forgets_the_longest_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("afterword.interfaces.rates.time.monotonic", lambda: now)
    monkeypatch.setattr("afterword.interfaces.rates.CALLERS", 2)
    rates = Rates(60)
    assert [rates.wait("a") for _ in range(61)] == [0.0] * 60 + [1.0]
    now = 1.0
    assert rates.wait("a") == 0.0
    assert rates.wait("a") == 1.0
    for other in ("b", "c"):
        rates.wait(other)
    assert rates.wait("a") == 0.0  # forgotten, so as good as new
    assert all(Rates(0).wait("x") == 0.0 for _ in range(1000))


async def test_bodies_of_all_requests_together_are_limited(
    opened: OpenMemory, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "BODIES_AT_ONCE", 150_000)
    app = create_app(await opened(), settings)
    json_type = {"Content-Type": "application/json"}
    half_sent, go_on = asyncio.Event(), asyncio.Event()
    body = json.dumps({"text": "x" * 90_000, **ANN}).encode()

    async def slowly() -> AsyncIterator[bytes]:
        yield body[:-1]
        half_sent.set()
        await go_on.wait()
        yield body[-1:]

    async with client_of(app) as client, anyio.create_task_group() as group:
        first: list[Any] = []

        async def send() -> None:
            first.append(await client.post("/api/turns", content=slowly(), headers=json_type))

        group.start_soon(send)
        with anyio.fail_after(20):
            await half_sent.wait()
            second = await client.post("/api/turns", content=body, headers=json_type)
            while second.status_code != 429:  # what was sent is on its way to the server
                second = await client.post("/api/turns", content=body, headers=json_type)
            assert second.json()["error"] == "TooManyRequests"
            assert second.headers["Retry-After"] == "1"
            go_on.set()
    assert first[0].status_code == 200
    async with client_of(app) as client:
        assert (await client.post("/api/turns", content=body, headers=json_type)).status_code == 200


# ── import ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def lines(path: Path, count: int) -> Path:
    path.write_text(
        "".join(json.dumps({"text": f"I have {n} cats.", "chat_id": f"c{n % 3}"}) + "\n" for n in range(count))
    )
    return path


def test_an_import_stops_at_a_limit_says_how_far_it_came_and_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("afterword.commands.transcript.BATCH", 60)
    path = lines(tmp_path / "chats.jsonl", 150)
    flags = {
        "data_dir": str(tmp_path / "data"),
        "embedder": "none",
        "max_waiting_turns_per_user": "100",
        "debounce": "0",
    }
    with pytest.raises(QueueFull, match=r"60 turns were kept.*max_waiting_turns_per_user.*known turns add nothing"):
        import_file(flags, path, dry_run=False, wait=False)
    import_file(flags, path, dry_run=False, wait=True)
    assert "Kept 150 turns in 3 chats: 90 new, 60 known already." in capsys.readouterr().out
