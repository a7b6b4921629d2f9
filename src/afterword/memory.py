"""`AsyncMemory`: the public face. Thin: each method checks its input and hands on.

Made by `afterword.open_memory(...)` (see `wiring.py`), which wires settings to adapters.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import TYPE_CHECKING

from afterword.consolidate import first_job
from afterword.context.briefing import Briefing, Wanted
from afterword.errors import InvalidInput, NotFound
from afterword.glance import EVERYTHING
from afterword.lanes import backfill_job
from afterword.plan import Erase, Plan, Revise
from afterword.ports import Decision, JobFilter
from afterword.records import (
    BIGGEST,
    Chat,
    Filters,
    Hit,
    Job,
    Json,
    MemoryRecord,
    NewTurn,
    Receipt,
    Role,
    Run,
    Scope,
    Status,
    Turn,
    checked_id,
    checked_text,
)
from afterword.runs import RunHandle
from afterword.tickets import LedgerTicket

if TYPE_CHECKING:
    from datetime import datetime

    from afterword.chat import Chats, OpenTurn
    from afterword.glance import Glance, News, Sought
    from afterword.intake import Intake
    from afterword.limits import Gate
    from afterword.observing import Watch
    from afterword.ports import Clock, Index, Ledger
    from afterword.recall import Recaller
    from afterword.reply import Reply
    from afterword.worker import Worker

QUERY_LIMIT = 100_000
BUDGET_LIMIT = 1_000_000
CONTEXT_HITS = 80
TOKENS_A_HIT = 25  # no more hits are asked for than could fit


class AsyncMemory:
    """Long-term memory for LLM chat. All methods may be called at once from any task of the loop that opened it.

    `user_id` is whose memory it is; nobody sees another's. Errors are `afterword.errors.AfterwordError`s whose text
    names the fix.
    """

    def __init__(
        self,
        *,
        tenant: str,
        ledger: Ledger,
        index: Index,
        intake: Intake,
        recall: Recaller,
        briefing: Briefing,
        chats: Chats,
        worker: Worker,
        clock: Clock,
        status: Callable[[], Awaitable[Status]],
        llm: str | None,
        watch: Watch,
        gate: Gate,
    ) -> None:
        self.ledger = ledger
        self.index = index
        self.worker = worker
        self.watch = watch
        self.llm = llm  # its name; None: replies quote
        self._gate = gate
        self._tenant = tenant
        self._recall = recall
        self._briefing = briefing
        self._chats = chats
        self._clock = clock
        self._intake = intake
        self._status = status

    def scope(self, user_id: str) -> Scope:
        """The scope of a user of this memory's tenant. Raises `InvalidInput`."""
        return Scope(self._tenant, user_id)

    # ── finding ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def search(
        self,
        query: str,
        user_id: str,
        limit: int = 10,
        reconsolidate: bool = False,
        filters: Filters | None = None,
    ) -> list[Hit]:
        """The best `limit` (1 to 200) turns and memories for the query, best first. Read-only unless
        `reconsolidate`, which puts a job that revises recalled episodes in the light of the query."""
        scope = self.scope(user_id)
        query = checked_text(query, "query", QUERY_LIMIT)
        if not 1 <= limit <= 200:
            raise InvalidInput(f"limit is {limit}: give 1 to 200")
        recalled = await self._recall.search(scope, query, limit=limit, filters=filters or Filters())
        if reconsolidate:
            await self.worker.reconsolidate_query(scope, query, recalled.hits)
        return list(recalled.hits)

    async def context(
        self,
        query: str,
        user_id: str,
        budget_tokens: int = 2000,
        *,
        utc_offset: int | None = None,
        count_tokens: Callable[[str], int] | None = None,
        allow_orders: bool = False,
    ) -> str:
        """What is remembered about the query, as dated text for a prompt, never over `budget_tokens` (0 to 1,000,000).

        Tokens are counted by `count_tokens`, else by a rule that errs upwards (one for a CJK character, a digit, 3 bytes
        of other text). "Today" is that of a clock `utc_offset` minutes east of UTC (None: the memory's own). Texts that
        read like orders to the LLM are left out, or marked where `allow_orders`. Small talk gives standing facts only,
        or "".
        """
        scope = self.scope(user_id)
        query = checked_text(query, "query", QUERY_LIMIT)
        if not 0 <= budget_tokens <= BUDGET_LIMIT:
            raise InvalidInput(f"budget_tokens is {budget_tokens}: give 0 to {BUDGET_LIMIT:,}")
        limit = min(CONTEXT_HITS, max(1, budget_tokens // TOKENS_A_HIT))
        wanted = Wanted(query, limit, budget_tokens, utc_offset, allow_orders=allow_orders, count=count_tokens)
        return (await self._briefing.brief(scope, wanted)).text

    # ── telling ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def submit(
        self,
        text: str,
        user_id: str,
        chat_id: str = "default",
        metadata: Json | None = None,
        turn_id: str | None = None,
        *,
        role: Role = "user",
        speaker: str | None = None,
        said_at: datetime | None = None,
        utc_offset: int | None = None,
    ) -> LedgerTicket:
        """Keep one turn. Returns as soon as it is durable; what it teaches is worked out behind."""
        turn = NewTurn(chat_id, role, text, speaker, said_at, utc_offset, turn_id, dict(metadata or {}))
        return await self._submit(self.scope(user_id), [turn], debounce=True)

    async def add(
        self,
        text: str,
        user_id: str,
        chat_id: str = "default",
        metadata: Json | None = None,
        timeout: float | None = None,
        *,
        turn_id: str | None = None,
    ) -> list[str]:
        """Keep one turn and wait, at most `timeout` seconds, for the ids of the memories it became (maybe none).

        Raises `StillPending`, which carries the ticket: nothing is lost.
        """
        turn = NewTurn(chat_id, "user", text, turn_id=turn_id, metadata=dict(metadata or {}))
        ticket = await self._submit(self.scope(user_id), [turn], debounce=False)
        return await ticket.ids(timeout)

    async def add_turns(self, turns: Iterable[NewTurn], user_id: str) -> LedgerTicket:
        """Keep many turns, e.g. a transcript, sorted by `said_at`. Turns whose `turn_id` is known add nothing."""
        now = self._clock.now()
        ordered = sorted(turns, key=lambda turn: turn.said_at or now)
        return await self._submit(self.scope(user_id), ordered, debounce=False)

    async def _submit(self, scope: Scope, turns: list[NewTurn], *, debounce: bool) -> LedgerTicket:
        await self._gate.admit(scope, turns)
        stored = await self._intake.accept(scope, turns, debounce=debounce)
        return LedgerTicket(self.ledger, scope, tuple(stored), self._clock)

    # ── chatting ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def chat(
        self,
        message: str,
        user_id: str,
        chat_id: str = "default",
        *,
        turn_id: str | None = None,
        utc_offset: int | None = None,
        metadata: Json | None = None,
    ) -> Reply:
        """Answer a message with what is known. When this returns the message is durable and the reply is under way;
        iterate it for its pieces. It goes on, and is stored, whether or not anybody listens."""
        turn = _asked(message, chat_id, turn_id, utc_offset, metadata)
        scope = self.scope(user_id)
        self._check_replies(scope, turn_id)
        with self.watch.chat(turn.chat_id) as begun:
            return begun(await self._chats.start(scope, turn))

    async def ask_again(self, user_id: str, turn_id: str) -> Reply:
        """Answer a kept message that has no reply, or only a cut one. Raises `NotFound`, `InvalidInput`."""
        scope = self.scope(user_id)
        self._check_replies(scope, turn_id)
        return await self._chats.again(scope, checked_id(turn_id, "turn_id"))

    def _check_replies(self, scope: Scope, turn_id: str | None) -> None:
        own, of_all = self._chats.under_way(scope, turn_id)
        self._gate.check_replies(own, of_all)

    def live(self, user_id: str, chat_id: str) -> Reply | None:
        """The reply that is being written in this chat right now, if any."""
        return self._chats.live(self.scope(user_id), chat_id)

    async def turn(
        self,
        message: str,
        user_id: str,
        chat_id: str = "default",
        *,
        turn_id: str | None = None,
        utc_offset: int | None = None,
        metadata: Json | None = None,
    ) -> OpenTurn:
        """For people with an LLM call of their own: keeps the message and recalls; hand in the reply when you have it."""
        new = _asked(message, chat_id, turn_id, utc_offset, metadata)
        return await self._chats.open(self.scope(user_id), new)

    # ── background work, asked for ─────────────────────────────────────────────────────────────────────────────────

    async def reconsolidate(self, query: str, user_id: str, limit: int = 10) -> list[int]:
        """Revise the episodes that a query recalls, with the query as evidence. Ids of the jobs that were put."""
        scope = self.scope(user_id)
        query = checked_text(query, "query", QUERY_LIMIT)
        recalled = await self._recall.search(scope, query, limit=limit, filters=Filters(kinds=("episodic",)))
        return await self.worker.reconsolidate_query(scope, query, recalled.hits)

    async def consolidate(self, user_id: str) -> RunHandle:
        """Merge new episodes into semantic facts. A second call while one runs returns that run."""
        scope = self.scope(user_id)
        run, _ = await self.ledger.start_run(scope, "consolidate", 0, first_job(scope))
        return RunHandle(self.ledger, scope, run)

    async def backfill(self, user_id: str) -> RunHandle:
        """Let the LLM read again what only rules have decided (turns that came while there was no LLM)."""
        scope = self.scope(user_id)
        run, _ = await self.ledger.start_run(scope, "backfill", 0, backfill_job(scope))
        return RunHandle(self.ledger, scope, run)

    async def reset(self, user_id: str) -> None:
        """Erase everything of this user, for good. Work and replies under way can't bring anything back."""
        scope = self.scope(user_id)
        await self._chats.abandon(scope)
        await self.ledger.reset(scope)
        self.worker.abandon(scope)

    # ── looking and mending ────────────────────────────────────────────────────────────────────────────────────────

    async def get(self, memory_id: str, user_id: str) -> MemoryRecord:
        """The newest version. Raises `NotFound`."""
        return await self.ledger.memory(self.scope(user_id), checked_id(memory_id, "memory_id"))

    async def get_all(
        self, user_id: str, filters: Filters | None = None, limit: int = 100, offset: int = 0
    ) -> list[MemoryRecord]:
        """Current memories, newest first."""
        limit, offset = min(limit, BIGGEST), min(offset, BIGGEST)
        return await self.ledger.memories(self.scope(user_id), filters or Filters(), limit=limit, offset=offset)

    async def update(self, memory_id: str, text: str, user_id: str) -> MemoryRecord:
        """A person's edit: a new version that background work doesn't overwrite."""
        scope = self.scope(user_id)
        old = await self.get(memory_id, user_id)
        if old.retired:
            raise NotFound(f"memory {memory_id} is retired ({old.retired}): edit a current one")
        change = Revise(old.ref, checked_text(text), "person", why="edited by a person")
        await self.ledger.edit(scope, Plan((change,), jobs=tuple(self._intake.embedding(scope))))
        return await self.ledger.memory(scope, memory_id)

    async def delete(self, memory_id: str, user_id: str) -> None:
        """Erase a memory or a turn with all its versions. Raises `NotFound`."""
        scope, erased = self.scope(user_id), Erase(checked_id(memory_id, "memory_id"))
        # the turn that follows an erased one is embedded again: its vectors may hold something of it
        await self.ledger.edit(scope, Plan((erased,), jobs=tuple(self._intake.embedding(scope))))

    async def history(self, memory_id: str, user_id: str) -> list[MemoryRecord]:
        """All versions, oldest first. Raises `NotFound`."""
        return await self.ledger.history(self.scope(user_id), checked_id(memory_id, "memory_id"))

    async def chats(self, user_id: str) -> list[Chat]:
        """Newest first."""
        return await self.ledger.chats(self.scope(user_id))

    async def turns(self, user_id: str, chat_id: str, limit: int = 200) -> list[Turn]:
        """The newest `limit` turns of a chat, in order."""
        return await self.ledger.last_turns(self.scope(user_id), checked_id(chat_id, "chat_id"), limit)

    async def delete_chat(self, user_id: str, chat_id: str) -> None:
        """Erase a chat, and the memories that rest on nothing else."""
        await self.ledger.delete_chat(self.scope(user_id), checked_id(chat_id, "chat_id"))

    async def receipt(self, user_id: str, reply_id: str) -> tuple[Receipt, list[Hit]] | None:
        """Why a reply was given what it was given; what has been erased or revised since is left out of the hits."""
        return await self._chats.receipt(self.scope(user_id), checked_id(reply_id, "reply_id"))

    async def decisions(self, user_id: str, job_id: int) -> list[Decision]:
        """What a job decided: why something was written, or not."""
        return await self.ledger.decisions(self.scope(user_id), job_id) if 0 < job_id <= BIGGEST else []

    # ── jobs, runs, state ──────────────────────────────────────────────────────────────────────────────────────────

    async def jobs(self, user_id: str, wanted: JobFilter | None = None) -> list[Job]:
        """Newest first."""
        return await self.ledger.jobs(self.scope(user_id), wanted or JobFilter())

    async def job_counts(self, user_id: str) -> dict[str, int]:
        """How many jobs in each state."""
        return await self.ledger.job_counts(self.scope(user_id))

    async def retry_job(self, job_id: int, user_id: str | None = None) -> Job:
        """Let a dead or cancelled job wait again. With `user_id`, only that user's."""
        await self._own_job(job_id, user_id)
        return await self.ledger.retry(job_id)

    async def cancel_job(self, job_id: int, user_id: str | None = None) -> Job:
        """End a job, its call to an LLM too. With `user_id`, only that user's."""
        await self._own_job(job_id, user_id)
        ended = await self.ledger.cancel(job_id)
        self.worker.cancelled(job_id)
        return ended

    async def _own_job(self, job_id: int, user_id: str | None) -> None:
        if not 0 < job_id <= BIGGEST:
            raise NotFound(f"no job {job_id}")
        job = await self.ledger.job(job_id)
        if user_id is not None and job.scope != self.scope(user_id):
            raise NotFound(f"no job {job_id} of this user")

    async def runs(self, user_id: str, kind: str | None = None) -> list[Run]:
        """Consolidations, re-embeddings and backfills, newest first."""
        return await self.ledger.runs(self.scope(user_id), kind)

    async def glance(self, user_id: str, sought: Sought) -> Glance:
        """What a page shows of this user, read at one moment."""
        if sought.chat_id:
            checked_id(sought.chat_id, "chat_id")
        return await self.ledger.glance(self.scope(user_id), sought)

    async def events(self, user_id: str) -> AsyncIterator[frozenset[News]]:
        """Wakes at once, and then whenever something of this user changed, with what it may have been: read that again."""
        with self.ledger.watch(self.scope(user_id)) as watch:
            news = EVERYTHING
            while True:
                yield news
                news = await watch.changed()

    @property
    def replying(self) -> bool:
        """Whether a reply is under way in this process."""
        return self._chats.any_under_way

    async def status(self) -> Status:
        """What is set, what waits, what is wrong and how to mend it."""
        return await self._status()


def _asked(message: str, chat_id: str, turn_id: str | None, utc_offset: int | None, metadata: Json | None) -> NewTurn:
    return NewTurn(
        chat_id, "user", message, utc_offset=utc_offset, turn_id=turn_id, metadata=dict(metadata or {}), asked=True
    )
