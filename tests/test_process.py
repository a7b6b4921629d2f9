"""A real server process, killed and stopped while it works: nothing acknowledged is lost, nothing is done twice."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import anyio
import httpx
import pytest

from afterword.testing import FakeOpenAI

pytestmark = pytest.mark.anyio


@dataclass
class Server:
    process: asyncio.subprocess.Process
    client: httpx.AsyncClient
    data: Path

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()

    async def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        with anyio.fail_after(15):
            return await self.process.wait()

    async def counts(self) -> dict[str, int]:
        """How many jobs are in each state."""
        found: dict[str, int] = {}
        for job in (await self.client.get("/api/jobs", params={"user_id": "ann", "limit": 500})).json()["jobs"]:
            found[job["state"]] = found.get(job["state"], 0) + 1
        return found


@asynccontextmanager
async def serving(data: Path, llm: FakeOpenAI) -> AsyncIterator[Server]:
    """`afterword serve` without the page, on the fake LLM, ready."""
    arguments = ["--no-page", "--no-browser", "--port", "0", "--data-dir", str(data), "--embedder", "none"]
    arguments += ["--llm-base-url", llm.base_url, "--llm-model", "fake", "--debounce", "0", "--drain-deadline", "0.2"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AFTERWORD_", "OPENAI_"))}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "afterword.cli", "serve", *arguments, stdout=asyncio.subprocess.PIPE, env=environment
    )
    assert process.stdout is not None
    try:
        with anyio.fail_after(30):
            line = (await process.stdout.readline()).decode()
        address = line.rsplit(" ", 1)[-1].strip()
        async with httpx.AsyncClient(base_url=address, timeout=30) as client:
            yield Server(process, client, data)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def settled(server: Server) -> None:
    """Until no job waits or runs, woken by the server's own events."""
    with anyio.fail_after(30):
        async with server.client.stream("GET", "/events", params={"user_id": "ann"}) as events:
            async for _ in events.aiter_lines():
                counts = await server.counts()
                if not counts.get("queued") and not counts.get("running"):
                    return


THINGS = [
    "anchor",
    "basket",
    "candle",
    "drum",
    "easel",
    "fiddle",
    "garden",
    "hammer",
    "inkwell",
    "jacket",
    "kettle",
    "lantern",
    "mirror",
    "needle",
    "orchard",
    "piano",
    "quilt",
    "rowboat",
    "saddle",
    "teapot",
    "umbrella",
    "violin",
    "wagon",
    "xylophone",
    "yacht",
    "zither",
    "accordion",
    "bicycle",
    "compass",
    "diary",
]


async def test_kill_at_any_moment_loses_no_acknowledged_turn_and_applies_no_change_twice(tmp_path: Path) -> None:
    told: list[str] = []
    async with FakeOpenAI() as llm:
        llm.always("complete", first_delay=0.05)
        for round_number in range(5):
            async with serving(tmp_path / "data", llm) as server:
                for number in range(6):
                    text = f"My {THINGS[6 * round_number + number]} was a gift."
                    turn = {"user_id": "ann", "chat_id": f"chat{number % 3}", "text": text}
                    turn["turn_id"] = f"{round_number}-{number}"
                    answer = await server.client.post("/api/turns", json=turn)
                    assert answer.status_code < 300, answer.text
                    told.append(text)
                await asyncio.sleep(0.03 * round_number)  # another moment each time; nothing is waited for
                await server.kill()
        async with serving(tmp_path / "data", llm) as server:
            await settled(server)
            assert not (await server.counts()).get("dead")
            kept = [
                turn["text"]
                for chat in ("chat0", "chat1", "chat2")
                for turn in (await server.client.get("/api/turns", params={"user_id": "ann", "chat_id": chat})).json()[
                    "turns"
                ]
            ]
            found = await server.client.get("/api/memories", params={"user_id": "ann", "limit": 200})
            memories = found.json()["memories"]
    assert sorted(kept) == sorted(told)
    sources = [tuple(memory["sources"]) for memory in memories]
    assert len(sources) == len(set(sources)) == len(told), "each turn became one memory, once"


async def test_a_stop_with_an_open_stream_and_an_open_page_ends_within_seconds_and_keeps_the_part(
    tmp_path: Path,
) -> None:
    async with FakeOpenAI() as llm:
        llm.always("chat", gap=0.2, text="one two three four five six seven eight nine ten " * 20)
        async with serving(tmp_path / "data", llm) as server, anyio.create_task_group() as group:

            async def listen_for_ever() -> None:
                with suppress(httpx.HTTPError):
                    async with server.client.stream("GET", "/events", params={"user_id": "ann"}) as events:
                        async for _ in events.aiter_lines():
                            pass

            group.start_soon(listen_for_ever)
            body = {"user_id": "ann", "chat_id": "c", "message": "count"}
            with suppress(httpx.HTTPError):
                async with server.client.stream("POST", "/api/chat", json=body) as reply:
                    async for line in reply.aiter_lines():
                        if line.startswith("data:") and "two" in line:
                            assert await server.stop() == 0
                            break
            group.cancel_scope.cancel()
    ledger = sqlite3.connect(tmp_path / "data" / "ledger.db")
    (text, cut), *more = ledger.execute("SELECT text, cut FROM turn WHERE role = 'assistant'").fetchall()
    ledger.close()
    assert not more
    assert text.startswith("one two")
    assert cut == "shutdown"


async def test_a_killed_server_leaves_the_turn_unanswered_and_it_can_be_asked_again(tmp_path: Path) -> None:
    async with FakeOpenAI() as llm:
        llm.always("chat", first_delay=30)
        async with serving(tmp_path / "data", llm) as server:
            body = {"user_id": "ann", "chat_id": "c", "message": "Are you there?"}
            async with server.client.stream("POST", "/api/chat", json=body) as reply:
                async for line in reply.aiter_lines():
                    if line.startswith("data:"):
                        break
                await server.kill()
        llm.always("chat", first_delay=0)
        async with serving(tmp_path / "data", llm) as server:
            turns = (await server.client.get("/api/turns", params={"user_id": "ann", "chat_id": "c"})).json()["turns"]
            assert [(turn["text"], turn["asked"]) for turn in turns] == [("Are you there?", True)]
            again = {"user_id": "ann", "turn_id": turns[0]["id"]}
            async with server.client.stream("POST", "/api/chat/again", json=again) as reply:
                heard = [json.loads(line[5:]) async for line in reply.aiter_lines() if line.startswith("data:")]
            assert "reply_id" in heard[-1]
            turns = (await server.client.get("/api/turns", params={"user_id": "ann", "chat_id": "c"})).json()["turns"]
            assert [turn["role"] for turn in turns] == ["user", "assistant"]
