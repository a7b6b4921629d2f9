"""A real server with everything going wrong around it: its output holds no word of what was said, and no key."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from afterword.testing import FakeOpenAI

pytestmark = pytest.mark.anyio

MARK, KEY = "Zanzibar-7311", "sk-Quetzal-44081234567890"
FAULTS: list[dict[str, Any]] = [
    {},
    {"status": 400, "message": f"cannot read: {MARK} {KEY}"},
    {"status": 401, "message": f"bad key {KEY}"},
    {"status": 429, "message": f"too many: {MARK}", "retry_after": "0"},
    {"status": 500, "message": f"failed at {MARK}"},
    {"fault": "garbage"},
    {"fault": "cut", "text": f"{MARK} and then nothing"},
    {"fault": "prose", "text": f"No JSON here, only {MARK}"},
    {"fault": "error_event", "message": f"broke at {MARK}"},
    {"fault": "empty"},
]


@asynccontextmanager
async def a_server(data: Path, llm: FakeOpenAI) -> AsyncIterator[httpx.AsyncClient]:
    """`afterword serve`, its standard error in the file `log`."""
    given = {name: value for name, value in os.environ.items() if not name.startswith(("AFTERWORD_", "OPENAI_"))}
    given |= {"AFTERWORD_LLM_API_KEY": KEY, "AFTERWORD_LLM_BASE_URL": llm.base_url, "AFTERWORD_LLM_MODEL": "m"}
    arguments = ["--no-page", "--no-browser", "--port", "0", "--data-dir", str(data), "--embedder", "none"]
    arguments += ["--debounce", "0", "--drain-deadline", "0.2", "--log-json"]
    command = [sys.executable, "-m", "afterword.cli", "serve", *arguments]
    with (data / "log").open("wb") as log:
        server = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, stderr=log, env=given)
    assert server.stdout is not None
    try:
        address = (await server.stdout.readline()).decode().rsplit(" ", 1)[-1].strip()
        async with httpx.AsyncClient(base_url=address, timeout=30) as client:
            yield client
        server.terminate()
        await server.wait()
    finally:
        with suppress(ProcessLookupError):
            server.kill()
        await server.wait()


async def test_a_server_among_faults_writes_down_nothing_of_what_was_said(tmp_path: Path) -> None:
    with anyio.fail_after(60):
        async with FakeOpenAI() as llm, a_server(tmp_path, llm) as client:
            for number, fault in enumerate(FAULTS):
                await one_round(client, llm, number, fault)
    written = await asyncio.to_thread((tmp_path / "log").read_text, "utf-8")
    assert "reply.kept" in written
    assert "job.failed" in written
    assert MARK not in written
    assert KEY not in written


async def one_round(client: httpx.AsyncClient, llm: FakeOpenAI, number: int, fault: dict[str, Any]) -> None:
    """A chat, a turn, a search and nonsense, while the LLM does this."""
    llm.script.reset()
    for request in ("chat", "complete"):
        llm.always(request, **fault)
    user = {"user_id": f"u{number}"}
    body = {"message": f"My city is {MARK}, and {MARK} it is.", "chat_id": "c", **user}
    await client.post("/api/chat", json=body)
    await client.post("/api/turns?wait=0.1", json={"text": f"My dog is called {MARK}.", "chat_id": "d", **user})
    await client.post("/api/search", json={"query": MARK, **user})
    await client.post("/api/chat", json={**body, "nonsense": MARK})
    await client.post(
        "/api/chat", content=f'{{"message": "{MARK}'.encode(), headers={"Content-Type": "application/json"}
    )
    await client.get(f"/api/memories/{MARK}", params=user)
    await client.get(f"/{MARK}", params={"q": MARK})
