"""Reading turns, chats, replies and receipts. Each takes a connection and a scope's number (-1: no such scope)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from afterword.errors import NotFound
from afterword.ledger import rows, schema, shadow
from afterword.ledger.packed import fetch
from afterword.ledger.tx import chunks
from afterword.ports import Opening
from afterword.records import Chat

if TYPE_CHECKING:
    from collections.abc import Sequence

    from afterword.records import Receipt, Turn

TITLE_LENGTH = 80  # characters

_turn = schema.turn
_chat = schema.chat
_scope: sa.BindParameter[int] = sa.bindparam("scope")
_turns = sa.select(*rows.turn_columns)
# what a reply or a look needs is built once: building a statement costs several times what running it does
_between = (
    _turns.where(_turn.c.scope_id == _scope, _turn.c.chat_id == sa.bindparam("chat"))
    .where(_turn.c.position >= sa.bindparam("first"), _turn.c.position <= sa.bindparam("last"))
    .order_by(_turn.c.position)
    .limit(sa.bindparam("most", type_=sa.Integer))
)
_at_positions = _turns.where(
    _turn.c.scope_id == _scope,
    _turn.c.chat_id == sa.bindparam("chat"),
    _turn.c.position.in_(sa.bindparam("positions", expanding=True)),
)
_newest = (
    _turns.where(_turn.c.scope_id == _scope, _turn.c.chat_id == sa.bindparam("chat"))
    .order_by(_turn.c.position.desc())
    .limit(sa.bindparam("most", type_=sa.Integer))
)
_one = _turns.where(_turn.c.scope_id == _scope, _turn.c.id == sa.bindparam("turn"))
_reply = _turns.where(_turn.c.scope_id == _scope, _turn.c.reply_to == sa.bindparam("turn"))
_receipts = sa.select(schema.receipt).where(
    schema.receipt.c.scope_id == _scope, schema.receipt.c.reply_id.in_(sa.bindparam("replies", expanding=True))
)
_opening_words = (
    sa.select(sa.func.substr(_turn.c.text, 1, TITLE_LENGTH * 2))
    .where(_turn.c.scope_id == _chat.c.scope_id, _turn.c.chat_id == _chat.c.id)
    .order_by(_turn.c.position)
    .limit(1)
    .scalar_subquery()
)
_chats = (
    sa.select(_chat.c.id, _chat.c.turns, _chat.c.last_at, _opening_words.label("title"))
    .where(_chat.c.scope_id == _scope, _chat.c.turns > 0)
    .order_by(_chat.c.last_at.desc(), _chat.c.id)
    .limit(sa.bindparam("most", type_=sa.Integer))
)
LAST = 2**31 - 1  # a position beyond all
_cursor = sa.select(_chat.c.decided).where(
    _chat.c.scope_id == sa.bindparam("scope"), _chat.c.id == sa.bindparam("chat")
)


def chats(conn: sa.Connection, scope_id: int, limit: int) -> list[Chat]:
    found = fetch(conn, _chats, {"scope": scope_id, "most": limit})
    return [Chat(row.id, _title(row.title or ""), row.turns, row.last_at) for row in found]


def _title(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= TITLE_LENGTH else words[: TITLE_LENGTH - 1].rstrip() + "…"


def turns(conn: sa.Connection, scope_id: int, chat_id: str, first: int, last: int | None, limit: int) -> list[Turn]:
    at = {"scope": scope_id, "chat": chat_id, "first": first, "last": LAST if last is None else last, "most": limit}
    return [rows.turn_from(row) for row in fetch(conn, _between, at)]


def turns_at(conn: sa.Connection, scope_id: int, places: Sequence[tuple[str, int]]) -> list[Turn]:
    of_chat: dict[str, list[int]] = {}
    for chat_id, position in places:
        of_chat.setdefault(chat_id, []).append(position)
    found = []
    for chat_id, positions in of_chat.items():
        for part in chunks(positions):
            at = {"scope": scope_id, "chat": chat_id, "positions": part}
            found += [rows.turn_from(row) for row in fetch(conn, _at_positions, at)]
    return found


def last_turns(conn: sa.Connection, scope_id: int, chat_id: str, count: int) -> list[Turn]:
    found = fetch(conn, _newest, {"scope": scope_id, "chat": chat_id, "most": count})
    return [rows.turn_from(row) for row in found][::-1]


def turn(conn: sa.Connection, scope_id: int, turn_id: str) -> Turn:
    row = conn.execute(_one, {"scope": scope_id, "turn": turn_id}).first()
    if row is None:
        raise NotFound(f"no turn {turn_id} of this user")
    return rows.turn_from(row)


def opening(conn: sa.Connection, scope_id: int, turn_id: str, most: int) -> Opening:
    asked = turn(conn, scope_id, turn_id)
    epoch = shadow.state(conn, scope_id).epoch
    return Opening(epoch, asked, reply_to(conn, scope_id, turn_id), before(conn, scope_id, asked, most))


def reply_to(conn: sa.Connection, scope_id: int, turn_id: str) -> Turn | None:
    row = conn.execute(_reply, {"scope": scope_id, "turn": turn_id}).first()
    return None if row is None else rows.turn_from(row)


def before(conn: sa.Connection, scope_id: int, asked: Turn, most: int) -> tuple[Turn, ...]:
    """At most `most` turns before this one in its chat, oldest first."""
    if not asked.position:
        return ()
    return tuple(turns(conn, scope_id, asked.chat_id, max(0, asked.position - most), asked.position - 1, most))


def receipt(conn: sa.Connection, scope_id: int, reply_id: str) -> Receipt | None:
    return receipts(conn, scope_id, [reply_id]).get(reply_id)


def receipts(conn: sa.Connection, scope_id: int, reply_ids: Sequence[str]) -> dict[str, Receipt]:
    found: dict[str, Receipt] = {}
    for part in chunks(reply_ids):
        for row in fetch(conn, _receipts, {"scope": scope_id, "replies": part}):
            found[row.reply_id] = rows.receipt_from(row)
    return found


def cursor(conn: sa.Connection, scope_id: int, chat_id: str) -> int:
    return conn.execute(_cursor, {"scope": scope_id, "chat": chat_id}).scalar() or 0
