"""One row a lane: when its next job is due, and whether one runs. So a claim looks at few rows, however many jobs wait."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import sqlalchemy as sa

from afterword.ledger import dialect, schema
from afterword.ledger.schema import QUEUED, RUNNING, YES

if TYPE_CHECKING:
    from collections.abc import Mapping

_job = schema.job
_lane = schema.lane
_ready_at = (
    sa.select(sa.func.min(_job.c.run_at))
    .where(_job.c.lane == sa.bindparam("lane"), _job.c.state == QUEUED, _job.c.head == YES)
    .scalar_subquery()
)
_busy = sa.select(sa.func.count()).where(_job.c.lane == sa.bindparam("lane"), _job.c.state == RUNNING).scalar_subquery()
_lock = (
    sa.select(_lane.c.lane)
    .where(_lane.c.lane.in_(sa.bindparam("lanes", expanding=True)))
    .order_by(_lane.c.lane)
    .with_for_update()
)


def settle(conn: sa.Connection, lanes: Mapping[str, int]) -> None:
    """Bring the rows of these lanes (each with its scope's number) up to their jobs."""
    names = sorted(lanes)
    if conn.dialect.name == "postgresql":  # a claim may hold them: look at the jobs only when it is through
        conn.execute(_lock, {"lanes": names})
    conn.execute(_settling(conn.dialect.name), [{"lane": lane, "scope_id": lanes[lane]} for lane in names])


@cache
def _settling(name: str) -> sa.Insert:
    now = {"lane": sa.bindparam("lane"), "scope_id": sa.bindparam("scope_id"), "ready_at": _ready_at, "busy": _busy}
    return dialect.upsert_of(name, _lane, ("lane",), ("ready_at", "busy")).values(**now)
