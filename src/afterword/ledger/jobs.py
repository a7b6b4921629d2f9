"""The queue: putting, claiming, ending. All run inside a write transaction.

`lane` holds one row a lane (when its next job is due, whether one runs), `job.head` marks the first unfinished job of
each stream: so a claim costs the same whether one user has ten jobs waiting or fifty thousand.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from afterword.errors import LeaseLost, QueueFull
from afterword.lanes import REMEMBER_DELAY
from afterword.ledger import dialect, rows, schema
from afterword.ledger.schema import NO, QUEUED, RUNNING, YES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from afterword.ledger.tx import Held, Tx
    from afterword.records import Job, NewJob

TEXT_LIMIT = 2000  # characters of an error or a reason that are kept

_job = schema.job
_lane = schema.lane
_ready_at = (
    sa.select(sa.func.min(_job.c.run_at))
    .where(_job.c.lane == sa.bindparam("lane"), _job.c.state == QUEUED, _job.c.head == YES)
    .scalar_subquery()
)
_busy = sa.select(sa.func.count()).where(_job.c.lane == sa.bindparam("lane"), _job.c.state == RUNNING).scalar_subquery()
_lock_lane = sa.select(_lane.c.lane).where(_lane.c.lane == sa.bindparam("lane")).with_for_update()
_depth = sa.select(sa.func.count()).where(_job.c.state == QUEUED)
_own_depth = _depth.where(_job.c.scope_id == sa.bindparam("scope"))


@dataclass(frozen=True, slots=True)
class Room:
    """How many jobs may wait, over all and for one user."""

    jobs: int
    of_scope: int

    def check(self, held: Held) -> None:
        """Raise `QueueFull` when there is no room for one more job of this user."""
        if (held.conn.execute(_own_depth, {"scope": held.id}).scalar() or 0) >= self.of_scope:
            raise QueueFull(f"{self.of_scope:,} jobs of this user wait already (max_waiting_per_scope): try later")
        if (held.conn.execute(_depth).scalar() or 0) >= self.jobs:
            raise QueueFull(f"{self.jobs:,} jobs wait already (max_waiting_jobs): try later")


def plain(text: str) -> str:
    """`text` as any database can keep it, not longer than what a person reads."""
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")[:TEXT_LIMIT]


def settle(conn: sa.Connection, scope_id: int, lane: str) -> None:
    """Bring the lane's row up to its jobs. To be called after each change of a job's state, time or head."""
    if conn.dialect.name == "postgresql":  # a claim may hold it: look at the jobs only when it is through
        conn.execute(_lock_lane, {"lane": lane})
    insert = dialect.insert(conn, _lane).values(
        lane=sa.bindparam("lane"), scope_id=scope_id, ready_at=_ready_at, busy=_busy
    )
    now = {"ready_at": insert.excluded.ready_at, "busy": insert.excluded.busy}
    conn.execute(insert.on_conflict_do_update(index_elements=[_lane.c.lane], set_=now), {"lane": lane})


# ── putting ────────────────────────────────────────────────────────────────────────────────────────────────────────


def put(held: Held, new: NewJob, room: Room | None) -> int:
    """Its id, or that of the waiting job with its key, which is slid. `room` None: it goes in for another.

    Raises `QueueFull`.
    """
    run_at = held.now + timedelta(seconds=new.delay)
    if new.key is not None:
        waiting = _slide(held, new, run_at)
        if waiting is not None:
            return waiting
    if room is not None:
        room.check(held)
    values = _values(held, new, run_at)
    key = held.conn.execute(sa.insert(_job).values(**values)).inserted_primary_key
    assert key is not None
    settle(held.conn, held.id, new.lane)
    return int(key[0])


def _values(held: Held, new: NewJob, run_at: datetime) -> dict[str, Any]:
    payload = rows.checked_json(new.payload, "payload")
    latest = None if new.max_wait is None else held.now + timedelta(seconds=new.max_wait)
    return {
        "scope_id": held.id,
        "epoch": held.epoch,
        "kind": new.kind,
        "lane": new.lane,
        "stream": new.stream,
        "key": new.key,
        "payload": payload,
        "chat_id": payload.get("chat_id"),
        "reply_id": payload.get("reply_id"),
        "run_id": payload.get("run_id"),
        "state": "queued",
        "head": int(new.stream is None or not _unfinished(held, new.stream)),
        "attempt": 0,
        "fence": 0,
        "run_at": run_at if latest is None else min(run_at, latest),
        "latest": latest,
        "created_at": held.now,
        "waiting": "debounce" if new.delay > 0 else "",
        "error": "",
    }


def _unfinished(held: Held, stream: str) -> bool:
    at = _job.c.scope_id == held.id, _job.c.stream == stream, _job.c.finished_at.is_(None)
    return held.conn.execute(sa.select(_job.c.id).where(*at).limit(1)).first() is not None


def _slide(held: Held, new: NewJob, run_at: datetime) -> int | None:
    at = _job.c.scope_id == held.id, _job.c.key == new.key, _job.c.state == QUEUED
    row = held.conn.execute(sa.select(_job.c.id, _job.c.latest).where(*at).with_for_update()).first()
    if row is None:
        return None
    moved = run_at if row.latest is None else min(run_at, row.latest)
    payload = rows.checked_json(new.payload, "payload")
    waiting = "debounce" if new.delay > 0 else ""
    held.conn.execute(sa.update(_job).where(_job.c.id == row.id).values(run_at=moved, payload=payload, waiting=waiting))
    settle(held.conn, held.id, new.lane)
    return int(row.id)


def slide_remember(held: Held, chat_id: str) -> None:
    """A reply was stored: the chat's waiting `remember` waits a little longer, within its limit."""
    at = (
        _job.c.scope_id == held.id,
        _job.c.kind == "remember",
        _job.c.chat_id == chat_id,
        _job.c.finished_at.is_(None),
        _job.c.state == QUEUED,
        _job.c.key.is_not(None),
    )
    columns = _job.c.id, _job.c.lane, _job.c.latest
    row = held.conn.execute(sa.select(*columns).where(*at).with_for_update()).first()
    if row is None:
        return
    run_at = held.now + timedelta(seconds=REMEMBER_DELAY)
    moved = run_at if row.latest is None else min(run_at, row.latest)
    held.conn.execute(sa.update(_job).where(_job.c.id == row.id).values(run_at=moved))
    settle(held.conn, held.id, row.lane)


def follow(held: Held, new: Sequence[NewJob], room: Room) -> list[int]:
    """Put jobs that follow from a write. A full queue never fails the write: a sweep makes them again.

    The next job of a run goes in for the one that ends, whatever the room: nothing else would make it again.
    """
    ids: list[int] = []
    for one in new:
        try:
            ids.append(put(held, one, None if "run_id" in one.payload else room))
        except QueueFull:
            continue
    return ids


# ── a worker's hold on a job ───────────────────────────────────────────────────────────────────────────────────────


def own(tx: Tx, job: Job) -> tuple[Held, rows.Row]:
    """The scope and the row of a job that is still this worker's. Raises `EpochChanged`, `LeaseLost`."""
    held = tx.hold(job.scope)
    held.check_epoch(job.epoch)
    at = (
        _job.c.id == job.id,
        _job.c.scope_id == held.id,
        _job.c.state == RUNNING,
        _job.c.fence == job.fence,
        _job.c.worker == job.worker,
    )
    row = held.conn.execute(sa.select(_job).where(*at).with_for_update()).first()
    if row is None:
        raise LeaseLost(f"job {job.id} ({job.kind}) no longer belongs to this worker")
    return held, row


def end(held: Held, row: rows.Row, state: str, **values: Any) -> None:
    """The job is over: its stream's next one becomes claimable, its lane free."""
    ended = {"state": state, "finished_at": held.now, "key": None, "lease_until": None, "waiting": "", **values}
    held.conn.execute(sa.update(_job).where(_job.c.id == row.id).values(**ended))
    if row.stream is not None:
        promote(held, row.stream)
    settle(held.conn, held.id, row.lane)


def promote(held: Held, stream: str) -> None:
    """Mark the first unfinished job of the stream, and no other that waits."""
    others = _job.alias()
    first = (
        sa.select(sa.func.min(others.c.id))
        .where(others.c.scope_id == held.id, others.c.stream == stream, others.c.finished_at.is_(None))
        .scalar_subquery()
    )
    at = _job.c.scope_id == held.id, _job.c.stream == stream, _job.c.finished_at.is_(None)
    held.conn.execute(sa.update(_job).where(_job.c.id == first, _job.c.head == NO).values(head=1))
    held.conn.execute(sa.update(_job).where(*at, _job.c.head == YES, _job.c.id > first).values(head=0))


def requeue(conn: sa.Connection, row: rows.Row, **values: Any) -> None:
    """A running job waits again. Its key was given up at the claim, so it stands beside a newer one of that key."""
    back = {"state": "queued", "worker": None, "lease_until": None, **values}
    conn.execute(sa.update(_job).where(_job.c.id == row.id).values(**back))
    settle(conn, row.scope_id, row.lane)
