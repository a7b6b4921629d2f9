"""A write transaction, and within it a scope's locked row, which numbers the scope's changes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeVar

import sqlalchemy as sa

from afterword.errors import EpochChanged
from afterword.ledger import dialect, lane_rows, schema

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from afterword.records import Scope

T = TypeVar("T")
What = Literal["insert", "revise", "embedded", "retire", "erase"]
CHUNK = 500  # values in one IN list

_state = (
    sa.select(schema.scope)
    .where(schema.scope.c.tenant == sa.bindparam("tenant"), schema.scope.c.user_id == sa.bindparam("user"))
    .with_for_update()
)
_write_state = sa.update(schema.scope).where(schema.scope.c.id == sa.bindparam("b_id"))


def chunks(values: Sequence[T]) -> list[Sequence[T]]:
    """`values` cut so that each part fits into one IN list on every database."""
    return [values[start : start + CHUNK] for start in range(0, len(values), CHUNK)]


@dataclass(slots=True)
class Held:
    """A scope's row, locked until the transaction ends. What changes goes through `changed`, which numbers it."""

    tx: Tx
    scope: Scope
    id: int
    seq: int
    epoch: int
    model: str | None
    utc_offset: int | None
    rows: dict[str, dict[str, object]] = field(default_factory=dict)  # changes by record: only the newest counts
    dirty: bool = False

    @property
    def conn(self) -> sa.Connection:
        return self.tx.conn

    @property
    def now(self) -> datetime:
        return self.tx.now

    def changed(self, record: str, version: int, what: What) -> int:
        """Number a change of a searchable record; its number."""
        self.seq += 1
        self.dirty = True
        numbered = {"scope_id": self.id, "seq": self.seq, "record": record, "version": version, "what": what}
        self.rows[record] = numbered
        return self.seq

    def check_epoch(self, epoch: int) -> None:
        """Raise `EpochChanged` unless the scope is still at `epoch`."""
        if self.epoch != epoch:
            raise EpochChanged("this user's memory was reset while the work was under way")

    def lane_changed(self, lane: str) -> None:
        """To be called for each change of a job's state, time or head."""
        self.tx.lanes[lane] = self.id

    def flush(self) -> None:
        """Write the numbered changes; an older change of the same record has done its duty and is replaced."""
        if self.rows:
            newest = dialect.upsert(self.conn, schema.change, ("scope_id", "record"), ("seq", "version", "what"))
            self.conn.execute(newest, list(self.rows.values()))
        if self.dirty:
            now = {"seq": self.seq, "epoch": self.epoch, "model": self.model, "utc_offset": self.utc_offset}
            self.conn.execute(_write_state, {"b_id": self.id, **now})


@dataclass(slots=True)
class Tx:
    """One write transaction. A function that writes gets it, may be run again from the start, and changes nothing
    else than what it writes here."""

    conn: sa.Connection
    now: datetime
    held: dict[Scope, Held] = field(default_factory=dict)
    touched: set[Scope] = field(default_factory=set)  # scopes whose watchers are woken after the commit
    lanes: dict[str, int] = field(default_factory=dict)  # whose jobs changed, each with its scope's number

    def hold(self, scope: Scope) -> Held:
        """Lock the scope's row (made if there is none) and wake its watchers after the commit."""
        self.touched.add(scope)
        if scope not in self.held:
            self.held[scope] = self._lock(scope)
        return self.held[scope]

    def _lock(self, scope: Scope) -> Held:
        names = {"tenant": scope.tenant, "user": scope.user}
        row = self.conn.execute(_state, names).first()
        if row is None:
            made = {"tenant": scope.tenant, "user_id": scope.user, "seq": 0, "epoch": 0}
            self.conn.execute(dialect.insert_new(self.conn, schema.scope), made)
            row = self.conn.execute(_state, names).one()
        return Held(self, scope, row.id, row.seq, row.epoch, row.model, row.utc_offset)

    def flush(self) -> None:
        """Before the commit: write what the held scopes have numbered, and what became of lanes."""
        for held in self.held.values():
            held.flush()
        self.settle_lanes()

    def settle_lanes(self) -> None:
        """Once for each lane, however many of its jobs changed."""
        if self.lanes:
            lane_rows.settle(self.conn, self.lanes)
            self.lanes.clear()
