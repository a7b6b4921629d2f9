"""Whatever is done in whatever order: no turn is lost or doubled, and whoever follows the changes misses nothing."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

import hypothesis.strategies as st
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from afterword.errors import EpochChanged, InvalidInput, LeaseLost, VersionConflict
from afterword.lanes import embed_job, remember_job
from afterword.ledger import schema
from afterword.plan import Change, Decided, Erase, Plan, Reconsolidated, Retire, Revise
from afterword.ports import JobFilter
from afterword.records import Filters, Job, NewTurn, Ref, Scope, Turn
from tests.ledger_house import ANN, BEN, LEASE, MODEL, House, a_house, vectors

T = TypeVar("T")

SCOPES = st.sampled_from([ANN, BEN])
CHATS = st.sampled_from(["c", "d"])


class Follower:
    """An index: it knows only what `changes` told it."""

    def __init__(self) -> None:
        self.epoch = 0
        self.seq = 0
        self.refs: dict[str, Ref] = {}


class LedgerMachine(RuleBasedStateMachine):
    """Two users, two chats each, a few workers, and a clock."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.folder = tempfile.TemporaryDirectory()
        self.house: House = self.do(self.stack.enter_async_context(a_house("sqlite", Path(self.folder.name))))
        self.turns: dict[Scope, dict[str, list[Turn]]] = {ANN: {}, BEN: {}}
        self.followers = {ANN: Follower(), BEN: Follower()}
        self.claimed: list[Job] = []
        self.number = 0

    def do(self, awaitable: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(awaitable)

    def teardown(self) -> None:
        try:
            self.do(self.drained())
        finally:
            self.do(self.stack.aclose())
            self.runner.close()
            self.folder.cleanup()

    # ── what people do ─────────────────────────────────────────────────────────────────────────────────────────────

    @rule(scope=SCOPES, chat=CHATS, count=st.integers(1, 4), known=st.booleans(), delay=st.sampled_from([0.0, 2.0]))
    def accept(self, scope: Scope, chat: str, count: int, known: bool, delay: float) -> None:
        mine = self.turns[scope].setdefault(chat, [])
        new = [NewTurn(chat, "user", f"text {self.number + n}", turn_id=f"t{self.number + n}") for n in range(count)]
        self.number += count
        if known and mine:
            new.insert(0, NewTurn(chat, "user", mine[0].text, turn_id=mine[0].id))
        job = remember_job(scope, chat, delay=delay)
        stored = self.do(self.house.ledger.accept(scope, new, [job, embed_job(scope)]))
        mine.extend(turn for turn in stored if turn not in mine)

    @rule(scope=SCOPES, chat=CHATS, cut=st.sampled_from([None, "stopped"]))
    def answer(self, scope: Scope, chat: str, cut: str | None) -> None:
        mine = self.turns[scope].get(chat, [])
        users = [turn for turn in mine if turn.role == "user"]
        if not users:
            return
        self.house.scope = scope
        old = [turn for turn in mine if turn.reply_to == users[-1].id]
        try:
            reply = self.do(self.house.reply(users[-1], cut=cut))
        except InvalidInput:
            assert [turn.cut for turn in old] == [None]
            return
        self.turns[scope][chat] = [turn for turn in mine if turn not in old] + [reply]

    @rule(scope=SCOPES, which=st.integers(0, 9), what=st.sampled_from(["revise", "retire", "erase"]))
    def edit(self, scope: Scope, which: int, what: str) -> None:
        found = self.do(self.house.ledger.memories(scope, Filters()))
        if not found:
            return
        ref = found[which % len(found)].ref
        change: Change = Erase(ref.record)
        if what != "erase":
            change = Revise(ref, "mended", "person") if what == "revise" else Retire(ref, "gone")
        self.do(self.house.ledger.edit(scope, Plan((change,))))

    @precondition(lambda self: self.number > 6)
    @rule(scope=SCOPES)
    def reset(self, scope: Scope) -> None:
        before = self.do(self.house.ledger.state(scope))
        self.do(self.house.ledger.reset(scope))
        after = self.do(self.house.ledger.state(scope))
        assert (after.epoch, after.model) == (before.epoch + 1, None)
        assert after.seq > before.seq
        self.turns[scope] = {}

    @precondition(lambda self: self.number > 6)
    @rule(scope=SCOPES, chat=CHATS)
    def delete_chat(self, scope: Scope, chat: str) -> None:
        self.do(self.house.ledger.delete_chat(scope, chat))
        self.turns[scope].pop(chat, None)

    # ── what workers do ────────────────────────────────────────────────────────────────────────────────────────────

    @rule(count=st.integers(1, 3))
    def claim(self, count: int) -> None:
        taken = self.do(self.house.claim(count=count))
        assert len({job.lane for job in taken}) == len(taken)
        self.claimed += taken

    @precondition(lambda self: self.claimed)
    @rule(which=st.integers(0, 9), how=st.sampled_from(["apply", "apply", "apply", "postpone", "bury", "cancel"]))
    def end(self, which: int, how: str) -> None:
        job = self.claimed.pop(which % len(self.claimed))
        try:
            self.do(self.ended(job, how))
        except (LeaseLost, EpochChanged, VersionConflict):
            return

    async def ended(self, job: Job, how: str) -> None:
        ledger = self.house.ledger
        if job.kind == "remember":
            job = await ledger.fix_window(job, await self.window(job))
        if how == "apply":
            await ledger.apply(job, await self.plan(job))
        elif how == "postpone":
            await ledger.postpone(job, delay=1.0)
        elif how == "bury":
            await ledger.bury(job, "bad")
        elif how == "cancel":
            await ledger.cancel(job.id)

    async def window(self, job: Job) -> dict[str, int]:
        first = await self.house.ledger.cursor(job.scope, job.payload["chat_id"])
        turns = await self.house.ledger.turns(job.scope, job.payload["chat_id"], first=first, limit=3)
        return {"first": first, "last": turns[-1].position if turns else first - 1}

    async def plan(self, job: Job) -> Plan:
        if job.kind == "embed":
            found = await self.house.ledger.unembedded(job.scope, MODEL, 3)
            follow = (embed_job(job.scope),) if len(found) == 3 else ()
            return Plan(tuple(vectors(ref) for ref, _ in found), jobs=follow)
        if job.kind == "reconsolidate":
            return Plan((Reconsolidated(job.payload["reply_id"]),))
        assert job.window is not None
        first, last, chat = job.window["first"], job.window["last"], job.payload["chat_id"]
        turns = await self.house.ledger.turns(job.scope, chat, first=first, last=last) if last >= first else []
        episodes = [self.house.episode(turn.text, [turn.id]) for turn in turns if turn.role == "user"]
        return Plan((*episodes, Decided(chat, first, last, "llm")))

    @rule(seconds=st.sampled_from([0.5, 3.0, LEASE + 1]))
    def wait(self, seconds: float) -> None:
        self.do(self.house.clock.advance(seconds))

    @rule()
    def sweep(self) -> None:
        self.do(self.house.ledger.sweep(model=MODEL))

    # ── what must be so ────────────────────────────────────────────────────────────────────────────────────────────

    @invariant()
    def turns_are_kept_in_order(self) -> None:
        for scope, chats in self.turns.items():
            for chat, mine in chats.items():
                kept = self.do(self.house.ledger.turns(scope, chat))
                assert [turn.id for turn in kept] == [turn.id for turn in mine]
                positions = [turn.position for turn in kept]
                assert positions == sorted(set(positions))

    @invariant()
    def a_follower_of_changes_knows_what_there_is(self) -> None:
        for scope, follower in self.followers.items():
            state, entries = self.do(self.house.ledger.entries(scope))
            if state.epoch != follower.epoch:
                follower.epoch, follower.seq, follower.refs = state.epoch, 0, {}
            for change in self.do(self.house.ledger.changes(scope, follower.seq)):
                assert change.seq > follower.seq
                follower.seq = change.seq
                follower.refs.pop(change.record, None)
                if change.entry is not None:
                    follower.refs[change.record] = change.entry.ref
            assert follower.refs == {entry.ref.record: entry.ref for entry in entries}
            assert follower.seq <= state.seq

    @invariant()
    def lanes_and_streams_are_as_their_jobs_say(self) -> None:
        jobs, lanes = self.do(self.house.ledger._db.read(_queue))
        for lane, row in lanes.items():
            mine = [job for job in jobs if job.lane == lane]
            running = [job for job in mine if job.state == "running"]
            ready = [job.run_at for job in mine if job.state == "queued" and job.head]
            assert (row.busy, row.ready_at) == (len(running), min(ready, default=None))
            assert len(running) <= 1
        for stream in {job.stream for job in jobs}:
            heads = [job.head for job in jobs if job.stream == stream]
            assert all(heads) if stream is None else heads == [1] + [0] * (len(heads) - 1)

    async def drained(self) -> None:
        """In the end every turn is decided, once."""
        ledger = self.house.ledger
        for _ in range(200):
            await self.house.clock.advance(LEASE * 3)
            made = await ledger.sweep(model=MODEL)
            claimed = await self.house.claim(count=10)
            if not made and not claimed:
                break
            for job in claimed:
                await self.ended(job, "apply")
        else:
            raise AssertionError("the work never ends")
        for scope, chats in self.turns.items():
            for chat, mine in chats.items():
                assert await ledger.cursor(scope, chat) > max(
                    (t.position for t in mine if t.role == "user"), default=-1
                )
            texts = [one.sources for one in await ledger.memories(scope, Filters(), limit=1000, retired=True)]
            assert len(texts) == len(set(texts))
            assert await ledger.unembedded(scope, MODEL, 10) == []
            assert not await ledger.jobs(scope, JobFilter(states=("queued", "running")))


def _queue(conn: sa.Connection) -> tuple[list[Any], dict[str, Any]]:
    live = sa.select(schema.job).where(schema.job.c.finished_at.is_(None)).order_by(schema.job.c.id)
    lanes = {row.lane: row for row in conn.execute(sa.select(schema.lane))}
    return list(conn.execute(live)), lanes


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(
    max_examples=int(os.environ.get("AFTERWORD_TEST_EXAMPLES", "12")),
    stateful_step_count=25,
    derandomize="AFTERWORD_TEST_EXAMPLES" not in os.environ,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
