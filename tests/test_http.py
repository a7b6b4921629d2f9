"""The HTTP face: what it answers, whom it refuses, and what its streams survive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx
import pytest

from afterword.errors import LLMUnavailable
from afterword.glance import EVERYTHING
from afterword.interfaces.holder import MemoryHolder
from afterword.interfaces.http import create_app
from afterword.interfaces.server import Door
from afterword.memory import AsyncMemory
from afterword.settings import Settings
from afterword.testing import ScriptedLLM
from tests.conftest import OpenMemory
from tests.serving import Event, client_of, events
from tests.waiting import idle

pytestmark = pytest.mark.anyio

ANN = {"user_id": "ann"}


@pytest.fixture
def llm() -> ScriptedLLM:
    return ScriptedLLM()


@pytest.fixture
async def memory(opened: OpenMemory, llm: ScriptedLLM) -> AsyncMemory:
    return await opened(llm=llm)


@pytest.fixture
async def client(memory: AsyncMemory, settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(create_app(memory, settings)) as client:
        yield client


async def all_events(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> list[Event]:
    with anyio.fail_after(20):
        async with client.stream("POST", path, json=body) as response:
            assert response.status_code == 200, await response.aread()
            return [event async for event in events(response)]


async def chat(client: httpx.AsyncClient, message: str, **more: Any) -> list[Event]:
    return await all_events(client, "/api/chat", {"message": message, **ANN, **more})


# ── chatting ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_chat_streams_accepted_recall_pieces_and_done(client: httpx.AsyncClient) -> None:
    came = await chat(client, "I live in Oslo.", turn_id="t-1")
    assert [event.name for event in came[:2]] == ["accepted", "recall"]
    assert came[0].data == {"turn_id": "t-1", "chat_id": "default"}
    assert came[1].data["hits"] == []
    assert "".join(event.data["text"] for event in came if event.name == "piece") == "You said: I live in Oslo."
    assert came[-1].name == "done"
    assert came[-1].data["receipt"]["items"] == []
    turns = (await client.get("/api/turns", params=ANN)).json()
    assert [turn["role"] for turn in turns["turns"]] == ["user", "assistant"]
    assert turns["turns"][1]["id"] == came[-1].data["reply_id"]


async def test_done_carries_the_receipt_of_what_was_recalled(client: httpx.AsyncClient, memory: AsyncMemory) -> None:
    await chat(client, "My dog is called Bruno.")
    await idle(memory)
    came = await chat(client, "What is my dog called?", chat_id="another")
    hits = came[1].data["hits"]
    assert any("Bruno" in hit["text"] for hit in hits)
    assert [item["id"] for item in came[-1].data["receipt"]["items"]] == [hit["id"] for hit in hits]
    asked_later = await client.get(f"/api/receipts/{came[-1].data['reply_id']}", params=ANN)
    assert asked_later.json() == came[-1].data["receipt"]


async def test_a_client_that_leaves_does_not_end_the_reply(client: httpx.AsyncClient, llm: ScriptedLLM) -> None:
    llm.replies = ["one two three four"]
    gate = llm.hold_stream(after=1)
    with anyio.fail_after(20):
        async with client.stream("POST", "/api/chat", json={"message": "count", **ANN}) as response:
            async for event in events(response):
                if event.name == "piece":
                    break
        running = (await client.get("/api/turns", params=ANN)).json()
        assert running["replying_to"] == running["turns"][0]["id"]
        gate.release()
        async with client.stream("GET", "/api/chat/live", params=ANN) as response:
            pieces = [event.data["text"] async for event in events(response) if event.name == "piece"]
    if response.status_code == 200:  # 404: it had ended before we came back
        assert "".join(pieces) == "one two three four"
    turns = (await client.get("/api/turns", params=ANN)).json()["turns"]
    assert turns[1]["text"] == "one two three four"
    assert turns[1]["cut"] is None


async def test_a_stopped_reply_is_cut_and_keeps_its_part(client: httpx.AsyncClient, llm: ScriptedLLM) -> None:
    llm.replies = ["one two three"]
    llm.hold_stream(after=1)
    with anyio.fail_after(20):
        async with client.stream("POST", "/api/chat", json={"message": "count", **ANN}) as response:
            came = events(response)
            async for event in came:
                if event.name == "piece":
                    break
            stopped = (await client.post("/api/chat/stop", json=ANN)).json()
            last = [event async for event in came][-1]
    assert stopped["stopped"] is True
    assert (last.name, last.data["why"], last.data["reply_id"]) == ("cut", "stopped", stopped["reply_id"])
    assert (await client.get("/api/turns", params=ANN)).json()["turns"][1]["text"].strip() == "one"
    assert (await client.post("/api/chat/stop", json=ANN)).json() == {"stopped": False}


async def test_an_llm_error_is_a_cut_with_cause_and_fix_and_can_be_asked_again(
    client: httpx.AsyncClient, llm: ScriptedLLM
) -> None:
    llm.fail_with(LLMUnavailable("the LLM is away", fix="Start it."), on="stream")
    came = await chat(client, "Hello?", turn_id="t-1")
    assert (came[-1].name, came[-1].data["why"], came[-1].data["fix"]) == ("cut", "the LLM is away", "Start it.")
    again = await all_events(client, "/api/chat/again", {"turn_id": "t-1", **ANN})
    assert again[-1].name == "done"
    turns = (await client.get("/api/turns", params=ANN)).json()["turns"]
    assert [turn["text"] for turn in turns] == ["Hello?", "You said: Hello?"]


# ── turns, memories, work ──────────────────────────────────────────────────────────────────────────────────────────


async def test_one_turn_can_be_waited_for(client: httpx.AsyncClient) -> None:
    answer = await client.post("/api/turns?wait=20", json={"text": "I moved to Oslo in May.", "turn_id": "t", **ANN})
    assert answer.status_code == 200, answer.text
    ids = answer.json()["memory_ids"]
    assert (len(ids), answer.json()["pending"]) == (1, False)
    found = (await client.get(f"/api/memories/{ids[0]}", params=ANN)).json()
    assert (found["id"], found["version"], found["sources"]) == (ids[0], 1, ["t"])


async def test_a_wait_that_runs_out_says_pending_and_loses_nothing(client: httpx.AsyncClient, llm: ScriptedLLM) -> None:
    gate = llm.hold_complete()
    answer = await client.post("/api/turns?wait=0.05", json={"text": "I moved to Oslo.", "turn_id": "t", **ANN})
    assert (answer.status_code, answer.json()) == (202, {"turn_ids": ["t"], "pending": True})
    gate.release()
    again = await client.post("/api/turns?wait=20", json={"text": "I moved to Oslo.", "turn_id": "t", **ANN})
    assert len(again.json()["memory_ids"]) == 1


async def test_many_turns_are_kept_in_order_and_known_ones_once(client: httpx.AsyncClient) -> None:
    turns = [
        {
            "text": "I have a cat.",
            "chat_id": "c",
            "turn_id": "1",
            "speaker": "Ann",
            "said_at": "2025-01-01T10:00+01:00",
        },
        {"text": "How nice.", "chat_id": "c", "turn_id": "2", "role": "assistant", "said_at": "2025-01-01T10:01+01:00"},
    ]
    for _ in range(2):
        answer = await client.post("/api/turns", json={"turns": turns, **ANN})
        assert answer.json()["turn_ids"] == ["1", "2"]
    found = (await client.get("/api/turns", params={"chat_id": "c", **ANN})).json()["turns"]
    assert [(turn["id"], turn["utc_offset"]) for turn in found] == [("1", 60), ("2", 60)]
    assert [chat["id"] for chat in (await client.get("/api/chats", params=ANN)).json()["chats"]] == ["c"]


async def test_memories_are_found_edited_and_erased(client: httpx.AsyncClient) -> None:
    kept = await client.post("/api/turns?wait=20", json={"text": "My dog is called Bruno.", **ANN})
    memory_id = kept.json()["memory_ids"][0]
    search = await client.post("/api/search", json={"query": "dog Bruno", "kinds": ["episodic"], **ANN})
    assert [hit["id"] for hit in search.json()["hits"]] == [memory_id]
    edited = await client.patch(f"/api/memories/{memory_id}", json={"text": "The dog is called Bruna.", **ANN})
    assert (edited.json()["version"], edited.json()["author"]) == (2, "person")
    history = (await client.get(f"/api/memories/{memory_id}/history", params=ANN)).json()["versions"]
    assert [version["version"] for version in history] == [1, 2]
    assert (await client.get("/api/memories", params={"kind": "semantic", **ANN})).json() == {"memories": []}
    assert (await client.delete(f"/api/memories/{memory_id}", params=ANN)).status_code == 200
    gone = await client.get(f"/api/memories/{memory_id}", params=ANN)
    assert (gone.status_code, gone.json()["error"]) == (404, "NotFound")


async def test_the_text_that_an_llm_would_be_given_is_told_within_its_budget(client: httpx.AsyncClient) -> None:
    await client.post("/api/turns?wait=20", json={"text": "My boat lies in Harlingen.", **ANN})
    asked = {"query": "Where is my boat?", **ANN}
    text = (await client.post("/api/context", json=asked)).json()["text"]
    assert text.startswith("<memories>")
    assert "My boat lies in Harlingen." in text
    assert (await client.post("/api/context", json={**asked, "budget_tokens": 3})).json() == {"text": ""}
    assert (await client.post("/api/context", json={**asked, "budget_tokens": -3})).status_code == 400


async def test_consolidate_jobs_runs_and_reset(client: httpx.AsyncClient, memory: AsyncMemory) -> None:
    await client.post("/api/turns?wait=20", json={"text": "I moved to Oslo in May.", **ANN})
    run = (await client.post("/api/consolidate", json=ANN)).json()
    assert run["kind"] == "consolidate"
    await idle(memory)
    runs = (await client.get("/api/runs", params=ANN)).json()["runs"]
    assert [(each["id"], each["state"]) for each in runs] == [(run["id"], "done")]
    jobs = (await client.get("/api/jobs", params={"kind": "remember", **ANN})).json()
    assert [job["state"] for job in jobs["jobs"]] == ["done"]
    retried = await client.post(f"/api/jobs/{jobs['jobs'][0]['id']}/retry", json=ANN)
    assert retried.status_code == 400
    foreign = await client.post(f"/api/jobs/{jobs['jobs'][0]['id']}/cancel", json={"user_id": "bob"})
    assert foreign.status_code == 404
    assert (await client.post("/api/reset", json=ANN)).status_code == 200
    assert (await client.get("/api/chats", params=ANN)).json() == {"chats": []}
    status = (await client.get("/api/status")).json()
    assert status["llm"] == "scripted"


async def test_two_users_see_only_their_own_by_every_route(client: httpx.AsyncClient, memory: AsyncMemory) -> None:
    kept = await client.post("/api/turns?wait=20", json={"text": "My secret is Zanzibar.", "turn_id": "t", **ANN})
    memory_id = kept.json()["memory_ids"][0]
    bob = {"user_id": "bob"}
    for path in ("/api/turns", "/api/chats", "/api/memories", "/api/jobs", "/api/runs"):
        answer = await client.get(path, params=bob)
        assert answer.status_code == 200
        assert "Zanzibar" not in answer.text
        assert memory_id not in answer.text
    assert (await client.post("/api/search", json={"query": "secret Zanzibar", **bob})).json() == {"hits": []}
    told = await client.post("/api/context", json={"query": "secret Zanzibar", **bob})
    assert "(nothing about this)" in told.json()["text"]
    for method, path in (("GET", ""), ("GET", "/history"), ("DELETE", "")):
        answer = await client.request(method, f"/api/memories/{memory_id}{path}", params=bob)
        assert answer.status_code == 404, (method, path)
    edit = await client.patch(f"/api/memories/{memory_id}", json={"text": "mine now", **bob})
    assert edit.status_code == 404
    assert (await client.post("/api/chat/again", json={"turn_id": "t", **bob})).status_code == 404


# ── events ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_background_write_is_heard_at_once_by_its_user_only(
    client: httpx.AsyncClient, memory: AsyncMemory
) -> None:
    with anyio.fail_after(20):
        async with (
            client.stream("GET", "/events", params=ANN) as mine,
            client.stream("GET", "/events", params={"user_id": "bob"}) as others,
        ):
            hers, bobs = events(mine), events(others)
            first = await anext(hers)
            assert first.name == "changed"
            assert set(first.data["what"]) == EVERYTHING
            assert (await anext(bobs)).data["seq"] == 0
            await memory.submit("I moved to Oslo.", "ann")
            while (await anext(hers)).data["seq"] <= first.data["seq"]:
                pass
            with anyio.move_on_after(0.05):
                await anext(bobs)
                pytest.fail("bob heard of ann's change")


async def test_events_end_when_the_server_stops(memory: AsyncMemory, settings: Settings) -> None:
    holder = MemoryHolder(memory)
    async with client_of(create_app(holder, settings)) as client:
        with anyio.fail_after(10):
            async with client.stream("GET", "/events", params=ANN) as response:
                came = events(response)
                await anext(came)
                holder.close()
                assert [event async for event in came] == []
        health = await client.get("/healthz")
        assert (health.status_code, health.json()) == (503, {"status": "stopping"})


async def test_what_a_tab_holds_open_is_ended_at_a_stop_without_an_error() -> None:
    async def heartbeat(_: Any, __: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ALIVE", "more_body": True})
        await asyncio.Event().wait()

    door = Door()
    async with client_of(door) as client:
        assert (await client.get("/")).headers["content-type"].startswith("text/html")
        assert (await client.get("/healthz")).json() == {"status": "starting"}
        door.open(heartbeat)
        with anyio.fail_after(10):
            async with client.stream("GET", "/") as response:
                parts = response.aiter_bytes()
                assert await anext(parts) == b"ALIVE"
                door.close()
                await door.empty()
                assert [part async for part in parts] == []


async def test_health_tells_starting_from_ready(memory: AsyncMemory, settings: Settings) -> None:
    holder = MemoryHolder()
    async with client_of(create_app(holder, settings)) as client:
        assert (await client.get("/healthz")).json() == {"status": "starting"}
        refused = await client.post("/api/search", json={"query": "x", **ANN})
        assert (refused.status_code, refused.json()["error"]) == (503, "NotReady")
        holder.set(memory)
        assert (await client.get("/healthz")).json() == {"status": "ok"}


# ── refusals ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        ("/api/chat", {"user_id": "ann"}, "message: "),
        ("/api/chat", {"user_id": "ann", "message": ""}, "message: "),
        ("/api/chat", {"user_id": "a" * 201, "message": "hi"}, "user_id: "),
        ("/api/chat", {"user_id": "ann", "message": "hi", "chta_id": "x"}, "chta_id: "),
        ("/api/search", {"user_id": "ann", "query": "x", "limit": 0}, "limit: "),
        ("/api/turns", {"user_id": "ann", "turns": []}, "turns: "),
        (
            "/api/turns",
            {"user_id": "ann", "turns": [{"text": "x", "said_at": "2025-01-01T10:00"}]},
            "turns.0.said_at: ",
        ),
    ],
)
async def test_a_wrong_body_is_told_by_field(client: httpx.AsyncClient, path: str, body: Any, says: str) -> None:
    answer = await client.post(path, json=body)
    assert answer.status_code == 400
    assert answer.json()["error"] == "InvalidInput"
    assert answer.json()["message"].startswith(says), answer.text


@pytest.mark.parametrize("user_id", ["'; DROP TABLE turns;--", '" or 1=1', "💡" * 50, "用户", "a%2Fb/..", "x == y"])
async def test_hostile_user_ids_are_only_names(client: httpx.AsyncClient, user_id: str) -> None:
    kept = await client.post("/api/turns", json={"text": "hello", "user_id": user_id, "turn_id": "t"})
    assert kept.status_code == 200, kept.text
    found = await client.get("/api/turns", params={"user_id": user_id})
    assert [turn["id"] for turn in found.json()["turns"]] == ["t"]
    assert (await client.get("/api/chats", params=ANN)).json() == {"chats": []}


@pytest.mark.parametrize("user_id", ["a\x00b", " ", "x" * 10_000, "a\nb", "\x7f"])
async def test_ids_that_cannot_be_kept_are_refused_clearly(client: httpx.AsyncClient, user_id: str) -> None:
    answer = await client.post("/api/turns", json={"text": "hello", "user_id": user_id})
    assert (answer.status_code, answer.json()["error"]) == (400, "InvalidInput")


async def test_twenty_streams_at_once_are_served(client: httpx.AsyncClient) -> None:
    async def one(number: int) -> None:
        came = await chat(client, f"message {number}", chat_id=f"c{number}")
        assert came[-1].name == "done"

    await asyncio.gather(*(one(number) for number in range(20)))
