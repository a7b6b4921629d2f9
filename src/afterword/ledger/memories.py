"""Reading memories and their versions. Each takes a connection and a scope's number (-1: no such scope)."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from afterword.errors import InvalidInput, NotFound
from afterword.ledger import rows, schema
from afterword.ledger.packed import fetch
from afterword.ledger.tx import chunks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from afterword.records import Filters, MemoryKind, MemoryRecord, Ref, Turn

PAGE = 500

_memory = schema.memory
_version = schema.version
_same = sa.and_(_version.c.scope_id == _memory.c.scope_id, _version.c.id == _memory.c.id)
_all = sa.select(*rows.memory_columns).join_from(_memory, _version, _same)
_newest = _all.where(_version.c.version == _memory.c.version)
_current = _newest.where(_memory.c.retired.is_(None))
_ids: sa.BindParameter[str] = sa.bindparam("ids", expanding=True)
_one = _newest.where(_memory.c.scope_id == sa.bindparam("scope"), _memory.c.id == sa.bindparam("record"))
_of_ids = _current.where(_memory.c.scope_id == sa.bindparam("scope"), _memory.c.id.in_(_ids))
_turns_of_ids = sa.select(*rows.turn_columns).where(
    schema.turn.c.scope_id == sa.bindparam("scope"), schema.turn.c.id.in_(_ids), schema.turn.c.searchable == 1
)


_CONDITIONS = {
    "kinds": _memory.c.kind.in_(sa.bindparam("kinds", expanding=True)),
    "chat": _memory.c.chat_id == sa.bindparam("chat"),
    "since": _memory.c.said_at >= sa.bindparam("since"),
    "until": _memory.c.said_at < sa.bindparam("until"),
}
_up_to = (
    sa.select(_memory.c.id)
    .where(_memory.c.scope_id == sa.bindparam("scope"), _memory.c.kind == sa.bindparam("kind"))
    .where(_memory.c.retired.is_(None))
    .limit(sa.bindparam("most", type_=sa.Integer))
)
_number = sa.select(sa.func.count()).select_from(_up_to.subquery())
_rests = schema.rests
_resting = sa.select(_rests.c.record).where(_rests.c.scope_id == sa.bindparam("scope"), _rests.c.source.in_(_ids))
_of_sources = _current.where(_memory.c.scope_id == sa.bindparam("scope"), _memory.c.id.in_(_resting))


def read(conn: sa.Connection, scope_id: int, refs: Sequence[Ref]) -> dict[Ref, Turn | MemoryRecord]:
    found: dict[str, Turn | MemoryRecord] = {}
    for part in chunks(list({ref.record for ref in refs})):
        turns = fetch(conn, _turns_of_ids, {"scope": scope_id, "ids": part})
        found.update((row.id, rows.turn_from(row)) for row in turns)
        if others := [record for record in part if record not in found]:
            memories_ = fetch(conn, _of_ids, {"scope": scope_id, "ids": others})
            found.update((row.id, rows.memory_from(row)) for row in memories_)
    return {ref: found[ref.record] for ref in refs if ref.record in found and found[ref.record].ref == ref}


def memory(conn: sa.Connection, scope_id: int, record: str) -> MemoryRecord:
    row = conn.execute(_one, {"scope": scope_id, "record": record}).first()
    if row is None:
        raise NotFound(f"no memory {record} of this user")
    return rows.memory_from(row)


def history(conn: sa.Connection, scope_id: int, record: str) -> list[MemoryRecord]:
    query = _all.where(_memory.c.scope_id == scope_id, _memory.c.id == record).order_by(_version.c.version)
    found = [rows.memory_from(row) for row in conn.execute(query)]
    if not found:
        raise NotFound(f"no memory {record} of this user")
    return found


def check_filters(filters: Filters) -> None:
    if "turn" in filters.kinds:
        raise InvalidInput("filters.kinds names 'turn': give 'episodic' and 'semantic' only, turns are read by chat")


def listed(
    conn: sa.Connection, scope_id: int, filters: Filters, limit: int, offset: int, retired: bool
) -> list[MemoryRecord]:
    """Newest `said_at` first. Metadata and exclusions are compared here: their keys and number know no bounds."""
    if filters.role is not None:  # memories have none
        return []
    values = {
        "kinds": filters.kinds or None,
        "chat": filters.chat_id,
        "since": filters.since,
        "until": filters.until,
    }
    given = {name: value for name, value in values.items() if value is not None}
    query, at = _listing(frozenset(given), retired=retired), {"scope": scope_id, **given}
    if not filters.metadata and not filters.exclude:
        return _page(conn, query, at, limit, offset)
    wanted = (one for one in _paged(conn, query, at) if _passes(one, filters))
    return [one for number, one in zip(range(offset + limit), wanted, strict=False) if number >= offset]


@cache  # each decision is held against the latest: building a statement costs several times what running it does
def _listing(given: frozenset[str], *, retired: bool) -> sa.Select[Any]:
    query = (_newest if retired else _current).where(_memory.c.scope_id == sa.bindparam("scope"))
    query = query.where(*(_CONDITIONS[name] for name in sorted(given)))
    most, skipped = sa.bindparam("most", type_=sa.Integer), sa.bindparam("skipped", type_=sa.Integer)
    return query.order_by(_memory.c.said_at.desc(), _memory.c.id).limit(most).offset(skipped)


def number(conn: sa.Connection, scope_id: int, kind: MemoryKind, most: int) -> int:
    """How many current memories of a kind there are, counted up to `most`."""
    return int(conn.execute(_number, {"scope": scope_id, "kind": kind, "most": most}).scalar_one())


def _page(
    conn: sa.Connection, query: sa.Select[Any], at: Mapping[str, Any], limit: int, offset: int
) -> list[MemoryRecord]:
    return [rows.memory_from(row) for row in fetch(conn, query, {**at, "most": limit, "skipped": offset})]


def _paged(conn: sa.Connection, query: sa.Select[Any], at: Mapping[str, Any]) -> Iterator[MemoryRecord]:
    offset = 0
    while found := _page(conn, query, at, PAGE, offset):
        yield from found
        offset += len(found)


def _passes(one: MemoryRecord, filters: Filters) -> bool:
    if one.id in filters.exclude:
        return False
    return all(name in one.metadata and one.metadata[name] == value for name, value in filters.metadata.items())


def memories_of(conn: sa.Connection, scope_id: int, sources: Sequence[str]) -> list[MemoryRecord]:
    found: dict[str, MemoryRecord] = {}
    for part in chunks(list(dict.fromkeys(sources))):
        resting = fetch(conn, _of_sources, {"scope": scope_id, "ids": part})
        found.update((row.id, rows.memory_from(row)) for row in resting)
    return sorted(found.values(), key=lambda one: (one.said_at, one.id))


def episodes_after(conn: sa.Connection, scope_id: int, seq: int, limit: int) -> list[tuple[int, MemoryRecord]]:
    at = _memory.c.scope_id == scope_id, _memory.c.kind == "episodic", _memory.c.seq > seq
    query = _current.where(*at).order_by(_memory.c.seq).limit(limit)
    return [(row.seq, rows.memory_from(row)) for row in conn.execute(query)]


def inserted_by(conn: sa.Connection, scope_id: int, job_id: int) -> Iterable[tuple[str, int]]:
    """Current memories that this job inserted and that nobody but rules has written since: id and version."""
    first = _version.alias()
    inserted = sa.select(first.c.id).where(first.c.scope_id == scope_id, first.c.job_id == job_id, first.c.version == 1)
    at = _memory.c.scope_id == scope_id, _memory.c.id.in_(inserted), _version.c.author == "rules"
    return [(row.id, row.version) for row in conn.execute(_current.where(*at))]
