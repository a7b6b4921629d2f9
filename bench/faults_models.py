"""Faults of the LLM and of the embedder, one after the other, on one server."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

from bench.faults_house import STORM, Form, Row, Server, compared, kept, others, within

if TYPE_CHECKING:
    from afterword.testing import FakeOpenAI

MISSING = {"status": 404, "message": "The model `fake-chat` does not exist", "code": "model_not_found"}
FRENCH = json.dumps({"entries": [{"turns": [1], "kind": "personal_fact", "record": "Elle a déménagé dans le nord."}]})

# What each request meets: a behaviour of the fake server for replies and for background answers (None: all is well).
LLM: dict[str, tuple[dict[str, Any] | None, dict[str, Any] | None]] = {
    "refused": ({}, {}),
    "401": ({"status": 401},) * 2,
    "429": ({"status": 429},) * 2,
    "429_retry_after": ({"status": 429, "retry_after": "2"},) * 2,
    "500": ({"status": 500},) * 2,
    "hang": ({"fault": "hang"},) * 2,
    "slow_drip": ({"fault": "drip"},) * 2,
    "slow_tokens": ({"gap": 1.0, "text": "one two three four five six seven eight nine ten"}, {"fault": "drip"}),
    "cut_stream": ({"fault": "cut"},) * 2,
    "error_in_stream": ({"fault": "error_event"}, {"fault": "garbage"}),
    "empty": ({"fault": "empty"},) * 2,
    "prose": (None, {"fault": "prose"}),
    "truncated_json": ({"fault": "short"}, {"fault": "truncated"}),
    "wrong_language": ({"text": "Je vous ai compris."}, {"text": FRENCH}),
    "1_mb_answer": ({"fault": "huge"},) * 2,
    "wrong_model": (MISSING,) * 2,
}
EMBEDDER: dict[str, dict[str, Any]] = {
    "refused": {},
    "401": {"status": 401},
    "429": {"status": 429},
    "429_retry_after": {"status": 429, "retry_after": "2"},
    "500": {"status": 500},
    "hang": {"fault": "hang"},
    "slow_drip": {"fault": "drip"},
    "cut": {"fault": "cut"},
    "empty": {"fault": "empty"},
    "prose": {"fault": "prose"},
    "truncated_json": {"fault": "truncated"},
    "wrong_model": MISSING,
    "wrong_dimension": {"fault": "wrong_dimension"},
    "nan": {"fault": "nan"},
    "one_too_few": {"fault": "missing"},
}
ANSWERED = ("slow_tokens", "prose", "wrong_language", "1_mb_answer")  # a reply of some kind is given


async def llm_fault(name: str, server: Server, llm: FakeOpenAI, form: Form) -> Row:
    row, user = Row(), f"{STORM}-{name}"
    chat, complete = LLM[name]
    away = name == "refused"
    before = await others(server, form.samples, chats=not away)
    await _begin(llm, away=away, chat=chat, complete=complete)
    reply = await server.chat(user, f"I moved to {STORM} village. My sister Ida lives there.")
    row.seen = reply.seen or f"a reply: {reply.text[:60]!r} ({len(reply.text):,} characters)"
    row.work = await _told(server, user) if name != "wrong_language" else ""
    compared(row, before, await others(server, form.samples, chats=not away))
    asked = llm.counts["received"]
    await _end(llm, away=away)
    began = time.monotonic()
    again = [await server.chat(user, "", again=turn) for turn in await server.unanswered(user)]
    settled = await server.settled(user)
    row.healed_seconds = round(time.monotonic() - began, 1)
    memories = (await server.get("memories", user_id=user))["memories"]
    row.figures = {"calls": asked, "memories": [memory["text"] for memory in memories][:2]}
    told_once = name not in ANSWERED and not again
    row.healed = settled and all(reply.done for reply in again) and bool(memories) and not told_once
    row.kept = kept(server.data, server.said)
    return row


async def embedder_fault(name: str, server: Server, embedder: FakeOpenAI, form: Form) -> Row:
    row, user = Row(), f"{STORM}-embed-{name}"
    await server.chat(user, f"My cat is called {STORM} cloud.", "earlier")
    if not await server.settled(user):
        raise RuntimeError("the embedder did not work before its fault")
    away, before = name == "refused", await others(server, form.samples)
    await _begin(embedder, away=away, embeddings=EMBEDDER[name])
    reply = await server.chat(user, f"What is my {STORM} cat called?")
    row.work = await _told(server, user, "embed")
    row.seen = reply.missed or "; ".join(await server.trouble()) or row.work
    found = [hit["text"] for hit in (await server.search(user, f"{STORM} cat called"))[1]]
    compared(row, before, await others(server, form.samples))
    await _end(embedder, away=away)
    began = time.monotonic()
    settled = await server.settled(user)
    row.healed_seconds = round(time.monotonic() - began, 1)
    missed = "not asked"

    async def by_meaning() -> bool:  # after a late answer nobody waits for another for 5 s
        nonlocal missed
        missed = (await server.chat(user, f"Is my {STORM} cat grey?")).missed
        return not missed

    await within(10.0, by_meaning, pause=0.5)
    row.figures = {"replied": reply.done, "found_by_words": any("cat is called" in text for text in found)}
    row.healed = settled and not missed and all(row.figures.values())
    row.kept = kept(server.data, server.said)
    return row


async def _begin(server: FakeOpenAI, *, away: bool, **behaviours: dict[str, Any] | None) -> None:
    if away:
        await server.aclose()
        return
    for request, behaviour in behaviours.items():
        if behaviour is not None:
            server.always(request, **behaviour)  # type: ignore[arg-type]


async def _end(server: FakeOpenAI, *, away: bool) -> None:
    if away:
        await server.start(server.port)
    server.script.reset()


async def _told(server: Server, user: str, kind: str = "remember") -> str:
    """What stands beside the user's waiting work."""
    told = ""

    async def waits() -> bool:
        nonlocal told
        for job in await server.jobs(user):
            if job["kind"] == kind and (job["waiting"] or job["error"]) not in ("", "debounce"):
                told = job["waiting"] or job["error"]
        return bool(told)

    await within(5.0, waits)
    return told


async def breaker(server: Server, llm: FakeOpenAI, form: Form) -> Row:
    """How often a dead LLM is asked while as many users' jobs wait for it."""
    row = Row()
    users = [f"{STORM}-{number}" for number in range(form.waiting)]
    before = await others(server, form.samples)
    llm.always("complete", status=500)
    counting = asyncio.create_task(_asked_within(form.counted, llm))
    for user in users:
        text = f"I moved to {STORM} town."
        body = {"user_id": user, "chat_id": "c", "text": text}
        (await server.client.post("/api/turns", json=body)).raise_for_status()
        server.said.setdefault(user, []).append(text)
    row.seen = "; ".join(await server.trouble()) or await _told(server, users[0])
    compared(row, before, await others(server, form.samples))
    calm = llm.counts["received"] - sum(STORM in str(one.body) for one in llm.received)
    asked, seconds = await counting, form.counted
    llm.script.reset()
    began = time.monotonic()
    row.healed = await server.all_settled()
    row.healed_seconds = round(time.monotonic() - began, 1)
    row.kept = kept(server.data, server.said)
    row.figures = {
        "waiting_jobs": form.waiting,
        "seconds": round(seconds, 1),
        "calls": asked,
        "calls_a_minute": round(60 * asked / seconds, 1),
        "calm_calls": calm,
    }
    if asked > 20 + seconds / 2:
        row.healed = False
        row.figures["failed"] = "the dead LLM was asked too often"
    return row


async def _asked_within(seconds: float, llm: FakeOpenAI) -> int:
    """How often jobs of the storm ask from now on, in this time and no longer, however slow the machine is."""
    at = llm.counts["received"]
    await asyncio.sleep(seconds)
    return sum(one.request == "complete" and STORM in str(one.body) for one in list(llm.received)[at:])
