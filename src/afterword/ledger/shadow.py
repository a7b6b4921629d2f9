"""What an index is built from: current entries, changes after a cursor, and what has no vectors yet."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from afterword.language.questions import asks
from afterword.language.texts import estimate_tokens
from afterword.ledger import rows, schema
from afterword.ledger.packed import fetch
from afterword.ports import IndexChange
from afterword.records import Ref, ScopeState

if TYPE_CHECKING:
    from afterword.ports import Entry

SHORT = 100  # estimated tokens of a turn that is embedded together with the one before it
BEFORE = 130  # of that one, at most
SAME_TALK = timedelta(hours=6)

_turn = schema.turn
_before = _turn.alias("before")
_version = schema.version
_entry = schema.entry
_vector = schema.vector
_change = schema.change
_scope = schema.scope
_state = sa.select(_scope.c.seq, _scope.c.epoch, _scope.c.model).where(_scope.c.id == sa.bindparam("id"))


def state(conn: sa.Connection, scope_id: int) -> ScopeState:
    row = conn.execute(_state, {"id": scope_id}).first()
    return ScopeState(0, 0, None) if row is None else ScopeState(row.seq, row.epoch, row.model)


_serving = sa.bindparam("model", type_=sa.Text)
_limit = sa.bindparam("most", type_=sa.Integer)
_vectors_of = sa.and_(
    _vector.c.scope_id == _entry.c.scope_id,
    _vector.c.record == _entry.c.record,
    _vector.c.version == _entry.c.version,
    _vector.c.model == _serving,
)
_same = sa.and_(_entry.c.scope_id == _change.c.scope_id, _entry.c.record == _change.c.record)
_changes = (
    sa.select(_change.c.seq, _change.c.record.label("changed"), *rows.entry_columns)
    .select_from(_change.outerjoin(_entry, _same).outerjoin(_vector, _vectors_of))
    .where(_change.c.scope_id == sa.bindparam("id"), _change.c.seq > sa.bindparam("after"))
    .order_by(_change.c.seq)
    .limit(_limit)
)
_entries = (
    sa.select(*rows.entry_columns)
    .select_from(_entry.outerjoin(_vector, _vectors_of))
    .where(_entry.c.scope_id == sa.bindparam("id"), _entry.c.record > sa.bindparam("after"))
    .order_by(_entry.c.record)
    .limit(_limit)
)


def changes(conn: sa.Connection, scope_id: int, after: int, limit: int) -> list[IndexChange]:
    serving = state(conn, scope_id).model or ""
    found = conn.execute(_changes, {"id": scope_id, "after": after, "model": serving, "most": limit})
    return [
        IndexChange(row.seq, row.changed, None if row.record is None else rows.entry_from(row[2:])) for row in found
    ]


def entries(conn: sa.Connection, scope_id: int, after: str, limit: int) -> tuple[ScopeState, list[Entry]]:
    at = state(conn, scope_id)
    found = conn.execute(_entries, {"id": scope_id, "after": after, "model": at.model or "", "most": limit}).all()
    return at, [rows.entry_from(row) for row in found]


def lacking(model: str | sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
    """Entries whose last vectors are not of this model; as ranges, so that an index finds them."""
    return sa.or_(_entry.c.model.is_(None), _entry.c.model < model, _entry.c.model > model)


def _newest_first(of: sa.FromClause) -> tuple[sa.ColumnElement[Any], ...]:
    return of.c.said_at.desc(), of.c.position.desc(), of.c.record


_LACKING = ("scope_id", "record", "version", "kind", "said_at", "position")
_lacking = (  # chosen before their texts are joined: there may be many thousands
    sa.select(*(_entry.c[name] for name in _LACKING))
    .where(_entry.c.scope_id == sa.bindparam("id"), lacking(_serving))
    .order_by(*_newest_first(_entry))
    .limit(_limit)
    .subquery("lacking")
)
_written_there = sa.and_(
    _lacking.c.kind != "turn",
    _version.c.scope_id == _lacking.c.scope_id,
    _version.c.id == _lacking.c.record,
    _version.c.version == _lacking.c.version,
)
_said_there = sa.and_(
    _lacking.c.kind == "turn", _turn.c.scope_id == _lacking.c.scope_id, _turn.c.id == _lacking.c.record
)
_said_before = sa.and_(
    _before.c.scope_id == _turn.c.scope_id,
    _before.c.chat_id == _turn.c.chat_id,
    _before.c.position == _turn.c.position - 1,
)
_BEFORE = ("role", "speaker", "text", "said_at", "searchable")
_unembedded = (
    sa.select(_lacking.c.record, _lacking.c.version, _version.c.text.label("written"))
    .add_columns(_turn.c.role, _turn.c.speaker, _turn.c.text, _turn.c.said_at)
    .add_columns(*(_before.c[name].label(f"before_{name}") for name in _BEFORE))
    .select_from(
        _lacking.outerjoin(_version, _written_there).outerjoin(_turn, _said_there).outerjoin(_before, _said_before)
    )
    .order_by(*_newest_first(_lacking))
)


def unembedded(conn: sa.Connection, scope_id: int, model: str, limit: int) -> list[tuple[Ref, str]]:
    found = fetch(conn, _unembedded, {"id": scope_id, "model": model, "most": limit})
    return [(Ref(row.record, row.version), _turn_text(row) if row.written is None else row.written) for row in found]


def _turn_text(row: rows.Row) -> str:
    """A turn as it is embedded. In a talk of short turns one is understood with what the other said just before: "Yes,
    last May" by itself is near to no question. A long answer before it would drown it."""
    text = rows.embedded_text(row.role, row.speaker, row.text)
    if row.before_text is None or estimate_tokens(row.text) > SHORT or not _belongs(row):
        return text
    return f"{rows.labelled(row.before_speaker, row.before_text)}\n{text}"


def _belongs(row: rows.Row) -> bool:
    """Whether a turn is understood with the one before it. Of the assistant's turns only questions count: thanks for an
    answer would be found in its place."""
    if (row.before_role, row.before_speaker) == (row.role, row.speaker) or row.said_at - row.before_said_at > SAME_TALK:
        return False
    if row.before_role == "assistant" and not (row.before_searchable and asks(row.before_text)):
        return False
    return estimate_tokens(row.before_text) <= BEFORE


def vector_counts(conn: sa.Connection, scope_id: int, model: str) -> tuple[int, int]:
    have = sa.select(sa.func.count()).where(_vector.c.scope_id == scope_id, _vector.c.model == model)
    all_ = sa.select(sa.func.count()).where(_entry.c.scope_id == scope_id)
    return conn.execute(have).scalar() or 0, conn.execute(all_).scalar() or 0
