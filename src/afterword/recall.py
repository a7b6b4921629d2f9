"""Search: a query to the records that answer it, read-only, under a deadline, and never an error for an outage."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

import structlog

from afterword.errors import IndexUnavailable
from afterword.language.moments import named_moments
from afterword.language.questions import read_question, stop_words
from afterword.language.tokens import tokens
from afterword.pacing import Precedence
from afterword.ports import Query
from afterword.ranking import (
    Scored,
    Weights,
    fuse,
    item_of,
    leaders,
    rank,
    reranked,
    without_repeaters,
    without_twins,
)
from afterword.records import Filters, Hit, MemoryRecord, Ref, Scope, ScopeState, Turn, hit_of

if TYPE_CHECKING:
    from datetime import datetime

    from afterword.ports import Candidates, Clock, Embedder, Index, Offload, Reads, Reranker, Vector

log = structlog.get_logger(__name__)

LONG = 12_000  # characters of a query that are looked at: its beginning and its end
LONG_EMBEDDED = 2_000  # the same for its embedding
LONG_DATED = 1_000  # the same for the dates that it names
MOST_TOKENS = 2_000
CANDIDATES = 100  # a leg
READ = 60  # candidates that are read back, or three times the limit
RECEIPTS = 30  # places among which replies are compared with what they were given
MOST_AHEAD = 256  # queries that are embedded before their search comes
LATE = 5.0  # seconds in which nobody waits for an embedder that one search has waited for in vain
EMBEDDER_SHARE = 0.6  # of the deadline
INDEX_SHARE = 0.6  # of the deadline, for a search with a vector
RERANKED = 50  # records that a reranker reads
RERANKED_TEXT = 2_000  # characters of each
RERANKER_SHARE = 0.4  # of the deadline
_PERSONS = frozenset(["i", "me", "my", "mine", "we", "us", "our", "you", "your"])  # they tell who spoke of it


@dataclass(frozen=True, slots=True)
class Recalled:
    """What was found, best first; `missed` says why something may be lacking ("" when nothing went wrong). `legs` are
    the raw scores of each hit, empty where the memory has none to show."""

    hits: tuple[Hit, ...]
    missed: str
    ms: float
    legs: Mapping[Ref, Mapping[str, float]] = field(default_factory=dict)


class Recaller(Protocol):
    """What a chat recalls with: `Recall`, or somebody's own memory (`handed_memory`)."""

    async def search(
        self, scope: Scope, query: str, *, limit: int, filters: Filters, exclude: frozenset[str] = frozenset()
    ) -> Recalled: ...

    def expect(self, query: str) -> None:
        """A search for this is about to come: begin what takes long. Returns at once, never raises."""
        ...


class Recall:
    """The search of one memory. `embedder_for` gives the embedder of a serving model (None: words only).

    `deadline` is in seconds, for the whole search; `half_life_days` is that of strength.
    """

    def __init__(
        self,
        reads: Reads,
        index: Index,
        embedder_for: Callable[[str | None], Embedder | None],
        *,
        offload: Offload,
        clock: Clock,
        deadline: float,
        half_life_days: float,
        weights: Weights | None = None,
        precedence: Precedence | None = None,
        reranker: Reranker | None = None,
    ) -> None:
        self._reranker = reranker
        self._precedence = precedence or Precedence()
        self._reads = reads
        self._index = index
        self._embedder_for = embedder_for
        self._offload = offload
        self._clock = clock
        self._deadline = deadline
        self._late_until = float("-inf")
        self._usual: str | None = None  # the model that served the last search
        self._ahead: OrderedDict[tuple[str, str | None], asyncio.Task[tuple[Vector | None, str]]] = OrderedDict()
        self._half_life_days = half_life_days
        self._weights = weights or Weights()

    def expect(self, query: str) -> None:
        """Begins to embed the query, for the model that served the last search. What no search comes for is given up."""
        text = shortened(query, LONG)
        left = self._ahead.get((text, self._usual))  # of a message that no search came for: it may have failed
        if self._usual is not None and (left is None or left.done()):
            self._ahead[text, self._usual] = asyncio.create_task(self._embedded(text, self._usual))
            while len(self._ahead) > MOST_AHEAD:
                self._ahead.popitem(last=False)[1].cancel()

    async def search(
        self, scope: Scope, query: str, *, limit: int, filters: Filters, exclude: frozenset[str] = frozenset()
    ) -> Recalled:
        """The best `limit` records. `exclude` (record ids) are left out beside those of the filters."""
        started = self._clock.monotonic()
        filters = replace(filters, exclude=filters.exclude | exclude)
        hits: tuple[Hit, ...] = ()
        legs: Mapping[Ref, Mapping[str, float]] = {}
        try:
            with self._precedence.urgent():
                async with asyncio.timeout(self._deadline):
                    hits, legs, missed = await self._search(scope, shortened(query, LONG), limit, filters)
        except TimeoutError:
            missed = f"searched nothing: the index did not answer within {self._deadline:g} s"
            log.warning("recall_timed_out", deadline=self._deadline)
        except Exception as error:  # noqa: BLE001  whatever breaks here costs the reply its memories, not its life
            missed = f"searched nothing: {_cause(error)}"
            log.warning("recall_failed", error=error)
        return Recalled(hits, missed, 1000 * (self._clock.monotonic() - started), legs)

    async def _search(
        self, scope: Scope, text: str, limit: int, filters: Filters
    ) -> tuple[tuple[Hit, ...], Mapping[Ref, Mapping[str, float]], str]:
        words = shortened_tokens(tokens(text))
        if not words:
            return (), {}, ""
        state, vector, missed = await self._state_and_vector(scope, text)
        wanted = query_for(text, words, vector, state.model, filters, max(CANDIDATES, 2 * limit), self._clock.now())
        wanted = replace(wanted, state=state)
        found, missed = await self._found(scope, wanted, missed)
        ranked, fused_refs, own_order = await self._ranked(scope, text, found, limit, filters)
        missed = "; ".join(filter(None, (missed, own_order)))
        hits = tuple(_hit(one, fused_refs[one.item.ref]) for one in ranked[:limit])
        return hits, found.legs_of(hit.ref for hit in hits), missed

    async def _found(self, scope: Scope, wanted: Query, missed: str) -> tuple[Candidates, str]:
        """What the index finds; without its vectors, if those are what is away or late."""
        if wanted.vector is None:
            return await self._index.search(scope, wanted), missed
        patience = INDEX_SHARE * self._deadline
        try:
            async with asyncio.timeout(patience):
                return await self._index.search(scope, wanted), missed
        except TimeoutError as late:
            missed = f"searched by words only: the index did not answer within {patience:g} s"
            log.warning("recall_without_vectors", error=late, patience=patience)
        except IndexUnavailable as error:
            missed = f"searched by words only: {_cause(error)}"
            log.warning("recall_without_vectors", error=error)
        return await self._index.search(scope, replace(wanted, vector=None, model=None)), missed

    # ── the query's vector ────────────────────────────────────────────────────────────────────────────────────────

    async def _state_and_vector(self, scope: Scope, text: str) -> tuple[ScopeState, Vector | None, str]:
        """Both at once, as if this scope were served by the model that the last one was; nearly always it is. The index
        takes in what is new meanwhile."""
        usual = self._usual
        embedded = self._ahead.pop((text, usual), None) or self._embedded(text, usual)
        state, (vector, missed) = await asyncio.gather(self._state(scope), embedded)
        if state.model is None:  # nothing of theirs is embedded yet: no reason to expect the same of others
            return state, None, ""
        if state.model != usual:
            self._usual = state.model
            vector, missed = await self._embedded(text, state.model)
        return state, vector, missed

    async def _state(self, scope: Scope) -> ScopeState:
        state = await self._reads.state(scope)
        self._index.expect(scope, state)
        return state

    async def _embedded(self, text: str, model: str | None) -> tuple[Vector | None, str]:
        embedder = self._embedder_for(model) if model is not None else None
        if embedder is None:
            return None, ""
        patience = EMBEDDER_SHARE * self._deadline
        late = f"searched by words only: the embedder did not answer within {patience:g} s"
        if self._clock.monotonic() < self._late_until:
            return None, late
        try:
            async with asyncio.timeout(patience):
                return await embedder.query(shortened(text, LONG_EMBEDDED)), ""
        except TimeoutError:
            log.warning("query_embedding_timed_out", patience=patience)
            self._late_until = self._clock.monotonic() + LATE
            return None, late
        except Exception as error:  # noqa: BLE001  an embedder may be anybody's; without it there are still words
            log.warning("query_embedding_failed", error=error)
            return None, f"searched by words only: {_cause(error)}"

    # ── reading back and ranking ──────────────────────────────────────────────────────────────────────────────────

    async def _ranked(
        self, scope: Scope, text: str, found: Candidates, limit: int, filters: Filters
    ) -> tuple[list[Scored], dict[Ref, Turn | MemoryRecord], str]:
        found = found.without(filters.exclude)
        fused = leaders(found.refs, fuse(found, self._weights), max(READ, 3 * limit))
        records = await self._reads.read(scope, list(fused))
        now = self._clock.now()
        items = [item_of(record, now, self._half_life_days) for record in records.values()]
        speakers = {item.speaker for item in items if item.speaker}
        question = read_question(text, tokens, speakers)
        ranked = rank(items, fused, question, tokens, self._weights)
        ranked, missed = await self._reranked(text, ranked)
        given = await self._given(scope, [records[one.item.ref] for one in ranked[:RECEIPTS]])
        return without_twins(without_repeaters(ranked, given), tokens), records, missed

    async def _reranked(self, text: str, ranked: list[Scored]) -> tuple[list[Scored], str]:
        """The best of them in the reranker's order; in ours, and why, where it gives none."""
        if self._reranker is None or not ranked:
            return ranked, ""
        best = ranked[:RERANKED]
        texts = [_said(one)[:RERANKED_TEXT] for one in best]
        try:
            async with asyncio.timeout(RERANKER_SHARE * self._deadline):
                scores = await self._reranker.scores(shortened(text, LONG_EMBEDDED), texts)
            return [*reranked(best, scores, self._weights), *ranked[RERANKED:]], ""
        except TimeoutError:
            cause = f"the reranker did not answer within {RERANKER_SHARE * self._deadline:g} s"
        except Exception as error:  # noqa: BLE001  a reranker may be anybody's; without it there is our own order
            cause = _cause(error)
        log.warning("not_reranked", cause=cause)
        return ranked, f"not reranked: {cause}"

    async def _given(self, scope: Scope, records: Sequence[Turn | MemoryRecord]) -> dict[str, frozenset[str]]:
        """What each reply among the records was given: ids of memories and of the turns they rest on."""
        made = [record.id for record in records if isinstance(record, Turn) and record.reply_to is not None]
        receipts = await self._reads.receipts(scope, made) if made else {}
        return {
            reply: frozenset(name for item in receipt.items for name in (item.ref.record, *item.sources))
            for reply, receipt in receipts.items()
        }


def _said(one: Scored) -> str:
    return f"{one.item.speaker}: {one.item.text}" if one.item.speaker else one.item.text


def query_for(
    text: str,
    words: tuple[str, ...],
    vector: Vector | None,
    model: str | None,
    filters: Filters,
    limit: int,
    now: datetime,
) -> Query:
    """What an index is asked: beside words and vector, which of the words say little and which dates are named."""
    light = stop_words(tokens) - _PERSONS
    moments = named_moments(shortened(text, LONG_DATED), now)
    return Query(words, vector, model, filters, limit, light=light, moments=moments)


def shortened(text: str, limit: int) -> str:
    """The text, or its beginning and its end: there stands what somebody asks about a long paste."""
    if len(text) <= limit:
        return text
    return f"{text[: limit // 2]}\n{text[-limit // 2 :]}"


def shortened_tokens(words: tuple[str, ...]) -> tuple[str, ...]:
    """At most `MOST_TOKENS` of the tokens, from both ends."""
    if len(words) <= MOST_TOKENS:
        return words
    return words[: MOST_TOKENS // 2] + words[-MOST_TOKENS // 2 :]


def _cause(error: Exception) -> str:
    return str(error) or type(error).__name__


def _hit(one: Scored, record: Turn | MemoryRecord) -> Hit:
    return replace(hit_of(record, one.score, dict(one.parts)), strength=one.item.strength)
