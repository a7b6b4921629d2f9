"""Turns and replies: how they are kept, and how they are read back."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from datetime import UTC, timedelta
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from afterword.errors import EpochChanged, InvalidInput
from afterword.language.tokens import TOKENIZER_VERSION
from afterword.ledger import dialect, erase, jobs, rows, schema, turn_reads
from afterword.ledger.packed import fetch
from afterword.ledger.tx import Held, Tx, chunks
from afterword.ports import Opening
from afterword.records import Turn

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from afterword.records import NewJob, NewReply, NewTurn, Receipt, Scope

MOVED = ("next", "turns", "last_user", "last_at")  # what a new turn moves in its chat's row

_insert_turn = sa.insert(schema.turn)
_insert_entry = sa.insert(schema.entry)
_insert_receipt = sa.insert(schema.receipt)
_chat_row = sa.select(schema.chat).where(
    schema.chat.c.scope_id == sa.bindparam("scope"), schema.chat.c.id == sa.bindparam("chat")
)
_memory = sa.select(schema.memory.c.id).where(
    schema.memory.c.scope_id == sa.bindparam("scope"), schema.memory.c.id == sa.bindparam("id")
)
_known = sa.select(*rows.turn_columns).where(
    schema.turn.c.scope_id == sa.bindparam("scope"), schema.turn.c.id.in_(sa.bindparam("ids", expanding=True))
)
_asked = sa.select(schema.turn.c.chat_id, schema.turn.c.role).where(
    schema.turn.c.scope_id == sa.bindparam("scope"), schema.turn.c.id == sa.bindparam("turn")
)
_reply = sa.select(schema.turn.c.id, schema.turn.c.cut).where(
    schema.turn.c.scope_id == sa.bindparam("scope"), schema.turn.c.reply_to == sa.bindparam("turn")
)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A turn as it waits to be written: its id is made once, so that running the write again makes no other turn."""

    id: str
    new: NewTurn
    said_at: datetime | None
    metadata: dict[str, Any]
    tokens: str


@dataclass(frozen=True, slots=True)
class PreparedReply:
    id: str
    new: NewReply
    metadata: dict[str, Any]
    tokens: str
    items: list[dict[str, Any]]
    receipt: Receipt


def prepare(new: NewTurn, tokens: str) -> Prepared:
    """Raises `InvalidInput` for what can't be kept."""
    try:
        said_at = None if new.said_at is None else new.said_at.astimezone(UTC)
    except OverflowError:
        raise InvalidInput(f"said_at is {new.said_at}: give a time between the years 1 and 9999") from None
    metadata = rows.checked_json(new.metadata, "metadata")
    return Prepared(new.turn_id or uuid.uuid4().hex, new, said_at, metadata, tokens)


def prepare_reply(new: NewReply, receipt: Receipt, tokens: str) -> PreparedReply:
    text = new.text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")
    new = replace(new, text=text, said_at=new.said_at.astimezone(UTC), searchable=new.searchable and bool(text.strip()))
    metadata = rows.checked_json(new.metadata, "metadata")
    return PreparedReply(new.reply_id or uuid.uuid4().hex, new, metadata, tokens, rows.receipt_items(receipt), receipt)


# ── writing ────────────────────────────────────────────────────────────────────────────────────────────────────────


def accept(
    tx: Tx, scope: Scope, new: Sequence[Prepared], follow: Sequence[NewJob], room: jobs.Room, *, fresh: bool
) -> tuple[list[Turn], bool]:
    """Store those not known yet, in order, then put the jobs if there was a new one, now or before (`fresh`)."""
    held = tx.hold(scope)
    known = known_turns(held.conn, held.id, new)
    chats = _Chats(held)
    stored: list[Turn] = []
    added: list[tuple[Turn, str]] = []
    for one in new:
        turn = known.get(one.id)
        if turn is None:
            _check_free(held, one)
            turn = known[one.id] = _turn_of(held, one, chats.position(one.new.chat_id))
            chats.said(turn)
            added.append((turn, one.tokens))
        else:
            check_same(turn, one)
        stored.append(turn)
    if added:
        chats.write()
        _write_turns(held, added)
    if added or fresh:
        jobs.follow(held, follow, room)
    return stored, bool(added)


def begin(tx: Tx, scope: Scope, new: Prepared, follow: Sequence[NewJob], room: jobs.Room, most: int) -> Opening:
    """Store a turn, and read what its reply starts from while its scope is held anyway."""
    (turn,), added = accept(tx, scope, [new], follow, room, fresh=False)
    held = tx.hold(scope)
    reply = None if added else turn_reads.reply_to(held.conn, held.id, turn.id)
    return Opening(held.epoch, turn, reply, turn_reads.before(held.conn, held.id, turn, most))


def known_turns(conn: sa.Connection, scope_id: int, new: Sequence[Prepared]) -> dict[str, Turn]:
    """Of those that come with an id of their own, the ones that are there."""
    found: dict[str, Turn] = {}
    for part in chunks([one.id for one in new if one.new.turn_id is not None]):
        found.update((row.id, rows.turn_from(row)) for row in fetch(conn, _known, {"scope": scope_id, "ids": part}))
    return found


def check_known(conn: sa.Connection, scope_id: int, new: Sequence[Prepared]) -> None:
    """Raise `InvalidInput` if any of them stands in another way already, or twice in two ways among them."""
    known = known_turns(conn, scope_id, new)
    first: dict[str, Prepared] = {}
    for one in new:
        if one.id in known:
            check_same(known[one.id], one)
        other = first.setdefault(one.id, one)
        if (other.new.chat_id, other.new.text, other.new.role) != (one.new.chat_id, one.new.text, one.new.role):
            raise InvalidInput(f"turn_id {one.id!r} is given twice, for two turns: give each an id of its own")


def check_same(turn: Turn, one: Prepared) -> None:
    """Raise `InvalidInput` when a known turn id comes with another turn."""
    if turn.chat_id != one.new.chat_id:
        raise InvalidInput(f"turn_id {one.id!r} is a turn of another chat: give each turn an id of its own")
    if turn.text != one.new.text or turn.role != one.new.role:
        raise InvalidInput(f"turn_id {one.id!r} is known with another text: give each turn an id of its own")


def _check_free(held: Held, one: Prepared) -> None:
    if one.new.turn_id is not None:
        taken = held.conn.execute(_memory, {"scope": held.id, "id": one.id}).first()
        if taken is not None:
            raise InvalidInput(f"turn_id {one.id!r} is the id of a memory: give each turn an id of its own")


def _turn_of(held: Held, one: Prepared, position: int) -> Turn:
    new = one.new
    offset = new.utc_offset
    if offset is not None:
        held.dirty = held.dirty or held.utc_offset != offset
        held.utc_offset = offset
    elif new.said_at is not None and new.said_at.utcoffset():
        offset = (new.said_at.utcoffset() or timedelta()) // timedelta(minutes=1)
    return Turn(
        id=one.id,
        chat_id=new.chat_id,
        position=position,
        role=new.role,
        text=new.text,
        said_at=one.said_at or held.now,
        utc_offset=offset if offset is not None else held.utc_offset or 0,
        stored_at=held.now,
        speaker=new.speaker,
        asked=new.asked,
        metadata=one.metadata,
    )


def _write_turns(held: Held, added: Iterable[tuple[Turn, str]]) -> None:
    added = list(added)
    held.conn.execute(_insert_turn, [rows.turn_row(held.id, turn) for turn, _ in added])
    entries = [_entry_row(held.id, turn, tokens) for turn, tokens in added if turn.searchable]
    if entries:
        held.conn.execute(_insert_entry, entries)
    for row in entries:
        held.changed(row["record"], 1, "insert")


def _entry_row(scope_id: int, turn: Turn, tokens: str) -> dict[str, Any]:
    return {
        "scope_id": scope_id,
        "record": turn.id,
        "version": 1,
        "kind": "turn",
        "role": turn.role,
        "chat_id": turn.chat_id,
        "position": turn.position,
        "said_at": turn.said_at,
        "tokens": tokens,
        "tokenizer": TOKENIZER_VERSION,
        "sources": [],
        "metadata": turn.metadata,
    }


class _Chats:
    """The chats' rows while turns are added: read once, written once."""

    def __init__(self, held: Held) -> None:
        self._held = held
        self._rows: dict[str, dict[str, Any]] = {}

    def position(self, chat_id: str) -> int:
        return int(self._row(chat_id)["next"])

    def said(self, turn: Turn) -> None:
        row = self._row(turn.chat_id)
        row["next"] += 1
        row["turns"] += 1
        row["last_at"] = max(row["last_at"] or turn.said_at, turn.said_at)
        if turn.role == "user":
            row["last_user"] = turn.position

    def _row(self, chat_id: str) -> dict[str, Any]:
        if chat_id not in self._rows:
            found = self._held.conn.execute(_chat_row, {"scope": self._held.id, "chat": chat_id}).first()
            new = {"next": 0, "turns": 0, "decided": 0, "last_user": -1, "last_at": None}
            known = new if found is None else dict(found._mapping)
            self._rows[chat_id] = {**known, "scope_id": self._held.id, "id": chat_id}
        return self._rows[chat_id]

    def write(self) -> None:
        moved = dialect.upsert(self._held.conn, schema.chat, ("scope_id", "id"), MOVED)
        self._held.conn.execute(moved, list(self._rows.values()))


def answer(tx: Tx, scope: Scope, epoch: int, reply: PreparedReply, follow: Sequence[NewJob], room: jobs.Room) -> Turn:
    """Store a reply with its receipt; a cut reply to the same turn makes place for it."""
    held = tx.hold(scope)
    held.check_epoch(epoch)
    _check_asked(held, reply.new)
    _make_place(held, reply.new.reply_to)
    chats = _Chats(held)
    turn = _reply_turn(held, reply, chats.position(reply.new.chat_id))
    chats.said(turn)
    chats.write()
    _write_turns(held, [(turn, reply.tokens)])
    kept = {"items": reply.items, "missed": reply.receipt.missed, "recall_ms": reply.receipt.recall_ms}
    more = {"chat_id": turn.chat_id, "worked": int(not reply.receipt.is_open(turn.text)), "created_at": held.now}
    held.conn.execute(_insert_receipt, {"scope_id": held.id, "reply_id": turn.id, **kept, **more})
    jobs.follow(held, follow, room)
    jobs.slide_remember(held, turn.chat_id)
    return turn


def _check_asked(held: Held, new: NewReply) -> None:
    asked = held.conn.execute(_asked, {"scope": held.id, "turn": new.reply_to}).first()
    if asked is None:
        raise EpochChanged("the turn that this reply answers was erased while the reply was under way")
    if asked.chat_id != new.chat_id or asked.role != "user":
        raise InvalidInput(f"reply_to {new.reply_to!r} is no user turn of chat {new.chat_id!r}")


def _make_place(held: Held, reply_to: str) -> None:
    old = held.conn.execute(_reply, {"scope": held.id, "turn": reply_to}).first()
    if old is None:
        return
    if old.cut is None:
        raise InvalidInput(f"turn {reply_to!r} has a whole reply already: ask something new")
    erase.erase_turn(held, old.id)


def _reply_turn(held: Held, reply: PreparedReply, position: int) -> Turn:
    new = reply.new
    return Turn(
        id=reply.id,
        chat_id=new.chat_id,
        position=position,
        role="assistant",
        text=new.text,
        said_at=new.said_at,
        utc_offset=new.utc_offset,
        stored_at=held.now,
        reply_to=new.reply_to,
        cut=new.cut,
        searchable=new.searchable,
        metadata=reply.metadata,
    )
