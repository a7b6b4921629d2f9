"""`SqlLedger`: the ledger on SQLite or PostgreSQL. See `ports.Ledger` for what each method promises."""

from __future__ import annotations

import asyncio
import uuid
from functools import partial
from typing import TYPE_CHECKING

from afterword.language.tokens import joined_tokens
from afterword.ledger import apply as applying
from afterword.ledger import claims, ends, erase, job_reads, jobs, sweep, turns
from afterword.ledger import runs as running
from afterword.ledger.database import Rank, database_at
from afterword.ledger.reads import SqlReads
from afterword.ledger.rows import labelled
from afterword.ledger.warm import warm_up
from afterword.plan import Erase

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from afterword.glance import News
    from afterword.plan import Plan
    from afterword.ports import Clock, Offload, Opening, Queue
    from afterword.records import Job, Json, NewJob, NewReply, NewTurn, Receipt, Ref, Run, Scope, Turn

AT_ONCE = 200  # turns written in one transaction, so that a long import lets replies in between
IN_LOOP = 20_000  # characters tokenised without leaving the event loop: a few milliseconds
IN_PROCESS = 100_000  # characters handed to a process at once
TALK: frozenset[News] = frozenset({"turns", "jobs"})
JOBS: frozenset[News] = frozenset({"jobs"})
LONG_WORK: frozenset[News] = frozenset({"jobs", "runs"})
NOTHING_SHOWN: frozenset[News] = frozenset()
PRUNED = 1_000  # jobs deleted in one transaction


class SqlLedger(SqlReads):
    """The truth, in one SQL database.

    `url` is `sqlite:////path/ledger.db` or `postgresql+asyncpg://…`. `poll_seconds`: how often a SQLite file
    is looked at for another process's writes. `lock_seconds`: how long a write waits for another program's lock, and
    a connection for a PostgreSQL server. Used on the event loop that opened it.
    """

    def __init__(
        self,
        url: str,
        *,
        clock: Clock,
        offload: Offload,
        max_waiting_jobs: int = 100_000,
        max_waiting_per_scope: int = 10_000,
        poll_seconds: float = 0.25,
        lock_seconds: float = 10.0,
    ) -> None:
        super().__init__()
        self._db = database_at(url, clock, poll_seconds, lock_seconds)
        self._clock = clock
        self._offload = offload
        self._room = jobs.Room(max_waiting_jobs, max_waiting_per_scope)

    async def open(self) -> None:
        await self._db.open()
        await warm_up(self._db)

    async def aclose(self) -> None:
        await self._db.aclose()

    # ── the reply path ─────────────────────────────────────────────────────────────────────────────────────────────

    async def accept(self, scope: Scope, turns_: Sequence[NewTurn], jobs_: Sequence[NewJob] = ()) -> list[Turn]:
        tokens = await self._tokens([labelled(new.speaker, new.text) for new in turns_])
        ready = [turns.prepare(new, found) for new, found in zip(turns_, tokens, strict=True)]
        rank = Rank.REPLY
        if len(ready) > AT_ONCE:  # refuse the whole before the first part is written
            await self._of(scope, turns.check_known, ready)
            rank = Rank.PERSON
        stored: list[Turn] = []
        fresh = False
        for start in range(0, len(ready), AT_ONCE):
            part = ready[start : start + AT_ONCE]
            last = start + AT_ONCE >= len(ready)
            done, added = await self._accept_part(scope, part, jobs_ if last else (), rank, fresh=fresh)
            stored += done
            fresh = fresh or added
        return stored

    async def _accept_part(
        self, scope: Scope, part: Sequence[turns.Prepared], follow: Sequence[NewJob], rank: Rank, *, fresh: bool
    ) -> tuple[list[Turn], bool]:
        return await self._db.write(
            lambda tx: turns.accept(tx, scope, part, follow, self._room, fresh=fresh), rank, news=TALK
        )

    async def begin(self, scope: Scope, turn: NewTurn, jobs_: Sequence[NewJob], most: int) -> Opening:
        (tokens,) = await self._tokens([labelled(turn.speaker, turn.text)])
        ready = turns.prepare(turn, tokens)
        return await self._db.write(
            lambda tx: turns.begin(tx, scope, ready, jobs_, self._room, most), Rank.REPLY, news=TALK
        )

    async def answer(
        self, scope: Scope, epoch: int, reply: NewReply, receipt: Receipt, jobs_: Sequence[NewJob] = ()
    ) -> Turn:
        (tokens,) = await self._tokens([reply.text])
        ready = turns.prepare_reply(reply, receipt, tokens)
        return await self._db.write(
            lambda tx: turns.answer(tx, scope, epoch, ready, jobs_, self._room), Rank.REPLY, news=TALK
        )

    async def _tokens(self, texts: list[str]) -> list[str]:
        """The tokens of each text. Long work is done in processes, so that the event loop stays free."""
        if sum(map(len, texts)) < IN_LOOP:
            return joined_tokens(texts)
        parts = await asyncio.gather(*(self._offload.process(joined_tokens, part) for part in _parts(texts)))
        return [tokens for part in parts for tokens in part]

    # ── people ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def edit(self, scope: Scope, plan: Plan) -> list[Ref]:
        applying.check_edit(plan)
        tokens = await self._plan_tokens(plan)
        ids = [uuid.uuid4().hex for _ in plan.changes]
        return await self._db.write(
            lambda tx: applying.edit(tx, scope, plan, ids, tokens, self._room), Rank.PERSON, erases=_erases(plan)
        )

    async def _plan_tokens(self, plan: Plan) -> dict[str, str]:
        texts = applying.texts_of(plan)
        return dict(zip(texts, await self._tokens(texts), strict=True))

    async def reset(self, scope: Scope) -> int:
        return await self._db.write(lambda tx: erase.reset(tx, scope), Rank.PERSON, erases=True)

    async def delete_chat(self, scope: Scope, chat_id: str) -> None:
        await self._db.write(lambda tx: erase.delete_chat(tx, scope, chat_id), Rank.PERSON, erases=True)

    async def start_run(self, scope: Scope, kind: str, total: int, job: NewJob) -> tuple[Run, bool]:
        return await self._db.write(
            lambda tx: running.start_run(tx, scope, kind, total, job, self._room), Rank.PERSON, news=LONG_WORK
        )

    # ── jobs ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def put(self, scope: Scope, jobs_: Sequence[NewJob]) -> list[int]:
        return await self._db.write(
            lambda tx: [jobs.put(tx.hold(scope), new, self._room) for new in jobs_], Rank.PERSON, news=JOBS
        )

    async def claim(self, worker: str, kinds: Sequence[str], count: int, lease: float) -> list[Job]:
        now = self._clock.now()
        if count < 1 or not await self._db.read(lambda conn: claims.any_to_claim(conn, now, kinds, lease)):
            return []
        return await self._db.write(
            lambda tx: claims.claim(tx, worker, kinds, count, lease), Rank.BACKGROUND, news=JOBS
        )

    async def fix_window(self, job: Job, window: Json) -> Job:
        return await self._db.write(lambda tx: claims.fix_window(tx, job, window), Rank.BACKGROUND, news=NOTHING_SHOWN)

    async def renew(self, worker: str, jobs_: Sequence[Job], lease: float) -> set[int]:
        return await self._db.write(lambda tx: claims.renew(tx, worker, jobs_, lease), Rank.PERSON)

    async def apply(self, job: Job, plan: Plan) -> list[Ref]:
        tokens = await self._plan_tokens(plan)
        return await self._db.write(
            lambda tx: applying.apply(tx, job, plan, tokens, self._room),
            Rank.BACKGROUND,
            news=applying.news_of(plan),
            erases=_erases(plan),
        )

    async def postpone(
        self, job: Job, *, delay: float, waiting: str = "", error: str = "", count_attempt: bool = True
    ) -> None:
        await self._db.write(
            lambda tx: claims.postpone(tx, job, delay=delay, waiting=waiting, error=error, count_attempt=count_attempt),
            Rank.BACKGROUND,
            news=JOBS,
        )

    async def bury(self, job: Job, error: str) -> None:
        await self._db.write(lambda tx: ends.bury(tx, job, error, self._room), Rank.BACKGROUND, news=LONG_WORK)

    async def retry(self, job_id: int) -> Job:
        return await self._db.write(lambda tx: ends.retry(tx, job_id, self._room), Rank.PERSON, news=LONG_WORK)

    async def cancel(self, job_id: int) -> Job:
        return await self._db.write(lambda tx: ends.cancel(tx, job_id, self._room), Rank.PERSON, news=LONG_WORK)

    async def next_due(self, kinds: Sequence[str]) -> datetime | None:
        return await self._db.read(lambda conn: claims.next_due(conn, kinds))

    async def sweep(self, *, model: str | None, limit: int = 100) -> int:
        now = self._clock.now()
        found = await self._db.read(lambda conn: sweep.wanted(conn, now, model, limit))
        stuck = await self._db.read(lambda conn: sweep.put_off_by_the_clock(conn, now, limit))
        made = await self._db.write(lambda tx: sweep.make_due(tx, stuck), Rank.BACKGROUND) if stuck else 0
        for one in found:
            made += await self._db.write(partial(sweep.put, asked=one, room=self._room), Rank.BACKGROUND, news=JOBS)
        return made

    async def queue(self) -> Queue:
        return await self._db.read(job_reads.queue)

    async def waiting(self, scope: Scope | None) -> tuple[int, int]:
        return await self._of_any(scope, job_reads.waiting)

    async def probe(self) -> None:
        await self._db.write(lambda tx: job_reads.probe(tx.conn), Rank.PERSON)

    async def prune(self, before: datetime) -> int:
        gone = 0
        while done := await self._db.write(lambda tx: job_reads.prune(tx.conn, before, PRUNED), Rank.BACKGROUND):
            gone += done
        return gone

    async def scopes(self, after: Scope | None, limit: int) -> list[Scope]:
        return await self._db.read(lambda conn: job_reads.scopes(conn, after, limit))


def _erases(plan: Plan) -> bool:
    return any(isinstance(change, Erase) for change in plan.changes)


def _parts(texts: list[str]) -> list[list[str]]:
    """`texts` in order, cut into parts of about `IN_PROCESS` characters."""
    parts: list[list[str]] = [[]]
    size = 0
    for text in texts:
        if size + len(text) > IN_PROCESS and parts[-1]:
            parts.append([])
            size = 0
        parts[-1].append(text)
        size += len(text)
    return parts
