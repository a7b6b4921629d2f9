"""Times and counts what goes through the ports: thin wrappers that the wiring puts around them, and nothing else knows.

A wrapper changes no argument, no result and no error. What it adds to a reply is a few additions.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, aclosing, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

import structlog

from afterword.errors import AfterwordError, LedgerError, Outage
from afterword.meter import Meter, Usage, begin_usage
from afterword.plan import Change, Erase, Insert, Plan, Retire, Revise
from afterword.tracing import NAME, begin, caused, causes_of, end, memory_span, within

if TYPE_CHECKING:
    from afterword.ports import LLM, Embedder, Ledger, Message, Opening, Prompt, Vector, Vectors
    from afterword.recall import Recalled, Recaller
    from afterword.records import Filters, Job, Json, NewJob, NewReply, NewTurn, Receipt, Ref, Scope, Turn
    from afterword.reply import Reply

T = TypeVar("T")
log = structlog.get_logger(__name__)

WRITES = ("accept", "answer", "edit", "reset", "delete_chat", "start_run", "put", "apply", "postpone", "bury", "probe")
PROVIDER = "openai"  # the protocol that is spoken, whoever answers
BYTES_A_TOKEN = 3  # the estimate of `texts.estimate_tokens`: a CJK character is three bytes and one token


@dataclass(slots=True)
class Watch:
    """What one memory's parts have done, and which of them are away."""

    meter: Meter = field(default_factory=Meter)
    away: dict[str, AfterwordError] = field(default_factory=dict)  # part → why its last call failed
    running: dict[int, str] = field(default_factory=dict)  # job → its outcome so far

    def ended(self, part: str, error: BaseException | None) -> str:
        """Note a call's end; the word for its outcome: `ok`, or the class of the error."""
        if error is None:
            self.away.pop(part, None)
            return "ok"
        if isinstance(error, Outage | LedgerError):
            self.away[part] = error
        elif isinstance(error, AfterwordError):
            self.away.pop(part, None)  # it answered: what went wrong is another matter
        return "cancelled" if isinstance(error, GeneratorExit) else type(error).__name__

    def models(
        self, llm: LLM, decider: LLM | None, embedder: Embedder | None
    ) -> tuple[LLM, LLM | None, Embedder | None]:
        """The models, watched. What only quotes is no model."""
        return (
            llm if llm.quotes else WatchedLLM(llm, self, "chat"),
            decider if decider is None or decider.quotes else WatchedLLM(decider, self, "decide"),
            None if embedder is None else WatchedEmbedder(embedder, self),
        )

    @contextmanager
    def chat(self, chat_id: str) -> Iterator[Callable[[Reply], Reply]]:
        """Around what begins a reply: every line that is logged for it names its chat, and its span lasts as long as it.

        The value is to be given the reply."""
        named = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": NAME, "gen_ai.conversation.id": chat_id}
        span = begin(f"invoke_agent {NAME}", named)

        def begun(reply: Reply) -> Reply:
            if span is not None:
                reply.when_over(lambda: end(span, _cut_short(reply.cut), afterword__reply=_outcome(reply.cut)))
            return reply

        try:
            with structlog.contextvars.bound_contextvars(chat=chat_id), within(span):
                yield begun
        except BaseException as error:
            end(span, error)
            raise

    @contextmanager
    def job(self, job: Job) -> Iterator[None]:
        """Around one job's work. `left`: it was taken away, or its user was reset meanwhile."""
        began = time.perf_counter()
        self.running[job.id] = "left"
        names = {"job": job.id, "kind": job.kind, "chat": job.payload.get("chat_id")}
        workflow = {"gen_ai.operation.name": "invoke_workflow", "gen_ai.agent.name": job.kind, "afterword.job": job.id}
        span = begin(f"invoke_workflow {job.kind}", workflow, causes=causes_of(job))
        try:
            named = {name: each for name, each in names.items() if each}
            with structlog.contextvars.bound_contextvars(**named), within(span):
                yield
        finally:
            outcome = self.running.pop(job.id, "left")
            self.meter.jobs.add(time.perf_counter() - began, job.kind, outcome)
            end(span, outcome if outcome in ("failed", "dead", "waits") else None, afterword__outcome=outcome)


# ── LLM and embedder ───────────────────────────────────────────────────────────────────────────────────────────────


class WatchedLLM:
    """`use` says what it is for: `chat` or `decide`."""

    def __init__(self, inner: LLM, watch: Watch, use: str) -> None:
        self._inner = inner
        self._watch = watch
        self._use = use
        self.quotes = inner.quotes

    @property
    def model(self) -> str:
        return self._inner.model

    async def stream(self, prompt: Prompt) -> AsyncGenerator[str, None]:
        usage, began, first, made = begin_usage(), time.perf_counter(), 0.0, 0
        span = self._span(gen_ai__request__stream=True)
        error: BaseException | None = None
        try:
            async with aclosing(self._inner.stream(prompt)) as pieces:
                async for piece in pieces:
                    if not made and piece:
                        first = time.perf_counter()
                    made += len(piece)
                    yield piece
        except BaseException as raised:
            error = raised
            raise
        finally:
            self._count(began, error)
            if first:
                self._watch.meter.llm_first.add(first - began, self._use)
                self._tokens(usage.input, prompt.messages, usage.output, made)
            _end_llm(span, error, usage, {"gen_ai.response.time_to_first_chunk": first - began} if first else {})

    async def complete(self, messages: Sequence[Message], *, schema: Json, max_tokens: int) -> str:
        usage, began = begin_usage(), time.perf_counter()
        span = self._span(gen_ai__output__type="json", gen_ai__request__max_tokens=max_tokens)
        error: BaseException | None = None
        try:
            answer = await self._inner.complete(messages, schema=schema, max_tokens=max_tokens)
        except BaseException as raised:
            error = raised
            raise
        finally:
            self._count(began, error)
            _end_llm(span, error, usage, {})
        self._tokens(usage.input, messages, usage.output, len(answer))
        return answer

    async def aclose(self) -> None:
        await self._inner.aclose()

    def _span(self, **more: Any) -> Any | None:
        asked = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": PROVIDER, "gen_ai.request.model": self.model}
        named = {name.replace("__", "."): value for name, value in more.items()}
        return begin(f"chat {self.model}", {**asked, **named}, client=True)

    def _count(self, began: float, error: BaseException | None) -> None:
        outcome = self._watch.ended("llm" if self._use == "chat" else "decider", error)
        self._watch.meter.llm.add(time.perf_counter() - began, self._use, outcome)

    def _tokens(self, asked: int | None, messages: Sequence[Message], made: int | None, characters: int) -> None:
        add = partial(self._watch.meter.tokens.add, self._use)
        if asked is None or made is None:
            bytes_asked = sum(len(message.content.encode("utf-8", "replace")) for message in messages)
            add("input", "estimate", by=-(-bytes_asked // BYTES_A_TOKEN))
            add("output", "estimate", by=-(-characters // BYTES_A_TOKEN))
        else:
            add("input", "server", by=asked)
            add("output", "server", by=made)


def _end_llm(span: Any | None, error: BaseException | None, usage: Usage, more: dict[str, Any]) -> None:
    if usage.input is not None:
        more = {**more, "gen_ai.usage.input_tokens": usage.input, "gen_ai.usage.output_tokens": usage.output}
    end(span, None if isinstance(error, GeneratorExit) else error, **more)


class WatchedEmbedder:
    def __init__(self, inner: Embedder, watch: Watch) -> None:
        self._inner = inner
        self._watch = watch

    @property
    def model(self) -> str:
        return self._inner.model

    @property
    def max_tokens(self) -> int:
        return self._inner.max_tokens

    async def query(self, text: str) -> Vector:
        return await self._timed("query", 1, self._inner.query(text))

    async def passages(self, texts: Sequence[str]) -> Vectors:
        return await self._timed("passages", len(texts), self._inner.passages(texts))

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def _timed(self, use: str, texts: int, call: Awaitable[T]) -> T:
        began = time.perf_counter()
        error: BaseException | None = None
        asked = {"gen_ai.operation.name": "embeddings", "gen_ai.provider.name": PROVIDER}
        span = begin(f"embeddings {self.model}", {**asked, "gen_ai.request.model": self.model}, client=True)
        try:
            return await call
        except BaseException as raised:
            error = raised
            raise
        finally:
            end(span, error)
            meter = self._watch.meter
            meter.embedding.add(time.perf_counter() - began, use, self._watch.ended("embedder", error))
            if error is None:
                meter.embedded.add(use, by=texts)


# ── recall ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class WatchedRecall:
    def __init__(self, inner: Recaller, watch: Watch) -> None:
        self._inner = inner
        self._watch = watch
        self.expect = inner.expect

    async def search(
        self, scope: Scope, query: str, *, limit: int, filters: Filters, exclude: frozenset[str] = frozenset()
    ) -> Recalled:
        with memory_span("search_memory", scope.tenant, gen_ai__retrieval__top_k=limit) as span:
            found = await self._inner.search(scope, query, limit=limit, filters=filters, exclude=exclude)
            if span is not None:
                span.set_attribute("gen_ai.memory.record.count", len(found.hits))
        outcome = "ok" if not found.missed else "words_only" if found.missed.startswith("searched by") else "nothing"
        self._watch.meter.recall.add(found.ms / 1000, outcome)
        return found


# ── ledger ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class WatchedLedger:
    """A ledger whose writes are timed. Everything else goes straight through."""

    def __init__(self, inner: Ledger, watch: Watch) -> None:
        self._inner = inner
        self._watch = watch
        for name in WRITES:
            if name not in type(self).__dict__:
                setattr(self, name, partial(self._timed, name, getattr(inner, name)))

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        setattr(self, name, value)  # found at once the next time
        return value

    async def accept(self, scope: Scope, turns: Sequence[NewTurn], jobs: Sequence[Any] = ()) -> list[Turn]:
        stored: list[Turn] = await self._timed("accept", self._inner.accept, scope, turns, caused(jobs))
        self._taken_in(turns)
        return stored

    async def begin(self, scope: Scope, turn: NewTurn, jobs: Sequence[Any], most: int) -> Opening:
        opening: Opening = await self._timed("accept", self._inner.begin, scope, turn, caused(jobs), most)
        self._taken_in([turn])
        return opening

    def _taken_in(self, turns: Sequence[NewTurn]) -> None:
        meter = self._watch.meter
        for turn in turns:
            way = "chat" if turn.asked else "told"
            meter.turns.add(way)
            meter.turn_bytes.add(way, by=len(turn.text.encode("utf-8", "replace")))

    async def answer(
        self, scope: Scope, epoch: int, reply: NewReply, receipt: Receipt, jobs: Sequence[Any] = ()
    ) -> Turn:
        stored: Turn = await self._timed("answer", self._inner.answer, scope, epoch, reply, receipt, caused(jobs))
        outcome = _outcome(reply.cut)
        self._watch.meter.replies.add(outcome)
        log.info(
            "reply.kept", chat=reply.chat_id, turn=reply.reply_to, outcome=outcome, recall_ms=int(receipt.recall_ms)
        )
        return stored

    async def put(self, scope: Scope, jobs: Sequence[NewJob]) -> list[int]:
        return await self._timed("put", self._inner.put, scope, caused(jobs))

    async def edit(self, scope: Scope, plan: Plan) -> list[Ref]:
        with _changing(scope, plan):
            return await self._timed("edit", self._inner.edit, scope, plan)

    async def reset(self, scope: Scope) -> int:
        with memory_span("delete_memory_store", scope.tenant):
            return await self._timed("reset", self._inner.reset, scope)

    async def apply(self, job: Job, plan: Plan) -> list[Ref]:
        plan = replace(plan, jobs=tuple(caused(plan.jobs)))
        with _changing(job.scope, plan):
            refs: list[Ref] = await self._timed("apply", self._inner.apply, job, plan)
        self._watch.running[job.id] = "done"
        return refs

    async def postpone(
        self, job: Job, *, delay: float, waiting: str = "", error: str = "", count_attempt: bool = True
    ) -> None:
        call = partial(self._inner.postpone, delay=delay, waiting=waiting, error=error, count_attempt=count_attempt)
        await self._timed("postpone", call, job)
        outcome = "failed" if count_attempt else "waits" if waiting else "handed_back"
        self._watch.running[job.id] = outcome
        if outcome != "handed_back":
            self._watch.meter.retries.add(job.kind, "error" if count_attempt else "outage")

    async def bury(self, job: Job, error: str) -> None:
        await self._timed("bury", self._inner.bury, job, error)
        self._watch.running[job.id] = "dead"
        self._watch.meter.dead.add(job.kind)

    async def _timed(self, name: str, call: Callable[..., Awaitable[T]], *args: Any, **more: Any) -> T:
        began = time.perf_counter()
        error: BaseException | None = None
        try:
            return await call(*args, **more)
        except BaseException as raised:
            error = raised
            raise
        finally:
            outcome = self._watch.ended("ledger", error)
            self._watch.meter.ledger.add(time.perf_counter() - began, name, outcome)


OPERATIONS: dict[type[Change], str] = {
    Insert: "create_memory",
    Revise: "update_memory",
    Retire: "delete_memory",
    Erase: "delete_memory",
}


def _changing(scope: Scope, plan: Plan) -> AbstractContextManager[Any]:
    """A span for a plan that changes memories: named after what it does, `upsert_memory` where it does several things."""
    changed = [OPERATIONS[type(change)] for change in plan.changes if type(change) in OPERATIONS]
    if not changed:
        return nullcontext()
    operation = changed[0] if len(set(changed)) == 1 else "upsert_memory"
    return memory_span(operation, scope.tenant, gen_ai__memory__record__count=len(changed))


def _outcome(cut: str | None) -> str:
    """A reply's end in one word: what cut it may be an error's text."""
    return "whole" if cut is None else cut if cut in ("stopped", "shutdown", "reset") else "failed"


def _cut_short(cut: str | None) -> str | None:
    return "reply_failed" if _outcome(cut) == "failed" else None


def watched_ledger(inner: Ledger, watch: Watch) -> Ledger:
    """The ledger, watched."""
    return cast("Ledger", WatchedLedger(inner, watch))
