"""What the clock starts: sweeping, pruning, consolidation by cron, re-embedding, backfill, forgetting.

Several processes may do the same chores at once: each chore only puts work that coalesces or is started once.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from cronsim import CronSim

from afterword.lanes import backfill_job, consolidate_job, forget_job, reembed_job
from afterword.ledger_port import every_scope

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    from afterword.ports import Desk, Ledger
    from afterword.records import Scope

SWEEP_SECONDS = 30.0
HOUR = 3600.0


class Schedule:
    """The chores, each an endless coroutine for the worker to keep alive."""

    def __init__(
        self,
        ledger: Ledger,
        desk: Desk,
        *,
        cron: str,
        zone: ZoneInfo | None,
        backfill: bool,
        keep_finished: timedelta = timedelta(days=7),
    ) -> None:
        self._ledger = ledger
        self._desk = desk
        self._cron = cron
        self._zone = zone
        self._backfill = backfill
        self._keep_finished = keep_finished

    async def sweep(self) -> None:
        """Every half minute: jobs that are lacking are made again."""
        while True:
            embedder = self._desk.embedder
            await self._ledger.sweep(model=embedder.model if embedder else None)
            await self._desk.clock.sleep(SWEEP_SECONDS)

    async def tidy(self) -> None:
        """Every hour: finished jobs are pruned, retention is applied, changed models and backlogs are noticed."""
        while True:
            await self._ledger.prune(self._desk.clock.now() - self._keep_finished)
            async for scope in every_scope(self._ledger):
                await self._start_what_is_due(scope)
            await self._desk.clock.sleep(HOUR)

    async def consolidate(self) -> None:
        """At each time of the cron setting: a run for every user with new episodes."""
        while True:
            if not self._cron:
                await self._desk.clock.sleep(HOUR)
                continue
            now = self._desk.clock.now()
            due = next(CronSim(self._cron, now.astimezone(self._zone)))
            await self._desk.clock.sleep(max(0.0, (due - now).total_seconds()))
            async for scope in every_scope(self._ledger):
                reached = await self._ledger.consolidated_to(scope)
                if await self._ledger.episodes_after(scope, reached, 1):
                    await self._ledger.start_run(scope, "consolidate", 0, consolidate_job(scope))

    async def _start_what_is_due(self, scope: Scope) -> None:
        embedder = self._desk.embedder
        state = await self._ledger.state(scope)
        if embedder is not None and state.model not in (None, embedder.model):
            _, total = await self._ledger.vector_counts(scope, embedder.model)
            await self._ledger.start_run(scope, "reembed", total, reembed_job(scope))
        if self._desk.policy.retention_days > 0:
            await self._ledger.put(scope, [forget_job(scope)])
        if self._backfill and self._desk.llm is not None and await self._ledger.rule_decisions(scope, 1):
            await self._ledger.start_run(scope, "backfill", 0, backfill_job(scope))
