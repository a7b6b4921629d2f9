"""What an index in this process knows of one user: who said what where, token postings, and vectors. No text.

A `Shard` grows on the event loop; a `Snapshot` is what it knew at one moment and can be read in any thread.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from afterword.index.bm25 import Floats, Ints, Postings, PostingsBuilder
from afterword.language.moments import moment_tokens
from afterword.language.tokens import script_of
from afterword.records import Filters, Json, Ref, ScopeState

if TYPE_CHECKING:
    from afterword.ports import Entry, Vectors

Mask = npt.NDArray[np.bool_]

SPAN = 4  # turns on each side that belong to a turn's window
GAP = 6 * 3600.0  # seconds of silence after which a chat's next turn begins a new session
KINDS = {"turn": 0, "episodic": 1, "semantic": 2}
ROLES = {None: 0, "user": 1, "assistant": 2}
EVERY = slice(None)
ROW_BYTES = 700  # what Python holds for a record beside the arrays: ids, dictionary slots, hashes


@dataclass(frozen=True, slots=True)
class Talk:
    """Living turns in the order they were said, chat by chat. A place is an index into `rows`."""

    rows: Ints
    session: Ints  # of each place, counted from 0
    first: Ints  # of each place: where its window begins
    last: Ints  # of each place: where its window ends (included)
    window_lengths: Floats  # of each place: tokens of its window, of first passages alone
    session_lengths: Floats  # of each session: the same


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A user's records at one moment. Rows are records' versions, in the order they came; dead rows stay in place."""

    refs: Sequence[Ref]
    living: Mask
    kind: npt.NDArray[np.int8]
    role: npt.NDArray[np.int8]
    script: npt.NDArray[np.int8]  # see `tokens.script_of`
    chat: Ints
    said_at: npt.NDArray[np.float64]
    row_of_passage: Ints
    first_passage: Ints
    place: Ints  # of each row: where it was said, or the turn that it rests on; -1: unknown
    place_of_passage: Ints  # of each passage: where it was said, if it is a turn's first; else -1
    talk: Talk
    postings: Postings
    matrix: Floats
    owner: Ints  # the row of each row of the matrix
    chats: Mapping[str, int]
    metadata: Mapping[int, Json]
    rows: Mapping[str, int]  # the living row of a record; may already know newer ones

    @property
    def size(self) -> int:
        return len(self.living)

    def without(self, records: Iterable[str]) -> Mask:
        """The living rows but for these records."""
        kept = self.living.copy()
        for record in records:
            row = self.rows.get(record, -1)
            if 0 <= row < len(kept):
                kept[row] = False
        return kept

    def allowed(self, filters: Filters) -> Mask:
        """The rows that a search may return."""
        allowed = self.without(filters.exclude)
        if filters.kinds:
            allowed &= np.isin(self.kind, [KINDS[kind] for kind in filters.kinds])
        if filters.role is not None:
            allowed &= self.role == ROLES[filters.role]
        if filters.chat_id is not None:
            allowed &= self.chat == self.chats.get(filters.chat_id, -2)
        if filters.since is not None:
            allowed &= self.said_at >= filters.since.timestamp()
        if filters.until is not None:
            allowed &= self.said_at < filters.until.timestamp()
        if filters.metadata:
            allowed &= self._with_metadata(filters.metadata)
        return allowed

    def at_place(self, of_place: Floats, otherwise: Floats, rows: Ints | slice = EVERY) -> Floats:
        """What holds at the place of each row; `otherwise`, of the same rows, where it has none."""
        if not len(of_place):
            return otherwise
        place = self.place[rows]
        return np.where(place >= 0, of_place[place], otherwise)

    def _with_metadata(self, wanted: Json) -> Mask:
        found = np.zeros(self.size, np.bool_)
        for row, metadata in list(self.metadata.items()):
            if row < self.size and all(key in metadata and metadata[key] == wanted[key] for key in wanted):
                found[row] = True
        return found


class Matrix:
    """Vectors below one another, with a quarter more room whenever it ends; earlier views stay as they were."""

    def __init__(self) -> None:
        self._rows: Floats = np.zeros((0, 0), np.float32)
        self._used = 0
        self._owner = array("q")

    @property
    def nbytes(self) -> int:
        return int(self._rows.nbytes) + 8 * len(self._owner)

    def add(self, rows: Sequence[int], vectors: Sequence[Vectors]) -> None:
        """Of each row its vectors."""
        windows = [len(one) for one in vectors]
        need = self._used + sum(windows)
        if need > len(self._rows):
            grown = np.empty((max(64, need + need // 4), vectors[0].shape[1]), np.float32)
            if self._used:
                grown[: self._used] = self._rows[: self._used]
            self._rows = grown
        np.concatenate(vectors, out=self._rows[self._used : need])
        self._used = need
        self._owner.frombytes(np.repeat(np.array(rows, np.int64), windows).tobytes())

    def frozen(self) -> tuple[Floats, Ints]:
        return self._rows[: self._used], np.array(self._owner, np.int64)


class Shard:
    """One user's records as the ledger had them at `cursor`. Belongs to one task at a time."""

    def __init__(self, epoch: int, model: str | None, cursor: int, *, keep_vectors: bool = True) -> None:
        self.epoch = epoch
        self.model = model
        self.cursor = cursor
        self._keep_vectors = keep_vectors
        self._rows: dict[str, int] = {}
        self._refs: list[Ref] = []
        self._hashes: list[int] = []
        self._living = bytearray()
        self._kind = array("b")
        self._role = array("b")
        self._script = array("b")
        self._chat = array("q")
        self._position = array("q")
        self._said_at = array("d")
        self._parts = array("q")
        self._anchor = array("q")
        self._unanchored: dict[int, tuple[str, ...]] = {}
        self._embedded: set[int] = set()
        self._chats: dict[str, int] = {}
        self._metadata: dict[int, Json] = {}
        self.postings = PostingsBuilder()
        self._matrix = Matrix()
        self._snapshot: Snapshot | None = None

    @property
    def size(self) -> int:
        return len(self._refs)

    @property
    def nbytes(self) -> int:
        """About what it holds, in bytes."""
        return ROW_BYTES * self.size + self.postings.nbytes + self._matrix.nbytes

    @property
    def mostly_dead(self) -> bool:
        """True when building it again would save memory and time."""
        return self.size > 1000 and len(self._rows) < self.size // 2

    def put(self, entries: Sequence[Entry]) -> None:
        """Take in records' current versions, each record once, or vectors that have come for them."""
        known = ((entry, hash((entry.ref, entry.tokens))) for entry in entries)
        fresh = [(entry, same) for entry, same in known if not self._holds(entry, same)]
        if fresh:
            self._append([entry for entry, _ in fresh], [same for _, same in fresh])
            self._snapshot = None
        if self._keep_vectors:
            self._embed([entry for entry in entries if entry.vectors is not None])

    def _holds(self, entry: Entry, same: int) -> bool:
        row = self._rows.get(entry.ref.record)
        if row is None or self._hashes[row] != same:
            return False
        withdrawn = row in self._embedded and entry.vectors is None
        return not withdrawn

    def _embed(self, entries: Sequence[Entry]) -> None:
        rows = [self._rows[entry.ref.record] for entry in entries]
        come = {row: entry.vectors for row, entry in zip(rows, entries, strict=True) if row not in self._embedded}
        if come:
            self._embedded.update(come)
            self._matrix.add(list(come), [vectors for vectors in come.values() if vectors is not None])
            self._snapshot = None

    def drop(self, record: str) -> None:
        """Forget a record that is gone."""
        row = self._rows.pop(record, None)
        if row is not None:
            self._living[row] = 0
            self._metadata.pop(row, None)
            self._unanchored.pop(row, None)
            self._snapshot = None

    def _append(self, entries: Sequence[Entry], hashes: Sequence[int]) -> None:
        """A row each, column by column: that is four times as quick as row by row."""
        for entry in entries:
            self.drop(entry.ref.record)
        rows = range(self.size, self.size + len(entries))
        self._rows.update(zip([entry.ref.record for entry in entries], rows, strict=True))
        self._refs.extend([entry.ref for entry in entries])
        self._hashes.extend(hashes)
        self._living.extend(b"\1" * len(entries))
        self._kind.extend([KINDS[entry.kind] for entry in entries])
        self._role.extend([ROLES[entry.role] for entry in entries])
        self._script.extend([script_of(entry.tokens) for entry in entries])
        self._chat.extend([self._number_of(entry.chat_id) for entry in entries])
        self._position.extend([-1 if entry.position is None else entry.position for entry in entries])
        self._said_at.extend([entry.said_at.timestamp() for entry in entries])
        texts = [(*moment_tokens(entry.said_at.date()), *entry.tokens) for entry in entries]
        self._parts.extend(self.postings.add(texts))
        for row, entry in zip(rows, entries, strict=True):
            turn = entry.kind == "turn"
            self._anchor.append(row if turn else -1)
            if not turn and entry.sources:
                self._unanchored[row] = entry.sources
            if entry.metadata:
                self._metadata[row] = entry.metadata

    def _number_of(self, chat_id: str | None) -> int:
        return -1 if chat_id is None else self._chats.setdefault(chat_id, len(self._chats))

    def _find_anchors(self) -> None:
        """A memory's turn may come after it, so look again for those that have none; facts rest on episodes."""
        for row, sources in list(self._unanchored.items()):
            for source in sources:
                at = self._anchor[self._rows[source]] if source in self._rows else -1
                if at >= 0:
                    self._anchor[row] = at
                    del self._unanchored[row]
                    break

    def is_frozen(self) -> bool:
        """True when `frozen` has nothing to do."""
        return self._snapshot is not None

    def is_frozen_at(self, state: ScopeState) -> bool:
        """The same, and it knows all that the ledger held at `state`."""
        return self.is_frozen() and self.is_of(state) and self.cursor >= state.seq

    def is_of(self, state: ScopeState) -> bool:
        """Whether it needs no more than changes to know all that the ledger held at `state`."""
        return (self.epoch, self.model) == (state.epoch, state.model)

    def frozen(self) -> Snapshot:
        """What it knows now."""
        if self._snapshot is None:
            self._snapshot = self._freeze()
        return self._snapshot

    def _freeze(self) -> Snapshot:
        if self.postings.worth_merging():
            self.postings.merge()
        self._find_anchors()
        parts = np.array(self._parts, np.int64)
        first_passage = np.cumsum(parts) - parts
        living = np.array(self._living, np.bool_)
        postings = self.postings.frozen()
        talk = self._talk(living, postings.lengths[first_passage])
        place_of_passage = np.full(len(postings.lengths), -1, np.int64)
        place_of_passage[first_passage[talk.rows]] = np.arange(len(talk.rows))
        matrix, owner = self._matrix.frozen()
        return Snapshot(
            refs=self._refs,
            living=living,
            kind=np.array(self._kind, np.int8),
            role=np.array(self._role, np.int8),
            script=np.array(self._script, np.int8),
            chat=np.array(self._chat, np.int64),
            said_at=np.array(self._said_at, np.float64),
            row_of_passage=np.repeat(np.arange(len(parts)), parts),
            first_passage=first_passage,
            place=self._places(talk),
            place_of_passage=place_of_passage,
            talk=talk,
            postings=postings,
            matrix=matrix,
            owner=owner,
            chats=self._chats,
            metadata=self._metadata,
            rows=self._rows,
        )

    def _places(self, talk: Talk) -> Ints:
        """Of each row: the place of the turn that it is or rests on."""
        place = np.full(self.size + 1, -1, np.int64)  # the last one is read for rows without a turn
        place[talk.rows] = np.arange(len(talk.rows))
        places: Ints = place[np.array(self._anchor, np.int64)]
        return places

    def _talk(self, living: Mask, lengths: Floats) -> Talk:
        """`lengths` are the tokens of each row's first passage."""
        chat, position = np.array(self._chat, np.int64), np.array(self._position, np.int64)
        said_at = np.array(self._said_at, np.float64)
        placed = np.flatnonzero(living & (position >= 0) & (np.array(self._kind, np.int8) == KINDS["turn"]))
        rows = placed[np.lexsort((position[placed], chat[placed]))]
        breaks = np.ones(len(rows), np.bool_)
        breaks[1:] = (chat[rows][1:] != chat[rows][:-1]) | (np.abs(np.diff(said_at[rows])) > GAP)
        session = np.cumsum(breaks) - 1
        starts = np.flatnonzero(breaks)
        ends = np.append(starts[1:], len(rows)) - 1
        here = np.arange(len(rows))
        first, last = np.maximum(here - SPAN, starts[session]), np.minimum(here + SPAN, ends[session])
        said = np.concatenate([[0.0], np.cumsum(lengths[rows], dtype=np.float64)])  # tokens before each place
        return Talk(
            rows,
            session,
            first,
            last,
            window_lengths=(said[last + 1] - said[first]).astype(np.float32),
            session_lengths=(said[ends + 1] - said[starts]).astype(np.float32),
        )
