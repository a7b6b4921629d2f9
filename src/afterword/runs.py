"""A run is long work of one user, done as one short job a chunk; a handle follows it through the ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING

from afterword.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from afterword.ports import Ledger
    from afterword.records import Run, Scope


class RunHandle:
    """Follows a run wherever it is worked on."""

    def __init__(self, ledger: Ledger, scope: Scope, run: Run) -> None:
        self._ledger = ledger
        self._scope = scope
        self.run = run

    async def progress(self) -> AsyncIterator[Run]:
        """The run as it stands, now and after each change, until it has ended."""
        with self._ledger.watch(self._scope) as watch:
            while True:
                self.run = await self._read()
                yield self.run
                if self.run.state != "running":
                    return
                await watch.changed()

    async def done(self) -> Run:
        """Wait for its end."""
        async for run in self.progress():
            if run.state != "running":
                return run
        return self.run

    async def _read(self) -> Run:
        for run in await self._ledger.runs(self._scope, self.run.kind):
            if run.id == self.run.id:
                return run
        raise NotFound("the run is gone: this user was reset")
