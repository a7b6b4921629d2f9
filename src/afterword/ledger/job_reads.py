"""Reading jobs and decisions."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from afterword.errors import NotFound
from afterword.ledger import rows, schema
from afterword.ledger.migrate import VERSION_TABLE
from afterword.ledger.packed import fetch
from afterword.ledger.schema import LAGGING, QUEUED, RULES, RUNNING, Moment
from afterword.ports import Queue
from afterword.records import Scope

if TYPE_CHECKING:
    from datetime import datetime

    from afterword.ports import Decision, JobFilter
    from afterword.records import Job

_job = schema.job
_scope = schema.scope
_decision = schema.decision
_chat = schema.chat
_turn = schema.turn
_jobs = sa.select(*rows.job_columns).join_from(_job, _scope, _scope.c.id == _job.c.scope_id)

_CONDITIONS = {
    "scope": _job.c.scope_id == sa.bindparam("scope"),
    "states": _job.c.state.in_(sa.bindparam("states", expanding=True)),
    "kinds": _job.c.kind.in_(sa.bindparam("kinds", expanding=True)),
    "chat": _job.c.chat_id == sa.bindparam("chat"),
    "before": _job.c.id < sa.bindparam("before"),
}


LISTED = 60  # jobs of a user that a page is told of
BACKLOG_LOOK = 1000  # decisions of rules

# what each look of an open page asks for is built once: building a statement costs several times what running it does
_numbers = sa.select(_job.c.state, sa.func.count().label("number")).group_by(_job.c.state)
_own_numbers = _numbers.where(_CONDITIONS["scope"])
_live = (
    _jobs.where(_CONDITIONS["scope"], _job.c.state.in_((QUEUED, RUNNING, "dead")))
    .order_by(_job.c.id.desc())
    .limit(LISTED)
)
# the newest by number first: no index leads to a user's jobs by the time at which they ended
_put_lately = (
    sa.select(_job.c.id).where(_CONDITIONS["scope"], _job.c.state == "done").order_by(_job.c.id.desc()).limit(LISTED)
)
_done_lately = _jobs.where(
    _job.c.id.in_(_put_lately.scalar_subquery()), _job.c.finished_at > sa.bindparam("since", type_=Moment)
)
_by_rules = _decision.c.author == RULES, _decision.c.redone_by.is_(None), _decision.c.kind == "remember"
_spans = (
    sa.select((_decision.c.last - _decision.c.first + 1).label("turns"))
    .where(*_by_rules)
    .order_by(_decision.c.id.desc())
    .limit(BACKLOG_LOOK)
    .subquery()
)
_backlog = sa.select(sa.func.sum(_spans.c.turns))


@cache  # each ticket asks: building a statement costs several times what running it does
def _listing(given: frozenset[str]) -> sa.Select[Any]:
    query = _jobs.where(*(_CONDITIONS[name] for name in sorted(given)))
    return query.order_by(_job.c.id.desc()).limit(sa.bindparam("most", type_=sa.Integer))


def jobs(conn: sa.Connection, scope_id: int | None, wanted: JobFilter) -> list[Job]:
    """Newest first; `scope_id` None: of all scopes."""
    values = {
        "scope": scope_id,
        "states": wanted.states or None,
        "kinds": wanted.kinds or None,
        "chat": wanted.chat_id,
        "before": wanted.before,
    }
    given = {name: value for name, value in values.items() if value is not None}
    found = fetch(conn, _listing(frozenset(given)), {**given, "most": wanted.limit})
    return [rows.job_from(row) for row in found]


def job(conn: sa.Connection, job_id: int) -> Job:
    row = conn.execute(_jobs.where(_job.c.id == job_id)).first()
    if row is None:
        raise NotFound(f"no job {job_id}")
    return rows.job_from(row)


def job_counts(conn: sa.Connection, scope_id: int | None) -> dict[str, int]:
    query = _numbers if scope_id is None else _own_numbers
    return {row.state: row.number for row in conn.execute(query, {} if scope_id is None else {"scope": scope_id})}


def work(conn: sa.Connection, scope_id: int, since: datetime) -> tuple[list[Job], dict[str, int]]:
    """What is unfinished or dead, and of what was put lately what was done after `since`, newest first; and how many are
    unfinished or dead, by state."""
    at = {"scope": scope_id, "since": since}
    live = [rows.job_from(row) for row in fetch(conn, _live, at)]
    done = [rows.job_from(row) for row in fetch(conn, _done_lately, at)]
    counts: dict[str, int] = Counter(job.state for job in live)
    if len(live) == LISTED:  # there are more
        counts = job_counts(conn, scope_id)
    return sorted(live + done, key=lambda job: -job.id), counts


def backlog(conn: sa.Connection) -> int:
    """Turns of all users that were decided by rules only, counted over the newest `BACKLOG_LOOK` decisions."""
    return int(conn.execute(_backlog).scalar() or 0)


def queue(conn: sa.Connection) -> Queue:
    """Costs as much as there are unfinished jobs and users, however many finished jobs are kept."""
    number = sa.func.count().label("number")
    live = sa.select(_job.c.kind, _job.c.state, number).group_by(_job.c.kind, _job.c.state)
    dead = live.select_from(_scope.join(_job, sa.and_(_job.c.scope_id == _scope.c.id, _job.c.state == "dead")))
    looks = [live.where(_job.c.state == QUEUED), live.where(_job.c.state == RUNNING), dead]
    counted = {(row.kind, row.state): row.number for look in looks for row in conn.execute(look)}
    since = conn.execute(
        sa.select(sa.func.min(_job.c.created_at), sa.func.min(_job.c.run_at)).where(_job.c.state == QUEUED)
    ).one()
    waiting = sa.select(sa.func.sum(_chat.c.next - _chat.c.decided)).where(LAGGING)
    return Queue(counted, since[0], since[1], int(conn.execute(waiting).scalar() or 0))


def waiting(conn: sa.Connection, scope_id: int | None) -> tuple[int, int]:
    """Reads the text of every turn that waits: for now and then."""
    text = sa.cast(_turn.c.text, sa.LargeBinary) if conn.dialect.name == "sqlite" else _turn.c.text
    size = sa.func.length(text) if conn.dialect.name == "sqlite" else sa.func.octet_length(text)
    of_chat = sa.and_(
        _turn.c.scope_id == _chat.c.scope_id, _turn.c.chat_id == _chat.c.id, _turn.c.position >= _chat.c.decided
    )
    query = sa.select(sa.func.count(), sa.func.sum(size)).select_from(_chat.join(_turn, of_chat)).where(LAGGING)
    if scope_id is not None:
        query = query.where(_chat.c.scope_id == scope_id)
    turns, total = conn.execute(query).one()
    return turns, int(total or 0)


def probe(conn: sa.Connection) -> None:
    """A row comes and goes: nobody sees it, but a page is written. (An update to the same value writes none.)"""
    conn.execute(sa.text(f"INSERT INTO {VERSION_TABLE} VALUES ('probe')"))
    conn.execute(sa.text(f"DELETE FROM {VERSION_TABLE} WHERE version_num = 'probe'"))


def rule_decisions(conn: sa.Connection, scope_id: int | None, limit: int) -> list[tuple[Scope, Decision]]:
    query = (
        sa.select(*_decision.c, _scope.c.tenant, _scope.c.user_id)
        .join_from(_decision, _scope, _scope.c.id == _decision.c.scope_id)
        .where(*_by_rules)
        .order_by(_decision.c.id.desc())
        .limit(limit)
    )
    if scope_id is not None:
        query = query.where(_decision.c.scope_id == scope_id)
    return [(Scope(row.tenant, row.user_id), rows.decision_from(row)) for row in conn.execute(query)]


def decisions(conn: sa.Connection, scope_id: int, job_id: int) -> list[Decision]:
    at = _decision.c.scope_id == scope_id, _decision.c.job_id == job_id
    return [rows.decision_from(row) for row in conn.execute(sa.select(_decision).where(*at).order_by(_decision.c.id))]


def scopes(conn: sa.Connection, after: Scope | None, limit: int) -> list[Scope]:
    query = sa.select(_scope.c.tenant, _scope.c.user_id).order_by(_scope.c.tenant, _scope.c.user_id)
    if after is not None:
        names = sa.tuple_(_scope.c.tenant, _scope.c.user_id)
        query = query.where(names > sa.tuple_(sa.literal(after.tenant), sa.literal(after.user)))
    return [Scope(row.tenant, row.user_id) for row in conn.execute(query.limit(limit))]


def prune(conn: sa.Connection, before: datetime, limit: int) -> int:
    """Delete up to `limit` finished jobs that ended before this; how many."""
    old = sa.select(_job.c.id).where(
        _job.c.finished_at.is_not(None), _job.c.finished_at < before, _job.c.state.in_(("done", "cancelled"))
    )
    return conn.execute(sa.delete(_job).where(_job.c.id.in_(old.limit(limit)))).rowcount
