"""What lies in Milvus, as pure values: rows, keys, filter expressions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from afterword.records import Filters, Ref, Scope

if TYPE_CHECKING:
    from afterword.ports import Entry, Vector, Vectors

Row = dict[str, Any]

MARK = "mark"  # the kind of a marker row
EXCLUDED = 500  # record ids a filter names; more are left to the reading back
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"})


def literal(value: str) -> str:
    """The value as a string in a filter expression, whatever it holds."""
    return '"' + value.translate(ESCAPES) + '"'


def one_of(field: str, values: Iterable[str]) -> str:
    """A filter that lets rows with one of these values through."""
    return f"{field} in [{', '.join(literal(value) for value in values)}]"


def scope_key(scope: Scope) -> str:
    """The partition key: tells scopes apart and names nobody."""
    return hashlib.sha256(json.dumps([scope.tenant, scope.user]).encode()).hexdigest()[:32]


def microseconds(moment: datetime) -> int:
    """Since 1970, exact."""
    return (moment - EPOCH) // timedelta(microseconds=1)


def conditions(filters: Filters) -> str:
    """The filters that Milvus applies, to be put after a scope's. Metadata is left to the reading back."""
    parts = [one_of("kind", filters.kinds) if filters.kinds else f"kind != {literal(MARK)}"]
    if filters.chat_id is not None:
        parts.append(f"chat_id == {literal(filters.chat_id)}")
    if filters.role is not None:
        parts.append(f"role == {literal(filters.role)}")
    if filters.since is not None:
        parts.append(f"said_at >= {microseconds(filters.since)}")
    if filters.until is not None:
        parts.append(f"said_at < {microseconds(filters.until)}")
    if filters.exclude:
        parts.append(f"not ({one_of('record', sorted(filters.exclude)[:EXCLUDED])})")
    return " and ".join(parts)


@dataclass(frozen=True, slots=True)
class Mark:
    """What Milvus holds of a scope: a build that is whole up to the ledger's change `seq`, in `rows` rows."""

    build: str
    epoch: int
    seq: int
    rows: int


def best_windows(found: Iterable[Row]) -> dict[Ref, float]:
    """Of each record the score of its best window; rows come best first."""
    best: dict[Ref, float] = {}
    for row in found:
        best.setdefault(Ref(row["record"], int(row["version"])), row["score"])
    return best


def tail_cosines(held: Sequence[tuple[Ref, Vectors]], vector: Vector) -> dict[Ref, float]:
    """Of each record the cosine of its best window."""
    return {ref: float((vectors @ vector).max()) for ref, vectors in held if len(vectors)}


def within(scope: Scope, build: str) -> str:
    return f"scope == {literal(scope_key(scope))} and build == {literal(build)}"


def rows_of(scope: Scope, epoch: int, build: str, entry: Entry) -> Iterator[Row]:
    """One row a window. The key holds hashes: keys go into expressions that the client does not escape."""
    if entry.vectors is None:
        return
    key = scope_key(scope)
    record = hashlib.sha256(entry.ref.record.encode()).hexdigest()[:32]
    common: Mapping[str, object] = {
        "scope": key,
        "build": build,
        "epoch": epoch,
        "record": entry.ref.record,
        "version": entry.ref.version,
        "kind": entry.kind,
        "chat_id": entry.chat_id or "",
        "role": entry.role or "",
        "said_at": microseconds(entry.said_at),
    }
    for window, vector in enumerate(entry.vectors):
        yield {"key": f"{key}:{build}:{record}:{entry.ref.version}:{window}", **common, "vector": vector}
