"""The worker: claims jobs, lets steps decide, applies their plans. The only caller of `Ledger.apply`.

One loop owns all job tasks. What to do about a failure is a value (`Verdict`), made by a pure function and carried
out in one place.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from uuid import uuid4

import structlog

from afterword.errors import (
    AfterwordError,
    EpochChanged,
    LeaseLost,
    LedgerError,
    NotRemembered,
    VersionConflict,
)
from afterword.lanes import reconsolidate_query_job
from afterword.ledger_port import every_scope
from afterword.pacing import Gathering, Precedence
from afterword.plan import Change, Insert, Plan, Retire, Revise
from afterword.records import Hit, Scope
from afterword.retries import ATTEMPTS, LEDGER, Breakers, Verdict, backoff
from afterword.witness import Witness

if TYPE_CHECKING:
    from datetime import datetime

    from afterword.ports import Desk, Index, Ledger, Step
    from afterword.records import Job

log = structlog.get_logger(__name__)

CONFLICTS = 3
LEASE = 30.0
POLL = 5.0
ENDING = 10.0  # seconds for the loop's parts to end once they are cancelled
SETTLING = (0.2, 5.0)  # seconds between two tries to write what became of a job
HAND_BACK = Verdict(0.0, count_attempt=False)


@dataclass(slots=True, eq=False)
class _Running:
    job: Job
    task: asyncio.Task[None]
    lost: bool = False


class Worker:
    """Runs jobs until stopped. Several workers, in several processes, may share a ledger."""

    def __init__(
        self,
        ledger: Ledger,
        index: Index,
        desk: Desk,
        steps: Sequence[Step],
        *,
        needs: Mapping[str, str] | None = None,
        chores: Sequence[Callable[[], Awaitable[None]]] = (),
        concurrency: int = 8,
        lease: float = LEASE,
        around: Callable[[Job], AbstractContextManager[None]] | None = None,
    ) -> None:
        self.name = uuid4().hex[:12]
        self.breakers = Breakers(needs or {})
        self.precedence = Precedence()
        self._ledger = ledger
        self._index = index
        self._desk = desk
        self._steps = {step.kind: step for step in steps}
        self._chores = tuple(chores)
        self._concurrency = concurrency
        self._lease = lease
        self._around = around or (lambda _: nullcontext())
        self._running: dict[int, _Running] = {}
        self._renewed = desk.clock.now()
        self._wake = asyncio.Event()
        self._gathering = Gathering()
        self._stopping = False
        self._dirty: dict[Scope, None] = {}
        self._dirty_wake = asyncio.Event()

    # ── jobs that are asked for ────────────────────────────────────────────────────────────────────────────────────

    async def reconsolidate_query(self, scope: Scope, query: str, hits: Sequence[Hit]) -> list[int]:
        """Put a job that revises the episodes among these hits in the light of the query. Ids of jobs put."""
        refs = [hit.ref for hit in hits if hit.kind == "episodic"]
        if not refs:
            return []
        offset = hits[0].utc_offset
        job = reconsolidate_query_job(scope, query, refs, self._desk.clock.now(), offset)
        return await self._ledger.put(scope, [job])

    def abandon(self, scope: Scope) -> None:
        """The scope was erased: end its work now rather than let it find out."""
        for running in self._running.values():
            if running.job.scope == scope:
                running.lost = True
                running.task.cancel()

    def cancelled(self, job_id: int) -> None:
        """This job was cancelled: end what it is doing, its call to an LLM too."""
        running = self._running.get(job_id)
        if running is not None:
            running.lost = True
            running.task.cancel()

    @property
    def outages(self) -> list[AfterwordError]:
        """What the worker waits for now."""
        return self.breakers.outages

    @property
    def trouble(self) -> tuple[str, ...]:
        """Outages as they are now, each with its fix."""
        return self.breakers.trouble

    # ── the loop ───────────────────────────────────────────────────────────────────────────────────────────────────

    @asynccontextmanager
    async def running(self, drain: float = 5.0) -> AsyncIterator[Worker]:
        """Work while inside. On leaving: no new jobs, at most `drain` seconds for those under way, then hand back."""
        parts = (self._claims, self._heartbeat, self._project, self._listen, *self._chores)
        tasks = [asyncio.create_task(self._forever(part), name=f"worker:{part.__name__}") for part in parts]
        try:
            yield self
        finally:
            self._stopping = True
            tasks[0].cancel()
            await asyncio.gather(tasks[0], return_exceptions=True)
            await self._drain(drain)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=ENDING)  # an index that holds on to a dead server must not hold us

    async def _forever(self, part: Callable[[], Awaitable[None]]) -> None:
        """Nothing that a part raises ends it: it is logged, and the part begins again after a pause."""
        failures = 0
        while True:
            began = self._desk.clock.monotonic()
            try:
                await part()
            except Exception as error:  # the edge of the worker: it must outlive everything
                if self._desk.clock.monotonic() - began > 60:
                    failures = 0
                failures += 1
                known = isinstance(error, AfterwordError)
                log.warning("worker.part_failed", part=part.__name__, error=error, exc_info=not known)
                await self._desk.clock.sleep(backoff(failures, (0.1, 10.0)))

    async def _listen(self) -> None:
        with self._ledger.watch(None) as watch:
            while True:
                await watch.changed()
                self._wake.set()

    async def _claims(self) -> None:
        while True:
            await self.precedence.give_way()
            self._wake.clear()
            looked_at = self._desk.clock.now()
            for job in await self._claim():
                self._begin(job)
            await self._rest(looked_at)

    def _begin(self, job: Job) -> None:
        """Its place is given up by a callback: a task that is cancelled before its first step runs no `finally`."""
        running = _Running(job, asyncio.create_task(self._watched(job), name=f"job:{job.id}"))
        self._running[job.id] = running
        running.task.add_done_callback(lambda _: self._ended(running))

    def _ended(self, running: _Running) -> None:
        if self._running.get(running.job.id) is running:
            del self._running[running.job.id]
        self._wake.set()

    async def _claim(self) -> list[Job]:
        await self._renew_after_a_jump()
        now = self._desk.clock.monotonic()
        running = [run.job.kind for run in self._running.values()]
        free = self.breakers.room(now, self._concurrency - len(running), running)
        claimed: list[Job] = []
        for name, kinds in self.breakers.groups(self._steps):
            room = self.breakers.room_of(name, now, free - len(claimed), running)
            if room <= 0:
                continue
            try:
                claimed += await self._ledger.claim(self.name, kinds, room, self._lease)
            except LedgerError as error:
                self.breakers[LEDGER].failed(error, now)
                if not claimed:
                    raise
                break
        return claimed

    async def _rest(self, looked_at: datetime) -> None:
        """Until something changed, a job falls due, a breaker closes, or the poll's time is up."""
        wait = min([POLL, *[seconds async for seconds in self._pauses(looked_at)]])
        if wait <= 0:
            return
        sleeper = asyncio.ensure_future(self._desk.clock.sleep(wait))
        waker = asyncio.ensure_future(self._wake.wait())
        try:
            await asyncio.wait({sleeper, waker}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeper.cancel()
            waker.cancel()
        await self._gathering.pause()

    async def _pauses(self, looked_at: datetime) -> AsyncIterator[float]:
        """Seconds until there may be something to claim. What was due when we looked is blocked by another job, whose
        end wakes us."""
        if len(self._running) >= self._concurrency:
            return
        clock = self._desk.clock
        for name, kinds in self.breakers.groups(self._steps):
            pause = self.breakers.wait(name, clock.monotonic())
            due = await self._ledger.next_due(kinds)
            if due is not None and pause:
                yield max(pause, (due - clock.now()).total_seconds())
            elif due is not None and due > looked_at:
                yield (due - clock.now()).total_seconds()

    async def _heartbeat(self) -> None:
        while True:
            await asyncio.sleep(self._lease / 3)
            await self._renew()

    async def _renew_after_a_jump(self) -> None:
        """After a suspension, or when the clock was set, our own leases look as if they had run out: renew them before
        a claim takes them for a lost worker's."""
        jump = (self._desk.clock.now() - self._renewed).total_seconds()
        if abs(jump) > self._lease / 2:
            await self._renew()
        if jump < -self._lease / 2:  # what waits for a time of the old clock must not wait for it on the new one
            embedder = self._desk.embedder
            await self._ledger.sweep(model=embedder.model if embedder else None)

    async def _renew(self) -> None:
        if self._running:
            held = [running.job for running in self._running.values()]
            ours = await self._ledger.renew(self.name, held, self._lease)
            for job in held:
                running = self._running.get(job.id)  # it may have ended, and been claimed again, meanwhile
                if job.id not in ours and running is not None and running.job is job:
                    self.cancelled(job.id)
        self._renewed = self._desk.clock.now()

    async def _drain(self, limit: float) -> None:
        tasks = {running.task for running in self._running.values()}
        if not tasks:
            return
        _, left = await asyncio.wait(tasks, timeout=limit)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    # ── one job ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _watched(self, job: Job) -> None:
        with self._around(job):
            await self._work(job)

    async def _work(self, job: Job) -> None:
        bound = log.bind(job=job.id, kind=job.kind, attempt=job.attempt)
        began = self._desk.clock.monotonic()
        witness = Witness(self._desk, self.precedence.give_way)
        try:
            async with asyncio.timeout(self._steps[job.kind].timeout):
                await self._decide_and_apply(job, witness.desk)
            self.breakers.succeeded(job.kind, answered=witness.answered)
            bound.info("job.done", seconds=round(self._desk.clock.monotonic() - began, 3))
        except asyncio.CancelledError:
            running = self._running.get(job.id)
            if running is None or not running.lost:
                await self._settle(job, HAND_BACK)
        except (LeaseLost, EpochChanged) as error:
            bound.info("job.left", reason=type(error).__name__)
        except Exception as error:  # the edge of the worker: one job must never end it  # noqa: BLE001
            await self._failed(job, error)

    async def _decide_and_apply(self, job: Job, desk: Desk) -> None:
        if job.attempt > ATTEMPTS:
            raise NotRemembered("its worker was lost at every attempt")
        step = self._steps[job.kind]
        if job.window is None and step.window is not None:
            async with self.precedence.writing():
                job = await self._ledger.fix_window(job, await step.window(job, desk))
        for _ in range(CONFLICTS):
            await self.precedence.give_way()
            plan = await step.decide(job, desk)
            with suppress(VersionConflict):
                return await self._apply(job, plan)
        # somebody keeps editing what this would revise: theirs stands, the rest of the plan is kept
        return await self._apply(job, replace(plan, changes=await self._without_stale(job.scope, plan)))

    async def _apply(self, job: Job, plan: Plan) -> None:
        async with self.precedence.writing():
            await self._ledger.apply(job, plan)
        self.mark_dirty(job.scope)

    async def _without_stale(self, scope: Scope, plan: Plan) -> tuple[Change, ...]:
        """The plan without what would touch a record that has moved on, nor what would take a retired one's place."""
        refs = [change.ref for change in plan.changes if isinstance(change, Revise | Retire)]
        current = await self._ledger.read(scope, refs)
        superseded = any(isinstance(change, Retire) and change.ref not in current for change in plan.changes)
        return tuple(
            change
            for change in plan.changes
            if not (isinstance(change, Revise | Retire) and change.ref not in current)
            and not (superseded and isinstance(change, Insert))
        )

    async def _failed(self, job: Job, error: Exception) -> None:
        decided = self.breakers.failed(job, error, self._desk.clock.monotonic())
        known = isinstance(error, AfterwordError | TimeoutError)
        log.warning(
            "job.failed",
            job=job.id,
            kind=job.kind,
            attempt=job.attempt,
            error=error,
            outage=not decided.count_attempt,
            dead=decided.delay is None,
            exc_info=None if known else error,
        )
        await self._settle(job, decided)

    async def _settle(self, job: Job, decided: Verdict) -> None:
        """Carry out a verdict. While the ledger can't be written it is tried again, so that the lease does not run out
        and cost an attempt; at a stop once, and the lease then does."""
        tries = 0
        while True:
            try:
                await asyncio.shield(self._carry_out(job, decided))
            except (LeaseLost, EpochChanged):
                return
            except LedgerError as error:
                log.warning("job.not_settled", job=job.id, error=error)
                if self._stopping:
                    return
            else:
                return
            tries += 1
            await self._desk.clock.sleep(backoff(tries, SETTLING))

    async def _carry_out(self, job: Job, decided: Verdict) -> None:
        if decided.delay is None:
            await self._ledger.bury(job, decided.error)
            return
        await self._ledger.postpone(
            job,
            delay=decided.delay,
            waiting=decided.waiting,
            error=decided.error,
            count_attempt=decided.count_attempt,
        )

    # ── the index follows the ledger ───────────────────────────────────────────────────────────────────────────────

    def mark_dirty(self, scope: Scope) -> None:
        """This scope changed: bring outside indexes up to it, soon."""
        self._dirty[scope] = None
        self._dirty_wake.set()

    async def _project(self) -> None:
        for scope in [scope async for scope in every_scope(self._ledger)]:
            self.mark_dirty(scope)  # what a stopped process had not projected is in no memory of ours
        while True:
            await self._dirty_wake.wait()
            self._dirty_wake.clear()
            for scope in list(self._dirty):
                self._dirty.pop(scope, None)
                try:
                    with self.breakers.watching_the_index(self._desk.clock):
                        await self._index.project(scope)
                except Exception:
                    self.mark_dirty(scope)
                    raise

    async def idle(self) -> None:
        """Wait until no job of any scope waits or runs: for scripts and tests, not for servers."""
        with self._ledger.watch(None) as watch:
            while True:
                counts = await self._ledger.job_counts(None)
                if not counts.get("queued") and not counts.get("running"):
                    return
                with suppress(TimeoutError):
                    async with asyncio.timeout(1.0):
                        await watch.changed()
