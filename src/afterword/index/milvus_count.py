"""Counts what lies in Milvus against what its markers say was written, once a connection and build.

Writes fail aloud, so only what was lost behind our back can differ: a server that was killed after its disk had been
full has lost what it said it had written since.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from afterword.errors import AfterwordError
from afterword.index.milvus_rows import MARK, literal, within

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from afterword.index.milvus_rows import Mark
    from afterword.index.milvus_store import MilvusStore
    from afterword.records import Scope

log = structlog.get_logger(__name__)


class RowCounts:
    """`mend` brings a scope up to the ledger; it is called where rows are lacking."""

    def __init__(self, store: MilvusStore, mend: Callable[[Scope], Awaitable[None]]) -> None:
        self._store = store
        self._mend = mend
        self._counted: set[tuple[int, str]] = set()  # builds, by connection
        self._checks: dict[Scope, asyncio.Task[None]] = {}

    async def whole(self, scope: Scope, name: str, mark: Mark) -> bool:
        """Whether all rows of a build are there."""
        token = (self._store.connection, mark.build)
        if token not in self._counted:
            rows = await self._store.count(name, f"{within(scope, mark.build)} and kind != {literal(MARK)}")
            if rows != mark.rows:
                log.warning("milvus_rows_lost", collection=name, rows=rows, written=mark.rows)
                return False
            self._counted.add(token)
        return True

    def see_to(self, scope: Scope, name: str, mark: Mark | None) -> None:
        """Count behind a search's back: it may be long until somebody writes, and a projection would."""
        if mark is None or (self._store.connection, mark.build) in self._counted or scope in self._checks:
            return
        self._checks[scope] = asyncio.create_task(self._checked(scope, name, mark))

    async def aclose(self) -> None:
        checks = list(self._checks.values())
        for check in checks:
            check.cancel()
        await asyncio.gather(*checks, return_exceptions=True)

    async def _checked(self, scope: Scope, name: str, mark: Mark) -> None:
        try:
            if not await self.whole(scope, name, mark):
                await self._mend(scope)
        except AfterwordError as error:
            log.warning("milvus_not_counted", error=error)
        finally:
            self._checks.pop(scope, None)
