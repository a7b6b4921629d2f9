"""Erasing: one record, a chat, or everything of a scope. What is erased leaves no text behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from afterword.ledger import jobs, schema
from afterword.ledger.tx import chunks

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from afterword.ledger.tx import Held, Tx
    from afterword.records import Scope

_turn = schema.turn
_memory = schema.memory
_version = schema.version
_rests = schema.rests
_chat = schema.chat
_decision = schema.decision
_job = schema.job
_there = [
    sa.select(table.c.id).where(
        table.c.scope_id == sa.bindparam("scope"), table.c.id.in_(sa.bindparam("ids", expanding=True))
    )
    for table in (_turn, _memory)
]


def erase(held: Held, record: str) -> bool:
    """Erase a turn or a memory. False: there is none of this name."""
    return erase_memory(held, record) or erase_turn(held, record)


def erase_memory(held: Held, record: str) -> bool:
    """Its head, all its versions, vectors and tokens, and what was kept of how it was decided."""
    at = _memory.c.scope_id == held.id, _memory.c.id == record
    newest = held.conn.execute(sa.select(_memory.c.version).where(*at)).scalar()
    if newest is None:
        return False
    versions = _version.c.scope_id == held.id, _version.c.id == record
    writers = held.conn.execute(sa.select(_version.c.job_id).where(*versions)).scalars()
    _blank_jobs(held, {writer for writer in writers if writer is not None})
    held.conn.execute(sa.delete(_version).where(*versions))
    held.conn.execute(sa.delete(_memory).where(*at))
    held.conn.execute(sa.delete(_rests).where(_rests.c.scope_id == held.id, _rests.c.record == record))
    drop_entry(held, record)
    held.changed(record, newest, "erase")
    return True


def erase_turn(held: Held, record: str) -> bool:
    """A turn, its receipt if it is a reply, and what was kept of how it was decided."""
    at = _turn.c.scope_id == held.id, _turn.c.id == record
    row = held.conn.execute(sa.select(_turn.c.chat_id, _turn.c.position).where(*at)).first()
    if row is None:
        return False
    held.conn.execute(sa.delete(_turn).where(*at))
    gone = schema.receipt.c.scope_id == held.id, schema.receipt.c.reply_id == record
    held.conn.execute(sa.delete(schema.receipt).where(*gone))
    about = (
        _decision.c.scope_id == held.id,
        _decision.c.chat_id == row.chat_id,
        _decision.c.first <= row.position,
        _decision.c.last >= row.position,
    )
    _blank_jobs(held, set(held.conn.execute(sa.select(_decision.c.job_id).where(*about)).scalars()))
    _recount(held, row.chat_id)
    drop_entry(held, record)
    held.changed(record, 1, "erase")
    _unembed_next(held, row.chat_id, row.position)
    return True


def _unembed_next(held: Held, chat_id: str, position: int) -> None:
    """The next turn's vectors may hold something of the erased one (`shadow.unembedded`): they are made again."""
    entry = schema.entry
    at = entry.c.scope_id == held.id, entry.c.chat_id == chat_id, entry.c.position == position + 1
    record = held.conn.execute(sa.select(entry.c.record).where(*at)).scalar()
    if record is not None:
        of_it = schema.vector.c.scope_id == held.id, schema.vector.c.record == record
        held.conn.execute(sa.delete(schema.vector).where(*of_it))
        held.conn.execute(sa.update(entry).where(*at).values(model=None))
        held.changed(record, 1, "embedded")


def _blank_jobs(held: Held, job_ids: Iterable[int]) -> None:
    """What these jobs thought may quote what is erased."""
    for job_id in job_ids:
        held.conn.execute(
            sa.update(_decision)
            .where(_decision.c.scope_id == held.id, _decision.c.job_id == job_id)
            .values(content={"erased": True})
        )
        held.conn.execute(
            sa.update(_job).where(_job.c.scope_id == held.id, _job.c.id == job_id).values(error="", result=None)
        )


def _recount(held: Held, chat_id: str) -> None:
    at = _chat.c.scope_id == held.id, _chat.c.id == chat_id
    users = sa.select(sa.func.max(_turn.c.position)).where(
        _turn.c.scope_id == held.id, _turn.c.chat_id == chat_id, _turn.c.role == "user"
    )
    last_user = sa.func.coalesce(users.scalar_subquery(), -1)
    held.conn.execute(sa.update(_chat).where(*at).values(turns=_chat.c.turns - 1, last_user=last_user))


def drop_entry(held: Held, record: str) -> None:
    """Out of what indexes see."""
    for table in (schema.vector, schema.entry):
        held.conn.execute(sa.delete(table).where(table.c.scope_id == held.id, table.c.record == record))


# ── a chat ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def delete_chat(tx: Tx, scope: Scope, chat_id: str) -> None:
    """A chat's turns, receipts, jobs and decisions, and the memories that rest on nothing else."""
    held = tx.hold(scope)
    turns = held.conn.execute(
        sa.select(_turn.c.id).where(_turn.c.scope_id == held.id, _turn.c.chat_id == chat_id)
    ).scalars()
    gone = list(turns)
    for table in (schema.receipt, _decision, schema.turn):
        held.conn.execute(sa.delete(table).where(table.c.scope_id == held.id, table.c.chat_id == chat_id))
    _delete_jobs(held, chat_id)
    held.conn.execute(sa.delete(_chat).where(_chat.c.scope_id == held.id, _chat.c.id == chat_id))
    for record in gone:
        drop_entry(held, record)
        held.changed(record, 1, "erase")
    while gone:  # episodes that rested on the turns, then facts that rested on those episodes
        gone = [record for record in _only_resting_on(held, gone) if erase_memory(held, record)]


def _delete_jobs(held: Held, chat_id: str) -> None:
    of_chat = _job.c.scope_id == held.id, _job.c.chat_id == chat_id
    columns = _job.c.lane, _job.c.stream
    touched = held.conn.execute(sa.select(*columns).where(*of_chat, _job.c.finished_at.is_(None)).distinct()).all()
    theirs = sa.select(_job.c.id).where(*of_chat)  # what was decided after a reply names no chat itself
    held.conn.execute(sa.delete(_decision).where(_decision.c.scope_id == held.id, _decision.c.job_id.in_(theirs)))
    held.conn.execute(sa.delete(_job).where(*of_chat))
    for row in touched:
        if row.stream is not None:
            jobs.promote(held, row.stream)
        held.lane_changed(row.lane)


def _only_resting_on(held: Held, gone: Sequence[str]) -> list[str]:
    """Memories of which every source is gone."""
    candidates: set[str] = set()
    for part in chunks(gone):
        at = _rests.c.scope_id == held.id, _rests.c.source.in_(part)
        candidates.update(held.conn.execute(sa.select(_rests.c.record).where(*at)).scalars())
    left: set[str] = set()
    for part in chunks(sorted(candidates)):
        at = _rests.c.scope_id == held.id, _rests.c.record.in_(part)
        links = held.conn.execute(sa.select(_rests.c.record, _rests.c.source).where(*at)).all()
        here = _present(held, {link.source for link in links})
        left.update(link.record for link in links if link.source in here)
    return sorted(candidates - left)


def _present(held: Held, records: set[str]) -> set[str]:
    found: set[str] = set()
    for part in chunks(sorted(records)):
        for query in _there:  # most are turns: then memories need not be asked
            if left := [record for record in part if record not in found]:
                found.update(held.conn.execute(query, {"scope": held.id, "ids": left}).scalars())
    return found


def missing(held: Held, records: Sequence[str]) -> set[str]:
    """Those of `records` that are no turn and no memory of this scope."""
    return set(records) - _present(held, set(records))


# ── everything ─────────────────────────────────────────────────────────────────────────────────────────────────────


def reset(tx: Tx, scope: Scope) -> int:
    """Everything of a scope; what is under way finds another epoch and gives up. The change counter goes on."""
    held = tx.hold(scope)
    for table in schema.OF_A_SCOPE:
        held.conn.execute(sa.delete(table).where(table.c.scope_id == held.id))
    held.rows.clear()
    held.epoch += 1
    held.seq += 1
    held.model = None
    held.utc_offset = None
    held.dirty = True
    return held.epoch
