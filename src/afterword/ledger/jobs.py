"""The queue: putting, claiming, ending. All run inside a write transaction.

`lane` holds one row a lane (when its next job is due, whether one runs), `job.head` marks the first unfinished job of
each stream: so a claim costs the same whether one user has ten jobs waiting or fifty thousand.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from afterword.errors import LeaseLost, QueueFull
from afterword.ledger import dialect, rows, schema
from afterword.ledger.schema import QUEUED, RUNNING, YES
from afterword.tracing import CAUSES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from afterword.ledger.tx import Held, Tx
    from afterword.records import Job, NewJob

MOST_CAUSES = 16  # replies that a job which stands for several turns is linked to: the newest
TEXT_LIMIT = 2000  # characters of an error or a reason that are kept
GOES_IN_FOR_ANOTHER = frozenset(["run_id", "turn_ids"])  # what marks such jobs in their payload

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
_insert = sa.insert(_job)
_update = sa.update(_job).where(_job.c.id == sa.bindparam("b_id"))
_own_scope = _job.c.scope_id == sa.bindparam("scope")
_of_stream = (
    sa.select(_job.c.id, _job.c.lane, _job.c.head)
    .where(_own_scope, _job.c.stream == sa.bindparam("stream"), _job.c.finished_at.is_(None))
    .order_by(_job.c.id)
    .limit(1)
)
_payload = sa.select(_job.c.payload).where(_job.c.id == sa.bindparam("id"))
_of_key = (
    sa.select(_job.c.id, _job.c.latest)
    .where(_own_scope, _job.c.key == sa.bindparam("key"), _job.c.key.is_not(None), _job.c.state == QUEUED)
    .with_for_update()
)
_remembering = (
    sa.select(_job.c.id, _job.c.lane, _job.c.run_at, _job.c.delay, _job.c.latest)
    .where(_own_scope, _job.c.kind == "remember", _job.c.chat_id == sa.bindparam("chat"))
    .where(_job.c.finished_at.is_(None), _job.c.state == QUEUED, _job.c.key.is_not(None))
    .with_for_update()
)
_owned = (
    sa.select(_job)
    .where(_job.c.id == sa.bindparam("id"), _own_scope, _job.c.state == RUNNING)
    .where(_job.c.fence == sa.bindparam("fence"), _job.c.worker == sa.bindparam("worker"))
    .with_for_update()
)
_of_head = sa.select(_job.c.id, _job.c.lane).where(
    _own_scope, _job.c.stream == sa.bindparam("stream"), _job.c.finished_at.is_(None), _job.c.head == YES
)


@dataclass(frozen=True, slots=True)
class Room:
    """How many jobs may wait, over all and for one user."""

    jobs: int
    of_scope: int

    def check(self, held: Held) -> None:
        """Raise `QueueFull` when there is no room for one more job of this user."""
        if (held.conn.execute(_own_depth, {"scope": held.id}).scalar() or 0) >= self.of_scope:
            raise QueueFull(f"{self.of_scope:,} jobs of this user wait already (max_waiting_jobs_per_user): try later")
        if (held.conn.execute(_depth).scalar() or 0) >= self.jobs:
            raise QueueFull(f"{self.jobs:,} jobs wait already (max_waiting_jobs): try later")


def plain(text: str) -> str:
    """`text` as any database can keep it, not longer than what a person reads."""
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")[:TEXT_LIMIT]


def settle(conn: sa.Connection, scope_id: int, lane: str) -> None:
    """Bring the lane's row up to its jobs. To be called after each change of a job's state, time or head."""
    if conn.dialect.name == "postgresql":  # a claim may hold it: look at the jobs only when it is through
        conn.execute(_lock_lane, {"lane": lane})
    conn.execute(_settling(conn.dialect.name), {"lane": lane, "scope_id": scope_id})


@cache
def _settling(name: str) -> sa.Insert:
    now = {"lane": sa.bindparam("lane"), "scope_id": sa.bindparam("scope_id"), "ready_at": _ready_at, "busy": _busy}
    return dialect.upsert_of(name, _lane, ("lane",), ("ready_at", "busy")).values(**now)


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
    key = held.conn.execute(_insert, values).inserted_primary_key
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
        "delay": new.delay,
        "latest": latest,
        "created_at": held.now,
        "waiting": "debounce" if new.delay > 0 else "",
        "error": "",
    }


def _unfinished(held: Held, stream: str) -> bool:
    return held.conn.execute(_of_stream, {"scope": held.id, "stream": stream}).first() is not None


def _slide(held: Held, new: NewJob, run_at: datetime) -> int | None:
    row = held.conn.execute(_of_key, {"scope": held.id, "key": new.key}).first()
    if row is None:
        return None
    moved = run_at if row.latest is None else min(run_at, row.latest)
    payload = rows.checked_json(new.payload, "payload")
    if CAUSES in payload:  # only where somebody traces
        before = held.conn.execute(_payload, {"id": row.id}).scalar() or {}
        payload[CAUSES] = [*before.get(CAUSES, ()), *payload[CAUSES]][-MOST_CAUSES:]
    waiting = "debounce" if new.delay > 0 else ""
    held.conn.execute(
        _update, {"b_id": row.id, "run_at": moved, "delay": new.delay, "payload": payload, "waiting": waiting}
    )
    settle(held.conn, held.id, new.lane)
    return int(row.id)


def slide_remember(held: Held, chat_id: str) -> None:
    """A reply was stored: the chat's waiting `remember` waits a little longer, within its limit."""
    row = held.conn.execute(_remembering, {"scope": held.id, "chat": chat_id}).first()
    if row is None:
        return
    run_at = max(row.run_at, held.now + timedelta(seconds=row.delay))
    moved = run_at if row.latest is None else min(run_at, row.latest)
    held.conn.execute(_update, {"b_id": row.id, "run_at": moved})
    settle(held.conn, held.id, row.lane)


def follow(held: Held, new: Sequence[NewJob], room: Room) -> list[int]:
    """Put jobs that follow from a write. A full queue never fails the write: a sweep makes them again.

    The next job of a run, and one on what turns took back, go in for the one that ends, whatever the room: nothing else
    would make them again.
    """
    ids: list[int] = []
    for one in new:
        try:
            ids.append(put(held, one, room if GOES_IN_FOR_ANOTHER.isdisjoint(one.payload) else None))
        except QueueFull:
            continue
    return ids


# ── a worker's hold on a job ───────────────────────────────────────────────────────────────────────────────────────


def own(tx: Tx, job: Job) -> tuple[Held, rows.Row]:
    """The scope and the row of a job that is still this worker's. Raises `EpochChanged`, `LeaseLost`."""
    held = tx.hold(job.scope)
    held.check_epoch(job.epoch)
    lease = {"id": job.id, "scope": held.id, "fence": job.fence, "worker": job.worker}
    row = held.conn.execute(_owned, lease).first()
    if row is None:
        raise LeaseLost(f"job {job.id} ({job.kind}) no longer belongs to this worker")
    return held, row


def end(held: Held, row: rows.Row, state: str, **values: Any) -> None:
    """The job is over: its stream's next one becomes claimable, its lane free."""
    ended = {"state": state, "finished_at": held.now, "key": None, "lease_until": None, "waiting": "", **values}
    held.conn.execute(_update, {"b_id": row.id, **ended})
    if row.stream is not None:
        promote(held, row.stream)
    settle(held.conn, held.id, row.lane)


def promote(held: Held, stream: str) -> None:
    """Make the first unfinished job of the stream its head, and no other; `settle` their lanes."""
    names = {"scope": held.id, "stream": stream}
    first = held.conn.execute(_of_stream, names).first()
    if first is None or first.head:
        return
    for other in held.conn.execute(_of_head, names).all():
        held.conn.execute(_update, {"b_id": other.id, "head": 0})
        settle(held.conn, held.id, other.lane)
    held.conn.execute(_update, {"b_id": first.id, "head": 1})
    settle(held.conn, held.id, first.lane)


def requeue(conn: sa.Connection, row: rows.Row, **values: Any) -> None:
    """A running job waits again. Its key was given up at the claim, so it stands beside a newer one of that key."""
    back = {"state": "queued", "worker": None, "lease_until": None, **values}
    conn.execute(_update, {"b_id": row.id, **back})
    settle(conn, row.scope_id, row.lane)
