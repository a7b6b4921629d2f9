"""What lets a test decide when a fake goes on."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from dataclasses import dataclass


class Gate:
    """Holds calls back until `release()`. A call that comes later passes at once.

    `release` may be called from any thread; `reached` belongs to the loop of the calls.
    """

    def __init__(self) -> None:
        self.arrived = 0
        self.released = False
        self._open = asyncio.Event()
        self._arrival = asyncio.Condition()
        self._loop: asyncio.AbstractEventLoop | None = None

    def release(self) -> None:
        """Let everybody through, now and from now on."""
        self.released = True
        if self._loop is None or self._loop.is_closed():
            self._open.set()
        else:
            self._loop.call_soon_threadsafe(self._open.set)

    async def reached(self, count: int = 1) -> None:
        """Wait until `count` calls in all have come to the gate."""
        async with self._arrival:
            await self._arrival.wait_for(lambda: self.arrived >= count)

    async def wait(self) -> None:
        """What a fake does at the gate."""
        if self.released:
            return
        self._loop = asyncio.get_running_loop()
        async with self._arrival:
            self.arrived += 1
            self._arrival.notify_all()
        await self._open.wait()


@dataclass
class _Failure:
    error: Callable[[], BaseException]
    left: int | None  # None: until healed
    after: int


class Failures:
    """Errors to come, in the order in which they were asked for."""

    def __init__(self) -> None:
        self._planned: list[_Failure] = []

    def plan(self, error: BaseException | type[BaseException], times: int | None, after: int = 0) -> None:
        """The next `times` calls fail (None: all, until `heal`), a stream after `after` pieces."""

        def make() -> BaseException:
            return error("scripted failure") if isinstance(error, type) else copy.copy(error)

        self._planned.append(_Failure(make, times, after))

    def heal(self) -> None:
        self._planned.clear()

    def take(self) -> tuple[int, BaseException] | None:
        """The failure of the call that starts now: after how many pieces, and which error."""
        while self._planned and self._planned[0].left == 0:
            self._planned.pop(0)
        if not self._planned:
            return None
        first = self._planned[0]
        if first.left is not None:
            first.left -= 1
        return first.after, first.error()
