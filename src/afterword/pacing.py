"""How often the worker looks for work: rarely while people are being answered."""

from __future__ import annotations

import asyncio

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
