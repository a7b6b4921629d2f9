"""The ledger as the core asks for it: `Reads` for those who only look, `Ledger` for those who write.

Re-exported by `ports`, where everybody imports it from.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from afterword.plan import Plan
from afterword.records import (
    BIGGEST,
    Chat,
    Filters,
    Job,
    JobState,
    Json,
    Kind,
    MemoryRecord,
    NewJob,
    NewReply,
    NewTurn,
    Receipt,
    Ref,
    Role,
    Run,
    Scope,
    ScopeState,
    Turn,
)

if TYPE_CHECKING:
    from afterword.glance import Glance, News, Sought
    from afterword.plan import Vectors


@dataclass(frozen=True, slots=True)
class Entry:
    """What an index knows of a record: no text. `vectors` is None until it is embedded under the serving model."""

    ref: Ref
    kind: Kind
    role: Role | None
    chat_id: str | None
    position: int | None
    said_at: datetime
    tokens: tuple[str, ...]
    sources: tuple[str, ...] = ()
    metadata: Json = field(default_factory=dict)
    vectors: Vectors | None = None


@dataclass(frozen=True, slots=True)
class IndexChange:
    """One change of a scope after a cursor. `entry` is None where the record is gone (retired, erased)."""

    seq: int
    record: str
    entry: Entry | None


@dataclass(frozen=True, slots=True)
class Decision:
    """What a job decided, as kept for audit. For `remember`: which turns, and by whom."""

    id: int
    job_id: int
    kind: str
    chat_id: str | None
    first: int | None
    last: int | None
    by: str
    content: Json
    decided_at: datetime
    redone_by: int | None = None


@dataclass(frozen=True, slots=True)
class JobFilter:
    states: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    chat_id: str | None = None
    limit: int = 100
    before: int | None = None  # ids below this one, for paging

    def __post_init__(self) -> None:
        object.__setattr__(self, "limit", min(self.limit, BIGGEST))
        if self.before is not None:
            object.__setattr__(self, "before", max(-BIGGEST, min(self.before, BIGGEST)))


@dataclass(frozen=True, slots=True)
class Queue:
    """All users' unfinished and dead jobs, for operators: how many of each kind and state, and since when."""

    jobs: Mapping[tuple[str, JobState], int]  # (kind, state), states queued, running and dead
    oldest: datetime | None  # when the longest waiting job was put
    due: datetime | None  # when the job that is due the longest fell due (in the future: nothing is due)
    turns: int  # turns that are not decided yet

    def count(self, state: JobState) -> int:
        """Jobs of all kinds in this state."""
        return sum(number for (_, of), number in self.jobs.items() if of == state)


@dataclass(frozen=True, slots=True)
class Opening:
    """What a reply starts from, as one snapshot had it."""

    epoch: int  # under which the turn stands; the reply is kept under the same or not at all
    turn: Turn
    reply: Turn | None  # the one that is there, whole or cut
    before: tuple[Turn, ...]  # the turns before it in its chat, oldest first


class Watch(Protocol):
    """Wakes when something changed, in this process or another, and says what. Several changes may become one waking."""

    async def changed(self) -> frozenset[News]:
        """What may have changed since. Everything, where it isn't known; nothing, where it was nothing that is shown."""
        ...


class Reads(Protocol):
    """The ledger as steps and indexes see it: nothing here writes."""

    async def state(self, scope: Scope) -> ScopeState: ...

    async def chats(self, scope: Scope, limit: int = 200) -> list[Chat]:
        """Newest first."""
        ...

    async def turns(
        self, scope: Scope, chat_id: str, *, first: int = 0, last: int | None = None, limit: int = 1000
    ) -> list[Turn]:
        """Turns of a chat at positions first..last (included), in order."""
        ...

    async def turns_at(self, scope: Scope, places: Sequence[tuple[str, int]]) -> list[Turn]:
        """The turns at these places (chat, position), as far as they are there; in no order."""
        ...

    async def last_turns(self, scope: Scope, chat_id: str, count: int) -> list[Turn]:
        """The newest `count` turns, oldest of them first."""
        ...

    async def turn(self, scope: Scope, turn_id: str) -> Turn:
        """Raises `NotFound`."""
        ...

    async def opening(self, scope: Scope, turn_id: str, most: int) -> Opening:
        """What a reply to this turn starts from, at most `most` turns before it among it. Raises `NotFound`."""
        ...

    async def receipt(self, scope: Scope, reply_id: str) -> Receipt | None: ...

    async def receipts(self, scope: Scope, reply_ids: Sequence[str]) -> dict[str, Receipt]:
        """Those that are there, by reply."""
        ...

    async def cursor(self, scope: Scope, chat_id: str) -> int:
        """Turns below this position are decided (0: none)."""
        ...

    async def read(self, scope: Scope, refs: Sequence[Ref]) -> dict[Ref, Turn | MemoryRecord]:
        """What of these is there and current. Retired, superseded, unsearchable and foreign ones are left out."""
        ...

    async def memory(self, scope: Scope, record: str) -> MemoryRecord:
        """The newest version, retired or not. Raises `NotFound`."""
        ...

    async def memories(
        self, scope: Scope, filters: Filters, *, limit: int = 100, offset: int = 0, retired: bool = False
    ) -> list[MemoryRecord]:
        """Newest `said_at` first. `filters.kinds` may name memory kinds only."""
        ...

    async def history(self, scope: Scope, record: str) -> list[MemoryRecord]:
        """All versions, oldest first. Raises `NotFound`."""
        ...

    async def memories_of(self, scope: Scope, turn_ids: Sequence[str]) -> list[MemoryRecord]:
        """Current memories that rest on any of these turns (or, for semantic ones, episodes)."""
        ...

    async def episodes_after(self, scope: Scope, seq: int, limit: int) -> list[tuple[int, MemoryRecord]]:
        """Current episodes whose newest version has a change number above `seq`, with it, in that order."""
        ...

    async def changes(self, scope: Scope, after: int, limit: int = 2000) -> list[IndexChange]:
        """Index changes in order, one a record (its newest); entries hold vectors of the serving model."""
        ...

    async def entries(self, scope: Scope, after: str = "", limit: int = 2000) -> tuple[ScopeState, list[Entry]]:
        """All current entries by record id above `after`, with the state they were read under (one snapshot)."""
        ...

    async def unembedded(self, scope: Scope, model: str, limit: int) -> list[tuple[Ref, str]]:
        """Current searchable records without vectors of this model, newest first: the ref and the text to embed.

        The text names the speaker: `"Ann: I moved to Oslo"`.
        """
        ...

    async def vector_counts(self, scope: Scope, model: str) -> tuple[int, int]:
        """How many current searchable records have vectors of this model, and how many there are."""
        ...

    async def rule_decisions(self, scope: Scope | None, limit: int) -> list[tuple[Scope, Decision]]:
        """`remember` decisions made by rules and not made again, newest first. None: of all scopes (the worker's)."""
        ...

    async def decisions(self, scope: Scope, job_id: int) -> list[Decision]: ...

    async def jobs(self, scope: Scope | None, wanted: JobFilter) -> list[Job]:
        """Newest first. None: of all scopes (operators)."""
        ...

    async def job(self, job_id: int) -> Job:
        """Raises `NotFound`."""
        ...

    async def job_counts(self, scope: Scope | None) -> dict[str, int]:
        """How many jobs in each state."""
        ...

    async def runs(self, scope: Scope, kind: str | None = None, limit: int = 20) -> list[Run]:
        """Newest first."""
        ...

    async def consolidated_to(self, scope: Scope) -> int:
        """The highest `Progress.cursor` that a consolidation of this scope has reached (0: none)."""
        ...

    async def backlog(self) -> int:
        """Turns of all users that were decided by rules only; counted no further than an operator needs to know."""
        ...

    async def glance(self, scope: Scope, sought: Sought) -> Glance:
        """What a page shows of a scope, read at one moment, as far as it is sought."""
        ...

    def watch(self, scope: Scope | None) -> AbstractContextManager[Watch]:
        """Changes of one scope (its data, jobs, runs); None: of any."""
        ...


class Ledger(Reads, Protocol):
    """The truth. Every writing method is one transaction; it raises `LedgerError` when it can't be made durable."""

    async def open(self) -> None:
        """Migrates, warms up. Raises `LedgerError`, `LedgerDamaged`."""
        ...

    async def aclose(self) -> None: ...

    # the reply path: goes before background writes
    async def accept(self, scope: Scope, turns: Sequence[NewTurn], jobs: Sequence[NewJob] = ()) -> list[Turn]:
        """Store turns and put jobs. A known `turn_id` returns the turn as it stands; when all are, no job is put.

        `turn_id` known in another chat or with another text raises `InvalidInput`.
        """
        ...

    async def begin(self, scope: Scope, turn: NewTurn, jobs: Sequence[NewJob], most: int) -> Opening:
        """Store one turn as `accept` does, and give what its reply starts from, as `opening` does: one way to the
        database and back for both."""
        ...

    async def answer(
        self, scope: Scope, epoch: int, reply: NewReply, receipt: Receipt, jobs: Sequence[NewJob] = ()
    ) -> Turn:
        """Store a reply, its receipt, and put jobs; also slides the chat's waiting `remember`. Raises `EpochChanged`, also
        where the turn it answers was erased.

        A second reply to the same turn replaces a cut one and raises `InvalidInput` otherwise.
        """
        ...

    # people
    async def edit(self, scope: Scope, plan: Plan) -> list[Ref]:
        """Apply a person's plan at once (Insert, Revise, Retire, Erase), and put its jobs.

        Raises `VersionConflict`, `NotFound`.
        """
        ...

    async def reset(self, scope: Scope) -> int:
        """Erase everything of the scope: turns, memories, vectors, receipts, jobs, runs. Returns the new epoch."""
        ...

    async def delete_chat(self, scope: Scope, chat_id: str) -> None:
        """Erase a chat's turns, its receipts and jobs, and the memories that rest on its turns only."""
        ...

    async def start_run(self, scope: Scope, kind: str, total: int, job: NewJob) -> tuple[Run, bool]:
        """Start a run and put its first job (`run_id` is added to its payload); if one is running, that and False."""
        ...

    # jobs
    async def put(self, scope: Scope, jobs: Sequence[NewJob]) -> list[int]:
        """Ids; a job whose `key` waits already is slid. Raises `QueueFull` when the depth limit is reached."""
        ...

    async def claim(self, worker: str, kinds: Sequence[str], count: int, lease: float) -> list[Job]:
        """Up to `count` due jobs, one a lane, none whose stream has an earlier unfinished one; expired leases first
        go back to the queue. `lease` in seconds. A claim raises the attempt by one and gives up the key."""
        ...

    async def fix_window(self, job: Job, window: Json) -> Job:
        """Write the job's window if it has none; returns the job with the window that stands. Raises `LeaseLost`."""
        ...

    async def renew(self, worker: str, jobs: Sequence[Job], lease: float) -> set[int]:
        """Lengthen leases; the ids that are still this worker's."""
        ...

    async def apply(self, job: Job, plan: Plan) -> list[Ref]:
        """The whole plan and the job's end in one transaction: the refs it wrote.

        Raises `LeaseLost`, `EpochChanged`, `VersionConflict` and then changes nothing.
        """
        ...

    async def postpone(
        self, job: Job, *, delay: float, waiting: str = "", error: str = "", count_attempt: bool = True
    ) -> None:
        """Back to the queue for `delay` seconds. An outage or a hand-back uses up no attempt. Raises `LeaseLost`."""
        ...

    async def bury(self, job: Job, error: str) -> None:
        """Dead-letter it; a `remember` window is stepped over (cursor moved, next job put). Raises `LeaseLost`."""
        ...

    async def retry(self, job_id: int) -> Job:
        """A dead or cancelled job waits again, its attempts at 0, its window kept. Raises `NotFound`, `InvalidInput`."""
        ...

    async def cancel(self, job_id: int) -> Job:
        """A waiting job ends; a running one loses its lease. A cancelled `remember` steps over its window."""
        ...

    async def next_due(self, kinds: Sequence[str]) -> datetime | None:
        """When the next waiting job may be claimed, as far as time decides it."""
        ...

    async def sweep(self, *, model: str | None, limit: int = 100) -> int:
        """Make again what jobs are lacking and there is room for: lagging chats, records without vectors of `model`,
        receipts not worked through; and make due what waits only because the clock was put back. How many jobs that
        were. Several processes may sweep at once."""
        ...

    async def queue(self) -> Queue:
        """The whole queue in figures."""
        ...

    async def waiting(self, scope: Scope | None) -> tuple[int, int]:
        """Turns that are not decided yet, and the bytes of their text as UTF-8. None: of all users."""
        ...

    async def probe(self) -> None:
        """Write something of no meaning and make it durable. Raises `LedgerError` where nothing can be written."""
        ...

    async def prune(self, before: datetime) -> int:
        """Delete finished jobs (not dead ones) that ended before this."""
        ...

    async def scopes(self, after: Scope | None, limit: int) -> list[Scope]:
        """All scopes in a fixed order, for scheduled work (the worker's)."""
        ...


async def every_scope(ledger: Ledger, page_size: int = 500) -> AsyncIterator[Scope]:
    """All scopes, read a page at a time."""
    after: Scope | None = None
    while page := await ledger.scopes(after, page_size):
        for scope in page:
            yield scope
        after = page[-1]
