"""Writing memories: new ones, new versions, retiring, vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from afterword.errors import EmbedderUnavailable, NotFound, VersionConflict
from afterword.language.tokens import TOKENIZER_VERSION
from afterword.ledger import dialect, erase, rows, schema
from afterword.records import Ref, checked_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from afterword.ledger.tx import Held
    from afterword.plan import Insert, Retire, Revise, ServeModel, StoreVectors, Strengthen

_memory = schema.memory
_version = schema.version
_entry = schema.entry
_vector = schema.vector

VECTOR_KEY = ("scope_id", "record", "model")
VECTOR_DATA = ("version", "windows", "dim", "data")
# what each turn and each episode needs is built once: building a statement costs several times what running it does
_insert_memory = sa.insert(_memory)
_insert_version = sa.insert(_version)
_insert_entry = sa.insert(_entry)
_used = sa.update(_memory).where(
    _memory.c.scope_id == sa.bindparam("b_scope"), _memory.c.id == sa.bindparam("b_record")
)
_embedded = (
    sa.update(_entry)
    .where(_entry.c.scope_id == sa.bindparam("b_scope"), _entry.c.record == sa.bindparam("b_record"))
    .where(_entry.c.version == sa.bindparam("b_version"))
    .values(model=sa.bindparam("b_model"))
)
_dim = (
    sa.select(_vector.c.dim)
    .where(_vector.c.scope_id == sa.bindparam("scope"), _vector.c.model == sa.bindparam("model"))
    .limit(1)
)


def insert(held: Held, new: Insert, record: str, job_id: int | None, tokens: str) -> Ref:
    """A new memory, version 1. `VersionConflict` when a source was erased: it must not come back."""
    _check_sources(held, new.sources)
    seq = held.changed(record, 1, "insert")
    sources = rows.sources_json(new.sources)
    meta = rows.checked_json(new.metadata, "metadata")
    head = {"scope_id": held.id, "id": record, "kind": new.kind, "version": 1, "chat_id": new.chat_id}
    held.conn.execute(
        _insert_memory, {**head, "said_at": new.said_at, "seq": seq, "strength": 1.0, "used_at": held.now}
    )
    _write_version(
        held,
        id=record,
        version=1,
        text=checked_text(new.text),
        said_at=new.said_at,
        utc_offset=new.utc_offset,
        author=new.author,
        sources=sources,
        valid_from=new.valid_from,
        valid_to=new.valid_to,
        why=new.why,
        job_id=job_id,
        metadata=meta,
    )
    _link(held, record, sources)
    shown = {"scope_id": held.id, "record": record, "version": 1, "kind": new.kind, "chat_id": new.chat_id}
    found = {"tokens": tokens, "tokenizer": TOKENIZER_VERSION, "sources": sources, "metadata": meta}
    held.conn.execute(_insert_entry, {**shown, **found, "said_at": new.said_at})
    return Ref(record, 1)


def _write_version(held: Held, **values: Any) -> None:
    held.conn.execute(_insert_version, {"scope_id": held.id, "written_at": held.now, **values})


def _link(held: Held, record: str, sources: Sequence[str]) -> None:
    if sources:
        links = [{"scope_id": held.id, "source": source, "record": record} for source in sources]
        held.conn.execute(dialect.insert_new(held.conn, schema.rests), links)


def _check_sources(held: Held, sources: Sequence[str]) -> None:
    gone = erase.missing(held, sources)
    if gone:
        raise VersionConflict(f"{len(gone)} of the sources are gone: they were erased since they were read")


def _current(held: Held, ref: Ref) -> rows.Row:
    """The newest version, if it is `ref` and not retired. Raises `NotFound`, `VersionConflict`."""
    same = _version.c.scope_id == _memory.c.scope_id, _version.c.id == _memory.c.id
    newest = sa.and_(*same, _version.c.version == _memory.c.version)
    query = sa.select(*rows.memory_columns).join_from(_memory, _version, newest)
    at = _memory.c.scope_id == held.id, _memory.c.id == ref.record
    row = held.conn.execute(query.where(*at)).first()
    if row is None:
        raise NotFound(f"no memory {ref.record} of this user")
    if row.retired is not None:
        raise VersionConflict(f"memory {ref.record} is retired ({row.retired})")
    if row.version != ref.version:
        raise VersionConflict(f"memory {ref.record} is at version {row.version}, not {ref.version}")
    return row


def revise(held: Held, change: Revise, job_id: int | None, tokens: str) -> Ref:
    """A new version; the older ones stay in the history, their vectors go."""
    old = _current(held, change.ref)
    _check_sources(held, [source for source in change.sources if source not in old.sources])
    ref = Ref(change.ref.record, old.version + 1)
    sources = rows.sources_json([*old.sources, *change.sources])
    said_at = change.said_at or old.said_at
    seq = held.changed(ref.record, ref.version, "revise")
    _write_version(
        held,
        id=ref.record,
        version=ref.version,
        text=checked_text(change.text),
        said_at=said_at,
        utc_offset=old.utc_offset,
        author=change.author,
        sources=sources,
        valid_from=change.valid_from or old.valid_from,
        valid_to=change.valid_to or old.valid_to,
        why=change.why,
        job_id=job_id,
        metadata=old.metadata,
    )
    head = _memory.c.scope_id == held.id, _memory.c.id == ref.record
    held.conn.execute(sa.update(_memory).where(*head).values(version=ref.version, said_at=said_at, seq=seq))
    _link(held, ref.record, sources)
    _revise_entry(held, ref, said_at=said_at, tokens=tokens, sources=sources)
    return ref


def _revise_entry(held: Held, ref: Ref, **values: Any) -> None:
    old = _vector.c.scope_id == held.id, _vector.c.record == ref.record
    held.conn.execute(sa.delete(_vector).where(*old))
    at = _entry.c.scope_id == held.id, _entry.c.record == ref.record
    now = {"version": ref.version, "tokenizer": TOKENIZER_VERSION, "model": None, **values}
    held.conn.execute(sa.update(_entry).where(*at).values(**now))


def retire(held: Held, change: Retire) -> None:
    """No longer current; its versions stay in its history."""
    old = _current(held, change.ref)
    at = _memory.c.scope_id == held.id, _memory.c.id == old.id
    held.conn.execute(sa.update(_memory).where(*at).values(retired=change.why or "retired"))
    if change.valid_to is not None:
        newest = _version.c.scope_id == held.id, _version.c.id == old.id, _version.c.version == old.version
        held.conn.execute(sa.update(_version).where(*newest).values(valid_to=change.valid_to))
    erase.drop_entry(held, old.id)
    held.changed(old.id, old.version, "retire")


def strengthen(held: Held, change: Strengthen) -> None:
    """Of what is gone: nothing."""
    at = {"b_scope": held.id, "b_record": change.record}
    held.conn.execute(_used, {**at, "strength": change.strength, "used_at": change.at})


def check_dimensions(held: Held, change: StoreVectors, known: dict[str, int]) -> None:
    """Raise `EmbedderUnavailable` where a model's vectors have another length than those that are kept of it: beside
    one another they could not be searched. `known` is filled, so that a plan looks once."""
    came = change.vectors.shape[1]
    if change.model not in known:
        own = {"scope": held.id, "model": change.model}
        known[change.model] = held.conn.execute(_dim, own).scalar() or came
    if came != known[change.model]:
        raise EmbedderUnavailable(
            f"the embedding model {change.model} gave vectors of {came} dimensions where it had {known[change.model]}",
            fix="set AFTERWORD_EMBED_MODEL to the model that was used before, or to one of another name",
        )


def store_vectors(held: Held, change: StoreVectors) -> None:
    """Skipped when the version is no longer current. The first model that stores vectors serves searches."""
    ref = {"b_scope": held.id, "b_record": change.ref.record, "b_version": change.ref.version}
    if not held.conn.execute(_embedded, {**ref, "b_model": change.model}).rowcount:
        return
    row = {"scope_id": held.id, "record": change.ref.record, "model": change.model, "version": change.ref.version}
    stored = dialect.upsert(held.conn, _vector, VECTOR_KEY, VECTOR_DATA)
    held.conn.execute(stored, {**row, **rows.vector_row(change.vectors)})
    if held.model is None:
        held.model = change.model
    if held.model == change.model:
        held.changed(change.ref.record, change.ref.version, "embedded")


def serve_model(held: Held, change: ServeModel) -> None:
    """This model's vectors serve from now on: every record that has some is a change to an index."""
    if held.model == change.model:
        return
    others = _vector.c.scope_id == held.id, _vector.c.model != change.model
    held.conn.execute(sa.delete(_vector).where(*others))
    held.model = change.model
    held.dirty = True
    own = _vector.c.scope_id == held.id, _vector.c.model == change.model
    query = sa.select(_vector.c.record, _vector.c.version).where(*own).order_by(_vector.c.record)
    for row in held.conn.execute(query).all():
        held.changed(row.record, row.version, "embedded")
