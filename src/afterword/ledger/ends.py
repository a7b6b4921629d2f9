"""How a job ends other than by its plan: dead-lettered, cancelled, tried again. A `remember` steps over its window."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from afterword.errors import InvalidInput, NotFound
from afterword.lanes import remember_job
from afterword.ledger import claims, jobs, rows, schema
from afterword.ledger.schema import QUEUED

if TYPE_CHECKING:
    from afterword.ledger.tx import Held, Tx
    from afterword.records import Job

STEP = 24  # turns that a `remember` steps over which was cancelled before its window was fixed

_job = schema.job
_chat = schema.chat
_row_of_chat = sa.select(_chat).where(_chat.c.scope_id == sa.bindparam("scope"), _chat.c.id == sa.bindparam("chat"))
_insert_decision = sa.insert(schema.decision)
_move_cursor = (
    sa.update(_chat)
    .where(_chat.c.scope_id == sa.bindparam("b_scope"), _chat.c.id == sa.bindparam("b_chat"))
    .where(_chat.c.decided < sa.bindparam("b_decided"))
    .values(decided=sa.bindparam("b_decided"))
)
worked_off = (
    sa.update(schema.receipt)
    .where(schema.receipt.c.scope_id == sa.bindparam("b_scope"), schema.receipt.c.reply_id == sa.bindparam("b_reply"))
    .values(worked=1)
)
_unfinished = (
    sa.select(_job.c.id, _job.c.window)
    .where(_job.c.scope_id == sa.bindparam("scope"), _job.c.kind == "remember", _job.c.chat_id == sa.bindparam("chat"))
    .where(_job.c.finished_at.is_(None))
)
_waiting_remember = _unfinished.where(_job.c.state == QUEUED).limit(1)


def bury(tx: Tx, job: Job, error: str, room: jobs.Room) -> None:
    """Dead-letter a running job."""
    held, row = jobs.own(tx, job)
    _give_up(held, row, "dead", jobs.plain(error), room)


def cancel(tx: Tx, job_id: int, room: jobs.Room) -> Job:
    """End a job that waits or runs; one that has ended stays as it is."""
    row, held = _locked(tx, job_id)
    if row.finished_at is None:
        _give_up(held, row, "cancelled", row.error, room)
    return _read(tx, job_id)


def retry(tx: Tx, job_id: int, room: jobs.Room) -> Job:
    """A job that was given up waits again, with its window and a fresh count of attempts."""
    row, held = _locked(tx, job_id)
    if row.state not in ("dead", "cancelled"):
        raise InvalidInput(f"job {job_id} is {row.state}: only a dead or cancelled one can be tried again")
    room.check(held)
    again = {"state": "queued", "attempt": 0, "finished_at": None, "run_at": held.now, "error": "", "waiting": ""}
    held.conn.execute(
        sa.update(_job).where(_job.c.id == job_id).values(**again, worker=None, latest=None, head=int(not row.stream))
    )
    if row.stream is not None:
        jobs.promote(held, row.stream)
    held.lane_changed(row.lane)
    _resume_run(held, row)
    return _read(tx, job_id)


def _locked(tx: Tx, job_id: int) -> tuple[rows.Row, Held]:
    row = claims.row_of(tx, job_id)
    if row is None:
        raise NotFound(f"no job {job_id}")
    held = tx.hold(claims.scope_of(row))
    row = claims.row_of(tx, job_id)  # as it stands now that the scope is locked
    if row is None:
        raise NotFound(f"no job {job_id}")
    return row, held


def _read(tx: Tx, job_id: int) -> Job:
    row = claims.row_of(tx, job_id)
    assert row is not None
    return rows.job_from(row)


def _give_up(held: Held, row: rows.Row, state: str, error: str, room: jobs.Room) -> None:
    values: dict[str, Any] = {"error": error, "fence": row.fence + 1}
    if row.kind == "remember" and row.chat_id is not None:
        window = row.window or _window_to_skip(held, row)
        values["window"] = window
        jobs.end(held, row, state, **values)
        if window is not None:
            step_over(held, row, window, state)
        put_next_remember(held, row.chat_id, room)
        return
    jobs.end(held, row, state, **values)
    if row.reply_id is not None:  # else a sweep would make it again for ever
        held.conn.execute(worked_off, {"b_scope": held.id, "b_reply": row.reply_id})
    _end_run(held, row, "failed" if state == "dead" else "cancelled", error)


def _window_to_skip(held: Held, row: rows.Row) -> dict[str, Any] | None:
    """What this job would have read: the turns that are left by the chat's earlier jobs. None, if one of those may still
    take them all."""
    chat = _chat_row(held, row.chat_id)
    if chat is None:
        return None
    at = {"scope": held.id, "chat": row.chat_id}
    earlier = [one.window for one in held.conn.execute(_unfinished, at) if one.id < row.id]
    if not all(earlier):
        return None
    first = max([chat.decided, *(window["last"] + 1 for window in earlier)])
    last = min(chat.last_user, first + STEP - 1)
    # as the step fixes it: it may be tried again
    return {"chat_id": row.chat_id, "first": first, "last": last} if first <= last else None


def _chat_row(held: Held, chat_id: str) -> rows.Row | None:
    return held.conn.execute(_row_of_chat, {"scope": held.id, "chat": chat_id}).first()


def step_over(held: Held, row: rows.Row, window: dict[str, Any], state: str) -> None:
    """The window counts as decided, by nobody."""
    move_cursor(held, row.chat_id, int(window["last"]) + 1)
    content = {"given_up": state}
    write_decision(held, row, content, chat_id=row.chat_id, first=window.get("first"), last=window["last"], by="none")


def move_cursor(held: Held, chat_id: str, position: int) -> None:
    """Turns below `position` are decided. Never back."""
    held.conn.execute(_move_cursor, {"b_scope": held.id, "b_chat": chat_id, "b_decided": position})


def write_decision(
    held: Held,
    row: rows.Row,
    content: dict[str, Any],
    *,
    chat_id: str | None = None,
    first: int | None = None,
    last: int | None = None,
    by: str,
) -> int:
    """Keep what a job decided; the decision's number."""
    values = {"scope_id": held.id, "job_id": row.id, "kind": row.kind, "chat_id": chat_id, "first": first}
    more = {"last": last, "author": by, "content": content, "decided_at": held.now}
    key = held.conn.execute(_insert_decision, {**values, **more}).inserted_primary_key
    assert key is not None
    return int(key[0])


def put_next_remember(held: Held, chat_id: str, room: jobs.Room) -> bool:
    """Where user turns wait at or beyond the cursor and no `remember` for them, put one."""
    chat = _chat_row(held, chat_id)
    if chat is None or chat.last_user < chat.decided:
        return False
    if held.conn.execute(_waiting_remember, {"scope": held.id, "chat": chat_id}).first() is not None:
        return False
    return bool(jobs.follow(held, [remember_job(held.scope, chat_id, delay=0.0)], room))


def _end_run(held: Held, row: rows.Row, state: str, message: str) -> None:
    if row.run_id is None:
        return
    at = schema.run.c.scope_id == held.id, schema.run.c.id == row.run_id, schema.run.c.state == "running"
    ended = {"state": state, "finished_at": held.now, "message": message}
    held.conn.execute(sa.update(schema.run).where(*at).values(**ended))


def _resume_run(held: Held, row: rows.Row) -> None:
    """A run whose job is tried again goes on, unless a newer one of its kind has begun."""
    if row.run_id is None:
        return
    run = schema.run
    same = (
        run.c.scope_id == held.id,
        run.c.kind == sa.select(run.c.kind).where(run.c.id == row.run_id).scalar_subquery(),
    )
    if held.conn.execute(sa.select(run.c.id).where(*same, run.c.state == "running")).first() is None:
        at = run.c.scope_id == held.id, run.c.id == row.run_id
        held.conn.execute(sa.update(run).where(*at).values(state="running", finished_at=None, message=""))
