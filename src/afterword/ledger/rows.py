"""Rows to records and back. Nothing here talks to the database."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np
import sqlalchemy as sa

from afterword.errors import InvalidInput
from afterword.language.texts import opening
from afterword.ledger import schema
from afterword.ports import Decision, Entry
from afterword.records import METADATA_LIMIT, Job, MemoryRecord, Receipt, ReceiptItem, Ref, Run, Scope, Turn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from afterword.plan import Vectors

Row = sa.Row[*tuple[Any, ...]]

OPENING = 200  # tokens of an assistant's answer that are embedded

turn_columns = [schema.turn.c[field.name] for field in fields(Turn)]
# A memory's current version; `history` uses the same columns for the older ones.
memory_columns = (
    *[column for column in schema.version.c if column.name != "scope_id"],
    schema.memory.c.kind,
    schema.memory.c.chat_id,
    schema.memory.c.retired,
    schema.memory.c.strength,
    schema.memory.c.used_at,
    schema.memory.c.version.label("newest"),
    schema.memory.c.seq,
)
_ENTRY = ("record", "version", "kind", "role", "chat_id", "position", "said_at", "tokens", "sources", "metadata")
entry_columns = (  # what an index sees; no vectors: the last three are null
    *[schema.entry.c[name] for name in _ENTRY],
    schema.vector.c.windows,
    schema.vector.c.dim,
    schema.vector.c.data,
)
job_columns = (*schema.job.c, schema.scope.c.tenant, schema.scope.c.user_id)


def checked_json(value: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A copy that any database can keep as JSON. Raises `InvalidInput`."""
    if not value:
        return {}
    try:
        text = json.dumps(dict(value), allow_nan=False)
        copy = json.loads(text)
    except RecursionError:
        raise InvalidInput(f"{name} is nested too deeply: give a flat map") from None
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{name} can't be kept as JSON ({error}): give plain text, numbers, lists, maps") from None
    if not isinstance(copy, dict):
        raise InvalidInput(f"{name} must be a map")
    if name == "metadata" and len(text) > METADATA_LIMIT:
        raise InvalidInput(f"metadata has {len(text):,} characters as JSON: give at most {METADATA_LIMIT:,}")
    return copy


def labelled(speaker: str | None, text: str) -> str:
    """The text as it is tokenised and embedded: with the name of who spoke, where there is one."""
    return f"{speaker}: {text}" if speaker else text


def embedded_text(role: str, speaker: str | None, text: str) -> str:
    """The text of a turn as it is embedded: of an assistant's answer, which may be long and costs seconds on a CPU, its
    opening. Its words are all found by the other legs."""
    full = labelled(speaker, text)
    return opening(full, OPENING) if role == "assistant" else full


def turn_from(row: Row) -> Turn:
    """Of `turn_columns`, which stand in the order of the fields: a search reads dozens, and names cost twice as much."""
    *values, searchable, asked, metadata = row
    return Turn(*[*values, bool(searchable), bool(asked), metadata])


def turn_row(scope_id: int, turn: Turn) -> dict[str, Any]:
    """What `turn_from` reads back."""
    return {
        "scope_id": scope_id,
        "id": turn.id,
        "chat_id": turn.chat_id,
        "position": turn.position,
        "role": turn.role,
        "text": turn.text,
        "speaker": turn.speaker,
        "said_at": turn.said_at,
        "utc_offset": turn.utc_offset,
        "stored_at": turn.stored_at,
        "reply_to": turn.reply_to,
        "cut": turn.cut,
        "searchable": int(turn.searchable),
        "asked": int(turn.asked),
        "metadata": turn.metadata,
    }


def memory_from(row: Row) -> MemoryRecord:
    """Of `memory_columns`. Only the newest version can be retired: the older ones were revised."""
    return MemoryRecord(
        id=row.id,
        version=row.version,
        kind=row.kind,
        text=row.text,
        said_at=row.said_at,
        utc_offset=row.utc_offset,
        written_at=row.written_at,
        author=row.author,
        sources=tuple(row.sources),
        chat_id=row.chat_id,
        valid_from=row.valid_from,
        valid_to=row.valid_to,
        strength=row.strength,
        used_at=row.used_at,
        retired=row.retired if row.version == row.newest else None,
        why=row.why,
        job_id=row.job_id,
        metadata=row.metadata,
    )


def job_from(row: Row) -> Job:
    """Of `job_columns`."""
    return Job(
        id=row.id,
        scope=Scope(row.tenant, row.user_id),
        epoch=row.epoch,
        kind=row.kind,
        lane=row.lane,
        stream=row.stream,
        key=row.key,
        payload=row.payload,
        state=row.state,
        attempt=row.attempt,
        fence=row.fence,
        run_at=row.run_at,
        created_at=row.created_at,
        finished_at=row.finished_at,
        window=row.window,
        worker=row.worker,
        waiting=row.waiting,
        error=row.error,
        result=row.result,
    )


def run_from(row: Row) -> Run:
    return Run(
        id=row.id,
        kind=row.kind,
        state=row.state,
        done=row.done,
        total=row.total,
        message=row.message,
        started_at=row.started_at,
        finished_at=row.finished_at,
    )


def decision_from(row: Row) -> Decision:
    return Decision(
        id=row.id,
        job_id=row.job_id,
        kind=row.kind,
        chat_id=row.chat_id,
        first=row.first,
        last=row.last,
        by=row.author,
        content=row.content,
        decided_at=row.decided_at,
        redone_by=row.redone_by,
    )


def receipt_from(row: Row) -> Receipt:
    items = tuple(
        ReceiptItem(
            ref=Ref(item["record"], item["version"]),
            kind=item["kind"],
            score=item["score"],
            parts=item["parts"],
            sources=tuple(item["sources"]),
        )
        for item in row.items
    )
    return Receipt(items, row.missed, row.recall_ms)


def receipt_items(receipt: Receipt) -> list[dict[str, Any]]:
    """A receipt's items as JSON, without any text."""
    return [
        {
            "record": item.ref.record,
            "version": item.ref.version,
            "kind": item.kind,
            "score": float(item.score),
            "parts": {name: float(part) for name, part in item.parts.items()},
            "sources": list(item.sources),
        }
        for item in receipt.items
    ]


def entry_from(row: Sequence[Any]) -> Entry:
    """Of `entry_columns`, by place: a cold start reads all of a user's, and names would cost half as much again."""
    record, version, kind, role, chat_id, position, said_at, tokens, sources, metadata, windows, dim, data = row
    vectors = None if data is None else vectors_from(data, windows, dim)
    words = tuple(tokens.split())
    return Entry(Ref(record, version), kind, role, chat_id, position, said_at, words, tuple(sources), metadata, vectors)


def vectors_from(data: bytes, windows: int, dim: int) -> Vectors:
    return np.ndarray((windows, dim), "<f4", data)


def vector_row(vectors: Vectors) -> dict[str, Any]:
    """The stored form. Raises `InvalidInput` for what is no table of numbers."""
    table = np.ascontiguousarray(vectors, dtype="<f4")
    if table.ndim != 2 or 0 in table.shape:
        raise InvalidInput(f"vectors have the shape {table.shape}: give (windows, dimensions)")
    return {"windows": table.shape[0], "dim": table.shape[1], "data": table.tobytes()}


def sources_json(sources: Sequence[str]) -> list[str]:
    """Without repeats, in order."""
    return list(dict.fromkeys(sources))
