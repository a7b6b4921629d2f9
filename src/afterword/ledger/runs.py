"""Runs: long work of one user, done as one short job a chunk."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import TYPE_CHECKING

import sqlalchemy as sa

from afterword.ledger import jobs, rows, schema
from afterword.ledger.packed import fetch

if TYPE_CHECKING:
    from afterword.ledger.tx import Held, Tx
    from afterword.records import NewJob, Run, Scope

_run = schema.run
_job = schema.job
_newest = (
    sa.select(_run)
    .where(_run.c.scope_id == sa.bindparam("scope"))
    .order_by(_run.c.started_at.desc(), _run.c.id)
    .limit(sa.bindparam("most", type_=sa.Integer))
)
_newest_of_kind = _newest.where(_run.c.kind == sa.bindparam("kind"))


def runs(conn: sa.Connection, scope_id: int, kind: str | None, limit: int) -> list[Run]:
    query = _newest if kind is None else _newest_of_kind
    given = {} if kind is None else {"kind": kind}
    return [rows.run_from(row) for row in fetch(conn, query, {"scope": scope_id, "most": limit, **given})]


def start_run(tx: Tx, scope: Scope, kind: str, total: int, job: NewJob, room: jobs.Room) -> tuple[Run, bool]:
    """A new run with its first job; or the one that runs, whose job is made again should it have got lost.

    The job's payload gains `run_id`.
    """
    held = tx.hold(scope)
    row = _running(held, kind)
    fresh = row is None
    if row is None:
        new = {"id": uuid.uuid4().hex, "scope_id": held.id, "kind": kind, "state": "running", "done": 0}
        held.conn.execute(sa.insert(_run).values(**new, total=total, message="", started_at=held.now))
        row = _running(held, kind)
    assert row is not None
    if fresh or not _has_job(held, row.id):
        jobs.put(held, replace(job, payload={**job.payload, "run_id": row.id}), room)
    return rows.run_from(row), fresh


def _running(held: Held, kind: str) -> rows.Row | None:
    at = _run.c.scope_id == held.id, _run.c.kind == kind, _run.c.state == "running"
    return held.conn.execute(sa.select(_run).where(*at)).first()


def _has_job(held: Held, run_id: str) -> bool:
    at = _job.c.scope_id == held.id, _job.c.run_id == run_id, _job.c.finished_at.is_(None)
    return held.conn.execute(sa.select(_job.c.id).where(*at).limit(1)).first() is not None


def consolidated_to(conn: sa.Connection, scope_id: int) -> int:
    """The highest change number that a consolidation has worked through."""
    at = _run.c.scope_id == scope_id, _run.c.kind == "consolidate"
    return conn.execute(sa.select(sa.func.max(_run.c.reached)).where(*at)).scalar() or 0
