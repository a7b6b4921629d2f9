"""The values that Afterword is about. All are frozen; none does I/O.

Times are aware datetimes in UTC. `utc_offset` beside a time is the offset, in minutes east of UTC, that it was said
in: it decides what "yesterday" means and how the date is printed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any, Literal, NamedTuple, Protocol

from afterword.errors import InvalidInput

Kind = Literal["turn", "episodic", "semantic"]
MemoryKind = Literal["episodic", "semantic"]
Role = Literal["user", "assistant"]
Author = Literal["llm", "rules", "person", "import"]
JobState = Literal["queued", "running", "done", "dead", "cancelled"]
RunState = Literal["running", "done", "failed", "cancelled"]
Json = Mapping[str, Any]

ID_LIMIT = 200
TEXT_LIMIT = 100_000
METADATA_LIMIT = 10_000  # characters, as JSON
OFFSET_LIMIT = 1080  # minutes; no clock on earth is further from UTC
BIGGEST = 2**63 - 1  # that every database holds


def checked_id(value: str, name: str) -> str:
    """Return `value` if it can serve as an id, else raise `InvalidInput`.

    Any printable text of 1 to 200 characters is an id, quotes, operators and emoji too: ids are only ever bound as
    parameters or escaped. Control characters and lone surrogates can't be stored alike everywhere and are refused.
    """
    if not isinstance(value, str):
        raise InvalidInput(f"{name} must be text, not {type(value).__name__}")
    if not value.strip():
        raise InvalidInput(f"{name} is empty: give 1 to {ID_LIMIT} characters")
    if len(value) > ID_LIMIT:
        raise InvalidInput(f"{name} has {len(value)} characters: give at most {ID_LIMIT}")
    if any(ord(c) < 32 or ord(c) == 127 or 0xD800 <= ord(c) <= 0xDFFF for c in value):
        raise InvalidInput(f"{name} holds a control character or half a character: remove it")
    return value


def checked_text(value: str, name: str = "text", limit: int = TEXT_LIMIT) -> str:
    """Return `value` without NUL and lone surrogates, or raise `InvalidInput` when it is empty or too long."""
    if not isinstance(value, str):
        raise InvalidInput(f"{name} must be text, not {type(value).__name__}")
    if len(value) > limit:
        raise InvalidInput(f"{name} has {len(value):,} characters: give at most {limit:,}, or split it")
    clean = value.replace("\0", "").encode("utf-8", "replace").decode("utf-8")
    if not clean.strip():
        raise InvalidInput(f"{name} is empty: say something")
    return clean


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose memories: the first argument of every port method and the first columns of every row."""

    tenant: str
    user: str

    def __post_init__(self) -> None:
        checked_id(self.tenant, "tenant")
        checked_id(self.user, "user_id")


class ScopeState(NamedTuple):
    """A scope's change counter, its epoch, and the embedding model whose vectors serve searches (None: none yet)."""

    seq: int
    epoch: int
    model: str | None


class Ref(NamedTuple):
    """One version of one record. A turn has version 1 only."""

    record: str
    version: int


@dataclass(frozen=True, slots=True)
class NewTurn:
    """An utterance as it is handed in. `turn_id` makes it idempotent; without `said_at` it was said now."""

    chat_id: str
    role: Role
    text: str
    speaker: str | None = None
    said_at: datetime | None = None
    utc_offset: int | None = None
    turn_id: str | None = None
    metadata: Json = field(default_factory=dict)
    asked: bool = False  # a reply was asked for: without one, the turn is shown as unanswered

    def __post_init__(self) -> None:
        checked_id(self.chat_id, "chat_id")
        if self.turn_id is not None:
            checked_id(self.turn_id, "turn_id")
        if self.speaker is not None:
            checked_id(self.speaker, "speaker")
        if self.role not in ("user", "assistant"):
            raise InvalidInput(f"role is {self.role!r}: give 'user' or 'assistant'")
        if self.said_at is not None and self.said_at.tzinfo is None:
            raise InvalidInput("said_at has no time zone: give an aware datetime, or ISO text with an offset")
        if self.said_at is not None and not 2 <= self.said_at.year <= 9998:  # a day at the edge has no yesterday
            raise InvalidInput(f"said_at is {self.said_at}: give a time between the years 1 and 9999")
        if self.utc_offset is not None and not -OFFSET_LIMIT <= self.utc_offset <= OFFSET_LIMIT:
            raise InvalidInput(f"utc_offset is {self.utc_offset}: give minutes east of UTC, at most {OFFSET_LIMIT}")
        object.__setattr__(self, "text", checked_text(self.text))


@dataclass(frozen=True, slots=True)
class Turn:
    """One utterance in a chat, verbatim. `position` counts from 0 in the chat, in the order of acceptance."""

    id: str
    chat_id: str
    position: int
    role: Role
    text: str
    said_at: datetime
    utc_offset: int
    stored_at: datetime
    speaker: str | None = None
    reply_to: str | None = None  # the user turn that this reply answers
    cut: str | None = None  # why a reply is only a part: "stopped", "shutdown", or the error's text
    searchable: bool = True  # False: kept and shown, not indexed (a reply made by quoting)
    asked: bool = False
    metadata: Json = field(default_factory=dict)

    @property
    def ref(self) -> Ref:
        return Ref(self.id, 1)


@dataclass(frozen=True, slots=True)
class MemoryRecord:
    """One version of an episodic or semantic memory.

    `said_at` is when it happened or was said, `written_at` when this version was stored. `sources` are ids of turns
    (episodic) or of episodes (semantic). `strength` is as of `used_at`; `ranking.strength_at` lets it decay.
    """

    id: str
    version: int
    kind: MemoryKind
    text: str
    said_at: datetime
    utc_offset: int
    written_at: datetime
    author: Author
    sources: tuple[str, ...] = ()
    chat_id: str | None = None
    valid_from: datetime | None = None
    valid_to: datetime | None = None
    strength: float = 1.0
    used_at: datetime | None = None
    retired: str | None = None  # why it is no longer current
    why: str = ""  # why this version was written
    job_id: int | None = None
    metadata: Json = field(default_factory=dict)

    @property
    def ref(self) -> Ref:
        return Ref(self.id, self.version)


@dataclass(frozen=True, slots=True)
class Filters:
    """What a search or a listing may return. Empty fields let everything through; `until` is exclusive."""

    kinds: tuple[Kind, ...] = ()
    chat_id: str | None = None
    role: Role | None = None
    since: datetime | None = None
    until: datetime | None = None
    metadata: Json = field(default_factory=dict)
    exclude: frozenset[str] = frozenset()  # record ids


@dataclass(frozen=True, slots=True)
class Hit:
    """A turn or memory that was found, and why: `parts` holds each score part, `score` their weighted sum."""

    ref: Ref
    kind: Kind
    text: str
    score: float
    parts: Mapping[str, float]
    said_at: datetime
    utc_offset: int
    chat_id: str | None = None
    role: Role | None = None
    speaker: str | None = None
    sources: tuple[str, ...] = ()
    strength: float = 1.0
    metadata: Json = field(default_factory=dict)
    position: int | None = None  # of a turn, in its chat

    @property
    def id(self) -> str:
        return self.ref.record


@dataclass(frozen=True, slots=True)
class ReceiptItem:
    """One recalled memory as the receipt keeps it: no text, so that erasing a memory erases it here too."""

    ref: Ref
    kind: Kind
    score: float
    parts: Mapping[str, float]
    sources: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Receipt:
    """Why a reply was given what it was given. `missed` says why memories are lacking ("" when nothing went wrong)."""

    items: tuple[ReceiptItem, ...] = ()
    missed: str = ""
    recall_ms: float = 0.0

    def is_open(self, reply: str) -> bool:
        """Whether there is something to work through afterwards: an episode, found by what was said, that this reply's
        text may have used."""
        found = (item for item in self.items if "standing" not in item.parts)
        return bool(reply) and any(item.kind == "episodic" for item in found)


@dataclass(frozen=True, slots=True)
class NewReply:
    """A reply, whole or cut, ready to be stored together with its receipt."""

    chat_id: str
    reply_to: str
    text: str
    said_at: datetime
    utc_offset: int
    cut: str | None = None
    searchable: bool = True
    metadata: Json = field(default_factory=dict)
    reply_id: str | None = None  # the stored turn's id; made by the ledger when None


@dataclass(frozen=True, slots=True)
class Chat:
    """A chat in the list: `title` is its first words, `turns` their number, `last_at` when the last was said."""

    id: str
    title: str
    turns: int
    last_at: datetime


@dataclass(frozen=True, slots=True)
class NewJob:
    """Work to be put on the queue.

    `lane`: at most one job of a lane runs at a time. `stream`: a job waits for earlier unfinished ones of its stream
    (None: for none). `key`: a waiting job of that key is slid rather than doubled. `delay` and `max_wait` in seconds:
    sliding never moves a job past `max_wait` after it was first put.
    """

    kind: str
    lane: str
    stream: str | None = None
    key: str | None = None
    payload: Json = field(default_factory=dict)
    delay: float = 0.0
    max_wait: float | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """A row of the queue. `window` is what its first claim fixed (e.g. which turns); every retry sees the same."""

    id: int
    scope: Scope
    epoch: int
    kind: str
    lane: str
    stream: str | None
    key: str | None
    payload: Json
    state: JobState
    attempt: int
    fence: int
    run_at: datetime
    created_at: datetime
    finished_at: datetime | None = None
    window: Json | None = None
    worker: str | None = None
    waiting: str = ""  # why it waits: "debounce", or an outage's text
    error: str = ""
    result: Json | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """Long work of one user (consolidate, reembed, backfill), done as one short job a chunk."""

    id: str
    kind: str
    state: RunState
    done: int
    total: int
    message: str
    started_at: datetime
    finished_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """What a person should know about the memory as a whole."""

    llm: str | None  # model name, or None: replies quote
    embedder: str | None
    index: str
    waiting: int = 0
    running: int = 0
    dead: int = 0
    backlog_turns: int = 0  # decided by rules only; an LLM could read them again
    trouble: tuple[str, ...] = ()  # outages as they are now, each with its fix
    info: Json = field(default_factory=dict)


class Ticket(Protocol):
    """A promise for turns that are durable already. Survives nothing itself: `turn_ids` do."""

    @property
    def turn_ids(self) -> tuple[str, ...]: ...

    async def ids(self, timeout: float | None = None) -> list[str]:
        """Ids of the memories that these turns became, once decided. Raises `StillPending`, `NotRemembered`."""
        ...


def local_time(moment: datetime, utc_offset: int) -> datetime:
    """The moment as a clock on the wall showed it where it was said."""
    return moment.astimezone(timezone(timedelta(minutes=utc_offset)))


def hit_of(record: Turn | MemoryRecord, score: float, parts: Mapping[str, float]) -> Hit:
    """A record as a hit with this score."""
    if isinstance(record, Turn):
        return Hit(
            record.ref,
            "turn",
            record.text,
            score,
            parts,
            record.said_at,
            record.utc_offset,
            chat_id=record.chat_id,
            role=record.role,
            speaker=record.speaker,
            metadata=record.metadata,
            position=record.position,
        )
    return Hit(
        record.ref,
        record.kind,
        record.text,
        score,
        parts,
        record.said_at,
        record.utc_offset,
        chat_id=record.chat_id,
        sources=record.sources,
        strength=record.strength,
        metadata=record.metadata,
    )
