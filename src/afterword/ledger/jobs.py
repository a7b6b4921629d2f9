"""The queue: putting, claiming, ending. All run inside a write transaction.

`lane` holds one row a lane (when its next job is due, whether one runs), `job.head` marks the first unfinished job of
each stream: so a claim costs the same whether one user has ten jobs waiting or fifty thousand.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from afterword.errors import LeaseLost, QueueFull
from afterword.ledger import rows, schema
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
BELIEVED = 32  # jobs that one count lets in, at most
KNOWN = 10_000  # users whose room is remembered

_job = schema.job
_depth = sa.select(sa.func.count()).where(_job.c.state == QUEUED)
_own_depth = _depth.where(_job.c.scope_id == sa.bindparam("scope"))
_unfinished = sa.exists().where(
    _job.c.scope_id == sa.bindparam("b_scope"), _job.c.stream == sa.bindparam("b_stream"), _job.c.finished_at.is_(None)
)
_insert = sa.insert(_job).values(head=sa.case((_unfinished, 0), else_=1))
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


class Room:
    """How many jobs may wait, over all and for one user.

    Counting them costs more than putting one does. So one count lets in several of the jobs that it found room for, and
    where the room is nearly gone each is counted for. One process never overruns a limit by this; several may, each by
    less than `BELIEVED`, since they don't see what the others have let in meanwhile.
    """

    def __init__(self, jobs: int, of_scope: int) -> None:
        self._jobs = jobs
        self._of_scope = of_scope
        self._left: dict[
            int | None, int
        ] = {}  # jobs that the last count still lets in; by the scope's number, None: all

    def check(self, held: Held) -> None:
        """Raise `QueueFull` when there is no room for one more job of this user."""
        if not self._takes(held.conn, held.id, self._of_scope):
            raise QueueFull(f"{self._of_scope:,} jobs of this user wait already (max_waiting_jobs_per_user): try later")
        if not self._takes(held.conn, None, self._jobs):
            raise QueueFull(f"{self._jobs:,} jobs wait already (max_waiting_jobs): try later")

    def _takes(self, conn: sa.Connection, scope_id: int | None, most: int) -> bool:
        left = self._left.get(scope_id, 0)
        if not left:
            free = most - _waiting(conn, scope_id)
            if free <= 0:
                return False
            left = max(1, min(BELIEVED, free // 2))
        if len(self._left) >= KNOWN:
            self._left.clear()
        self._left[scope_id] = left - 1
        return True


def _waiting(conn: sa.Connection, scope_id: int | None) -> int:
    if scope_id is None:
        return conn.execute(_depth).scalar() or 0
    return conn.execute(_own_depth, {"scope": scope_id}).scalar() or 0


def plain(text: str) -> str:
    """`text` as any database can keep it, not longer than what a person reads."""
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")[:TEXT_LIMIT]


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
    held.lane_changed(new.lane)
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
        "b_scope": held.id,
        "b_stream": new.stream,
        "attempt": 0,
        "fence": 0,
        "run_at": run_at if latest is None else min(run_at, latest),
        "delay": new.delay,
        "latest": latest,
        "created_at": held.now,
        "waiting": "debounce" if new.delay > 0 else "",
        "error": "",
    }


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
    held.lane_changed(new.lane)
    return int(row.id)


def slide_remember(held: Held, chat_id: str) -> None:
    """A reply was stored: the chat's waiting `remember` waits a little longer, within its limit."""
    row = held.conn.execute(_remembering, {"scope": held.id, "chat": chat_id}).first()
    if row is None:
        return
    run_at = max(row.run_at, held.now + timedelta(seconds=row.delay))
    moved = run_at if row.latest is None else min(run_at, row.latest)
    held.conn.execute(_update, {"b_id": row.id, "run_at": moved})
    held.lane_changed(row.lane)


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
    held.lane_changed(row.lane)


def promote(held: Held, stream: str) -> None:
    """Make the first unfinished job of the stream its head, and no other."""
    names = {"scope": held.id, "stream": stream}
    first = held.conn.execute(_of_stream, names).first()
    if first is None or first.head:
        return
    for other in held.conn.execute(_of_head, names).all():
        held.conn.execute(_update, {"b_id": other.id, "head": 0})
        held.lane_changed(other.lane)
    held.conn.execute(_update, {"b_id": first.id, "head": 1})
    held.lane_changed(first.lane)


def requeue(tx: Tx, row: rows.Row, **values: Any) -> None:
    """A running job waits again. Its key was given up at the claim, so it stands beside a newer one of that key."""
    back = {"state": "queued", "worker": None, "lease_until": None, **values}
    tx.conn.execute(_update, {"b_id": row.id, **back})
    tx.lanes[row.lane] = row.scope_id
