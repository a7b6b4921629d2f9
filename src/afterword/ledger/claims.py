"""Claiming jobs, keeping a claim, and giving it back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from afterword.ledger import jobs, rows, schema
from afterword.ledger.rows import checked_json
from afterword.ledger.schema import NO, QUEUED, RUNNING, YES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from afterword.ledger.tx import Tx
    from afterword.records import Job, Json, Scope

LOOK_AHEAD = 50  # lanes; more than one, because a lane's first job may be of another kind

_job = schema.job
_busy = _job.alias("running")
_lane = schema.lane
_with_scope = sa.select(*rows.job_columns).join_from(_job, schema.scope, schema.scope.c.id == _job.c.scope_id)


_of_ids = _with_scope.where(_job.c.id.in_(sa.bindparam("ids", expanding=True)))
_now: sa.BindParameter[datetime] = sa.bindparam("now")
_expired = sa.and_(
    _job.c.state == RUNNING,
    # run out; or further ahead than any lease given out by this clock, so the clock was put back
    sa.or_(_job.c.lease_until < _now, _job.c.lease_until > sa.bindparam("ahead")),
)
_any_expired = sa.select(_job.c.id).where(_expired).limit(1)
_all_expired = _with_scope.where(_expired).with_for_update(skip_locked=True, of=_job)
_runs_in_its_lane = sa.exists().where(_busy.c.lane == _job.c.lane, _busy.c.state == RUNNING)
_claimable = (
    _of_ids.where(_job.c.state == QUEUED, _job.c.head == YES, _job.c.run_at <= _now, ~_runs_in_its_lane)
    .order_by(_job.c.run_at, _job.c.id)
    .with_for_update(skip_locked=True, of=_job)
)
_take_them = (
    sa.update(_job)
    .where(_job.c.id.in_(sa.bindparam("b_ids", expanding=True)))
    .values(
        state="running",
        key=None,
        waiting="",
        attempt=_job.c.attempt + 1,
        fence=_job.c.fence + 1,
        worker=sa.bindparam("b_worker"),
        lease_until=sa.bindparam("b_until"),
    )
)
_fix_window = sa.update(_job).where(_job.c.id == sa.bindparam("b_id")).values(window=sa.bindparam("b_window"))


@dataclass(frozen=True, slots=True)
class _Looks:
    """The statements that look for jobs of some kinds. Building one costs several times what running it does."""

    free: sa.Select[str]  # lanes with a job that may run now
    first_due: sa.Select[int]  # of each of those lanes, locked, the first such job
    next: sa.Select[Any]  # when a lane that is free now has its next job
    leases: sa.Select[Any]


@lru_cache(maxsize=64)
def _looks(kinds: tuple[str, ...]) -> _Looks:
    due = (
        sa.select(_job.c.id)
        .where(_job.c.lane == _lane.c.lane, _job.c.state == QUEUED, _job.c.head == YES)
        .where(_job.c.run_at <= _now, _job.c.kind.in_(kinds))
        .order_by(_job.c.run_at, _job.c.id)
        .limit(1)
    )
    free = (
        sa.select(_lane.c.lane)
        .where(_lane.c.busy == NO, _lane.c.ready_at <= _now, due.exists())
        .order_by(_lane.c.ready_at)
        .limit(sa.bindparam("count", type_=sa.Integer))
    )
    first_due = free.with_only_columns(due.scalar_subquery()).with_for_update(skip_locked=True, of=_lane)
    first = (
        sa.select(sa.func.min(_job.c.run_at))
        .where(_job.c.lane == _lane.c.lane, _job.c.state == QUEUED, _job.c.head == YES, _job.c.kind.in_(kinds))
        .scalar_subquery()
    )
    ready = sa.select(first.label("run_at")).where(_lane.c.busy == NO, _lane.c.ready_at.is_not(None))
    soonest = ready.where(first.is_not(None)).order_by(_lane.c.ready_at).limit(LOOK_AHEAD).subquery()
    return _Looks(
        free,
        first_due,
        sa.select(sa.func.min(soonest.c.run_at)),
        sa.select(sa.func.min(_job.c.lease_until)).where(_job.c.state == RUNNING, _job.c.kind.in_(kinds)),
    )


def _clock(now: datetime, lease: float) -> dict[str, datetime]:
    return {"now": now, "ahead": now + timedelta(seconds=2 * lease)}


def any_to_claim(conn: sa.Connection, now: datetime, kinds: Sequence[str], lease: float) -> bool:
    """A look that locks nothing, so that an idle worker's claim costs no write."""
    if conn.execute(_any_expired, _clock(now, lease)).first() is not None:
        return True
    return conn.execute(_looks(tuple(kinds)).free, {"now": now, "count": 1}).first() is not None


def claim(tx: Tx, worker: str, kinds: Sequence[str], count: int, lease: float) -> list[Job]:
    """Requeue expired leases, then take one due job each of up to `count` free lanes, longest due first."""
    _requeue_expired(tx, lease)
    tx.settle_lanes()
    due = tx.conn.execute(_looks(tuple(kinds)).first_due, {"now": tx.now, "count": count}).scalars().all()
    # asked again, now that their lanes are locked: another worker may have been here between the two looks
    found = tx.conn.execute(_claimable, {"ids": due, "now": tx.now}).all()
    if not found:
        return []
    until = tx.now + timedelta(seconds=lease)
    tx.conn.execute(_take_them, {"b_ids": [row.id for row in found], "b_worker": worker, "b_until": until})
    tx.lanes.update((row.lane, row.scope_id) for row in found)
    taken = [_taken(row, worker) for row in found]
    tx.touched.update(job.scope for job in taken)
    return taken


def _taken(row: rows.Row, worker: str) -> Job:
    """The job as `_take_them` has left it."""
    job = rows.job_from(row)
    return replace(
        job, state="running", key=None, waiting="", attempt=job.attempt + 1, fence=job.fence + 1, worker=worker
    )


def _requeue_expired(tx: Tx, lease: float) -> None:
    for row in tx.conn.execute(_all_expired, _clock(tx.now, lease)).all():
        jobs.requeue(tx, row, waiting="its worker was lost")
        tx.touched.add(rows.job_from(row).scope)


def fix_window(tx: Tx, job: Job, window: Json) -> Job:
    """Write the window unless there is one; the job with the window that stands."""
    _, row = jobs.own(tx, job)
    if row.window is None:
        kept = checked_json(window, "window")
        tx.conn.execute(_fix_window, {"b_id": row.id, "b_window": kept})
        return replace(job, window=kept)
    return replace(job, window=row.window)


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
        tx,
        row,
        run_at=tx.now + timedelta(seconds=delay),
        waiting=jobs.plain(waiting),
        error=jobs.plain(error) or row.error,
        attempt=row.attempt if count_attempt else max(0, row.attempt - 1),
    )


def next_due(conn: sa.Connection, kinds: Sequence[str]) -> datetime | None:
    """The earliest time at which a claim may find something: a free lane's job, or a lease that runs out."""
    looks = _looks(tuple(kinds))
    due = conn.execute(looks.next).scalar(), conn.execute(looks.leases).scalar()
    return min((time for time in due if time is not None), default=None)


def row_of(tx: Tx, job_id: int) -> rows.Row | None:
    """A job's row with its scope's name, whatever its state."""
    return tx.conn.execute(_with_scope.where(_job.c.id == job_id)).first()


def scope_of(row: rows.Row) -> Scope:
    return rows.job_from(row).scope
