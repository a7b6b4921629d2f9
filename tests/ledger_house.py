"""A ledger for tests: a real SQLite file, or the PostgreSQL that AFTERWORD_TEST_POSTGRES_URL names."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from afterword.lanes import remember_job
from afterword.ledger import SqlLedger
from afterword.plan import Change, Decided, Insert, Plan, StoreVectors
from afterword.records import Job, NewJob, NewReply, NewTurn, Receipt, ReceiptItem, Ref, Scope, Turn
from afterword.testing import FrozenClock, InlineOffload

ANN = Scope("home", "ann")
BEN = Scope("home", "ben")
KINDS = ("remember", "reconsolidate", "embed", "consolidate", "other")
LEASE = 30.0
MODEL = "m1"
POSTGRES = os.environ.get("AFTERWORD_TEST_POSTGRES_URL", "")

on_postgres = pytest.mark.skipif(not POSTGRES, reason="AFTERWORD_TEST_POSTGRES_URL names no server")
BACKENDS = ["sqlite", pytest.param("postgresql", marks=on_postgres)]


class WallClock(FrozenClock):
    """A frozen clock that a person can put back."""

    def put_back(self, seconds: float) -> None:
        self._now -= timedelta(seconds=seconds)


@dataclass
class House:
    """A ledger and what a test does with it all the time."""

    ledger: SqlLedger
    clock: WallClock
    url: str
    scope: Scope = ANN
    worker: str = "w1"

    async def say(self, *texts: str, chat: str = "c", scope: Scope | None = None, delay: float = 0.0) -> list[Turn]:
        """User turns, with the job that remembers them."""
        scope = scope or self.scope
        turns = [NewTurn(chat, "user", text, asked=True) for text in texts]
        return await self.ledger.accept(scope, turns, [remember_job(scope, chat, delay=delay)])

    async def reply(self, turn: Turn, text: str = "I see", **details: Any) -> Turn:
        epoch = (await self.ledger.state(self.scope)).epoch
        jobs: Sequence[NewJob] = details.pop("jobs", ())
        items = tuple(
            ReceiptItem(ref, "episodic", 0.5, {"bm25": 1.5}, ("t",)) for ref in details.pop("recalled", (Ref("m", 1),))
        )
        new = NewReply(turn.chat_id, turn.id, text, self.clock.now(), 0, **details)
        return await self.ledger.answer(self.scope, epoch, new, Receipt(items, "", 3.5), jobs)

    async def claim(self, *kinds: str, count: int = 10, worker: str = "", lease: float = LEASE) -> list[Job]:
        return await self.ledger.claim(worker or self.worker, kinds or KINDS, count, lease)

    async def claim_one(self, *kinds: str, **details: Any) -> Job:
        (job,) = await self.claim(*kinds, **details)
        return job

    async def run(self, *changes: Change, scope: Scope | None = None, jobs: Sequence[NewJob] = ()) -> list[Ref]:
        """Apply changes through a job of their own."""
        scope = scope or self.scope
        (number,) = await self.ledger.put(scope, [NewJob("test", uuid.uuid4().hex)])
        job = next(job for job in await self.claim("test") if job.id == number)
        return await self.ledger.apply(job, Plan(changes, jobs=tuple(jobs)))

    async def remember(self, *texts: str, sources: Sequence[str] = (), **details: Any) -> list[Ref]:
        """Episodes that stand there."""
        return await self.run(*[self.episode(text, sources, **details) for text in texts])

    def episode(self, text: str, sources: Sequence[str] = (), **details: Any) -> Insert:
        author = details.pop("author", "llm")
        said_at: datetime = details.pop("said_at", self.clock.now())
        kind = details.pop("kind", "episodic")
        return Insert(kind, text, said_at, 0, tuple(sources), author, **details)

    async def decide(
        self, *changes: Change, chat: str = "c", by: Any = "llm", jobs: Sequence[NewJob] = ()
    ) -> list[Ref]:
        """Claim the chat's `remember` and decide all turns that are there."""
        job = await self.claim_one("remember")
        first = await self.ledger.cursor(self.scope, chat)
        last = (await self.ledger.last_turns(self.scope, chat, 1))[0].position
        job = await self.ledger.fix_window(job, {"first": first, "last": last})
        return await self.ledger.apply(
            job, Plan((*changes, Decided(chat, first, last, by)), {"kind": "x"}, tuple(jobs))
        )


def vectors(ref: Ref, model: str = MODEL, windows: int = 1) -> StoreVectors:
    table = np.eye(4, dtype=np.float32)[:windows]
    return StoreVectors(ref, model, table)


@asynccontextmanager
async def a_house(backend: str, folder: Path, **settings: Any) -> AsyncIterator[House]:
    """A new ledger, open until the end."""
    url = f"sqlite:///{folder}/ledger.db" if backend == "sqlite" else POSTGRES
    if backend == "postgresql":
        await _empty(url)
    else:
        (folder / "ledger.db").write_bytes(await _migrated(folder))
    clock = WallClock()
    async with opened(url, clock, **settings) as ledger:
        yield House(ledger, clock, url)


_new: list[bytes] = []  # an empty ledger: migrated once for all tests of a process


async def _migrated(folder: Path) -> bytes:
    if not _new:
        async with opened(f"sqlite:///{folder}/new.db", WallClock()):
            pass
        _new.append((folder / "new.db").read_bytes())
        (folder / "new.db").unlink()
    return _new[0]


@asynccontextmanager
async def opened(url: str, clock: FrozenClock, **settings: Any) -> AsyncIterator[SqlLedger]:
    ledger = SqlLedger(url, clock=clock, offload=InlineOffload(), **settings)
    await ledger.open()
    try:
        yield ledger
    finally:
        await ledger.aclose()


async def _empty(url: str) -> None:
    engine = create_async_engine(url)
    async with engine.begin() as conn:
        await conn.execute(sa.text("DROP SCHEMA public CASCADE"))
        await conn.execute(sa.text("CREATE SCHEMA public"))
    await engine.dispose()
