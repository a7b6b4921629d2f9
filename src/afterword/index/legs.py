"""The legs of a search: one raw score a record and way of looking, for every candidate that any leg brings up.

| leg | what it measures |
| --- | --- |
| `bm25` | the record's best passage against the question's words |
| `bm25_window` | the same for the turns around it, as if they were one text (`SPAN` on each side, same session) |
| `bm25_session` | the same for its whole session |
| `ideal`, `ideal_window`, `ideal_session` | the question's sum of idf: the most that the leg could give (theirs alike for all candidates) |
| `dense` | cosine of the record's best window of text |
| `dense_window` | mean of that and half of each neighbour's |
| `dense_mean` | mean of all known cosines of records in the query's script (alike for all candidates) |
| `records` | not a score: how many records there are (alike for all) |
| `session` | not a score: which session of the user it belongs to (-1: none); candidates of one session share it |

A memory stands where the turn stands that it rests on. A `dense` leg is left out for what has no vector yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from afterword.index.bm25 import Asked, Floats, Ints, Term, damping, idf, saturated, terms
from afterword.index.shard import Mask, Snapshot
from afterword.language.tokens import script_of
from afterword.ports import Candidates, Query
from afterword.records import Ref

ENOUGH = 20  # records whose mean says something


def search(snapshot: Snapshot, query: Query, asked: Asked, cosines: Floats | None) -> Candidates:
    """Candidates with all their legs. `asked` are the query's tokens as the shard numbers them; `cosines` are those
    of every row (NaN: not known), None without a query vector."""
    legs = Legs(snapshot, query, asked, cosines)
    return legs.candidates(legs.leading())


class Legs:
    """One query against one snapshot: the legs that bring up candidates for all rows, the others for those alone."""

    def __init__(self, snapshot: Snapshot, query: Query, asked: Asked, cosines: Floats | None) -> None:
        self._snapshot = snapshot
        self._query = query
        self._counted = snapshot.without(query.filters.exclude)
        self._lexical = lexical_legs(snapshot, asked, self._counted)
        self._cosines = None if cosines is None else np.where(self._counted, cosines, np.nan).astype(np.float32)

    def leading(self) -> Ints:
        """The rows among the `limit` best of any leg that brings up candidates."""
        allowed = self._snapshot.allowed(self._query.filters)
        legs = [self._lexical.own, self._lexical.window]
        if self._cosines is not None:
            legs += [self._cosines, self._cosines_around]
        return np.unique(np.concatenate([_best(leg, allowed, self._query.limit) for leg in legs]))

    def candidates(self, chosen: Ints) -> Candidates:
        """The chosen rows with all legs."""
        refs = [self._snapshot.refs[row] for row in chosen.tolist()]
        return Candidates(refs, {name: leg.tolist() for name, leg in self._columns(chosen)})

    def _columns(self, chosen: Ints) -> Iterator[tuple[str, Floats]]:
        def alike(value: float) -> Floats:
            return np.full(len(chosen), value, np.float32)

        snapshot, lexical = self._snapshot, self._lexical
        own = lexical.own[chosen]
        yield "bm25", own
        yield "bm25_window", lexical.window[chosen]
        yield "bm25_session", snapshot.at_place(lexical.session[snapshot.talk.session], own, chosen)
        yield "ideal", alike(lexical.ideals.own)
        yield "ideal_window", alike(lexical.ideals.window)
        yield "ideal_session", alike(lexical.ideals.session)
        yield "records", alike(float(self._counted.sum()))
        if self._cosines is not None:
            yield "dense", self._cosines[chosen]
            yield "dense_window", self._cosines_around[chosen]
            yield "dense_mean", alike(background(snapshot, self._cosines, script_of(self._query.tokens)))
        yield "session", snapshot.at_place(snapshot.talk.session.astype(np.float32), alike(-1.0), chosen)

    @cached_property
    def _cosines_around(self) -> Floats:
        assert self._cosines is not None
        return cosines_around(self._snapshot, self._cosines)


def _best(scores: Floats, allowed: Mask, limit: int) -> Ints:
    able = np.flatnonzero(allowed & (scores > 0))
    if len(able) <= limit:
        return able
    return able[np.argpartition(-scores[able], limit - 1)[:limit]]


# ── words ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Ideals:
    """The most that a record, a window and a session could score."""

    own: float
    window: float
    session: float


@dataclass(frozen=True, slots=True)
class Lexical:
    """BM25 of each row, of its window, and of each session."""

    own: Floats
    window: Floats
    session: Floats
    ideals: Ideals


def lexical_legs(snapshot: Snapshot, asked: Asked, counted: Mask) -> Lexical:
    """`counted` are the rows that are looked at. What stands around a turn is counted from the postings of single turns:
    nothing more is kept."""
    passages = counted[snapshot.row_of_passage]
    found = list(terms(snapshot.postings, asked, passages))
    unknown = asked.unknown * idf(0.0, float(passages.sum()))
    ideal = sum(term.weight * term.idf for term in found) + unknown
    own = _of_rows(snapshot, found, passages)
    talk, said = snapshot.talk, [_Said.of(term, snapshot) for term in found]
    window, ideal_window = _scored(((one.weight, one.in_windows(snapshot)) for one in said), talk.window_lengths)
    session, ideal_session = _scored(((one.weight, one.in_sessions(snapshot)) for one in said), talk.session_lengths)
    ideals = Ideals(ideal, ideal_window + unknown, ideal_session)
    return Lexical(own, snapshot.at_place(window, own), session, ideals)


def _of_rows(snapshot: Snapshot, found: list[Term], passages: Mask) -> Floats:
    lengths = snapshot.postings.lengths
    scores = np.zeros(len(lengths), np.float32)
    if not snapshot.size:
        return scores
    against = damping(lengths, float(lengths[passages].mean()) if passages.any() else 1.0)
    for term in found:
        scores[term.passage] += term.weight * term.idf * saturated(term.count, against[term.passage])
    best: Floats = np.maximum.reduceat(scores, snapshot.first_passage)
    return best


@dataclass(frozen=True, slots=True)
class _Said:
    """Where a term was said, and how often there."""

    weight: float
    place: Ints
    count: Floats

    @classmethod
    def of(cls, term: Term, snapshot: Snapshot) -> _Said:
        place = snapshot.place_of_passage[term.passage]
        return cls(term.weight, place[place >= 0], term.count[place >= 0])

    def in_windows(self, snapshot: Snapshot) -> Floats:
        """How often in the window of each place. Windows reach as far back as forward, so what is said at a place counts
        for all places of its own window: it adds where that begins, and takes away behind its end."""
        talk, count = snapshot.talk, self.count.astype(np.int32)
        steps = np.zeros(len(talk.rows) + 1, np.int32)
        np.add.at(steps, talk.first[self.place], count)
        np.subtract.at(steps, talk.last[self.place] + 1, count)
        return np.cumsum(steps[:-1], dtype=np.int32).astype(np.float32)

    def in_sessions(self, snapshot: Snapshot) -> Floats:
        """How often in each session."""
        talk = snapshot.talk
        total = np.bincount(talk.session[self.place], self.count, len(talk.session_lengths))
        return total.astype(np.float32)


def _scored(said: Iterable[tuple[float, Floats]], lengths: Floats) -> tuple[Floats, float]:
    """BM25 of documents from each term's weight and counts, and the most that it could be."""
    scores = np.zeros(len(lengths), np.float32)
    if not len(lengths):
        return scores, 0.0
    against, ideal = damping(lengths, float(lengths.mean())), 0.0
    for weight, count in said:
        rare = weight * idf(int(np.count_nonzero(count)), len(lengths))
        ideal += rare
        scores += rare * saturated(count, against)
    return scores, ideal


# ── meaning ────────────────────────────────────────────────────────────────────────────────────────────────────────


def cosines_of_rows(snapshot: Snapshot, vector: Floats) -> Floats:
    """Each row's best window of text against the query; NaN where there is no vector."""
    best = np.full(snapshot.size, -np.inf, np.float32)
    if len(snapshot.owner):
        # not `@`: for so short a product BLAS wakes threads that then spin, ten times the CPU of the product itself
        np.maximum.at(best, snapshot.owner, np.vecdot(snapshot.matrix, vector.astype(np.float32)))
    return np.where(np.isfinite(best), best, np.nan).astype(np.float32)


def cosines_of_refs(snapshot: Snapshot, known: Mapping[Ref, float]) -> Floats:
    """The same from cosines that were made elsewhere."""
    best = np.full(snapshot.size, np.nan, np.float32)
    for ref, cosine in known.items():
        row = snapshot.rows.get(ref.record, -1)
        if 0 <= row < snapshot.size and snapshot.refs[row] == ref:
            best[row] = cosine
    return best


def cosines_around(snapshot: Snapshot, cosines: Floats) -> Floats:
    """Each row's cosine with its neighbours'."""
    talk = snapshot.talk
    if not len(talk.rows):
        return cosines
    return snapshot.at_place(_with_neighbours(cosines[talk.rows], talk.session), cosines)


def background(snapshot: Snapshot, cosines: Floats, script: int) -> float:
    """How near the query is to this user's records in general: what a near one stands out from.

    Of those in its own script, where there are enough: models put all of a script nearer together. Of few records it
    can't be told (NaN).
    """
    known = np.isfinite(cosines)
    own = known & (snapshot.script == script)
    chosen = own if own.sum() >= ENOUGH else known
    return float(cosines[chosen].mean()) if chosen.sum() >= ENOUGH else float("nan")


def _with_neighbours(own: Floats, session: Ints) -> Floats:
    """(own + half the one before + half the one after) / what was summed; unknown ones count as one's own."""
    total, weight = own.copy(), np.ones(len(own), np.float32)
    known, same = np.isfinite(own), session[1:] == session[:-1]
    for mine, theirs in ((slice(1, None), slice(None, -1)), (slice(None, -1), slice(1, None))):
        beside = same & known[theirs]
        total[mine] += np.where(beside, 0.5 * own[theirs], 0.0)
        weight[mine] += 0.5 * beside
    return (total / weight).astype(np.float32)
