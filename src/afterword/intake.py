"""Step 1 of the way of a turn: turns become durable together with the jobs that will remember them, in one commit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from afterword.lanes import embed_job
from afterword.remember import remember_jobs

if TYPE_CHECKING:
    from datetime import datetime

    from afterword.ports import Clock, Ledger, Opening
    from afterword.records import NewJob, NewTurn, Scope, Turn

EMBED_DELAY = 3.0  # seconds that a message's embedding waits for the reply's


class Intake:
    """Where turns come in. `embeds`: there is an embedder, so new records get an embedding job too."""

    def __init__(
        self,
        ledger: Ledger,
        clock: Clock,
        utc_offset: Callable[[datetime], int],
        *,
        embeds: bool,
        debounce: float,
        debounce_most: float,
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._utc_offset = utc_offset
        self._embeds = embeds
        self._debounce = debounce
        self._debounce_most = debounce_most

    async def accept(self, scope: Scope, turns: Sequence[NewTurn], *, debounce: bool) -> list[Turn]:
        """Store turns in this order. Those without a time were said now; those without an offset, where we are."""
        placed = [self._placed(turn) for turn in turns]
        return await self._ledger.accept(scope, placed, self._jobs(scope, placed, debounce=debounce))

    async def begin(self, scope: Scope, turn: NewTurn, most: int) -> Opening:
        """Store a chat's turn; what its reply starts from, at most `most` turns before it among it."""
        placed = self._placed(turn)
        return await self._ledger.begin(scope, placed, self._jobs(scope, [placed], debounce=True), most)

    def _jobs(self, scope: Scope, turns: Sequence[NewTurn], *, debounce: bool) -> list[NewJob]:
        jobs = remember_jobs(scope, turns, debounce=debounce, delay=self._debounce, max_wait=self._debounce_most)
        return [*jobs, *self.embedding(scope, EMBED_DELAY if debounce and self._debounce > 0 else 0.0)]

    def embedding(self, scope: Scope, delay: float = 0.0) -> list[NewJob]:
        """The job that embeds what is new, if there is an embedder. A message's waits, and the commit of its reply lets it
        go: one job for both, none of it while the reply is on its way."""
        return [embed_job(scope, delay)] if self._embeds else []

    def _placed(self, turn: NewTurn) -> NewTurn:
        if turn.utc_offset is not None:
            return turn
        named = turn.said_at.utcoffset() if turn.said_at is not None else None
        offset = int(named.total_seconds() // 60) if named else self._utc_offset(turn.said_at or self._clock.now())
        return replace(turn, utc_offset=offset)
