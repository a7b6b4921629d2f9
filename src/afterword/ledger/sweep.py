"""Making again what jobs are lacking, from what the ledger itself shows."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import sqlalchemy as sa

from afterword.errors import QueueFull
from afterword.lanes import embed_job, reconsolidate_job, remember_job
from afterword.ledger import jobs, schema, shadow
from afterword.ledger.schema import NO, QUEUED
from afterword.records import NewJob, Scope

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from afterword.ledger.tx import Held, Tx

AHEAD = timedelta(minutes=1)  # a job that was made later than this from now: the clock was put back since
LONGEST = timedelta(hours=1, minutes=1)  # that any job is put off, but for one that was put for later
RECEIPT_SECONDS = 60.0  # a receipt that is not worked through by then has lost its job

_scope = schema.scope
_chat = schema.chat
_job = schema.job
_entry = schema.entry
_receipt = schema.receipt

Wanted = tuple[Scope, NewJob]


def wanted(conn: sa.Connection, now: datetime, model: str | None, limit: int) -> list[Wanted]:
    """Jobs that are lacking, by a look that locks nothing; `put` looks again."""
    found = [*_lagging(conn, limit), *_open_receipts(conn, now, limit)]
    if model is not None:
        found += _unembedded(conn, model, limit)
    return found[:limit]


def put(tx: Tx, asked: Wanted, room: jobs.Room) -> bool:
    """Put one of them, unless it has come to stand there meanwhile or there is no room."""
    scope, job = asked
    held = tx.hold(scope)
    if _stands(held, job):
        return False
    try:
        jobs.put(held, job, room)
    except QueueFull:
        return False
    return True


def put_off_by_the_clock(conn: sa.Connection, now: datetime, limit: int) -> list[int]:
    """Waiting jobs whose time is not to be waited for, because the clock was put back after they were given it."""
    made_later = _job.c.created_at > now + AHEAD
    too_far = sa.and_(_job.c.run_at > now + LONGEST, _job.c.delay < LONGEST.total_seconds())
    query = sa.select(_job.c.id).where(_job.c.state == QUEUED, sa.or_(made_later, too_far)).limit(limit)
    return list(conn.execute(query).scalars())


def make_due(tx: Tx, ids: Sequence[int]) -> int:
    """Let these jobs run now, those that still wait."""
    found = sa.select(_job.c.id, _job.c.scope_id, _job.c.lane).where(_job.c.id.in_(ids), _job.c.state == QUEUED)
    waiting = tx.conn.execute(found).all()
    for row in waiting:
        due = {"run_at": tx.now, "created_at": tx.now, "latest": None}
        tx.conn.execute(sa.update(_job).where(_job.c.id == row.id).values(**due))
        tx.lanes[row.lane] = row.scope_id
    return len(waiting)


def _stands(held: Held, job: NewJob) -> bool:
    live = _job.c.scope_id == held.id, _job.c.kind == job.kind, _job.c.finished_at.is_(None)
    query = sa.select(_job.c.id).where(*live)
    for name in ("chat_id", "reply_id"):
        if name in job.payload:
            query = query.where(_job.c[name] == job.payload[name])
    return held.conn.execute(query.limit(1)).first() is not None


def _no_live(kind: str, *conditions: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    live = sa.select(_job.c.id).where(_job.c.kind == kind, _job.c.finished_at.is_(None), *conditions)
    return ~live.exists()


def _lagging(conn: sa.Connection, limit: int) -> Iterable[Wanted]:
    """Chats with user turns at or beyond their cursor."""
    none = _no_live("remember", _job.c.scope_id == _chat.c.scope_id, _job.c.chat_id == _chat.c.id)
    query = (
        sa.select(_scope.c.tenant, _scope.c.user_id, _chat.c.id)
        .join_from(_chat, _scope, _scope.c.id == _chat.c.scope_id)
        .where(_chat.c.last_user >= _chat.c.decided, none)
        .limit(limit)
    )
    for row in conn.execute(query):
        scope = Scope(row.tenant, row.user_id)
        yield scope, remember_job(scope, row.id, delay=0.0)


def _open_receipts(conn: sa.Connection, now: datetime, limit: int) -> Iterable[Wanted]:
    none = _no_live(
        "reconsolidate",
        _job.c.scope_id == _receipt.c.scope_id,
        _job.c.chat_id == _receipt.c.chat_id,
        _job.c.reply_id == _receipt.c.reply_id,
    )
    query = (
        sa.select(_scope.c.tenant, _scope.c.user_id, _receipt.c.chat_id, _receipt.c.reply_id)
        .join_from(_receipt, _scope, _scope.c.id == _receipt.c.scope_id)
        .where(_receipt.c.worked == NO, _receipt.c.created_at < now - timedelta(seconds=RECEIPT_SECONDS), none)
        .order_by(_receipt.c.created_at)
        .limit(limit)
    )
    for row in conn.execute(query):
        scope = Scope(row.tenant, row.user_id)
        yield scope, reconsolidate_job(scope, row.chat_id, row.reply_id)


def _unembedded(conn: sa.Connection, model: str, limit: int) -> Iterable[Wanted]:
    lacking = sa.select(_entry.c.scope_id).where(shadow.lacking(model)).distinct()
    query = (
        sa.select(_scope.c.tenant, _scope.c.user_id)
        .where(_scope.c.id.in_(lacking), _no_live("embed", _job.c.scope_id == _scope.c.id))
        .limit(limit)
    )
    for row in conn.execute(query):
        scope = Scope(row.tenant, row.user_id)
        yield scope, embed_job(scope)
