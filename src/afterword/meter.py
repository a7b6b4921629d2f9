"""What is counted and timed: plain numbers of this process, cheap enough for the way of a reply.

Everything is counted on the event loop, so there are no locks. `interfaces/metrics.py` shows the numbers to
Prometheus; who uses the library reads them from `AsyncMemory.meter`. Labels are few fixed words, never a user, a chat
or a text.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field

Labels = tuple[str, ...]

FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)  # seconds: recall, ledger, event loop
SLOW = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)  # seconds: models, jobs


@dataclass(slots=True)
class Counter:
    """Counts up, one number for each combination of labels."""

    name: str
    help: str
    labels: Labels = ()
    values: dict[Labels, float] = field(default_factory=dict)

    def add(self, *labels: str, by: float = 1.0) -> None:
        self.values[labels] = self.values.get(labels, 0.0) + by

    def of(self, *labels: str) -> float:
        return self.values.get(labels, 0.0)


@dataclass(slots=True)
class Row:
    """One combination's observations: how many fell into each bucket (the last: above all bounds), and their sum."""

    buckets: list[int]
    sum: float = 0.0

    @property
    def count(self) -> int:
        return sum(self.buckets)


@dataclass(slots=True)
class Histogram:
    """Counts observations in seconds by fixed upper bounds."""

    name: str
    help: str
    labels: Labels = ()
    bounds: tuple[float, ...] = SLOW
    rows: dict[Labels, Row] = field(default_factory=dict)

    def add(self, seconds: float, *labels: str) -> None:
        row = self.rows.get(labels)
        if row is None:
            row = self.rows[labels] = Row([0] * (len(self.bounds) + 1))
        row.buckets[bisect_left(self.bounds, seconds)] += 1
        row.sum += seconds

    def of(self, *labels: str) -> Row:
        return self.rows.get(labels) or Row([0] * (len(self.bounds) + 1))


class Meter:
    """All numbers of one memory."""

    def __init__(self) -> None:
        self.turns = Counter("turns", "Turns accepted, by how they came.", ("way",))
        self.turn_bytes = Counter("turn_bytes", "Bytes of text of the turns accepted, as UTF-8.", ("way",))
        self.replies = Counter("replies", "Replies stored, whole or cut.", ("outcome",))
        self.refused = Counter("refused", "What was refused at a limit, and told to its caller.", ("limit",))
        self.jobs = Histogram("job_seconds", "A job's time from claim to end, by outcome.", ("kind", "outcome"))
        self.retries = Counter("job_retries", "Jobs put back to be tried again.", ("kind", "reason"))
        self.dead = Counter("dead_letters", "Jobs given up after their attempts.", ("kind",))
        self.recall = Histogram("recall_seconds", "A search, its embedding included.", ("outcome",), FAST)
        self.llm = Histogram("llm_seconds", "A call of an LLM, to its end.", ("use", "outcome"))
        self.llm_first = Histogram("llm_first_piece_seconds", "From asking for a reply to its first piece.", ("use",))
        self.tokens = Counter("llm_tokens", "Tokens, as the server counted them or estimated.", ("use", "way", "by"))
        self.embedding = Histogram("embedding_seconds", "A call of the embedder.", ("use", "outcome"))
        self.embedded = Counter("embedded_texts", "Texts embedded.", ("use",))
        self.ledger = Histogram("ledger_write_seconds", "A write, durable at its end.", ("write", "outcome"), FAST)
        self.loop_lag = Histogram("event_loop_lag_seconds", "How late the event loop woke a sleeper.", (), FAST)

    def counters(self) -> Iterator[Counter]:
        yield from (each for each in vars(self).values() if isinstance(each, Counter))

    def histograms(self) -> Iterator[Histogram]:
        yield from (each for each in vars(self).values() if isinstance(each, Histogram))


@dataclass(slots=True)
class Usage:
    """The tokens of one call, as its server counted them (None: it did not say)."""

    input: int | None = None
    output: int | None = None


_usage: ContextVar[Usage | None] = ContextVar("afterword_usage", default=None)


def begin_usage() -> Usage:
    """What the call that begins now used: filled by the adapter that makes it, if its server says so."""
    usage = Usage()
    _usage.set(usage)
    return usage


def note_usage(input_tokens: object, output_tokens: object) -> None:
    """For adapters: what the server says that this call used. What is no number is not counted."""
    usage = _usage.get()
    if usage is not None and isinstance(input_tokens, int) and isinstance(output_tokens, int):
        usage.input, usage.output = input_tokens, output_tokens
