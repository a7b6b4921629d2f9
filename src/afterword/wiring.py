"""Settings → a wired `AsyncMemory`. The only file that names adapters; each is imported when it is chosen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from afterword.choosing import choose_embedder, choose_llms, choose_reranker, embedder_of_models
from afterword.errors import LedgerError, SettingsError
from afterword.lanes import NEEDS
from afterword.limits import Gate, Limits
from afterword.logs import quiet_unless_configured
from afterword.observing import Watch, WatchedRecall, watched_ledger
from afterword.parts import Around, Parts
from afterword.ports import Desk, Policy
from afterword.settings import Settings, load_settings
from afterword.status import status_of

__all__ = ["Around", "Parts", "open_memory", "warm_models"]

if TYPE_CHECKING:
    from afterword.context.briefing import Briefing
    from afterword.handed_memory import HandedMemory, HandedRecall
    from afterword.intake import Intake
    from afterword.memory import AsyncMemory
    from afterword.offload import Pools
    from afterword.pacing import Precedence
    from afterword.ports import LLM, Clock, Embedder, Index, Ledger, Reranker
    from afterword.recall import Recall, Recaller
    from afterword.worker import Worker


@asynccontextmanager
async def open_memory(
    settings: Settings | None = None,
    *,
    run_worker: bool = True,
    llm: LLM | None = None,
    decider: LLM | None = None,
    embedder: Embedder | str | None = None,
    reranker: Reranker | None = None,
    memory: HandedMemory | None = None,
    clock: Clock | None = None,
    around: Around | None = None,
    count_tokens: Callable[[str], int] | None = None,
    **flags: Any,
) -> AsyncIterator[AsyncMemory]:
    """A memory, open while inside: `async with open_memory(data_dir="…") as memory`.

    Settings come from `settings`, or are read once with `flags` on top (see `settings.py`). `llm`, `decider`,
    `embedder`, `reranker` and `clock` may be handed in (`ports.LLM` …; blocking ones through `afterword.threaded`; text as `embedder`
    is the setting of that name), and
    `count_tokens`, which counts what a text costs in the LLM's own tokens (else a rule that errs upwards). A `memory` of
    your own (`handed_memory.HandedMemory`) recalls and remembers in place of ours; turns, replies and jobs stay here.
    With `run_worker=False` another process does the background work. `around` wraps the ports that were chosen.
    Raises `SettingsError`, `LedgerError`. Leaving ends in order: replies are cut and stored, the worker drains,
    then the index and the ledger close.
    """
    if isinstance(embedder, str):  # the setting of the same name
        flags, embedder = {**flags, "embedder": embedder}, None
    if settings is not None and flags:
        raise SettingsError(f"give settings or {', '.join(sorted(flags))}, not both")
    chosen = settings or load_settings(**flags)
    quiet_unless_configured()
    async with AsyncExitStack() as stack:
        parts = Parts(llm, decider, embedder, memory, clock, around or Around(), count_tokens, reranker)
        yield await _wire(chosen, parts, run_worker, stack)


async def warm_models(memory: AsyncMemory) -> None:
    """Load what the first call to a model needs: for a server, after it is ready."""
    from afterword.llms.client import load_client

    if memory.llm is not None:
        await asyncio.to_thread(load_client)


async def _wire(settings: Settings, parts: Parts, run_worker: bool, stack: AsyncExitStack) -> AsyncMemory:
    """What is opened first is closed last: ledger, models, index, worker, replies."""
    from afterword.chat import Chats
    from afterword.memory import AsyncMemory
    from afterword.offload import Pools, SystemClock

    clock, offload = parts.clock or SystemClock(), Pools()
    stack.callback(offload.close)
    watch = Watch()
    reads = parts.around.ledger(_ledger(settings, clock, offload))
    await reads.open()
    stack.push_async_callback(reads.aclose)
    ledger = watched_ledger(reads, watch)
    llm, decider, embedder, reranker = await _models(settings, parts, stack)
    llm, decider, embedder = watch.models(llm, decider, embedder)
    index = await _opened_index(settings, parts, reads, offload, clock, stack)
    desk = Desk(reads, decider, embedder, offload, clock, _policy(settings))
    worker = _worker(settings, ledger, index, desk, parts.memory, watch)
    if run_worker:
        await stack.enter_async_context(worker.running(settings.drain_deadline))
    intake = _intake(settings, ledger, clock, embeds=embedder is not None)
    recall = WatchedRecall(_recall(settings, reads, index, desk, parts.memory, reranker, worker.precedence), watch)
    briefing = _briefing(settings, reads, recall, clock, parts)
    chats = Chats(ledger, intake, briefing, llm, clock, desk.policy, _chat_limits(settings), worker.precedence)
    stack.push_async_callback(chats.close)
    return AsyncMemory(
        tenant=settings.tenant,
        ledger=ledger,
        index=index,
        intake=intake,
        recall=recall,
        briefing=briefing,
        chats=chats,
        worker=worker,
        clock=clock,
        status=status_of(ledger, index, llm, embedder, worker),
        llm=None if llm.quotes else llm.model,
        watch=watch,
        gate=Gate(_limits(settings), ledger, clock, watch.meter),
    )


async def _opened_index(
    settings: Settings, parts: Parts, reads: Ledger, offload: Pools, clock: Clock, stack: AsyncExitStack
) -> Index:
    index = parts.around.index(_index(settings, reads, offload, clock))
    stack.push_async_callback(index.aclose)
    await index.open()
    return index


def _limits(settings: Settings) -> Limits:
    return Limits(
        settings.max_waiting_turns,
        settings.max_waiting_turns_per_user,
        int(settings.max_waiting_mb * 1e6),
        int(settings.max_waiting_mb_per_user * 1e6),
        settings.max_replies,
        settings.max_replies_per_user,
    )


def _ledger(settings: Settings, clock: Clock, offload: Pools) -> Ledger:
    from afterword.ledger import SqlLedger

    if settings.ledger_url.startswith("sqlite"):
        try:
            settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise LedgerError(
                f"the data folder {settings.data_dir} can't be made ({error.strerror}): set AFTERWORD_DATA_DIR"
            ) from error
    return SqlLedger(
        settings.ledger_url,
        clock=clock,
        offload=offload,
        max_waiting_jobs=settings.max_waiting_jobs,
        max_waiting_per_scope=settings.max_waiting_jobs_per_user,
        lock_seconds=settings.ledger_deadline,
    )


# ── models ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def _models(
    settings: Settings, parts: Parts, stack: AsyncExitStack
) -> tuple[LLM, LLM | None, Embedder | None, Reranker | None]:
    """The models; those that were not handed in are ours to close."""
    llm, decider = await choose_llms(settings, parts)
    embedder = parts.embedder or choose_embedder(settings)
    reranker = parts.reranker or choose_reranker(settings)
    theirs = {id(part) for part in (parts.llm, parts.decider, parts.embedder, parts.reranker)}
    for ours in {id(part): part for part in (llm, decider, embedder, reranker) if part is not None}.values():
        if id(ours) not in theirs:
            stack.push_async_callback(ours.aclose)
    around = parts.around
    return (
        around.llm(llm),
        None if decider is None else around.llm(decider),
        None if embedder is None else around.embedder(embedder),
        reranker,
    )


# ── index, worker, state ───────────────────────────────────────────────────────────────────────────────────────────


def _index(settings: Settings, ledger: Ledger, offload: Pools, clock: Clock) -> Index:
    from afterword.index.exact import ExactIndex

    budget = settings.index_memory_mb * 2**20
    if not settings.milvus_uri:
        return ExactIndex(ledger, offload=offload, memory_budget_bytes=budget)
    if not find_spec("pymilvus"):
        raise SettingsError(
            "AFTERWORD_MILVUS_URI is set, but pymilvus is not installed: pip install 'afterword[milvus]'"
        )
    from afterword.index.milvus import MilvusIndex

    return MilvusIndex(
        ledger,
        uri=settings.milvus_uri,
        token=settings.milvus_token.get_secret_value(),
        data_dir=settings.data_dir,
        offload=offload,
        clock=clock,
        timeout=settings.index_deadline,
        lexical=ExactIndex(ledger, offload=offload, memory_budget_bytes=budget, keep_vectors=False),
    )


def _intake(settings: Settings, ledger: Ledger, clock: Clock, *, embeds: bool) -> Intake:
    from afterword.intake import Intake

    return Intake(
        ledger,
        clock,
        settings.utc_offset,
        embeds=embeds,
        debounce=settings.debounce,
        debounce_most=settings.debounce_most,
    )


def _recall(
    settings: Settings,
    ledger: Ledger,
    index: Index,
    desk: Desk,
    memory: HandedMemory | None,
    reranker: Reranker | None,
    precedence: Precedence,
) -> Recall | HandedRecall:
    from afterword.recall import Recall

    if memory is not None:
        from afterword.handed_memory import HandedRecall

        return HandedRecall(memory, desk.clock, settings.recall_deadline)
    return Recall(
        ledger,
        index,
        embedder_of_models(settings, desk.embedder),
        offload=desk.offload,
        clock=desk.clock,
        deadline=settings.recall_deadline,
        half_life_days=settings.half_life_days,
        precedence=precedence,
        reranker=reranker,
    )


def _briefing(settings: Settings, reads: Ledger, recall: Recaller, clock: Clock, parts: Parts) -> Briefing:
    from afterword.context.briefing import Briefing

    return Briefing(reads, recall, clock, settings.recall_deadline, settings.utc_offset, parts.count_tokens)


def _policy(settings: Settings) -> Policy:
    return Policy(
        settings.remember,
        settings.never,
        settings.window_turns,
        settings.window_tokens,
        settings.consolidate_chunk,
        settings.backfill_per_minute,
        settings.half_life_days,
        settings.retention_days,
    )


def _chat_limits(settings: Settings) -> Any:
    from afterword.chat import ChatLimits

    prompt = settings.history_turns, settings.history_tokens, settings.context_tokens, settings.recall_limit
    waits = settings.first_token_deadline, settings.reply_gap_deadline, settings.reply_deadline
    return ChatLimits(*prompt, *waits)


def _worker(
    settings: Settings, ledger: Ledger, index: Index, desk: Desk, memory: HandedMemory | None, watch: Watch
) -> Worker:
    from afterword import backfill, consolidate, forget, project, reconsolidate, remember
    from afterword.asking import with_time_to_ask
    from afterword.schedule import Schedule
    from afterword.worker import Worker

    first = remember.STEP
    if memory is not None:
        from afterword.handed_memory import remember_step

        first = remember_step(memory)
    asking = [first, reconsolidate.STEP, consolidate.STEP, backfill.STEP]
    steps = [*with_time_to_ask(asking, settings.decider_deadline), forget.STEP]
    if desk.embedder is not None:
        steps += project.STEPS
    schedule = Schedule(
        ledger,
        desk,
        cron=settings.consolidate_cron,
        zone=_zone(settings),
        backfill=settings.backfill == "on",
        keep_finished=timedelta(days=settings.keep_jobs_days),
    )
    return Worker(
        ledger,
        index,
        desk,
        steps,
        needs=NEEDS,
        chores=(schedule.sweep, schedule.tidy, schedule.consolidate),
        concurrency=settings.worker_concurrency,
        lease=settings.lease,
        around=watch.job,
    )


def _zone(settings: Settings) -> ZoneInfo | None:
    return ZoneInfo(settings.timezone) if settings.timezone else None
