"""A reply under way: made by one task, listened to by any number."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import TYPE_CHECKING, Literal

from afterword.recall import Recalled

if TYPE_CHECKING:
    from afterword.records import Turn

ReplyState = Literal["recalling", "writing", "done", "cut"]


class Reply:
    """A reply under way. Any number of listeners may iterate it, each from the first piece."""

    def __init__(self, turn: Turn) -> None:
        self.turn = turn
        self.state: ReplyState = "recalling"
        self.cut: str | None = None
        self.fix = ""
        self.stored: Turn | None = None
        self._pieces: list[str] = []
        self._recalled: Recalled | None = None
        self._pulse = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._then: list[Callable[[], None]] = []
        self.cut_as = "stopped"

    @property
    def text(self) -> str:
        """What has been made so far."""
        return "".join(self._pieces)

    @property
    def over(self) -> bool:
        return self.state in ("done", "cut")

    async def __aiter__(self) -> AsyncIterator[str]:
        seen = 0
        while True:
            while seen < len(self._pieces):
                seen += 1
                yield self._pieces[seen - 1]
            if self.over:
                return
            await self._pulse.wait()

    async def recalled(self) -> Recalled:
        """What was recalled for it. Returns before the first piece is made."""
        while self._recalled is None and not self.over:
            await self._pulse.wait()
        return self._recalled or Recalled((), "", 0.0)

    async def done(self) -> Turn | None:
        """Wait for its end: the stored reply, or None where there was nothing to store."""
        while not self.over:
            await self._pulse.wait()
        return self.stored

    def when_over(self, then: Callable[[], None]) -> None:
        """Call `then` at its end, or now where it has ended."""
        if self.over:
            then()
        else:
            self._then.append(then)

    def stop(self, why: str = "stopped") -> None:
        """End it now; the part that was made is stored, marked as cut."""
        if self._task is not None and not self.over:
            self.cut_as = why
            self._task.cancel()

    # ── for `chat.Chats`, which owns it ────────────────────────────────────────────────────────────────────────────

    def run(self, work: Coroutine[None, None, None]) -> None:
        """Own the task that makes this reply."""
        self._task = asyncio.create_task(work, name=f"reply:{self.turn.id}")
        self._task.add_done_callback(self._never_began)

    def found(self, recalled: Recalled) -> None:
        self._recalled = recalled
        self.state = "writing"
        self._changed()

    def add(self, piece: str) -> None:
        self._pieces.append(piece)
        self._changed()

    def end(self, stored: Turn | None) -> None:
        self.stored = stored
        self.state = "done" if self.cut is None else "cut"
        for then in self._then:
            then()
        self._changed()

    def _never_began(self, task: asyncio.Task[None]) -> None:
        # a task that is cancelled before its first step runs none of its code, its `finally` neither
        if not self.over:
            self.cut = self.cut_as
            self.end(None)

    def _changed(self) -> None:
        self._pulse.set()
        self._pulse = asyncio.Event()
