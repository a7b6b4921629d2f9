"""Claiming jobs, keeping a claim, and giving it back."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import sqlalchemy as sa

from afterword.ledger import jobs, rows, schema
from afterword.ledger.rows import checked_json
from afterword.ledger.schema import NO, QUEUED, RUNNING, YES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from afterword.ledger.tx import Tx
    from afterword.records import Job, Json, Scope

LOOK_AHEAD = 50  # lanes; more than one, because a lane's first job may be of another kind

_job = schema.job
_lane = schema.lane
_with_scope = sa.select(*rows.job_columns).join_from(_job, schema.scope, schema.scope.c.id == _job.c.scope_id)


def _expired(now: datetime, lease: float) -> sa.ColumnElement[bool]:
    """Run out; or further ahead than any lease given out by this clock, so the clock was put back."""
    ahead = now + timedelta(seconds=2 * lease)
    return sa.and_(_job.c.state == RUNNING, sa.or_(_job.c.lease_until < now, _job.c.lease_until > ahead))


def _due_in(lane: sa.ColumnElement[str], now: datetime, kinds: Sequence[str]) -> sa.Select[int]:
    """The first job of a lane that may run now."""
    return (
        sa.select(_job.c.id)
        .where(_job.c.lane == lane, _job.c.state == QUEUED, _job.c.head == YES)
        .where(_job.c.run_at <= now, _job.c.kind.in_(kinds))
        .order_by(_job.c.run_at, _job.c.id)
        .limit(1)
    )


def _free_lanes(now: datetime, kinds: Sequence[str], count: int) -> sa.Select[str]:
    return (
        sa.select(_lane.c.lane)
        .where(_lane.c.busy == NO, _lane.c.ready_at <= now, _due_in(_lane.c.lane, now, kinds).exists())
        .order_by(_lane.c.ready_at)
        .limit(count)
    )


def any_to_claim(conn: sa.Connection, now: datetime, kinds: Sequence[str], lease: float) -> bool:
    """A look that locks nothing, so that an idle worker's claim costs no write."""
    if conn.execute(sa.select(_job.c.id).where(_expired(now, lease)).limit(1)).first() is not None:
        return True
    return conn.execute(_free_lanes(now, kinds, 1)).first() is not None


def claim(tx: Tx, worker: str, kinds: Sequence[str], count: int, lease: float) -> list[Job]:
    """Requeue expired leases, then take one due job each of up to `count` free lanes, longest due first."""
    _requeue_expired(tx, lease)
    free = _free_lanes(tx.now, kinds, count).with_for_update(skip_locked=True, of=_lane)
    taken = [_take(tx, lane, worker, kinds, lease) for lane in tx.conn.execute(free).scalars().all()]
    ids = [job_id for job_id in taken if job_id is not None]
    found = {row.id: rows.job_from(row) for row in tx.conn.execute(_with_scope.where(_job.c.id.in_(ids)))}
    tx.touched.update(job.scope for job in found.values())
    return [found[job_id] for job_id in ids]


def _take(tx: Tx, lane: str, worker: str, kinds: Sequence[str], lease: float) -> int | None:
    running = sa.select(_job.c.id).where(_job.c.lane == lane, _job.c.state == RUNNING)
    if tx.conn.execute(running.limit(1)).first() is not None:  # taken between the two looks
        return None
    due = _due_in(sa.literal(lane), tx.now, kinds).with_for_update(skip_locked=True)
    row = tx.conn.execute(due.with_only_columns(_job.c.id, _job.c.scope_id)).first()
    if row is None:
        return None
    taken = {
        "state": "running",
        "worker": worker,
        "key": None,
        "attempt": _job.c.attempt + 1,
        "fence": _job.c.fence + 1,
        "lease_until": tx.now + timedelta(seconds=lease),
        "waiting": "",
    }
    tx.conn.execute(sa.update(_job).where(_job.c.id == row.id).values(**taken))
    jobs.settle(tx.conn, row.scope_id, lane)
    return int(row.id)


def _requeue_expired(tx: Tx, lease: float) -> None:
    expired = _with_scope.where(_expired(tx.now, lease)).with_for_update(skip_locked=True, of=_job)
    for row in tx.conn.execute(expired).all():
        jobs.requeue(tx.conn, row, waiting="its worker was lost")
        tx.touched.add(rows.job_from(row).scope)


def fix_window(tx: Tx, job: Job, window: Json) -> Job:
    """Write the window unless there is one; the job with the window that stands."""
    _, row = jobs.own(tx, job)
    if row.window is None:
        kept = checked_json(window, "window")
        tx.conn.execute(sa.update(_job).where(_job.c.id == row.id).values(window=kept))
    return rows.job_from(tx.conn.execute(_with_scope.where(_job.c.id == row.id)).one())


def renew(tx: Tx, worker: str, held: Sequence[Job], lease: float) -> set[int]:
    """Lengthen what is still this worker's; wakes nobody."""
    until = tx.now + timedelta(seconds=lease)
    kept: set[int] = set()
    for job in held:
        at = _job.c.id == job.id, _job.c.state == RUNNING, _job.c.fence == job.fence, _job.c.worker == worker
        if tx.conn.execute(sa.update(_job).where(*at).values(lease_until=until)).rowcount:
            kept.add(job.id)
    return kept


def postpone(tx: Tx, job: Job, *, delay: float, waiting: str, error: str, count_attempt: bool) -> None:
    """Back to the queue; without `count_attempt` the attempt that the claim took is given back."""
    _, row = jobs.own(tx, job)
    jobs.requeue(
        tx.conn,
        row,
        run_at=tx.now + timedelta(seconds=delay),
        waiting=jobs.plain(waiting),
        error=jobs.plain(error) or row.error,
        attempt=row.attempt if count_attempt else max(0, row.attempt - 1),
    )


def next_due(conn: sa.Connection, kinds: Sequence[str]) -> datetime | None:
    """The earliest time at which a claim may find something: a free lane's job, or a lease that runs out."""
    first = (
        sa.select(sa.func.min(_job.c.run_at))
        .where(_job.c.lane == _lane.c.lane, _job.c.state == QUEUED, _job.c.head == YES, _job.c.kind.in_(kinds))
        .scalar_subquery()
    )
    free = sa.select(first.label("run_at")).where(_lane.c.busy == NO, _lane.c.ready_at.is_not(None), first.is_not(None))
    soonest = free.order_by(_lane.c.ready_at).limit(LOOK_AHEAD).subquery()
    leases = sa.select(sa.func.min(_job.c.lease_until)).where(_job.c.state == RUNNING, _job.c.kind.in_(kinds))
    due = conn.execute(sa.select(sa.func.min(soonest.c.run_at))).scalar(), conn.execute(leases).scalar()
    return min((time for time in due if time is not None), default=None)


def row_of(tx: Tx, job_id: int) -> rows.Row | None:
    """A job's row with its scope's name, whatever its state."""
    return tx.conn.execute(_with_scope.where(_job.c.id == job_id)).first()


def scope_of(row: rows.Row) -> Scope:
    return rows.job_from(row).scope
