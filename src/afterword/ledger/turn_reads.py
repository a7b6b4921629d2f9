"""Reading turns, chats, replies and receipts. Each takes a connection and a scope's number (-1: no such scope)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from afterword.errors import NotFound
from afterword.ledger import rows, schema
from afterword.records import Chat

if TYPE_CHECKING:
    from afterword.records import Receipt, Turn

TITLE_LENGTH = 80  # characters

_turn = schema.turn
_chat = schema.chat
_turns = sa.select(*rows.turn_columns)
_cursor = sa.select(_chat.c.decided).where(
    _chat.c.scope_id == sa.bindparam("scope"), _chat.c.id == sa.bindparam("chat")
)


def chats(conn: sa.Connection, scope_id: int, limit: int) -> list[Chat]:
    first = (
        sa.select(sa.func.substr(_turn.c.text, 1, TITLE_LENGTH * 2))
        .where(_turn.c.scope_id == _chat.c.scope_id, _turn.c.chat_id == _chat.c.id)
        .order_by(_turn.c.position)
        .limit(1)
        .scalar_subquery()
    )
    query = (
        sa.select(_chat.c.id, _chat.c.turns, _chat.c.last_at, first.label("title"))
        .where(_chat.c.scope_id == scope_id, _chat.c.turns > 0)
        .order_by(_chat.c.last_at.desc(), _chat.c.id)
        .limit(limit)
    )
    return [Chat(row.id, _title(row.title or ""), row.turns, row.last_at) for row in conn.execute(query)]


def _title(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= TITLE_LENGTH else words[: TITLE_LENGTH - 1].rstrip() + "…"


def turns(conn: sa.Connection, scope_id: int, chat_id: str, first: int, last: int | None, limit: int) -> list[Turn]:
    query = _turns.where(_turn.c.scope_id == scope_id, _turn.c.chat_id == chat_id, _turn.c.position >= first)
    if last is not None:
        query = query.where(_turn.c.position <= last)
    return [rows.turn_from(row) for row in conn.execute(query.order_by(_turn.c.position).limit(limit))]


def last_turns(conn: sa.Connection, scope_id: int, chat_id: str, count: int) -> list[Turn]:
    query = _turns.where(_turn.c.scope_id == scope_id, _turn.c.chat_id == chat_id)
    found = conn.execute(query.order_by(_turn.c.position.desc()).limit(count))
    return [rows.turn_from(row) for row in found][::-1]


def turn(conn: sa.Connection, scope_id: int, turn_id: str) -> Turn:
    row = conn.execute(_turns.where(_turn.c.scope_id == scope_id, _turn.c.id == turn_id)).first()
    if row is None:
        raise NotFound(f"no turn {turn_id} of this user")
    return rows.turn_from(row)


def reply_to(conn: sa.Connection, scope_id: int, turn_id: str) -> Turn | None:
    row = conn.execute(_turns.where(_turn.c.scope_id == scope_id, _turn.c.reply_to == turn_id)).first()
    return None if row is None else rows.turn_from(row)


def receipt(conn: sa.Connection, scope_id: int, reply_id: str) -> Receipt | None:
    at = schema.receipt.c.scope_id == scope_id, schema.receipt.c.reply_id == reply_id
    row = conn.execute(sa.select(schema.receipt).where(*at)).first()
    return None if row is None else rows.receipt_from(row)


def cursor(conn: sa.Connection, scope_id: int, chat_id: str) -> int:
    return conn.execute(_cursor, {"scope": scope_id, "chat": chat_id}).scalar() or 0
