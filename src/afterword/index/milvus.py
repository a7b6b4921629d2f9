"""The index in Milvus: vectors outside this process, words in it, and the same ranking as with the exact index.

A scope's rows carry a `build`; a marker row says which build is whole, up to which change of the ledger, and how many
rows it has. The marker lies in the same collection, so it is lost together with what it speaks of, and a count that
differs from it (a full disk, a damaged file) means: build again. A new build is written beside the old one and takes
over with its marker, so searches go on meanwhile. What the ledger has after the marker (the tail) is searched here.
"""

from __future__ import annotations

import json
import secrets
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import anyio
import numpy as np
import structlog

from afterword.errors import IndexUnavailable
from afterword.index.milvus_count import RowCounts
from afterword.index.milvus_rows import (
    MARK,
    Mark,
    Row,
    best_windows,
    conditions,
    literal,
    one_of,
    rows_of,
    scope_key,
    tail_cosines,
    within,
)
from afterword.index.milvus_store import MilvusStore
from afterword.ports import Candidates, Query
from afterword.records import Ref, Scope, ScopeState

if TYPE_CHECKING:
    from afterword.index.exact import ExactIndex
    from afterword.ports import Clock, IndexChange, Offload, Reads, Vector, Vectors

log = structlog.get_logger(__name__)

WINDOWS = 16  # of a record, at most
PAGE = 200  # records read and written at once: with 16 windows each a query stays below what a server returns
TAIL_LIMIT = 20_000  # vectors after the marker that a search looks at; later ones wait for `project`
ALL_TAILS_LIMIT = 50_000  # vectors of all scopes' tails together; the least recently searched go first
INLINE = 500  # vectors multiplied on the loop, under a millisecond
REFRESH = 5.0  # seconds after which a marker is read again while there is a tail
MARK_AGE = 30.0  # seconds after which it is read again anyway
SETTLED = 10.0  # seconds after which what a marker covers is seen by any read
ATTEMPTS = 3


@dataclass(slots=True)
class View:
    """What this process knows of a scope: the marker, and the vectors of the tail with the change they came by."""

    epoch: int
    model: str
    connection: int
    lock: anyio.Lock = field(default_factory=anyio.Lock)
    mark: Mark | None = None
    read_at: float = float("-inf")  # when the marker was read, and when it was another one than before
    changed_at: float = float("-inf")
    seq: int = 0
    tail: dict[str, tuple[int, Ref, Vectors]] = field(default_factory=dict)


class MilvusIndex:
    """Implements `ports.Index`. `uri` is a local path (Milvus Lite), a server's address or a Zilliz Cloud URI.

    `lexical` is an `ExactIndex(keep_vectors=False)`: it brings the other legs. `timeout` is in seconds, a search.
    `namespace` tells apart ledgers that share one server.
    """

    def __init__(
        self,
        reads: Reads,
        *,
        uri: str,
        token: str,
        data_dir: Path,
        offload: Offload,
        clock: Clock,
        lexical: ExactIndex,
        timeout: float = 5.0,
        namespace: str = "",
    ) -> None:
        self.store = MilvusStore(
            uri, token=token, data_dir=data_dir, offload=offload, timeout=timeout, namespace=namespace
        )
        self._reads = reads
        self._offload = offload
        self._clock = clock
        self._lexical = lexical
        self._timeout = timeout
        self._views: OrderedDict[Scope, View] = OrderedDict()
        self._counts = RowCounts(self.store, self.project)
        self._projecting: WeakValueDictionary[Scope, anyio.Lock] = WeakValueDictionary()

    @property
    def name(self) -> str:
        return "milvus-lite" if self.store.lite else "milvus"

    async def open(self) -> None:
        """Loads the client and connects. A Milvus that is away is no reason not to start: it is tried again later."""
        await self._lexical.open()
        try:
            await self.store.open()
        except IndexUnavailable as error:
            log.warning("milvus_away", error=error, fix=error.fix)

    async def aclose(self) -> None:
        await self._counts.aclose()
        await self._lexical.aclose()
        await self.store.aclose()
        self._views.clear()

    # ── search

    def expect(self, scope: Scope, state: ScopeState) -> None:
        self._lexical.expect(scope, state)

    async def search(self, scope: Scope, query: Query) -> Candidates:
        state = await self._reads.state(scope)
        if query.vector is None or state.model is None or query.model != state.model:
            return await self._lexical.search(scope, query)
        with self._deadline():
            view = await self._view(scope, state)
            cosines = await self._tail_cosines(view, query.vector)
            cosines |= await self._nearest(scope, view, query)
        lead = await self._lexical.lead(scope, query, cosines)
        with self._deadline():
            cosines |= await self._cosines(scope, view, query.vector, [r for r in lead.wanted if r not in cosines])
        return await self._lexical.finish(lead, query, cosines)

    @contextmanager
    def _deadline(self) -> Iterator[None]:
        try:
            with anyio.fail_after(self._timeout):
                yield
        except TimeoutError:
            cause = f"Milvus did not answer within {self._timeout:g} s"
            raise IndexUnavailable(cause, fix="Look at its log and its load.") from None

    async def _nearest(self, scope: Scope, view: View, query: Query) -> dict[Ref, float]:
        """The dense leg: of each record its best window."""
        assert query.vector is not None
        wanted = query.limit * (8 if query.filters.metadata else 1) + min(len(view.tail), TAIL_LIMIT)
        where = conditions(query.filters)
        limit = 2 * wanted
        while True:
            found = await self._hits(scope, view, query.vector, where, limit)
            best = best_windows(found)
            if len(best) >= wanted or len(found) < limit or limit >= 8 * wanted:
                return best
            limit *= 2

    async def _cosines(self, scope: Scope, view: View, vector: Vector, refs: Sequence[Ref]) -> dict[Ref, float]:
        """Cosines of these records, computed by Milvus: no vector comes over the wire."""
        cosines: dict[Ref, float] = {}
        for start in range(0, len(refs), PAGE):
            records = [ref.record for ref in refs[start : start + PAGE]]
            where, limit = one_of("record", records), 2 * len(records)
            found = await self._hits(scope, view, vector, where, limit)
            if len(found) == limit:
                found = await self._hits(scope, view, vector, where, WINDOWS * len(records))
            cosines |= best_windows(found)
        return cosines

    async def _hits(self, scope: Scope, view: View, vector: Vector, where: str, limit: int) -> list[Row]:
        if view.mark is None:
            return []
        where = f"{within(scope, view.mark.build)} and {where}"
        settled = self._clock.monotonic() - view.changed_at > SETTLED
        fields = ("record", "version")
        return await self.store.search(self.store.name(view.model), vector, where, fields, limit, settled=settled)

    # ── the marker and the tail

    async def _view(self, scope: Scope, state: ScopeState) -> View:
        assert state.model is not None
        await self.store.connected()
        known = (state.epoch, state.model, self.store.connection)
        view = self._views.get(scope)
        if view is None or (view.epoch, view.model, view.connection) != known:
            view = self._views[scope] = View(*known)
        self._views.move_to_end(scope)
        async with view.lock:
            age = self._clock.monotonic() - view.read_at
            if age >= (REFRESH if view.tail else MARK_AGE) and not self._is_projecting(scope):
                self._take_mark(view, await self._mark(scope, state))
                self._counts.see_to(scope, self.store.name(state.model), view.mark)
            await self._catch_up(scope, view, state.seq)
        self._evict(scope)
        return view

    def _is_projecting(self, scope: Scope) -> bool:
        lock = self._projecting.get(scope)
        return lock is not None and lock.locked()

    def _take_mark(self, view: View, mark: Mark | None) -> None:
        if view.mark is not None and (mark is None or mark.build != view.mark.build):
            view.tail.clear()
            view.seq = 0
        view.read_at = self._clock.monotonic()
        if mark != view.mark:
            view.mark, view.changed_at = mark, view.read_at
        if mark is not None:
            view.seq = max(view.seq, mark.seq)
            view.tail = {record: held for record, held in view.tail.items() if held[0] > mark.seq}

    async def _catch_up(self, scope: Scope, view: View, seq: int) -> None:
        while view.seq < seq and len(view.tail) < TAIL_LIMIT:
            changes = await self._reads.changes(scope, view.seq, 10 * PAGE)
            for change in changes:
                view.tail.pop(change.record, None)
                if change.entry is not None and change.entry.vectors is not None:
                    view.tail[change.record] = (change.seq, change.entry.ref, change.entry.vectors)
            view.seq = changes[-1].seq if changes else seq

    def _evict(self, keep: Scope) -> None:
        held = sum(len(view.tail) for view in self._views.values())
        for scope, view in list(self._views.items()):
            if held <= ALL_TAILS_LIMIT and len(self._views) <= 10_000:
                return
            if scope != keep:
                held -= len(view.tail)
                del self._views[scope]

    async def _tail_cosines(self, view: View, vector: Vector) -> dict[Ref, float]:
        held = [(ref, vectors) for _, ref, vectors in view.tail.values()]
        if len(held) <= INLINE:
            return tail_cosines(held, vector)
        return await self._offload.thread(tail_cosines, held, vector)

    async def _mark(self, scope: Scope, state: ScopeState) -> Mark | None:
        """The newest marker of this epoch. One that is ahead of the ledger is another ledger's, or a backup was
        restored: what it covers can't be trusted."""
        assert state.model is not None
        name = self.store.name(state.model)
        if not await self.store.exists(name):
            return None
        marks = [mark for _, mark in await self._marks(scope, name) if mark.epoch == state.epoch]
        mark = max(marks, key=lambda mark: mark.seq, default=None)
        if mark is None or mark.seq > (await self._reads.state(scope)).seq:
            return None
        return mark

    async def _marks(self, scope: Scope, name: str) -> list[tuple[str, Mark]]:
        where = f"scope == {literal(scope_key(scope))} and kind == {literal(MARK)}"
        found = await self.store.query(name, where, ("key", "build", "epoch", "record"))
        return [(row["key"], Mark(row["build"], int(row["epoch"]), *json.loads(row["record"]))) for row in found]

    # ── projection

    async def project(self, scope: Scope) -> None:
        """Bring Milvus up to the ledger. Doing it twice, or again after a crash, changes nothing."""
        await self._project(scope, fresh=False)

    async def rebuild(self, scope: Scope) -> None:
        """Write all of the scope anew beside what is there, then drop that. Searches go on meanwhile."""
        await self._project(scope, fresh=True)
        await self._lexical.rebuild(scope)

    async def rebuild_all(self, scopes: Iterable[Scope]) -> None:
        """Drop all collections and write these scopes anew: for damage that no single scope explains."""
        for name in await self.store.names():
            await self.store.drop(name)
        self._views.clear()
        for scope in scopes:
            await self._project(scope, fresh=True)

    async def _project(self, scope: Scope, *, fresh: bool) -> None:
        lock = self._projecting.setdefault(scope, anyio.Lock())
        async with lock:
            for _ in range(ATTEMPTS):
                if await self._projected(scope, await self._reads.state(scope), fresh=fresh):
                    return
                fresh = True
        raise IndexUnavailable("Milvus does not hold what was written to it", fix="Is its disk full? Look at its log.")

    async def _projected(self, scope: Scope, state: ScopeState, *, fresh: bool) -> bool:
        """One attempt. False: the ledger moved to another epoch or model, or rows are missing."""
        await self._clear_others(scope, state.model)
        if state.model is None:
            return True
        mark = None if fresh else await self._mark(scope, state)
        if mark is None:
            mark = await self._build(scope, state)
            if mark is None:
                return await self._is_current(scope, state)
        mark = await self._follow(scope, state, mark)
        if not await self._is_current(scope, state):
            return False
        name = self.store.name(state.model)
        if not await self._counts.whole(scope, name, mark):
            return False
        view = self._views.get(scope)
        if view is not None:
            view.read_at = float("-inf")
        return True

    async def _is_current(self, scope: Scope, state: ScopeState) -> bool:
        now = await self._reads.state(scope)
        return (now.epoch, now.model) == (state.epoch, state.model)

    async def _clear_others(self, scope: Scope, model: str | None) -> None:
        """Rows of models that serve no more; without a serving model (after a reset) all rows."""
        for name in await self.store.names():
            if (model is None or name != self.store.name(model)) and await self.store.exists(name):
                await self.store.delete_where(name, f"scope == {literal(scope_key(scope))}")

    async def _build(self, scope: Scope, state: ScopeState) -> Mark | None:
        """Write all current entries as a new build; None when there is nothing to write or the ledger moved."""
        assert state.model is not None
        name, build = self.store.name(state.model), f"{state.epoch}-{secrets.token_hex(6)}"
        after, rows, first_seq = "", 0, None
        while True:
            now, entries = await self._reads.entries(scope, after, PAGE)
            if (now.epoch, now.model) != (state.epoch, state.model):
                return None
            first_seq = now.seq if first_seq is None else first_seq
            fresh = [row for entry in entries for row in rows_of(scope, state.epoch, build, entry)]
            if fresh:
                await self.store.ensure(name, len(fresh[0]["vector"]))
                await self.store.insert(name, fresh)
                rows += len(fresh)
            if len(entries) < PAGE:
                break
            after = entries[-1].ref.record
        if not await self.store.exists(name):
            return None
        mark = Mark(build, state.epoch, first_seq, rows)
        await self._put_mark(scope, name, mark)
        await self.store.delete_where(name, f"scope == {literal(scope_key(scope))} and build != {literal(build)}")
        return mark

    async def _follow(self, scope: Scope, state: ScopeState, mark: Mark) -> Mark:
        """Write what changed after the marker. Each page looks up what is there, so a page may be written twice."""
        assert state.model is not None
        name = self.store.name(state.model)
        while changes := await self._reads.changes(scope, mark.seq, PAGE):
            more = await self._write(scope, name, mark, changes)
            mark = Mark(mark.build, mark.epoch, changes[-1].seq, mark.rows + more)
            if not await self._is_current(scope, state):
                break
            await self._put_mark(scope, name, mark)
        return mark

    async def _write(self, scope: Scope, name: str, mark: Mark, changes: Sequence[IndexChange]) -> int:
        """How many rows more there are. New versions come in before old ones go."""
        entries = [change.entry for change in changes if change.entry is not None]
        wanted = {row["key"]: row for entry in entries for row in rows_of(scope, mark.epoch, mark.build, entry)}
        where = f"{within(scope, mark.build)} and {one_of('record', [change.record for change in changes])}"
        where += f" and kind != {literal(MARK)}"
        there = {row["key"] for row in await self.store.query(name, where, ("key",))}
        new = [row for key, row in wanted.items() if key not in there]
        gone = sorted(there - wanted.keys())
        await self.store.insert(name, new)
        await self.store.delete(name, gone)
        return len(new) - len(gone)

    async def _put_mark(self, scope: Scope, name: str, mark: Mark) -> None:
        key = f"{scope_key(scope)}:{MARK}:{mark.build}:{mark.seq}:{mark.rows}"
        keys = {key for key, _ in await self._marks(scope, name)}
        if key not in keys:
            dimensions = await self.store.dimensions(name)
            vector = np.zeros(dimensions, np.float32)
            vector[0] = 1.0
            row = {"key": key, "scope": scope_key(scope), "build": mark.build, "epoch": mark.epoch, "kind": MARK}
            row |= {"record": json.dumps([mark.seq, mark.rows]), "chat_id": "", "role": "", "version": 0, "said_at": 0}
            await self.store.insert(name, [{**row, "vector": vector}])
        await self.store.delete(name, sorted(keys - {key}))
