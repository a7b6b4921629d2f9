"""Who is told when something changed. Lives on one event loop."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from afterword.records import Scope


class ScopeWatch:
    """Keeps a change until it is asked for, so that none falls between two calls."""

    def __init__(self, scope: Scope | None) -> None:
        self.scope = scope
        self._rung = asyncio.Event()

    def ring(self) -> None:
        self._rung.set()

    async def changed(self) -> None:
        """Return once something changed since the watch began, or since the last time this returned."""
        await self._rung.wait()
        self._rung.clear()


class Bell:
    """The watches there are."""

    def __init__(self) -> None:
        self._watches: set[ScopeWatch] = set()

    @property
    def watched(self) -> bool:
        return bool(self._watches)

    @contextmanager
    def watch(self, scope: Scope | None) -> Iterator[ScopeWatch]:
        watch = ScopeWatch(scope)
        self._watches.add(watch)
        try:
            yield watch
        finally:
            self._watches.discard(watch)

    def ring(self, scopes: Iterable[Scope]) -> None:
        """Something of these scopes changed."""
        touched = set(scopes)
        if not touched:
            return
        for watch in self._watches:
            if watch.scope is None or watch.scope in touched:
                watch.ring()

    def ring_all(self) -> None:
        """Another process changed something; which scope's is not known."""
        for watch in self._watches:
            watch.ring()
