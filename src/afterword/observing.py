"""Times and counts what goes through the ports: thin wrappers that the wiring puts around them, and nothing else knows.

A wrapper changes no argument, no result and no error. What it adds to a reply is a few additions.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

import structlog

from afterword.errors import AfterwordError, LedgerError, Outage
from afterword.meter import Meter, begin_usage

if TYPE_CHECKING:
    from afterword.ports import LLM, Embedder, Ledger, Message, Prompt, Vector, Vectors
    from afterword.recall import Recalled, Recaller
    from afterword.records import Filters, Job, Json, NewReply, NewTurn, Receipt, Scope, Turn

T = TypeVar("T")
log = structlog.get_logger(__name__)

WRITES = ("accept", "answer", "edit", "reset", "delete_chat", "start_run", "put", "apply", "postpone", "bury", "probe")
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
    def chat(self, chat_id: str) -> Iterator[None]:
        """Around what begins a reply: every line that is logged for it names its chat."""
        with structlog.contextvars.bound_contextvars(chat=chat_id):
            yield

    @contextmanager
    def job(self, job: Job) -> Iterator[None]:
        """Around one job's work. `left`: it was taken away, or its user was reset meanwhile."""
        began = time.perf_counter()
        self.running[job.id] = "left"
        names = {"job": job.id, "kind": job.kind, "chat": job.payload.get("chat_id")}
        try:
            with structlog.contextvars.bound_contextvars(**{name: each for name, each in names.items() if each}):
                yield
        finally:
            self.meter.jobs.add(time.perf_counter() - began, job.kind, self.running.pop(job.id, "left"))


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

    async def complete(self, messages: Sequence[Message], *, schema: Json, max_tokens: int) -> str:
        usage, began = begin_usage(), time.perf_counter()
        error: BaseException | None = None
        try:
            answer = await self._inner.complete(messages, schema=schema, max_tokens=max_tokens)
        except BaseException as raised:
            error = raised
            raise
        finally:
            self._count(began, error)
        self._tokens(usage.input, messages, usage.output, len(answer))
        return answer

    async def aclose(self) -> None:
        await self._inner.aclose()

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
        try:
            return await call
        except BaseException as raised:
            error = raised
            raise
        finally:
            meter = self._watch.meter
            meter.embedding.add(time.perf_counter() - began, use, self._watch.ended("embedder", error))
            if error is None:
                meter.embedded.add(use, by=texts)


# ── recall ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class WatchedRecall:
    def __init__(self, inner: Recaller, watch: Watch) -> None:
        self._inner = inner
        self._watch = watch

    async def search(
        self, scope: Scope, query: str, *, limit: int, filters: Filters, exclude: frozenset[str] = frozenset()
    ) -> Recalled:
        found = await self._inner.search(scope, query, limit=limit, filters=filters, exclude=exclude)
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
        stored: list[Turn] = await self._timed("accept", self._inner.accept, scope, turns, jobs)
        meter = self._watch.meter
        for turn in turns:
            way = "chat" if turn.asked else "told"
            meter.turns.add(way)
            meter.turn_bytes.add(way, by=len(turn.text.encode("utf-8", "replace")))
        return stored

    async def answer(
        self, scope: Scope, epoch: int, reply: NewReply, receipt: Receipt, jobs: Sequence[Any] = ()
    ) -> Turn:
        stored: Turn = await self._timed("answer", self._inner.answer, scope, epoch, reply, receipt, jobs)
        known = ("stopped", "shutdown")
        outcome = "whole" if reply.cut is None else reply.cut if reply.cut in known else "failed"
        self._watch.meter.replies.add(outcome)
        log.info(
            "reply.kept", chat=reply.chat_id, turn=reply.reply_to, outcome=outcome, recall_ms=int(receipt.recall_ms)
        )
        return stored

    async def apply(self, job: Job, plan: Any) -> list[Any]:
        refs: list[Any] = await self._timed("apply", self._inner.apply, job, plan)
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


def watched_ledger(inner: Ledger, watch: Watch) -> Ledger:
    """The ledger, watched."""
    return cast("Ledger", WatchedLedger(inner, watch))
