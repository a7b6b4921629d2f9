"""A clock that stands still until a test moves it."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from datetime import UTC, datetime, timedelta

START = datetime(2026, 5, 3, 9, 0, tzinfo=UTC)
SETTLE = 20  # turns of the loop that woken tasks get: enough for a chain of awaits, none of which waits for I/O


class FrozenClock:
    """A `Clock` whose time passes only in `advance`."""

    def __init__(self, now: datetime = START) -> None:
        self._now = now.astimezone(UTC)
        self._monotonic = 1000.0
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._arrival = asyncio.Event()

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    @property
    def sleeping(self) -> int:
        """How many tasks sleep on this clock."""
        return sum(not future.done() for _, _, future in self._sleepers)

    async def sleep(self, seconds: float) -> None:
        """Sleep until the clock was advanced by `seconds`; without any, only let others run."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._monotonic + seconds, next(self._order), future))
        self._arrival.set()
        await future

    async def advance(self, seconds: float) -> None:
        """Let time pass: sleepers wake in the order of their times, each seeing its own, and run before the next.

        What they do with threads or sockets may still be under way when this returns: wait for its effect.
        """
        end = self._monotonic + seconds
        await _settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            due, _, future = heapq.heappop(self._sleepers)
            self._move(due)
            if not future.done():
                future.set_result(None)
                await _settle()
        self._move(end)
        await _settle()

    def set_wall(self, now: datetime) -> None:
        """Set the wall clock, forth or back, as a person or a time server does: nobody wakes."""
        self._now = now.astimezone(UTC)

    async def until_sleeping(self, count: int = 1) -> None:
        """Wait until at least `count` tasks sleep on this clock."""
        while self.sleeping < count:
            self._arrival.clear()
            await self._arrival.wait()

    def _move(self, monotonic: float) -> None:
        step = max(0.0, monotonic - self._monotonic)
        self._monotonic += step
        self._now += timedelta(seconds=step)


async def _settle() -> None:
    for _ in range(SETTLE):
        await asyncio.sleep(0)
