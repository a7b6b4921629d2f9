"""The worker: claims jobs, lets steps decide, applies their plans. The only caller of `Ledger.apply`.

One loop owns all job tasks. What to do about a failure is a value (`Verdict`), made by a pure function and carried
out in one place.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
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
    Outage,
    VersionConflict,
)
from afterword.lanes import backfill_job, reconsolidate_query_job
from afterword.ledger_port import every_scope
from afterword.plan import Change, Insert, Plan, Retire, Revise
from afterword.records import Hit, NewJob, Scope
from afterword.retries import ATTEMPTS, Breaker, Verdict, backoff, verdict

if TYPE_CHECKING:
    from datetime import datetime

    from afterword.ports import Desk, Index, Ledger, Step
    from afterword.records import Job

log = structlog.get_logger(__name__)

CONFLICTS = 3
LEASE = 30.0
POLL = 5.0
ENDING = 10.0  # seconds for the loop's parts to end once they are cancelled
GATHER = 0.01  # seconds in which several wakings become one look


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
        llm_kinds: frozenset[str] = frozenset(),
        chores: Sequence[Callable[[], Awaitable[None]]] = (),
        concurrency: int = 8,
        lease: float = LEASE,
    ) -> None:
        self.name = uuid4().hex[:12]
        self.breakers = {"llm": Breaker(), "other": Breaker()}
        self._ledger = ledger
        self._index = index
        self._desk = desk
        self._steps = {step.kind: step for step in steps}
        self._llm_kinds = llm_kinds & self._steps.keys()
        self._chores = tuple(chores)
        self._concurrency = concurrency
        self._lease = lease
        self._running: dict[int, _Running] = {}
        self._wake = asyncio.Event()
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

    def backfill_job(self, scope: Scope) -> NewJob:
        return backfill_job(scope)

    def abandon(self, scope: Scope) -> None:
        """The scope was erased: end its work now rather than let it find out."""
        for running in self._running.values():
            if running.job.scope == scope:
                running.lost = True
                running.task.cancel()

    @property
    def trouble(self) -> tuple[str, ...]:
        """Outages as they are now, each with its fix."""
        found = [breaker.trouble for breaker in self.breakers.values() if breaker.trouble is not None]
        return tuple(f"{error} {error.fix}".strip() for error in found)

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
                log.warning("worker.part_failed", part=part.__name__, error=str(error), exc_info=not known)
                await self._desk.clock.sleep(backoff(failures, (0.1, 10.0)))

    async def _listen(self) -> None:
        with self._ledger.watch(None) as watch:
            while True:
                await watch.changed()
                self._wake.set()

    async def _claims(self) -> None:
        while True:
            self._wake.clear()
            looked_at = self._desk.clock.now()
            claimed = await self._claim()
            for job in claimed:
                self._running[job.id] = _Running(job, asyncio.create_task(self._work(job), name=f"job:{job.id}"))
            if not claimed:
                await self._rest(looked_at)

    async def _claim(self) -> list[Job]:
        free = self._concurrency - len(self._running)
        if free <= 0:
            return []
        now = self._desk.clock.monotonic()
        claimed: list[Job] = []
        for name, kinds in self._kinds():
            room = self.breakers[name].room(now, free - len(claimed))
            if self.breakers[name].trouble and any(run.job.kind in kinds for run in self._running.values()):
                room = 0  # one is trying already
            if room > 0 and kinds:
                claimed += await self._ledger.claim(self.name, kinds, room, self._lease)
        return claimed

    def _kinds(self) -> list[tuple[str, list[str]]]:
        """Kinds that are claimed together, by the breaker they hang on; all in one look while nothing is wrong."""
        if all(breaker.trouble is None for breaker in self.breakers.values()):
            return [("llm", sorted(self._steps))]
        others = [kind for kind in self._steps if kind not in self._llm_kinds]
        return [("other", others), ("llm", sorted(self._llm_kinds))]

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
        await asyncio.sleep(GATHER)

    async def _pauses(self, looked_at: datetime) -> AsyncIterator[float]:
        """Seconds until there may be something to claim. What was due when we looked is blocked by another job, whose
        end wakes us."""
        if len(self._running) >= self._concurrency:
            return
        clock = self._desk.clock
        for name, kinds in self._kinds():
            pause = self.breakers[name].wait(clock.monotonic())
            due = await self._ledger.next_due(kinds) if kinds else None
            if due is not None and pause:
                yield max(pause, (due - clock.now()).total_seconds())
            elif due is not None and due > looked_at:
                yield (due - clock.now()).total_seconds()

    async def _heartbeat(self) -> None:
        while True:
            await asyncio.sleep(self._lease / 3)
            if not self._running:
                continue
            ours = await self._ledger.renew(self.name, [running.job for running in self._running.values()], self._lease)
            for job_id, running in list(self._running.items()):
                if job_id not in ours:
                    running.lost = True
                    running.task.cancel()

    async def _drain(self, limit: float) -> None:
        tasks = {running.task for running in self._running.values()}
        if not tasks:
            return
        _, left = await asyncio.wait(tasks, timeout=limit)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    # ── one job ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _work(self, job: Job) -> None:
        bound = log.bind(job=job.id, kind=job.kind, attempt=job.attempt)
        began = self._desk.clock.monotonic()
        try:
            async with asyncio.timeout(self._steps[job.kind].timeout):
                await self._decide_and_apply(job)
            self._succeeded(job)
            bound.info("job.done", seconds=round(self._desk.clock.monotonic() - began, 3))
        except asyncio.CancelledError:
            running = self._running.get(job.id)
            if running is None or not running.lost:
                await self._settle(job, Verdict(0.0, count_attempt=False))
        except (LeaseLost, EpochChanged) as error:
            bound.info("job.left", reason=type(error).__name__)
        except Exception as error:  # the edge of the worker: one job must never end it  # noqa: BLE001
            await self._failed(job, error)
        finally:
            self._running.pop(job.id, None)
            self._wake.set()

    async def _decide_and_apply(self, job: Job) -> None:
        if job.attempt > ATTEMPTS:
            raise NotRemembered("its worker was lost at every attempt")
        step = self._steps[job.kind]
        if job.window is None and step.window is not None:
            job = await self._ledger.fix_window(job, await step.window(job, self._desk))
        for _ in range(CONFLICTS):
            plan = await step.decide(job, self._desk)
            try:
                await self._ledger.apply(job, plan)
            except VersionConflict:
                continue
            break
        else:
            # somebody keeps editing what this would revise: theirs stands, the rest of the plan is kept
            await self._ledger.apply(job, replace(plan, changes=await self._without_stale(job.scope, plan)))
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

    def _succeeded(self, job: Job) -> None:
        if job.kind in self._llm_kinds:
            self.breakers["llm"].succeeded()
        else:
            self.breakers["other"].succeeded()

    async def _failed(self, job: Job, error: Exception) -> None:
        breaker = self.breakers["llm" if job.kind in self._llm_kinds else "other"]
        decided = verdict(error, job, breaker.failures + 1)
        if isinstance(error, Outage):
            decided = replace(decided, delay=breaker.failed(error, self._desk.clock.monotonic()))
        known = isinstance(error, AfterwordError | TimeoutError)
        log.warning(
            "job.failed",
            job=job.id,
            kind=job.kind,
            attempt=job.attempt,
            error=str(error) or type(error).__name__,
            outage=not decided.count_attempt,
            dead=decided.delay is None,
            exc_info=None if known else error,
        )
        await self._settle(job, decided)

    async def _settle(self, job: Job, decided: Verdict) -> None:
        """Carry out a verdict. If even that can't be written, the lease runs out and the job is claimed again."""
        try:
            if decided.delay is None:
                await asyncio.shield(self._ledger.bury(job, decided.error))
                return
            await asyncio.shield(
                self._ledger.postpone(
                    job,
                    delay=decided.delay,
                    waiting=decided.waiting,
                    error=decided.error,
                    count_attempt=decided.count_attempt,
                )
            )
        except (LeaseLost, EpochChanged):
            pass
        except LedgerError as error:
            log.warning("job.not_settled", job=job.id, error=str(error))

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
