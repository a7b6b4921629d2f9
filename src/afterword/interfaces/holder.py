"""Where an interface finds its memory, which may still be opening, or be closing already."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from afterword.errors import AfterwordError

if TYPE_CHECKING:
    from afterword.memory import AsyncMemory


class NotReady(AfterwordError):
    """The memory is still opening, or the server is stopping. Waiting a moment helps."""


class MemoryHolder:
    """Holds the memory from the moment it is open until the server stops."""

    def __init__(self, memory: AsyncMemory | None = None) -> None:
        self._memory = memory
        self._ready = asyncio.Event()
        self.closing = asyncio.Event()
        if memory is not None:
            self._ready.set()

    @property
    def state(self) -> str:
        """`starting`, `ok` or `stopping`."""
        if self.closing.is_set():
            return "stopping"
        return "ok" if self._memory is not None else "starting"

    def set(self, memory: AsyncMemory) -> None:
        """The memory is open."""
        self._memory = memory
        self._ready.set()

    def close(self) -> None:
        """From here on `get` refuses, and whoever waits for `closing` wakes."""
        self.closing.set()

    def get(self) -> AsyncMemory:
        """The memory. Raises `NotReady` while it opens and once the server stops."""
        if self.closing.is_set():
            raise NotReady("the server is stopping: send this again in a moment")
        if self._memory is None:
            raise NotReady("the memory is still getting ready: send this again in a moment")
        return self._memory

    def peek(self) -> AsyncMemory | None:
        """The memory, or None while there is none to use."""
        return None if self.closing.is_set() else self._memory

    async def wait(self) -> AsyncMemory:
        """The memory, once it is open."""
        await self._ready.wait()
        return self.get()
