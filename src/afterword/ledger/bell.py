"""Who is told when something changed, and what. Lives on one event loop."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING

from afterword.glance import EVERYTHING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from afterword.glance import News
    from afterword.records import Scope


class ScopeWatch:
    """Keeps changes until they are asked for, so that none falls between two calls."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()
        self._news: frozenset[News] = frozenset()

    def ring(self, news: frozenset[News]) -> None:
        self._news |= news
        self._rung.set()

    async def changed(self) -> frozenset[News]:
        """What changed since the watch began, or since the last time this returned. Waits for something."""
        await self._rung.wait()
        self._rung.clear()
        news, self._news = self._news, frozenset()
        return news


class Bell:
    """The watches there are, by what they watch (None: every scope)."""

    def __init__(self) -> None:
        self._watches: dict[Scope | None, set[ScopeWatch]] = {}

    @contextmanager
    def watch(self, scope: Scope | None) -> Iterator[ScopeWatch]:
        watch = ScopeWatch()
        self._watches.setdefault(scope, set()).add(watch)
        try:
            yield watch
        finally:
            self._watches[scope].discard(watch)
            if not self._watches[scope]:
                del self._watches[scope]

    def ring(self, scopes: Iterable[Scope], news: frozenset[News]) -> None:
        """This changed of each of these scopes."""
        touched: set[Scope | None] = set(scopes)
        if touched:
            self._ring({*touched, None}, news)

    def ring_all(self) -> None:
        """Another process changed something; what, and which scope's, is not known."""
        self._ring(self._watches, EVERYTHING)

    def _ring(self, scopes: Iterable[Scope | None], news: frozenset[News]) -> None:
        for scope in scopes:
            for watch in self._watches.get(scope, ()):
                watch.ring(news)
