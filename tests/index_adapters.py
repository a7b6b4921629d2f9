"""The indexes that pass the contract suite, and a small ledger in memory for them to shadow."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, cast

from afterword.index.exact import ExactIndex
from afterword.language.tokens import tokens
from afterword.ports import Entry, Index, IndexChange, Offload, Reads
from afterword.records import (
    Json,
    MemoryKind,
    MemoryRecord,
    Receipt,
    ReceiptItem,
    Ref,
    Role,
    Scope,
    ScopeState,
    Turn,
)
from afterword.testing import hashed_vector

if TYPE_CHECKING:
    from afterword.ports import Vectors

IndexFactory = Callable[[Reads, Offload, Path], Awaitable[Index]]

MODEL = "hashing-64"
START = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
ANN = Scope("t", "ann")
BEN = Scope("t", "ben")


async def exact(reads: Reads, offload: Offload, tmp_path: Path) -> Index:
    return ExactIndex(reads, offload=offload)


async def milvus_lite(reads: Reads, offload: Offload, tmp_path: Path) -> Index:
    # imported when it is chosen: the client takes two seconds
    made: Index = await import_module("tests.milvus_adapter").milvus_lite(reads, offload, tmp_path)
    return made


INDEXES: list[tuple[str, IndexFactory]] = [("exact", exact)]
if find_spec("pymilvus") and find_spec("milvus_lite"):
    INDEXES.append(("milvus-lite", milvus_lite))
"""Name and factory of each adapter. The suite opens and closes what a factory makes."""


@dataclass
class Book:
    """One scope's records."""

    epoch: int = 0
    seq: int = 0
    model: str | None = MODEL
    records: dict[str, Turn | MemoryRecord] = field(default_factory=dict)
    changed: dict[str, int] = field(default_factory=dict)
    receipts: dict[str, Receipt] = field(default_factory=dict)
    unembedded: set[str] = field(default_factory=set)
    lengths: dict[str, int] = field(default_factory=dict)  # turns of each chat


class Shelf:
    """`Reads`, as far as an index and recall need it: a book a scope. Counts the pages that were read."""

    def __init__(self) -> None:
        self.books: dict[Scope, Book] = {}
        self.pages = 0
        self.gone: set[str] = set()  # what `read` no longer gives though an index may still know it

    @property
    def reads(self) -> Reads:
        return cast("Reads", self)

    def book(self, scope: Scope = ANN) -> Book:
        return self.books.setdefault(scope, Book())

    # ── writing ────────────────────────────────────────────────────────────────────────────────────────────────────

    def say(
        self,
        text: str,
        *,
        scope: Scope = ANN,
        chat: str = "chat",
        role: Role = "user",
        speaker: str | None = None,
        minutes: float | None = None,
        reply_to: str | None = None,
        given: Sequence[str] = (),
        metadata: Json | None = None,
        embedded: bool = True,
        searchable: bool = True,
    ) -> Turn:
        book = self.book(scope)
        position = book.lengths.get(chat, 0)
        book.lengths[chat] = position + 1
        at = START + timedelta(minutes=len(book.records) if minutes is None else minutes)
        name = f"{chat}-{position:05}"
        turn = Turn(
            name, chat, position, role, text, at, 0, at, speaker, reply_to, None, searchable, False, metadata or {}
        )
        if reply_to is not None:
            items = tuple(ReceiptItem(book.records[one].ref, "turn", 1.0, {}) for one in given)
            book.receipts[name] = Receipt(items)
        self._keep(book, turn, embedded)
        return turn

    def remember(
        self,
        text: str,
        *,
        scope: Scope = ANN,
        sources: tuple[str, ...] = (),
        kind: MemoryKind = "episodic",
        record: str | None = None,
        strength: float = 1.0,
    ) -> MemoryRecord:
        book = self.book(scope)
        at = START + timedelta(minutes=len(book.records))
        name = record or f"memory-{len(book.records):05}"
        memory = MemoryRecord(name, 1, kind, text, at, 0, at, "llm", sources, strength=strength)
        self._keep(book, memory, embedded=True)
        return memory

    def revise(self, record: str, text: str, scope: Scope = ANN) -> MemoryRecord:
        book = self.book(scope)
        old = book.records[record]
        assert isinstance(old, MemoryRecord)
        new = replace(old, text=text, version=old.version + 1)
        self._keep(book, new, embedded=True)
        return new

    def erase(self, record: str, scope: Scope = ANN) -> None:
        book = self.book(scope)
        del book.records[record]
        book.seq += 1
        book.changed[record] = book.seq

    def embed(self, record: str, scope: Scope = ANN) -> None:
        book = self.book(scope)
        self._keep(book, book.records[record], embedded=True)

    def withdraw(self, record: str, scope: Scope = ANN) -> None:
        """Its vectors are to be made again."""
        book = self.book(scope)
        self._keep(book, book.records[record], embedded=False)

    def reset(self, scope: Scope = ANN) -> None:
        old = self.book(scope)
        self.books[scope] = Book(epoch=old.epoch + 1, seq=old.seq)

    def _keep(self, book: Book, record: Turn | MemoryRecord, embedded: bool) -> None:
        book.records[record.id] = record
        book.seq += 1
        book.changed[record.id] = book.seq
        (book.unembedded.discard if embedded else book.unembedded.add)(record.id)

    # ── the port ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def state(self, scope: Scope) -> ScopeState:
        book = self.book(scope)
        return ScopeState(book.seq, book.epoch, book.model)

    async def entries(self, scope: Scope, after: str = "", limit: int = 2000) -> tuple[ScopeState, list[Entry]]:
        self.pages += 1
        book = self.book(scope)
        names = sorted(name for name in book.records if name > after)
        found = [entry for name in names if (entry := self._entry(book, name)) is not None]
        return await self.state(scope), found[:limit]

    async def changes(self, scope: Scope, after: int, limit: int = 2000) -> list[IndexChange]:
        self.pages += 1
        book = self.book(scope)
        later = sorted((seq, name) for name, seq in book.changed.items() if seq > after)
        return [IndexChange(seq, name, self._entry(book, name)) for seq, name in later[:limit]]

    async def read(self, scope: Scope, refs: Sequence[Ref]) -> dict[Ref, Turn | MemoryRecord]:
        records = self.book(scope).records
        found = {ref: records[ref.record] for ref in refs if ref.record in records and ref.record not in self.gone}
        return {ref: record for ref, record in found.items() if record.ref == ref}

    async def receipts(self, scope: Scope, reply_ids: Sequence[str]) -> dict[str, Receipt]:
        kept = self.book(scope).receipts
        return {reply: kept[reply] for reply in reply_ids if reply in kept}

    def _entry(self, book: Book, name: str) -> Entry | None:
        record = book.records.get(name)
        if record is None or (isinstance(record, Turn) and not record.searchable):
            return None
        vectors = None if book.model is None or name in book.unembedded else vectors_of(record.text)
        if isinstance(record, Turn):
            return Entry(
                record.ref,
                "turn",
                record.role,
                record.chat_id,
                record.position,
                record.said_at,
                tokens(record.text),
                (),
                record.metadata,
                vectors,
            )
        return Entry(
            record.ref,
            record.kind,
            None,
            record.chat_id,
            None,
            record.said_at,
            tokens(record.text),
            record.sources,
            record.metadata,
            vectors,
        )


def vectors_of(text: str) -> Vectors:
    """The vectors that the hashing embedder would have made, one window."""
    return hashed_vector(text).reshape(1, -1)
