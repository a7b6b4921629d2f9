"""What runs behind the replies gives way to them: how often the worker looks for work, and when a job goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

GIVE_WAY_MOST = 0.25  # seconds that a job's next piece waits for searches and beginning replies
PIECES = 5  # writes of jobs at once: what has begun is not over yet when a search comes (3 slows the jobs, 8 searches)
GATHER = 0.01  # seconds in which several wakings become one look
GATHER_MOST = 0.25  # the same while the event loop is late
LATE = 0.005  # seconds


class Gathering:
    """Lets several wakings become one look, fewer the later the event loop is: what runs behind the replies gives way
    to them, and what it does then comes in larger pieces.

    The pause doubles with each late waking and halves with each punctual one, between `GATHER` and `GATHER_MOST`.
    """

    def __init__(self) -> None:
        self.seconds = GATHER

    async def pause(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + self.seconds
        await asyncio.sleep(self.seconds)
        self.noted(loop.time() - due)

    def noted(self, late: float) -> None:
        """A waking came `late` seconds after its time."""
        self.seconds = min(GATHER_MOST, 2 * self.seconds) if late > LATE else max(GATHER, self.seconds / 2)


class Precedence:
    """What somebody waits for goes before what runs behind the replies: a job begins its next piece of work when no
    search and no beginning reply is under way, one job after another, or after `GIVE_WAY_MOST`.

    Python runs one thread at a time: without this a reply waits at each of its steps for pieces of the jobs' work.
    """

    def __init__(self) -> None:
        self._urgent = 0
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._turn = asyncio.Lock()
        self._writing = asyncio.Semaphore(PIECES)

    @contextmanager
    def urgent(self) -> Iterator[None]:
        """Inside, somebody waits."""
        self._urgent += 1
        self._quiet.clear()
        try:
            yield
        finally:
            self._urgent -= 1
            if not self._urgent:
                self._quiet.set()

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """A write of a job: gives way, and is one of a few at once. Twenty a second get through however many searches come."""
        async with self._writing:
            await self.give_way()
            yield

    async def give_way(self) -> None:
        """To be awaited before each piece of a job's work, and before the page reads what that changed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(GIVE_WAY_MOST), self._turn:
                # who comes next looks again after the event loop has seen whether somebody new waits
                await self._quiet.wait()
