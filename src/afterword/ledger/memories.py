"""Reading memories and their versions. Each takes a connection and a scope's number (-1: no such scope)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from afterword.errors import InvalidInput, NotFound
from afterword.ledger import rows, schema
from afterword.ledger.tx import chunks
from afterword.records import Filters

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from afterword.records import MemoryRecord, Ref, Turn

PAGE = 500
NO_FILTERS = Filters()

_memory = schema.memory
_version = schema.version
_same = sa.and_(_version.c.scope_id == _memory.c.scope_id, _version.c.id == _memory.c.id)
_all = sa.select(*rows.memory_columns).join_from(_memory, _version, _same)
_newest = _all.where(_version.c.version == _memory.c.version)
_current = _newest.where(_memory.c.retired.is_(None))
_ids: sa.BindParameter[str] = sa.bindparam("ids", expanding=True)
_of_ids = _current.where(_memory.c.scope_id == sa.bindparam("scope"), _memory.c.id.in_(_ids))
_turns_of_ids = sa.select(*rows.turn_columns).where(
    schema.turn.c.scope_id == sa.bindparam("scope"), schema.turn.c.id.in_(_ids), schema.turn.c.searchable == 1
)


# what each decision is held against
_latest = (
    _current.where(_memory.c.scope_id == sa.bindparam("scope"))
    .order_by(_memory.c.said_at.desc(), _memory.c.id)
    .limit(sa.bindparam("most", type_=sa.Integer))
    .offset(sa.bindparam("skipped", type_=sa.Integer))
)
_rests = schema.rests
_resting = sa.select(_rests.c.record).where(_rests.c.scope_id == sa.bindparam("scope"), _rests.c.source.in_(_ids))
_of_sources = _current.where(_memory.c.scope_id == sa.bindparam("scope"), _memory.c.id.in_(_resting))


def read(conn: sa.Connection, scope_id: int, refs: Sequence[Ref]) -> dict[Ref, Turn | MemoryRecord]:
    found: dict[Ref, Turn | MemoryRecord] = {}
    for part in chunks(list({ref.record for ref in refs})):
        at = {"scope": scope_id, "ids": part}
        for row in conn.execute(_turns_of_ids, at):
            one = rows.turn_from(row)
            found[one.ref] = one
        for row in conn.execute(_of_ids, at):
            memory = rows.memory_from(row)
            found[memory.ref] = memory
    return {ref: found[ref] for ref in refs if ref in found}


def memory(conn: sa.Connection, scope_id: int, record: str) -> MemoryRecord:
    row = conn.execute(_newest.where(_memory.c.scope_id == scope_id, _memory.c.id == record)).first()
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
    if filters == NO_FILTERS and not retired:
        found = conn.execute(_latest, {"scope": scope_id, "most": limit, "skipped": offset})
        return [rows.memory_from(row) for row in found]
    query = (_newest if retired else _current).where(_memory.c.scope_id == scope_id, *_conditions(filters))
    query = query.order_by(_memory.c.said_at.desc(), _memory.c.id)
    if not filters.metadata and not filters.exclude:
        return [rows.memory_from(row) for row in conn.execute(query.limit(limit).offset(offset))]
    wanted = (one for one in _paged(conn, query) if _passes(one, filters))
    return [one for number, one in zip(range(offset + limit), wanted, strict=False) if number >= offset]


def _conditions(filters: Filters) -> Iterator[sa.ColumnElement[bool]]:
    if filters.kinds:
        yield _memory.c.kind.in_(filters.kinds)
    if filters.chat_id is not None:
        yield _memory.c.chat_id == filters.chat_id
    if filters.since is not None:
        yield _memory.c.said_at >= filters.since
    if filters.until is not None:
        yield _memory.c.said_at < filters.until


def _paged(conn: sa.Connection, query: sa.Select[Any]) -> Iterator[MemoryRecord]:
    offset = 0
    while found := conn.execute(query.limit(PAGE).offset(offset)).all():
        yield from (rows.memory_from(row) for row in found)
        offset += len(found)


def _passes(one: MemoryRecord, filters: Filters) -> bool:
    if one.id in filters.exclude:
        return False
    return all(name in one.metadata and one.metadata[name] == value for name, value in filters.metadata.items())


def memories_of(conn: sa.Connection, scope_id: int, sources: Sequence[str]) -> list[MemoryRecord]:
    found: dict[str, MemoryRecord] = {}
    for part in chunks(list(dict.fromkeys(sources))):
        resting = conn.execute(_of_sources, {"scope": scope_id, "ids": part})
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
