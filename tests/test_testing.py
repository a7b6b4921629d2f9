"""The fakes behave as their docstrings say."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import threading
from contextlib import aclosing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import httpx
import numpy as np
import pytest

from afterword.errors import LLMUnavailable
from afterword.ports import Message, Policy, Prompt
from afterword.prompts import remember_question
from afterword.records import Role, Turn
from afterword.testing import (
    FakeOpenAI,
    FrozenClock,
    HashingEmbedder,
    InlineOffload,
    NetworkForbidden,
    ScriptedLLM,
    no_network,
)
from afterword.testing.openai_answers import answer_json, echo, instance, pieces

NOW = datetime(2026, 5, 3, 9, 0, tzinfo=UTC)
QUICK = 5.0


def prompt(question: str) -> Prompt:
    return Prompt((Message("user", question),), question, (), NOW, 0)


async def whole(llm: ScriptedLLM, question: str) -> str:
    return "".join([piece async for piece in llm.stream(prompt(question))])


# ── ScriptedLLM ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_replies_are_used_up_in_order_and_then_echo() -> None:
    llm = ScriptedLLM(replies=["First  one.", LLMUnavailable("away")])
    assert await whole(llm, "a") == "First  one."
    with pytest.raises(LLMUnavailable, match="away"):
        await whole(llm, "b")
    assert await whole(llm, "c") == "You said: c"
    assert [one.question for one in llm.streamed] == ["a", "b", "c"]


async def test_replies_and_answers_may_be_functions() -> None:
    llm = ScriptedLLM(replies=lambda p: p.question.upper(), answers=lambda messages, schema: messages[0].content)
    assert await whole(llm, "hello") == "HELLO"
    assert await llm.complete([Message("user", "x")], schema={}, max_tokens=5) == "x"


async def test_a_reply_completes_while_the_decider_is_held_back() -> None:
    llm = ScriptedLLM(answers=["{}"])
    gate = llm.hold_complete()
    decided = asyncio.create_task(llm.complete([Message("user", "x")], schema={}, max_tokens=5))
    with anyio.fail_after(QUICK):
        await gate.reached()
        assert await whole(llm, "hi") == "You said: hi"
        assert not decided.done()
        assert llm.running == 1
        gate.release()
        assert await decided == "{}"
    assert llm.running == 0


async def test_a_stream_can_be_held_after_some_pieces_and_released_from_a_thread() -> None:
    llm = ScriptedLLM(replies=["one two three"])
    gate = llm.hold_stream(after=2)
    seen: list[str] = []

    async def read() -> None:
        seen.extend([piece async for piece in llm.stream(prompt("x"))])

    async with asyncio.TaskGroup() as group, asyncio.timeout(QUICK):
        reading = group.create_task(read())
        await gate.reached()
        threading.Thread(target=gate.release).start()
        await reading
    assert seen == ["one ", "two ", "three"]


async def test_a_planned_failure_comes_after_its_pieces_and_only_as_often_as_asked() -> None:
    llm = ScriptedLLM(replies=["one two three", "fine"])
    llm.fail_with(LLMUnavailable("cut"), on="stream", after=2)
    seen: list[str] = []

    async def read() -> None:
        async for piece in llm.stream(prompt("x")):
            seen.append(piece)  # noqa: PERF401 (what came before the error is looked at)

    with pytest.raises(LLMUnavailable):
        await read()
    assert seen == ["one ", "two "]
    assert await whole(llm, "x") == "fine"


async def test_a_failure_without_a_limit_lasts_until_healed() -> None:
    llm = ScriptedLLM()
    llm.fail_with(LLMUnavailable, times=None)
    for _ in range(3):
        with pytest.raises(LLMUnavailable):
            await llm.complete([], schema={"type": "object"}, max_tokens=1)
    llm.heal()
    assert await llm.complete([], schema={"type": "object"}, max_tokens=1) == "{}"


async def test_a_cancelled_call_and_a_closed_stream_are_recorded() -> None:
    llm = ScriptedLLM(replies=["one two three"])
    gate = llm.hold_complete()
    call = asyncio.create_task(llm.complete([], schema={}, max_tokens=1))
    with anyio.fail_after(QUICK):
        await gate.reached()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    async with aclosing(llm.stream(prompt("x"))) as stream:
        async for _ in stream:
            break
    assert llm.cancelled == [llm.completed[0], llm.streamed[0]]
    assert llm.running == 0


# ── FrozenClock ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_sleepers_wake_in_order_and_each_sees_its_own_time() -> None:
    clock = FrozenClock(NOW)
    woken: list[tuple[str, float]] = []

    async def sleeper(name: str, seconds: float, again: float = 0.0) -> None:
        await clock.sleep(seconds)
        woken.append((name, (clock.now() - NOW).total_seconds()))
        if again:
            await sleeper(name + "'", again)

    async with asyncio.TaskGroup() as group:
        group.create_task(sleeper("late", 5))
        group.create_task(sleeper("early", 1, again=2))
        await clock.until_sleeping(2)
        start = clock.monotonic()
        await clock.advance(4)
        assert woken == [("early", 1), ("early'", 3)]
        assert clock.now() == NOW + timedelta(seconds=4)
        assert clock.monotonic() == start + 4
        await clock.advance(1)
    assert woken[-1] == ("late", 5)


async def test_the_wall_clock_can_go_back_without_waking_anybody() -> None:
    clock = FrozenClock(NOW)
    task = asyncio.create_task(clock.sleep(10))
    await clock.until_sleeping()
    clock.set_wall(NOW - timedelta(days=1))
    await clock.advance(9)
    assert not task.done()
    await clock.advance(1)
    assert task.done()
    assert clock.now() == NOW - timedelta(days=1) + timedelta(seconds=10)


async def test_a_cancelled_sleeper_is_forgotten() -> None:
    clock = FrozenClock()
    task = asyncio.create_task(clock.sleep(1))
    await clock.until_sleeping()
    task.cancel()
    await clock.advance(2)
    assert task.cancelled()
    assert clock.sleeping == 0


# ── HashingEmbedder, InlineOffload ─────────────────────────────────────────────────────────────────────────────────


async def test_texts_that_share_words_are_nearer_and_every_vector_has_length_one() -> None:
    embedder = HashingEmbedder(256)
    query = await embedder.query("where does Ann live")
    rows = await embedder.passages(["Ann: I live in Oslo", "The weather is fine", "", "我住在奥斯陆"])
    assert rows.shape == (4, 256)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, rtol=1e-5)
    assert rows[0] @ query > rows[1] @ query
    assert rows[3] @ await embedder.query("奥斯陆") > 0.3


async def test_an_embedder_can_be_held_spoilt_and_broken() -> None:
    embedder = HashingEmbedder(8)
    gate = embedder.hold_passages()
    waiting = asyncio.create_task(embedder.passages(["a", "b"]))
    with anyio.fail_after(QUICK):
        await gate.reached()
        await embedder.query("goes through")
        gate.release()
        assert (await waiting).shape == (2, 8)
    embedder.flaw = "wrong_dimension"
    assert (await embedder.query("a")).shape == (9,)
    embedder.flaw = "nan"
    assert np.isnan(await embedder.query("a")).any()
    embedder.fail_with(LLMUnavailable("away"))
    with pytest.raises(LLMUnavailable):
        await embedder.query("a")
    assert embedder.batches == [["a", "b"]]


async def test_offloaded_work_runs_off_the_loop() -> None:
    here = threading.get_ident()
    assert await InlineOffload().thread(threading.get_ident) != here
    assert await InlineOffload().process(max, 1, 2) == 2


# ── no_network ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_tripwire_forbids_connecting_and_resolving() -> None:
    with pytest.raises(NetworkForbidden), no_network():
        socket.create_connection(("192.0.2.1", 80), timeout=1)
    with pytest.raises(NetworkForbidden), no_network():
        socket.getaddrinfo("example.org", 443)
    with pytest.raises(NetworkForbidden), no_network(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"x", ("192.0.2.1", 53))


async def test_the_tripwire_forbids_asyncio_connections() -> None:
    for host in ("192.0.2.1", "example.org"):
        with pytest.raises(NetworkForbidden), no_network():
            await asyncio.get_running_loop().create_connection(asyncio.Protocol, host, 80)


def test_an_attempt_that_was_swallowed_is_raised_at_the_end() -> None:
    with pytest.raises(NetworkForbidden, match="swallowed"), no_network(), suppress(NetworkForbidden):
        socket.create_connection(("192.0.2.1", 80), timeout=1)


def test_loopback_and_unix_sockets_may(tmp_path: Path) -> None:
    with no_network() as attempts:
        with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
            pass
        with socket.socket(socket.AF_UNIX) as unix, socket.socket(socket.AF_UNIX) as client:
            unix.bind(str(tmp_path / "s"))
            unix.listen()
            client.connect(str(tmp_path / "s"))
    assert attempts == []


# ── FakeOpenAI ─────────────────────────────────────────────────────────────────────────────────────────────────────

HELLO = {"model": "fake-chat", "messages": [{"role": "user", "content": "I moved to Oslo."}]}


async def test_one_connection_serves_one_request_after_another() -> None:
    async with FakeOpenAI() as server, httpx.AsyncClient(base_url=server.base_url) as client:
        for _ in range(3):
            answer = (await client.post("/chat/completions", json=HELLO)).json()
            assert answer["choices"][0]["message"]["content"] == echo("I moved to Oslo.")
            assert answer["usage"]["total_tokens"] > 0
        models = (await client.get("/models")).json()
        assert [model["id"] for model in models["data"]] == ["fake-chat", "fake-embed"]
        assert (await client.get("/nothing")).status_code == 404
        assert (await client.post("/chat/completions", content=b"{")).status_code == 400
        assert len(server._connections) == 1


async def test_a_stream_is_server_sent_events_that_end_with_done() -> None:
    async with FakeOpenAI() as server, httpx.AsyncClient(base_url=server.base_url) as client:
        body = {**HELLO, "stream": True, "stream_options": {"include_usage": True}}
        lines = (await client.post("/chat/completions", json=body)).text.split("\n\n")
        assert lines[-2:] == ["data: [DONE]", ""]
        events = [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]
        text = "".join(choice["delta"].get("content", "") for event in events for choice in event["choices"])
        assert text == echo("I moved to Oslo.")
        assert events[-1]["usage"]["completion_tokens"] == len(pieces(text))


async def test_a_client_that_leaves_is_noticed_at_once() -> None:
    async with FakeOpenAI() as server, httpx.AsyncClient(base_url=server.base_url) as client:
        server.always("chat", fault="endless", gap=30.0)
        async with client.stream("POST", "/chat/completions", json={**HELLO, "stream": True}) as answer:
            async for _ in answer.aiter_lines():
                break
        with anyio.fail_after(QUICK):
            await server.until(lambda: server.counts["cancelled"] == 1)
        assert server.cancelled[0].asked == "I moved to Oslo."
        assert server.counts["running"] == 0


async def test_behaviour_can_be_set_over_http() -> None:
    async with FakeOpenAI() as server, httpx.AsyncClient(base_url=server.base_url) as client:
        control = server.base_url.removesuffix("/v1")
        order = {"request": "complete", "times": 1, "behaviour": {"status": 429, "retry_after": "7"}}
        assert (await client.post(f"{control}/__script", json=order)).status_code == 200
        refused = await client.post("/chat/completions", json=HELLO)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "7")
        assert (await client.post("/chat/completions", json=HELLO)).status_code == 200
        for wrong in ({"behaviour": {"colour": 1}}, {"behaviour": {"fault": "no"}}, {"request": "x"}):
            assert (await client.post(f"{control}/__script", json=wrong)).status_code == 400
        assert (await client.get(f"{control}/__state")).json()["received"] == 2


async def test_two_hundred_streams_run_side_by_side() -> None:
    async with FakeOpenAI() as server:
        gate = server.hold("chat")
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=server.base_url, limits=limits, timeout=30.0) as client:
            body = {**HELLO, "stream": True}
            calls = [asyncio.create_task(client.post("/chat/completions", json=body)) for _ in range(200)]
            with anyio.fail_after(20):
                await gate.reached(200)
                gate.release()
                answers = await asyncio.gather(*calls)
        assert all(answer.text.endswith("data: [DONE]\n\n") for answer in answers)


def test_the_fake_server_runs_as_a_process() -> None:
    command = [sys.executable, "-m", "afterword.testing.fake_openai", "--text", "hi there"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            answer = httpx.post(f"{url}/chat/completions", json={**HELLO, "stream": True}, timeout=QUICK)
            assert '"content": "hi "' in answer.text
        finally:
            process.terminate()
        assert process.wait(QUICK) == 0


def test_an_instance_of_a_schema_is_valid_and_remembers_what_was_said() -> None:
    record = {
        "type": "object",
        "properties": {"text": {"type": "string", "maxLength": 400}, "said_on": {"type": "string", "format": "date"}},
    }
    schema = {
        "type": "object",
        "properties": {
            "kind": {"enum": ["small_talk", "personal_fact"]},
            "records": {"type": "array", "items": {"$ref": "#/$defs/record"}, "maxItems": 3},
            "score": {"type": "integer", "minimum": 1},
            "note": {"anyOf": [{"type": "null"}, {"type": "string", "maxLength": 4}]},
        },
        "$defs": {"record": record},
    }
    made = instance(schema, "I moved to Oslo.")
    assert made == {
        "kind": "personal_fact",
        "records": [{"text": "I moved to Oslo.", "said_on": "2026-05-03"}],
        "score": 1,
        "note": "fake",
    }


def test_a_decider_that_asks_the_fake_is_told_what_was_said() -> None:
    turns = [turn("user", "I moved to Oslo."), turn("assistant", "Nice."), turn("user", "Is it cold?")]
    question = remember_question([], turns, Policy())
    entries = json.loads(answer_json(question.schema, question.parts[-1].text))["entries"]
    assert entries == {
        "#1 the user: I moved to Oslo.": {"kind": "personal_fact", "record": "The user said: “I moved to Oslo.”"},
        "#3 the user: Is it cold?": {"kind": "general_question", "record": ""},
    }


def turn(role: Role, text: str) -> Turn:
    return Turn(text, "c", 0, role, text, NOW, 0, NOW)
