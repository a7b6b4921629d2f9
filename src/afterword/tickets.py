"""A ticket waits for turns to be decided. It looks at the ledger only, so any process may decide them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from afterword.errors import NotRemembered, StillPending
from afterword.ports import JobFilter

if TYPE_CHECKING:
    from afterword.ports import Clock, Ledger
    from afterword.records import Scope, Turn


class LedgerTicket:
    """A promise for turns that are durable already."""

    def __init__(self, ledger: Ledger, scope: Scope, turns: tuple[Turn, ...], clock: Clock) -> None:
        self._ledger = ledger
        self._scope = scope
        self._clock = clock
        self.turns = turns

    @property
    def turn_ids(self) -> tuple[str, ...]:
        return tuple(turn.id for turn in self.turns)

    async def ids(self, timeout: float | None = None) -> list[str]:
        """Ids of the memories that rest on these turns, once all are decided; at most `timeout` seconds.

        Raises `StillPending` (nothing is lost, await again) or `NotRemembered` (given up; the turns are kept).
        """
        try:
            async with asyncio.timeout(timeout):
                await self._decided()
        except TimeoutError:
            raise StillPending(f"not decided after {timeout} s; the work goes on", self) from None
        found = await self._ledger.memories_of(self._scope, self.turn_ids)
        return [memory.id for memory in found]

    async def _decided(self) -> None:
        ends: dict[str, int] = {}
        for turn in self.turns:
            if turn.role == "assistant":
                continue  # read together with what a person says; alone it teaches nothing about them
            ends[turn.chat_id] = max(turn.position, ends.get(turn.chat_id, -1))
        with self._ledger.watch(self._scope) as watch:
            for chat_id, last in ends.items():
                while await self._ledger.cursor(self._scope, chat_id) <= last or await self._is_open(chat_id):
                    await watch.changed()

    async def _is_open(self, chat_id: str) -> bool:
        """Whether a job still has turns of ours to decide, though the cursor has passed them: one that is tried again,
        or one whose successor was cancelled meanwhile."""
        wanted = JobFilter(states=("queued", "running", "dead", "cancelled"), kinds=("remember",), chat_id=chat_id)
        spans = [turn.position for turn in self.turns if turn.chat_id == chat_id]
        unfinished = False
        for job in await self._ledger.jobs(self._scope, wanted):
            window = job.window or {}
            if not any(window.get("first", 0) <= position <= window.get("last", -1) for position in spans):
                continue
            if job.finished_at is not None:
                raise NotRemembered(f"job {job.id} was given up: {job.error or 'cancelled'}. Retry it to go on.")
            unfinished = True
        return unfinished
