"""What people do, over HTTP, to a server that may die at any moment; and what they were told of it.

A person does one thing after another. What was under way when the server died is asked for again (`resume`), with the
same ids, as a careful client does.
"""

from __future__ import annotations

import json
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import httpx

from bench.told import Person, Reply, Said, Told

THINGS = [
    "kettle",
    "bicycle",
    "violin",
    "garden",
    "jacket",
    "lantern",
    "piano",
    "boat",
    "clock",
    "mirror",
    "ladder",
    "basket",
    "drum",
    "teapot",
    "compass",
    "quilt",
]
FORMS = (
    "My {thing} {word} was a gift from my aunt.",
    "I bought the {thing} {word} in a small shop.",
    "I keep my {thing} {word} in the kitchen.",
    "我的{word}是我在市场上买的。",
)
IMPORTED = 5  # turns


class Died(Exception):
    """The server is not there any more."""


class Event(NamedTuple):
    name: str
    data: dict[str, Any]


class Client:
    """One person's doings. Each method raises `Died` when the server is gone."""

    def __init__(self, http: httpx.AsyncClient, told: Told, person: Person, rng: random.Random) -> None:
        self._http = http
        self._told = told
        self.person = person
        self.rng = rng

    # ── telling and asking ─────────────────────────────────────────────────────────────────────────────────────────

    async def tell(self, chat: str | None = None, extra: str = "") -> Said:
        """Hand in a turn."""
        said = self._said(chat, self.rng.choice(FORMS), extra)
        await self._hand_in([said])
        return said

    async def bring(self, count: int = IMPORTED) -> list[Said]:
        """Hand in a transcript, its turns in no order: they stand in the order in which they were said."""
        began = datetime(2026, 1, 5, 9, tzinfo=UTC) + timedelta(days=self.person.chats)
        self.person.chats += 1
        chat = f"import{self.person.chats}"
        turns = [self._said(chat, self.rng.choice(FORMS)) for _ in range(count)]
        times = {said.id: (began + timedelta(minutes=place)).isoformat() for place, said in enumerate(turns)}
        await self._hand_in(turns, times)
        return turns

    async def chat(self, text: str = "", chat: str | None = None) -> Reply | None:
        """Say something and hear the reply to its end. None: it was cut, or had been given before."""
        said = self._said(chat, text or self.rng.choice(FORMS))
        said.asked = True
        return await self._ask(said)

    async def begin_chat(self) -> None:
        """Say something and don't wait for the reply."""
        said = self._said(None, self.rng.choice(FORMS))
        said.asked = True
        async with aclosing(self._reply_events(said)) as events:
            async for _ in events:
                self._keep(said)
                return

    def _said(self, chat: str | None, form: str, extra: str = "") -> Said:
        word = self._told.word()
        text = form.format(thing=self.rng.choice(THINGS), word=word)
        text = text if word in text else f"{text} {word}"
        chat = chat or f"chat{self.rng.randint(0, 1)}-{self.person.left}"
        said = Said(f"t-{self.person.user}-{word}", chat, f"{text} {extra}".strip(), word)
        self.person.said[said.id] = said
        return said

    def _keep(self, said: Said) -> None:
        self._told.acknowledged += not said.kept
        said.kept = True

    async def _hand_in(self, turns: list[Said], times: dict[str, str] | None = None) -> None:
        said_at = times or {}
        rows = [
            {"text": one.text, "chat_id": one.chat, "turn_id": one.id}
            | ({"said_at": said_at[one.id]} if one.id in said_at else {})
            for one in turns
        ]
        self.rng.shuffle(rows)
        body = {"user_id": self.person.user, **({"turns": rows} if times else rows[0])}
        if await self._did("POST", "/api/turns", json=body):
            for said in turns:
                self._keep(said)

    async def _ask(self, said: Said) -> Reply | None:
        text = ""
        async with aclosing(self._reply_events(said)) as events:
            async for name, data in events:
                if name == "accepted":
                    self._keep(said)
                elif name == "piece":
                    text += data["text"]
                elif name == "done" and data["reply_id"]:
                    reply = Reply(data["reply_id"], said.chat, text)
                    self.person.replies[reply.id] = reply
                    return reply
        return None

    async def _reply_events(self, said: Said) -> AsyncGenerator[Event, None]:
        body = {"user_id": self.person.user, "chat_id": said.chat, "message": said.text, "turn_id": said.id}
        try:
            async with self._http.stream("POST", "/api/chat", json=body) as answer:
                if answer.status_code == 503:
                    raise Died
                if answer.status_code != 200:
                    await answer.aread()
                    self._told.surprises.append(f"chat: {answer.status_code} {answer.text[:200]}")
                    return
                name = ""
                async for line in answer.aiter_lines():
                    field, _, value = line.partition(": ")
                    name = value if field == "event" else name
                    if field == "data":
                        yield Event(name, json.loads(value))
        except httpx.TransportError as error:
            raise Died from error

    # ── other doings ───────────────────────────────────────────────────────────────────────────────────────────────

    async def search(self, query: str, *, reconsolidate: bool = False) -> list[dict[str, Any]]:
        body = {"user_id": self.person.user, "query": query, "reconsolidate": reconsolidate}
        answer = await self._call("POST", "/api/search", json=body)
        return list(answer.json()["hits"]) if answer.status_code == 200 else []

    async def consolidate(self) -> None:
        await self._did("POST", "/api/consolidate", json={"user_id": self.person.user})

    async def backfill(self) -> None:
        await self._did("POST", "/api/backfill", json={"user_id": self.person.user})

    async def reset(self) -> None:
        self.person.resetting = True
        if await self._did("POST", "/api/reset", json={"user_id": self.person.user}):
            self.person.was_reset()

    async def delete_chat(self, chat: str) -> None:
        self.person.leaving.add(chat)
        if await self._did("DELETE", "/api/chats", params={"user_id": self.person.user, "chat_id": chat}):
            self.person.has_left(chat)

    async def edit(self) -> None:
        """Write a memory anew, in words of one's own."""
        memories = await self._memories()
        if not memories:
            return
        memory, text = self.rng.choice(memories)["id"], f"I wrote this about {self._told.word()} myself."
        body = {"user_id": self.person.user, "text": text}
        if await self._did("PATCH", f"/api/memories/{memory}", json=body, allowed=(404, 409)):
            self.person.edits.setdefault(memory, []).append(text)

    async def erase(self) -> None:
        """Erase a memory or a turn."""
        records = [memory["id"] for memory in await self._memories()] + [*self.person.said]
        if records:
            record = self.rng.choice(records)
            self.person.erasing.add(record)
            await self._erase(record)

    async def _erase(self, record: str) -> None:
        params = {"user_id": self.person.user}
        if await self._did("DELETE", f"/api/memories/{record}", params=params, allowed=(404,), gone=True):
            self.person.was_erased(record)

    async def cancel_and_retry(self) -> None:
        """End a job that is not done yet, and let it be done after all."""
        params = {"user_id": self.person.user, "state": ["queued", "running"]}
        jobs = (await self._call("GET", "/api/jobs", params=params)).json()["jobs"]
        for job in jobs[:1]:
            for action in ("cancel", "retry"):
                body = {"user_id": self.person.user}
                await self._did("POST", f"/api/jobs/{job['id']}/{action}", json=body, allowed=(400, 404))

    async def retry_given_up(self) -> int:
        """Let dead and cancelled jobs be tried again; how many there were."""
        params = {"user_id": self.person.user, "state": ["dead", "cancelled"], "limit": 1000}
        jobs = (await self._call("GET", "/api/jobs", params=params)).json()["jobs"]
        for job in jobs:
            await self._did("POST", f"/api/jobs/{job['id']}/retry", json={"user_id": self.person.user})
        return len(jobs)

    async def settled(self) -> None:
        """Until none of this person's jobs waits or runs, woken by the server."""
        params = {"user_id": self.person.user}
        try:
            async with self._http.stream("GET", "/events", params=params) as events:
                async for line in events.aiter_lines():
                    if not line.startswith("data"):
                        continue
                    counts = (await self._call("GET", "/api/jobs", params={**params, "limit": 1})).json()["counts"]
                    if not counts.get("queued") and not counts.get("running"):
                        return
        except httpx.TransportError as error:
            raise Died from error

    async def resume(self) -> None:
        """Ask again for what was under way when the server died."""
        person = self.person
        if person.resetting:
            await self.reset()
        for chat in list(person.leaving):
            await self.delete_chat(chat)
        for record in list(person.erasing):
            await self._erase(record)
        for said in [said for said in person.said.values() if not said.kept]:
            await (self._ask(said) if said.asked else self._hand_in([said]))

    # ── calling ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _memories(self) -> list[dict[str, Any]]:
        answer = await self._call("GET", "/api/memories", params={"user_id": self.person.user})
        return list(answer.json()["memories"]) if answer.status_code == 200 else []

    async def _did(
        self, method: str, path: str, *, allowed: tuple[int, ...] = (), gone: bool = False, **sent: Any
    ) -> bool:
        """Whether the server says that it is done. `gone`: what is not there counts as done."""
        answer = await self._call(method, path, **sent)
        if answer.is_success:
            return True
        if answer.status_code == 503:
            raise Died  # it is stopping
        if answer.status_code not in allowed:
            self._told.surprises.append(f"{method} {path}: {answer.status_code} {answer.text[:200]}")
        return gone and answer.status_code == 404

    async def _call(self, method: str, path: str, **sent: Any) -> httpx.Response:
        try:
            return await self._http.request(method, path, **sent)
        except httpx.TransportError as error:
            raise Died from error


# ── what leads to a kill point ─────────────────────────────────────────────────────────────────────────────────────

Recipe = Callable[[Client], Awaitable[None]]


async def telling(client: Client) -> None:
    await client.tell()


async def remembering(client: Client) -> None:
    await client.tell()
    await client.bring()
    await client.settled()


async def chatting(client: Client) -> None:
    await client.chat()


async def correcting(client: Client) -> None:
    said = await client.tell()
    await client.settled()
    await client.chat(f"Actually I no longer keep the {said.text.rstrip('.')}, I moved it.")
    await client.settled()


async def asking(client: Client) -> None:
    said = await client.tell()
    await client.settled()
    await client.search(f"Actually I moved {said.text}", reconsolidate=True)
    await client.settled()


async def merging(client: Client) -> None:
    await client.bring()
    await client.settled()
    await client.consolidate()
    await client.settled()


async def resetting(client: Client) -> None:
    await client.tell()
    await client.begin_chat()
    await client.reset()
    await client.tell()


async def leaving(client: Client) -> None:
    said = await client.tell()
    await client.chat(chat=said.chat)
    await client.delete_chat(said.chat)


async def mending(client: Client) -> None:
    await client.tell()
    await client.settled()
    await client.edit()
    await client.erase()


async def cancelling(client: Client) -> None:
    await client.tell()
    await client.cancel_and_retry()


async def reading_again(client: Client) -> None:
    await client.backfill()
    await client.settled()


async def mixed(client: Client) -> None:
    """Anything, as it comes."""
    doings: tuple[Recipe, ...] = (telling, telling, chatting, chatting, correcting, merging, mending, leaving, asking)
    await client.rng.choice(doings)(client)


async def brisk(client: Client) -> None:
    """Anything that waits for no background work."""
    doings: tuple[Recipe, ...] = (telling, telling, telling, chatting, chatting, bringing, editing, leaving)
    await client.rng.choice(doings)(client)


async def bringing(client: Client) -> None:
    await client.bring()
    await client.consolidate()


async def editing(client: Client) -> None:
    await client.edit()
    await client.erase()
