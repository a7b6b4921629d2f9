"""Faults of the process: stopped under load, out of file handles, suspended, started twice on one folder."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sqlite3
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from bench.faults_house import (
    STORM,
    Form,
    Reply,
    Row,
    Server,
    arguments,
    compared,
    kept,
    models,
    others,
    refused,
    serving,
    within,
)

if TYPE_CHECKING:
    from afterword.testing import FakeOpenAI


async def sigterm(folder: Path, form: Form) -> Row:
    """SIGTERM while replies are written and work is under way."""
    row, data = Row(), folder / "data"
    async with models() as (llm, _):
        llm.always("chat", gap=0.1, text="one two three four five six seven eight nine ten " * 10)
        llm.always("complete", first_delay=1.0)
        async with serving(data, llm.base_url) as server:
            talking = [asyncio.create_task(_talk(server, f"{STORM}-{number}")) for number in range(form.talkers)]
            await within(30.0, lambda: _all_said(server, form.talkers))
            await asyncio.sleep(1.0)
            began = time.monotonic()
            code = await server.stop()
            seconds = time.monotonic() - began
            row.seen = next((reply.seen for reply in await asyncio.gather(*talking) if reply.seen), "")
        row.kept = code == 0 and kept(data, server.said)
        parts = _cut_parts(data)
        llm.script.reset()
        row.healed, row.healed_seconds = await _all_answered(data, llm.base_url, server)
        row.figures = {"exit_code": code, "seconds_to_end": round(seconds, 1), "parts_kept": parts}
    return row


async def _all_said(server: Server, talkers: int) -> bool:
    return sum(len(texts) for texts in server.said.values()) >= talkers


async def _talk(server: Server, user: str) -> Reply:
    try:
        return await server.chat(user, f"I moved to {STORM} town, count to a hundred.")
    except httpx.HTTPError as error:
        return Reply(why=f"the connection ended ({type(error).__name__})")


def _cut_parts(data: Path) -> int:
    """Replies whose part was stored, marked as cut by the shutdown."""
    with sqlite3.connect(data / "ledger.db") as ledger:
        found = ledger.execute("SELECT count(*) FROM turn WHERE cut = 'shutdown' AND text != ''").fetchone()
    ledger.close()
    return int(found[0])


async def _all_answered(data: Path, llm: str, before: Server) -> tuple[bool, float]:
    """Whether a new start answers all that was left open, and does all the work; and how long that took."""
    async with serving(data, llm) as server:
        began = time.monotonic()
        fine = True
        for user in before.said:
            for turn in await server.unanswered(user):
                fine = (await server.chat(user, "", again=turn)).done and fine
        settled = [await server.settled(user) for user in before.said]
        seconds = round(time.monotonic() - began, 1)
        await server.stop()
    return fine and all(settled) and kept(data, before.said), seconds


async def no_handles(server: Server, llm: FakeOpenAI, form: Form) -> Row:
    """More connections than the process may have files open: who is in goes on, who comes waits."""
    row, user, data = Row(), f"{STORM}-handles", server.data
    await server.chat(user, "I moved to Oslo.")
    before = await others(server, form.samples)
    soft, hard = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
    used = len(os.listdir(f"/proc/{server.pid}/fd"))
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (used + 2, hard))
    crowd = await _crowd(server, 30)
    reply = await _within(3.0, server.chat(user, "My sister Ida lives there."))
    row.seen = (reply.seen or f"a reply: {reply.text[:40]!r}") if reply else "no answer while it lasts"
    compared(row, before, await _during(server, form))
    for writer in crowd:
        writer.close()
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (soft, hard))
    began = time.monotonic()
    last = await server.chat(user, "I am back.")
    again = [await server.chat(user, "", again=turn) for turn in await server.unanswered(user)]
    row.healed = last.done and all(one.done for one in again) and await server.settled(user)
    row.healed_seconds = round(time.monotonic() - began, 1)
    row.kept = kept(data, server.said)
    row.figures = {"handles": used + 2, "connections": len(crowd)}
    return row


async def _crowd(server: Server, count: int) -> list[asyncio.StreamWriter]:
    """Connections that say nothing."""
    url = server.client.base_url
    crowd: list[asyncio.StreamWriter] = []
    for _ in range(count):
        with suppress(OSError):
            crowd.append((await asyncio.open_connection(url.host, url.port))[1])
    return crowd


async def _within(seconds: float, work: Awaitable[Reply]) -> Reply | None:
    try:
        return await asyncio.wait_for(work, seconds)
    except (TimeoutError, httpx.HTTPError):
        return None


async def _during(server: Server, form: Form) -> float:
    """Somebody whose connection is open already."""
    return await others(server, form.samples, chats=False)


async def second_server(server: Server, llm: FakeOpenAI, form: Form) -> Row:
    """A second server on the same folder is told where the first one is, which goes on undisturbed."""
    row, user, data = Row(), f"{STORM}-second", server.data
    await server.chat(user, "I moved to Oslo.")
    before = await others(server, form.samples)
    code, row.seen = await refused(arguments(data, llm.base_url))
    compared(row, before, await others(server, form.samples))
    named = str(server.client.base_url).rstrip("/") in row.seen
    last = await server.chat(user, "I am back.")
    row.kept = code == 1 and kept(data, server.said)
    row.healed = named and last.done and await server.settled(user)
    row.figures = {"exit_code": code, "address_named": named}
    return row


async def suspended(server: Server, llm: FakeOpenAI, form: Form) -> Row:
    """A laptop that sleeps: SIGSTOP while a reply is written and work is under way, then SIGCONT."""
    row, user, data = Row(), f"{STORM}-asleep", server.data
    await server.chat(user, "I moved to Oslo.")
    before = await others(server, form.samples)
    llm.always("chat", gap=0.2, text="one two three four five six seven eight nine ten")
    llm.always("complete", first_delay=0.5)
    talking = [asyncio.create_task(_talk(server, f"{user}-{number}")) for number in range(5)]
    await asyncio.sleep(1.0)
    os.kill(server.pid, signal.SIGSTOP)
    await asyncio.sleep(form.suspended)
    os.kill(server.pid, signal.SIGCONT)
    began = time.monotonic()
    replies = await asyncio.gather(*talking)
    row.seen = next((reply.seen for reply in replies if reply.seen), f"whole replies: {replies[0].text[:40]!r}")
    llm.script.reset()
    compared(row, before, await others(server, form.samples))
    mine = [one for one in server.said if one.startswith(user)]
    again = [(await server.chat(one, "", again=turn)).done for one in mine for turn in await server.unanswered(one)]
    settled = [await server.settled(one) for one in mine]
    row.healed_seconds = round(time.monotonic() - began, 1)
    attempts = {job["attempt"] for one in mine for job in await server.jobs(one)}
    row.healed = all(again) and all(settled)
    row.kept = kept(data, server.said)
    row.figures = {"cut": sum(bool(reply.why) for reply in replies), "attempts": sorted(attempts)}
    return row


FAULTS: dict[str, Callable[[Path, Form], Awaitable[Row]]] = {"sigterm_under_load": sigterm}
BESIDE: dict[str, Callable[[Server, FakeOpenAI, Form], Awaitable[Row]]] = {
    "no_file_handles": no_handles,
    "second_server": second_server,
    "suspended": suspended,
}
