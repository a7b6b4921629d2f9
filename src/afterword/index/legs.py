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

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from afterword.index.bm25 import Asked, Floats, Ints, Term, idf, saturated, terms
from afterword.index.shard import Mask, Snapshot
from afterword.language.tokens import script_of
from afterword.ports import Candidate, Query
from afterword.records import Ref

ENOUGH = 20  # records whose mean says something
LEADING = ("bm25", "bm25_window", "dense", "dense_window")  # legs that bring up candidates


@dataclass(frozen=True, slots=True)
class Lexical:
    """Scores of every row; `ideals` by leg."""

    bm25: Floats
    window: Floats
    session: Floats
    ideals: tuple[float, float, float]


def search(snapshot: Snapshot, query: Query, asked: Asked, cosines: Floats | None) -> list[Candidate]:
    """Candidates with all their legs. `asked` are the query's tokens as the shard numbers them; `cosines` are those
    of every row (NaN: not known), None without a query vector."""
    legs = rows_of_legs(snapshot, query, asked, cosines)
    chosen = leading(legs, snapshot.allowed(query.filters), query.limit)
    return candidates(snapshot, legs, chosen)


def rows_of_legs(snapshot: Snapshot, query: Query, asked: Asked, cosines: Floats | None) -> dict[str, Floats]:
    """Each leg for all rows."""
    counted = snapshot.without(query.filters.exclude)
    lexical = lexical_legs(snapshot, asked, counted)
    ideal = {
        name: np.full(snapshot.size, value, np.float32) for name, value in zip(IDEALS, lexical.ideals, strict=True)
    }
    legs = {"bm25": lexical.bm25, "bm25_window": lexical.window, "bm25_session": lexical.session, **ideal}
    legs["records"] = np.full(snapshot.size, counted.sum(), np.float32)
    if cosines is not None:
        known = np.where(counted, cosines, np.nan).astype(np.float32)
        legs |= dense_legs(snapshot, known) | background(snapshot, known, script_of(query.tokens))
    legs["session"] = _at_anchor(snapshot, snapshot.talk.session.astype(np.float32), np.full(snapshot.size, -1.0))
    return legs


IDEALS = ("ideal", "ideal_window", "ideal_session")


def leading(legs: Mapping[str, Floats], allowed: Mask, limit: int) -> Ints:
    """The rows among the `limit` best of any leg that brings up candidates."""
    chosen = [_best(legs[name], allowed, limit) for name in LEADING if name in legs]
    return np.unique(np.concatenate(chosen))


def candidates(snapshot: Snapshot, legs: Mapping[str, Floats], chosen: Ints) -> list[Candidate]:
    """The chosen rows with all legs that are known of them."""
    if not len(chosen):
        return []
    names = list(legs)
    table = np.stack([legs[name][chosen] for name in names], axis=1)
    refs = [snapshot.refs[row] for row in chosen.tolist()]
    rows = [dict(zip(names, line, strict=True)) for line in table.tolist()]
    if np.isnan(table).any():  # what no vector is known for; a NaN differs from itself
        rows = [{name: value for name, value in row.items() if value == value} for row in rows]
    return [Candidate(ref, row) for ref, row in zip(refs, rows, strict=True)]


def _best(scores: Floats, allowed: Mask, limit: int) -> Ints:
    able = np.flatnonzero(allowed & (scores > 0))
    if len(able) <= limit:
        return able
    return able[np.argpartition(-scores[able], limit - 1)[:limit]]


# ── words ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def lexical_legs(snapshot: Snapshot, asked: Asked, counted: Mask) -> Lexical:
    """BM25 of each row, of its window and of its session."""
    passages = counted[snapshot.row_of_passage]
    found = list(terms(snapshot.postings, asked, passages))
    total = float(passages.sum())
    unknown = asked.unknown * idf(0.0, total)
    ideal = sum(term.weight * term.idf for term in found) + unknown
    own = _of_rows(snapshot, found, passages)
    around = _Around(snapshot, found)
    window, ideal_window = around.windows()
    session, ideal_session = around.sessions()
    return Lexical(
        bm25=own,
        window=_at_anchor(snapshot, window, own),
        session=_at_anchor(snapshot, session, own),
        ideals=(ideal, ideal_window + unknown, ideal_session),
    )


def _of_rows(snapshot: Snapshot, found: list[Term], passages: Mask) -> Floats:
    lengths = snapshot.postings.lengths
    scores = np.zeros(len(lengths), np.float32)
    if not snapshot.size:
        return scores
    mean = float(lengths[passages].mean()) if passages.any() else 1.0
    for term in found:
        scores[term.passage] += term.weight * term.idf * saturated(term.count, lengths[term.passage], mean)
    best: Floats = np.maximum.reduceat(scores, snapshot.first_passage)
    return best


class _Around:
    """BM25 of what stands around each turn, counted from the postings of single turns: nothing more is kept."""

    def __init__(self, snapshot: Snapshot, found: list[Term]) -> None:
        self._snapshot = snapshot
        self._talk = snapshot.talk
        self._found = found
        self._sums = np.zeros(len(self._talk.rows) + 1, np.float32)
        if snapshot.size:
            self._sums[1:] = np.cumsum(snapshot.postings.lengths[snapshot.first_passage[self._talk.rows]])
        self._running = [self._said_before(term) for term in found]

    def windows(self) -> tuple[Floats, float]:
        """Of each place, and the most it could be."""
        return self._scored(self._talk.first, self._talk.last + 1)

    def sessions(self) -> tuple[Floats, float]:
        """Of each place its session's, and the most it could be."""
        ends = np.append(self._talk.starts[1:], len(self._talk.rows))
        scores, ideal = self._scored(self._talk.starts, ends)
        return scores[self._talk.session], ideal

    def _scored(self, begin: Ints, end: Ints) -> tuple[Floats, float]:
        scores = np.zeros(len(begin), np.float32)
        if not len(begin):
            return scores, 0.0
        lengths = (self._sums[end] - self._sums[begin]).astype(np.float32)
        mean, ideal = float(lengths.mean()), 0.0
        for term, sums in zip(self._found, self._running, strict=True):
            count = sums[end] - sums[begin]
            holding = np.flatnonzero(count)
            weight = term.weight * idf(len(holding), len(begin))
            ideal += weight
            scores[holding] += weight * saturated(count[holding], lengths[holding], mean)
        return scores, ideal

    def _said_before(self, term: Term) -> Floats:
        """How often the term was said before each place."""
        rows = self._snapshot.row_of_passage[term.passage]
        place = self._talk.place[rows]
        keep = (place >= 0) & (self._snapshot.first_passage[rows] == term.passage)
        sums = np.zeros(len(self._talk.rows) + 1, np.float32)
        sums[place[keep] + 1] = term.count[keep]
        running: Floats = np.cumsum(sums)
        return running


def _at_anchor(snapshot: Snapshot, of_place: Floats, otherwise: Floats) -> Floats:
    """What holds at the place of each row's turn; `otherwise` (of rows) where it has none."""
    if not len(of_place):
        return np.asarray(otherwise, np.float32)
    place = np.where(snapshot.anchor >= 0, snapshot.talk.place[snapshot.anchor], -1)
    return np.where(place >= 0, of_place[place], otherwise).astype(np.float32)


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


def dense_legs(snapshot: Snapshot, cosines: Floats) -> dict[str, Floats]:
    """The cosine, and with its neighbours'."""
    talk = snapshot.talk
    if not len(talk.rows):
        return {"dense": cosines, "dense_window": cosines}
    window = _with_neighbours(cosines[talk.rows], talk.session)
    return {"dense": cosines, "dense_window": _at_anchor(snapshot, window, cosines)}


def background(snapshot: Snapshot, cosines: Floats, script: int) -> dict[str, Floats]:
    """How near the query is to this user's records in general: what a near one stands out from.

    Of those in its own script, where there are enough: models put all of a script nearer together. Of few records it
    can't be told (NaN, so the leg is left out).
    """
    known = np.isfinite(cosines)
    own = known & (snapshot.script == script)
    chosen = own if own.sum() >= ENOUGH else known
    mean = float(cosines[chosen].mean()) if chosen.sum() >= ENOUGH else np.nan
    return {"dense_mean": np.full(snapshot.size, mean, np.float32)}


def _with_neighbours(own: Floats, session: Ints) -> Floats:
    """(own + half the one before + half the one after) / what was summed; unknown ones count as one's own."""
    total, weight = own.copy(), np.ones(len(own), np.float32)
    same = session[1:] == session[:-1]
    for mine, theirs in ((slice(1, None), slice(None, -1)), (slice(None, -1), slice(1, None))):
        other = np.where(same & np.isfinite(own[theirs]), own[theirs], 0.0)
        total[mine] += 0.5 * other
        weight[mine] += 0.5 * (same & np.isfinite(own[theirs]))
    return (total / weight).astype(np.float32)
