"""What the fault campaign runs on: a real server process, fake models, one person in trouble and others beside them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from afterword.testing import FakeOpenAI, Received

STORM = "storm"  # stands in everything that a person in trouble says: faults hold for these requests alone
CALM = "calm"  # the person beside them
HEALS = 90.0  # seconds in which everything must have healed; the longest pause of a breaker is 60
START = 60.0


@dataclass(frozen=True)
class Form:
    """The full form waits as long as the promises say; the short one shows the same in seconds."""

    samples: int  # of another user's chat and search, before and during a fault
    suspended: float  # seconds of SIGSTOP
    counted: float  # seconds in which calls to a dead LLM are counted
    waiting: int  # jobs that wait for it
    talkers: int  # whose replies are written when the server is stopped
    bar: tuple[float, float]  # others are slowed down when both the ratio and the milliseconds are above these


FULL = Form(samples=12, suspended=60.0, counted=60.0, waiting=100, talkers=20, bar=(1.5, 25.0))
SHORT = Form(samples=2, suspended=3.0, counted=2.0, waiting=25, talkers=6, bar=(4.0, 400.0))


@dataclass
class Row:
    """What one fault did."""

    seen: str = ""  # what the person in trouble is told
    work: str = ""  # what stands beside the waiting work
    kept: bool = False
    healed: bool = False
    others_ratio: float | None = None
    others_ms: tuple[float, float] | None = None  # before, during
    healed_seconds: float | None = None
    figures: dict[str, Any] = field(default_factory=dict)
    skipped: str = ""

    def failures(self, form: Form) -> list[str]:
        if self.skipped:
            return []
        failed = [name for name in ("kept", "healed") if not getattr(self, name)]
        if not self.seen:
            failed.append("nothing is seen")
        if self.others_ratio is not None and self.others_ms is not None:
            ratio, most = form.bar
            if self.others_ratio > ratio and self.others_ms[1] - self.others_ms[0] > most:
                failed.append("others are slowed down")
        return failed

    def as_json(self) -> dict[str, Any]:
        shown = {"seen": self.seen, "work": self.work, "kept": self.kept, "healed": self.healed}
        more = {"healed_seconds": self.healed_seconds, "others_ms": self.others_ms, **self.figures}
        return {**shown, "others_ratio": self.others_ratio, **{k: v for k, v in more.items() if v is not None}} | (
            {"skipped": self.skipped} if self.skipped else {}
        )


@dataclass
class Reply:
    """What came over the stream of one reply."""

    text: str = ""
    missed: str = ""
    why: str = ""  # it was cut, or refused
    fix: str = ""
    first: float = 0.0  # milliseconds to the first piece, or to the end
    reply_id: str | None = None
    done: bool = False

    @property
    def seen(self) -> str:
        return ": ".join(part for part in (self.why, self.fix) if part)


class Server:
    """`afterword serve --no-page`, and what a person does with it."""

    def __init__(self, process: asyncio.subprocess.Process, client: httpx.AsyncClient, data: Path) -> None:
        self.process = process
        self.client = client
        self.data = data
        self.said: dict[str, list[str]] = {}  # acknowledged messages of each user

    @property
    def pid(self) -> int:
        return self.process.pid

    async def chat(self, user: str, message: str, chat: str = "c", *, again: str = "") -> Reply:
        """Send a message and hear the reply to its end; `again`: ask this kept turn again."""
        reply, began = Reply(), time.monotonic()
        path = "/api/chat/again" if again else "/api/chat"
        body = {"user_id": user, "turn_id": again} if again else {"user_id": user, "chat_id": chat, "message": message}
        async with self.client.stream("POST", path, json=body) as answer:
            if answer.status_code != 200:
                told = json.loads(await answer.aread())
                reply.why, reply.fix = told["message"], told.get("fix", "")
                reply.first = 1000 * (time.monotonic() - began)
                return reply
            if not again:
                self.said.setdefault(user, []).append(message)
            name = ""
            async for line in answer.aiter_lines():
                if line.startswith("event: "):
                    name = line[7:]
                elif line.startswith("data: "):
                    self._heard(reply, name, json.loads(line[6:]), began)
        return reply

    def _heard(self, reply: Reply, name: str, data: dict[str, Any], began: float) -> None:
        if name == "recall":
            reply.missed = data["missed"]
        elif name == "piece":
            reply.text += data["text"]
        elif name == "cut":
            reply.why, reply.fix, reply.reply_id = data["why"], data["fix"], data["reply_id"]
        elif name == "done":
            reply.done, reply.reply_id = True, data["reply_id"]
        if not reply.first and name in ("piece", "cut", "done"):
            reply.first = 1000 * (time.monotonic() - began)

    async def search(self, user: str, query: str) -> tuple[float, list[dict[str, Any]]]:
        """Milliseconds, and the hits."""
        began = time.monotonic()
        answer = await self.client.post("/api/search", json={"user_id": user, "query": query})
        answer.raise_for_status()
        return 1000 * (time.monotonic() - began), answer.json()["hits"]

    async def get(self, path: str, **params: Any) -> Any:
        return (await self.client.get(f"/api/{path}", params=params)).raise_for_status().json()

    async def jobs(self, user: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self.get("jobs", user_id=user, limit=500))["jobs"]
        return found

    async def trouble(self) -> list[str]:
        found: list[str] = (await self.get("status"))["trouble"]
        return found

    async def unanswered(self, user: str, chat: str = "c") -> list[str]:
        """Ids of kept messages without a whole reply."""
        turns = (await self.get("turns", user_id=user, chat_id=chat))["turns"]
        answered = {turn["reply_to"] for turn in turns if turn["reply_to"] and turn["cut"] is None}
        return [turn["id"] for turn in turns if turn["role"] == "user" and turn["id"] not in answered]

    async def settled(self, user: str, seconds: float = HEALS) -> bool:
        """Whether all of the user's work was done in time, none of it given up."""
        states: set[str] = set()

        async def done() -> bool:
            nonlocal states
            states = {job["state"] for job in await self.jobs(user)}
            return not states & {"queued", "running"}

        return await within(seconds, done) and "dead" not in states

    async def all_settled(self, seconds: float = HEALS) -> bool:
        """Whether everybody's work was done in time, none of it given up."""

        async def done() -> bool:
            status = await self.get("status")
            return not status["waiting"] and not status["running"]

        return await within(seconds, done, pause=0.2) and not (await self.get("status"))["dead"]

    async def stop(self, seconds: float = 20) -> int:
        self.process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self.process.wait(), seconds)

    async def kill(self) -> None:
        with suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()


async def within(seconds: float, look: Callable[[], Awaitable[bool]], pause: float = 0.05) -> bool:
    """Whether `look` was true in time. A server that is away or refuses counts as not yet."""
    ends = time.monotonic() + seconds
    while True:
        with suppress(httpx.HTTPError):
            if await look():
                return True
        if time.monotonic() > ends:
            return False
        await asyncio.sleep(pause)


def kept(data: Path, said: dict[str, list[str]]) -> bool:
    """Whether the ledger's file holds each acknowledged message exactly once, and is sound."""
    with sqlite3.connect(f"{(data / 'ledger.db').resolve().as_uri()}?mode=ro", uri=True) as ledger:
        rows = ledger.execute(
            "SELECT s.user_id, t.text FROM turn t JOIN scope s ON s.id = t.scope_id WHERE t.role = 'user'"
        ).fetchall()
        sound = ledger.execute("PRAGMA quick_check").fetchone()[0] == "ok"
    ledger.close()
    return sound and all(
        rows.count((user, text)) == texts.count(text) for user, texts in said.items() for text in texts
    )


def arguments(data: Path, llm: str, embed: str = "", **settings: Any) -> list[str]:
    """Of `afterword serve`: every deadline in seconds rather than minutes."""
    chosen: dict[str, Any] = {
        "port": 0,
        "data_dir": data,
        "llm_base_url": llm,
        "llm_api_key": "sk-bench-0123456789",
        "llm_model": "fake-chat",
        "debounce": 0,
        "first_token_deadline": 1.5,
        "reply_gap_deadline": 1.5,
        "reply_deadline": 8,
        "decider_deadline": 2,
        "embed_deadline": 2,
        "ledger_deadline": 1,
        "drain_deadline": 0.5,
        "consolidate_cron": "",
        "timezone": "UTC",
        "log_level": "error",
        "embedder": "none",
        **({"embedder": "openai", "embed_base_url": embed, "embed_model": "fake-embed"} if embed else {}),
        **settings,
    }
    return [f"--{name.replace('_', '-')}={value}" for name, value in chosen.items()]


async def spawn(
    given: list[str], *, module: str = "afterword.cli", environment: dict[str, str] | None = None
) -> asyncio.subprocess.Process:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AFTERWORD_", "OPENAI_"))}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, "serve", "--no-page", "--no-open-browser", *given,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env={**clean, **(environment or {})},
    )  # fmt: skip


async def refused(given: list[str]) -> tuple[int, str]:
    """The exit code and the words of a server that should not start; 0 when it did."""
    process = await spawn(given)
    try:
        _, said = await asyncio.wait_for(process.communicate(), START)
    except TimeoutError:
        process.kill()
        await process.wait()
        return 0, "it started"
    return process.returncode or 0, said.decode().strip()


@asynccontextmanager
async def serving(
    data: Path, llm: str, embed: str = "", *, wrapped: dict[str, str] | None = None, **settings: Any
) -> AsyncIterator[Server]:
    """A server that is ready. `wrapped`: variables for `bench.faults_server`, which then starts it."""
    module = "afterword.cli" if wrapped is None else "bench.faults_server"
    process = await spawn(arguments(data, llm, embed, **settings), module=module, environment=wrapped)
    assert process.stdout is not None
    assert process.stderr is not None
    lines: list[bytes] = []
    draining = asyncio.create_task(_drained(process.stderr, lines))
    try:
        line = (await asyncio.wait_for(process.stdout.readline(), START)).decode()
        if not line:
            raise RuntimeError(f"the server did not start: {b''.join(lines).decode()}")
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
        async with httpx.AsyncClient(base_url=line.rsplit(" ", 1)[-1].strip(), timeout=90, limits=limits) as client:
            yield Server(process, client, data)
    finally:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
            process.kill()
        await process.wait()
        draining.cancel()


async def _drained(stream: asyncio.StreamReader, lines: list[bytes]) -> None:
    async for line in stream:
        lines.append(line)
        if os.environ.get("FAULTS_LOG"):
            sys.stderr.write(line.decode())


def of_the_storm(received: Received) -> bool:
    """Whether a request is about somebody in trouble."""
    return STORM in json.dumps(received.body, ensure_ascii=False)


@asynccontextmanager
async def models() -> AsyncIterator[tuple[FakeOpenAI, FakeOpenAI]]:
    """An LLM and an embedder, each a fake server of its own, whose faults hold for the storm alone."""
    async with FakeOpenAI(models=("fake-chat", "other-chat")) as llm, FakeOpenAI() as embedder:
        llm.only = embedder.only = of_the_storm
        yield llm, embedder


async def others(server: Server, samples: int, *, chats: bool = True) -> float:
    """The median, in milliseconds, of another user's search and of the first piece of another user's reply."""
    found: list[float] = []
    for number in range(samples):
        found.append((await server.search(CALM, "Where did I move to?"))[0])
        if chats:
            reply = await server.chat(CALM, f"I moved to town {number}.", f"{CALM}{number % 3}")
            if not reply.done:
                raise RuntimeError(f"another user's chat broke: {reply.seen}")
            found.append(reply.first)
    return statistics.median(found)


def compared(row: Row, before: float, during: float) -> None:
    row.others_ms = (round(before, 1), round(during, 1))
    row.others_ratio = round(during / before, 2)
