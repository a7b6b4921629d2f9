"""Fusion and ordering of what a search brought up: one weighted sum that can be read, then a few rules of talk.

Pure: no numpy, no I/O. Legs are those that `afterword.index.legs` describes. English and Chinese.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import compress
from math import isfinite, isnan, nan

from afterword.language.questions import Question, Tokens, asks, bare, content_words, names, names_a_time, only_asks
from afterword.records import Kind, MemoryRecord, Ref, Role, Turn

Parts = dict[str, float]

DAY = 86_400.0

PART_NAMES = {
    "words": "words",
    "around": "words of the turns around it",
    "session_words": "words of its session",
    "session_best": "best of its session",
    "meaning": "meaning",
    "meaning_around": "meaning of the turns around it",
    "answers": "answers a question that fits",
    "answered": "its answer fits",
    "subject": "said by whom it is about",
    "when": "names a time",
    "strength": "strength",
    "companion": "a memory and its source fit both",
    "asked_before": "only asks",
    "echo": "says the query itself",
    "of_reply": "in the place of a reply that repeats it",
    "reranked": "fits by the reranker",
    "beside": "stands beside one of these",
    "standing": "always comes along",
}
"""What each part of a score is called for people, in English."""

TWIN = 0.9  # of a record's words that its twin says too


@dataclass(frozen=True, slots=True)
class Weights:
    """What each part of the sum weighs.

    Found by a search on development conversations (LoCoMo, the evidence turns of LongMemEval, MADial-Bench, MemDaily,
    BEAM, RealMem; English and Chinese), rounded to what a person can keep in mind, each on a plateau: half or twice of
    it costs little (`docs/recall.md` tells what was tried). A match counts twice: as a share of the most that the
    question could give (a weak match stays weak) and as a place between the worst and the best candidate (the best
    match of a small memory still leads). `strength`, `companion` and `echo` were set by hand: those sets don't test
    them.
    """

    words: float = 1.2  # bm25, share of the ideal
    words_rank: float = 0.2  # bm25, place between the worst and the best candidate; the same for the others
    around: float = 0.9
    around_rank: float = 0.2
    meaning: float = 0.7
    meaning_around: float = 0.6
    session_words: float = 0.3
    session_best: float = 0.1  # of the best record of the same session
    answers: float = 0.7  # of what the question that this person's turn answers scores above it
    answered: float = 0.5  # of what the assistant's answer to this turn scores above it
    subject: float = 0.2  # said by the one that the question is about: +, by the other: -
    when: float = 0.35  # names a time where the question asks for one
    strength: float = 0.05
    companion: float = 0.1  # of the memory that rests on this turn, or the other way round
    asked_before: float = 0.1  # taken from a user's turns that only ask
    reranked: float = 5.0  # by a model that was chosen for it
    echo: float = 2.0  # taken from what says the query's very words: it may still be all that there is


@dataclass(frozen=True, slots=True)
class Item:
    """A candidate that was read back from the ledger."""

    ref: Ref
    kind: Kind
    text: str
    said_at: datetime
    role: Role | None = None
    speaker: str | None = None
    chat_id: str | None = None
    position: int | None = None
    sources: tuple[str, ...] = ()
    strength: float = 1.0  # as of now


@dataclass(frozen=True, slots=True)
class Scored:
    """An item in its place; `score` is the sum of `parts`."""

    item: Item
    parts: Mapping[str, float] = field(default_factory=dict)

    @property
    def score(self) -> float:
        return sum(self.parts.values())

    @property
    def id(self) -> str:
        return self.item.ref.record


def strength_at(memory: MemoryRecord, now: datetime, half_life_days: float) -> float:
    """How retrievable a memory is: its strength, halved for every half-life since it was last used or written."""
    days = max(0.0, (now - (memory.used_at or memory.written_at)).total_seconds() / DAY)
    return float(memory.strength * 0.5 ** (days / half_life_days))


# ── the sum over legs ──────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Candidates:
    """Possible hits with their raw leg scores, a column a leg: `legs["bm25"][n]` is that of `refs[n]`, NaN where it is
    not known. Columns, because every search weighs hundreds of candidates and shows a few."""

    refs: Sequence[Ref]
    legs: Mapping[str, Sequence[float]]

    @classmethod
    def of(cls, rows: Mapping[Ref, Mapping[str, float]]) -> Candidates:
        """From the known legs of each."""
        names = dict.fromkeys(name for legs in rows.values() for name in legs)
        return cls(list(rows), {name: [legs.get(name, nan) for legs in rows.values()] for name in names})

    def __len__(self) -> int:
        return len(self.refs)

    def legs_of(self, refs: Iterable[Ref]) -> dict[Ref, dict[str, float]]:
        """The known legs of these."""
        places = {ref: place for place, ref in enumerate(self.refs)}
        return {
            ref: {name: column[at] for name, column in self.legs.items() if not isnan(column[at])}
            for ref, at in ((ref, places[ref]) for ref in refs)
        }

    def without(self, records: frozenset[str]) -> Candidates:
        """All but those of these records."""
        if not records or records.isdisjoint(ref.record for ref in self.refs):
            return self
        keep = [ref.record not in records for ref in self.refs]
        return Candidates(
            list(compress(self.refs, keep)), {name: list(compress(column, keep)) for name, column in self.legs.items()}
        )


def fuse(candidates: Candidates, weights: Weights) -> dict[str, list[float]]:
    """The parts that need no text, a column a part, from the raw legs of all candidates. An unknown value (a NaN, which
    differs from itself) is no share of the ideal; a record that has no vector yet gets the mean of the others' places."""
    legs = candidates.legs
    columns: dict[str, list[float]] = {}
    for name, leg, ideal, share, rank in (
        ("words", "bm25", "ideal", weights.words, weights.words_rank),
        ("around", "bm25_window", "ideal_window", weights.around, weights.around_rank),
        ("session_words", "bm25_session", "ideal_session", weights.session_words, 0.0),
        ("meaning", "dense", "", 0.0, weights.meaning),
        ("meaning_around", "dense_window", "", 0.0, weights.meaning_around),
    ):
        nothing = [0.0] * len(candidates.refs)
        values = legs.get(leg)
        column = [rank * place for place in _places(values)] if rank and values else nothing
        best = legs[ideal][0] if legs.get(ideal) else 0.0  # the same for all
        if share and best > 0 and values:
            shares = [min(1.0, value / best) if value == value else 0.0 for value in values]
            column = [part + share * of_best for part, of_best in zip(column, shares, strict=True)]
        columns[name] = column
    columns["session_best"] = _session_best(legs.get("session"), columns, weights.session_best)
    return columns


def _places(values: Sequence[float]) -> list[float]:
    """Where each value lies between the least and the greatest, 0 to 1."""
    known = [value for value in values if value == value]
    if not known or max(known) <= min(known):
        return [0.0] * len(values)
    low, width = min(known), max(known) - min(known)
    if len(known) == len(values):
        return [(value - low) / width for value in values]
    mean = (sum(known) / len(known) - low) / width
    return [(value - low) / width if value == value else mean for value in values]


def _session_best(
    sessions: Sequence[float] | None, columns: Mapping[str, Sequence[float]], weight: float
) -> list[float]:
    """What the best of the same session lends to each; of what stands in no session, its own."""
    sums = list(map(sum, zip(*columns.values(), strict=True)))
    if sessions is None:
        return [weight * total for total in sums]
    best: dict[float, float] = {}
    for session, total in zip(sessions, sums, strict=True):
        if total > best.get(session, 0.0):
            best[session] = total
    return [
        weight * (best.get(session, 0.0) if session >= 0 else total)
        for session, total in zip(sessions, sums, strict=True)
    ]


def leaders(refs: Sequence[Ref], columns: Mapping[str, Sequence[float]], count: int) -> dict[Ref, Parts]:
    """The `count` best by what is known without their text, best first, with their parts."""
    sums = map(sum, zip(*columns.values(), strict=True))
    ordered = sorted((-total, ref, place) for place, (ref, total) in enumerate(zip(refs, sums, strict=True)))
    return {ref: {name: column[place] for name, column in columns.items()} for _, ref, place in ordered[:count]}


# ── the sum over what was read ─────────────────────────────────────────────────────────────────────────────────────


def rank(
    items: Sequence[Item], fused: Mapping[Ref, Parts], question: Question, tokens: Tokens, weights: Weights
) -> list[Scored]:
    """All items that may be shown, best first. Ties: the later said first."""
    said = _without_echoes(items, question, tokens)
    asked = {item.ref for item in items if _is_users(item) and only_asks(item.text)}
    base = {item.ref: sum(fused[item.ref].values()) for item in items}
    speakers = {item.speaker for item in items if item.speaker}
    turns = {(item.chat_id, item.position): item for item in items if item.kind == "turn"}
    companions = _companions(said)
    ranked = []
    for item in said:
        parts = dict(fused[item.ref])
        parts["answers"] = weights.answers * _of_question(item, turns, base)
        parts["answered"] = weights.answered * (0.0 if item.ref in asked else _of_answer(item, turns, base))
        parts["subject"] = weights.subject * _subject(item, question, speakers)
        parts["when"] = weights.when * (question.asks_when and names_a_time(item.text))
        parts["strength"] = weights.strength * item.strength / (1 + item.strength) if item.kind != "turn" else 0.0
        parts["companion"] = weights.companion * max((base[ref] for ref in companions.get(item.ref, ())), default=0.0)
        parts["asked_before"] = -weights.asked_before * (item.ref in asked)
        parts["echo"] = -weights.echo * _echoes(item, question)
        ranked.append(Scored(item, {name: value for name, value in parts.items() if value}))
    return sorted(ranked, key=lambda one: (-one.score, -one.item.said_at.timestamp(), one.item.ref))


def _without_echoes(items: Sequence[Item], question: Question, tokens: Tokens) -> list[Item]:
    """Leave out the user's questions that say nothing which the query does not say itself."""
    # a longer text can't hold the question's words only, and need not be cut into tokens
    longest = 2 * len(question.bare) + 80
    return [
        item
        for item in items
        if not _is_users(item)
        or len(item.text) > longest
        or not asks(item.text)
        or not content_words(item.text, tokens) <= question.words
    ]


def _is_users(item: Item) -> bool:
    return item.kind == "turn" and item.role == "user"


def _echoes(item: Item, question: Question) -> bool:
    """Whether the user's turn says the query's very words."""
    return _is_users(item) and len(item.text) <= 2 * len(question.bare) + 80 and bare(item.text) == question.bare


def _of_question(item: Item, turns: Mapping[tuple[str | None, int | None], Item], base: Mapping[Ref, float]) -> float:
    """By how much the question that this person's turn answers scores better than it."""
    if item.kind != "turn" or item.position is None or item.role == "assistant":
        return 0.0
    asked = turns.get((item.chat_id, item.position - 1))
    if asked is None or (asked.role, asked.speaker) == (item.role, item.speaker) or not _holds_question(asked.text):
        return 0.0
    return max(0.0, base[asked.ref] - base[item.ref])


def _of_answer(item: Item, turns: Mapping[tuple[str | None, int | None], Item], base: Mapping[Ref, float]) -> float:
    """By how much the assistant's answer to this turn scores better than it: what was asked about stands there at
    length, but the person's turn is the evidence."""
    if item.kind != "turn" or item.position is None or item.role == "assistant":
        return 0.0
    answer = turns.get((item.chat_id, item.position + 1))
    if answer is None or answer.role != "assistant":
        return 0.0
    return max(0.0, base[answer.ref] - base[item.ref])


def _holds_question(text: str) -> bool:
    return "?" in text or "？" in text


def _subject(item: Item, question: Question, speakers: set[str]) -> float:
    """+1: said by the one that the question is about; -1: by another; 0: can't be told."""
    about = question.about
    if not about:
        return 0.0
    if about in speakers:
        if item.speaker is None:
            return float(item.kind != "turn" and names(about, item.text))
        return 1.0 if item.speaker == about else -1.0
    if item.kind != "turn":
        return float(about == "user")
    if item.speaker is not None and len(speakers) > 1:
        return 0.0
    return 1.0 if item.role == about else -1.0


def _companions(items: Sequence[Item]) -> dict[Ref, list[Ref]]:
    """Memories and the turns (or episodes) that they rest on, each way."""
    by_id = {item.ref.record: item.ref for item in items}
    found: dict[Ref, list[Ref]] = {}
    for item in items:
        for source in item.sources:
            if source in by_id:
                found.setdefault(item.ref, []).append(by_id[source])
                found.setdefault(by_id[source], []).append(item.ref)
    return found


# ── a model that reads query and text together ─────────────────────────────────────────────────────────────────────


def reranked(ranked: Sequence[Scored], scores: Sequence[float], weights: Weights) -> list[Scored]:
    """In a reranker's order, nearly: its score, as a place between its worst and its best, weighs more than all the rest.

    Raises `ValueError` unless there is one finite score for each.
    """
    if len(scores) != len(ranked) or not all(isfinite(score) for score in scores):
        raise ValueError(f"{len(scores)} scores for {len(ranked)} texts, or some that are no numbers")
    places = _places(list(scores))
    lifted = [
        replace(one, parts={**one.parts, "reranked": weights.reranked * place})
        for one, place in zip(ranked, places, strict=True)
    ]
    return sorted(lifted, key=lambda one: -one.score)


# ── replies and what they were given ───────────────────────────────────────────────────────────────────────────────


def without_repeaters(ranked: Sequence[Scored], given: Mapping[str, frozenset[str]]) -> list[Scored]:
    """Leave out replies that repeat what is found anyway: `given` names, for a reply, the records it was given.

    The best of those takes the reply's place where that is better than its own.
    """
    order = list(ranked)
    for reply in [one for one in ranked if given.get(one.id)]:
        memories = given[reply.id] - {reply.id}
        found = next((one for one in order if one.id in memories and one.id not in given), None)
        found = found or next((one for one in order if one.id in memories), None)
        if found is None:
            continue
        place = order.index(reply)
        order.remove(reply)
        if order.index(found) > place:
            order.remove(found)
            lift = {**found.parts, "of_reply": reply.score - found.score}
            order.insert(place, replace(found, parts=lift))
    return order


def without_twins(ranked: Sequence[Scored], tokens: Tokens) -> list[Scored]:
    """Of a memory and a turn it rests on that say the same, only the one in the better place."""
    kept: dict[str, Scored] = {}
    resting: dict[str, list[Scored]] = {}  # of those, by what they rest on
    for one in ranked:
        twins = [kept[source] for source in one.item.sources if source in kept] + resting.get(one.id, [])
        words = content_words(one.item.text, tokens) if twins else frozenset()
        told = (len(words & content_words(twin.item.text, tokens)) for twin in twins)
        if not any(same >= TWIN * len(words) for same in told):
            kept[one.id] = one
            for source in one.item.sources:
                resting.setdefault(source, []).append(one)
    return list(kept.values())


def item_of(record: Turn | MemoryRecord, now: datetime, half_life_days: float) -> Item:
    """A record as ranking sees it."""
    if isinstance(record, Turn):
        return Item(
            record.ref,
            "turn",
            record.text,
            record.said_at,
            record.role,
            record.speaker,
            record.chat_id,
            record.position,
        )
    return Item(
        record.ref,
        record.kind,
        record.text,
        record.said_at,
        chat_id=record.chat_id,
        sources=record.sources,
        strength=strength_at(record, now, half_life_days),
    )
