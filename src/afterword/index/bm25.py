"""BM25 over token postings that grow with the ledger (Robertson and Zaragoza, "The Probabilistic Relevance Framework").

A record is cut into passages of `PASSAGE` tokens, and its best passage counts: a long message would otherwise lose to
a short one that says less. Of a turn's neighbourhood only first passages count, so that one long answer does not
drown the talk around it.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt

from afterword.language.tokens import with_characters

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

K1 = 1.2
B = 0.75
PASSAGE = 128  # tokens
TAIL = 20_000  # tokens that may lie unsorted before the postings are merged
LIGHT = 0.1  # what a function word weighs: in short talk its idf alone would let "when did you" outweigh a name
MAX_TERMS = 64  # of a query: its rarest; a pasted page has hundreds and would cost as many passes


class _Vocabulary(defaultdict[str, int]):
    def __missing__(self, token: str) -> int:
        self[token] = number = len(self)
        return number


class _Parts(dict[str, tuple[int, ...]]):
    """Of each token that came, its number and those of its characters, worked out once."""

    def __init__(self, vocabulary: _Vocabulary) -> None:
        super().__init__()
        self._vocabulary = vocabulary

    def __missing__(self, token: str) -> tuple[int, ...]:
        parts = (token,) if token.isascii() else with_characters((token,))  # nearly all are
        self[token] = numbers = tuple([self._vocabulary[part] for part in parts])
        return numbers


@dataclass(frozen=True, slots=True)
class Base:
    """Postings sorted by token, for all passages below `passages`."""

    passages: int
    tokens: int
    starts: Ints
    passage: Ints
    count: Floats

    def of(self, token: int) -> slice:
        if token + 1 >= len(self.starts):
            return slice(0, 0)
        return slice(int(self.starts[token]), int(self.starts[token + 1]))


@dataclass(frozen=True, slots=True)
class Postings:
    """What was counted up to one moment; never changes, so it can be read in any thread."""

    base: Base
    tail_token: Ints
    tail_passage: Ints
    lengths: Floats  # tokens of each passage

    def of(self, token: int) -> tuple[Ints, Floats]:
        """The passages that hold the token, and how often each does."""
        span = self.base.of(token)
        at = self.tail_passage[self.tail_token == token]
        if not len(at):
            return self.base.passage[span], self.base.count[span]
        fresh, count = np.unique(at, return_counts=True)
        both = np.concatenate([self.base.passage[span], fresh])
        return both, np.concatenate([self.base.count[span], count.astype(np.float32)])


@dataclass(frozen=True, slots=True)
class Asked:
    """A query's tokens as one shard numbers them, with their weights."""

    weights: Mapping[int, float]
    unknown: float  # weight of those that nobody ever used


class PostingsBuilder:
    """Counts tokens, passage by passage. Not for two threads at once."""

    def __init__(self) -> None:
        self._vocabulary = _Vocabulary()
        self._numbers = _Parts(self._vocabulary)
        self._flat = array("i")
        self._ends = array("q")
        self._base = Base(0, 0, np.zeros(1, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))

    @property
    def passages(self) -> int:
        return len(self._ends)

    @property
    def nbytes(self) -> int:
        words = 110 * len(self._vocabulary) + 160 * len(self._numbers)
        return words + 4 * len(self._flat) + 8 * len(self._ends) + 12 * len(self._base.passage)

    @property
    def unsorted(self) -> int:
        """Tokens that came since the last `merge`."""
        return len(self._flat) - self._base.tokens

    def add(self, records: Sequence[Sequence[str]]) -> list[int]:
        """Count records, given as their tokens: how many passages each became (at least one, maybe empty). All at once:
        a token then costs a few look-ups in C, and a cold start has hundreds of thousands."""
        numbers = list(map(self._numbers.__getitem__, chain.from_iterable(records)))
        flat = np.fromiter(chain.from_iterable(numbers), np.int32)
        parts, ends = _passages(np.fromiter(map(len, records), np.int64, len(records)))
        if len(flat) > len(numbers):  # some tokens have characters of their own
            ends = np.cumsum([0, *map(len, numbers)])[ends]
        self._ends.frombytes((len(self._flat) + ends).tobytes())
        self._flat.frombytes(flat.tobytes())
        passages: list[int] = parts.tolist()
        return passages

    def asked(self, tokens: Sequence[str], light: Collection[str] = (), moments: Sequence[str] = ()) -> Asked:
        """A query's tokens, each once; those in `light` weigh little, `moments` count only where they are known."""
        weights: dict[str, float] = {}
        for token in tokens:
            for part in with_characters([token]):
                weight = LIGHT if part in light or token in light else 1.0
                weights[part] = max(weight, weights.get(part, 0.0))
        known = {number: weights[token] for token in weights if (number := self._vocabulary.get(token)) is not None}
        unknown = sum(weights.values()) - sum(known.values())
        known |= {number: 1.0 for token in moments if (number := self._vocabulary.get(token)) is not None}
        return Asked(known, unknown)

    def worth_merging(self) -> bool:
        return self.unsorted > max(TAIL, self._base.tokens // 4)

    def merge(self) -> None:
        """Sort what came since the last time into the postings. Most of its time is spent without the GIL."""
        flat = np.array(self._flat, np.int64)
        lengths = self._lengths()
        passages = len(lengths)
        key = flat * max(passages, 1) + np.repeat(np.arange(passages), lengths)
        key, count = np.unique(key, return_counts=True)
        token, passage = np.divmod(key, max(passages, 1))
        starts = np.searchsorted(token, np.arange(len(self._vocabulary) + 1))
        self._base = Base(passages, len(flat), starts, passage, count.astype(np.float32))

    def frozen(self) -> Postings:
        """The postings as they are now."""
        base, lengths = self._base, self._lengths()
        tail = np.array(self._flat[base.tokens :], np.int64)
        owners = np.repeat(np.arange(base.passages, len(lengths)), lengths[base.passages :])
        return Postings(base, tail, owners, lengths.astype(np.float32))

    def _lengths(self) -> Ints:
        ends = np.array(self._ends, np.int64)
        ends[1:] -= ends[:-1].copy()
        return ends


def _passages(lengths: Ints) -> tuple[Ints, Ints]:
    """Of records of these lengths, one after the other: how many passages each has, and where each passage ends."""
    parts: Ints = np.maximum(1, -(-lengths // PASSAGE))
    ends = np.cumsum(lengths)
    nth = 1 + np.arange(parts.sum()) - np.repeat(np.cumsum(parts) - parts, parts)
    return parts, np.minimum(np.repeat(ends - lengths, parts) + PASSAGE * nth, np.repeat(ends, parts))


def idf(holding: float, total: float) -> float:
    """The inverse document frequency in the form that never falls below 0."""
    return float(np.log1p((total - holding + 0.5) / (holding + 0.5)))


def damping(lengths: Floats, mean_length: float) -> Floats:
    """What documents of these lengths (in tokens) set against a term's count: more, the longer they are."""
    against: Floats = K1 * (1 - B + B * lengths / max(mean_length, 1.0))
    return against


def saturated(count: Floats, against: Floats) -> Floats:
    """A term's weight in documents, 0 to 1: rises with its count; `against` is their `damping`."""
    weight: Floats = count / (count + against)
    return weight


@dataclass(frozen=True, slots=True)
class Term:
    """A query token in the living passages."""

    weight: float
    idf: float
    passage: Ints
    count: Floats


def terms(postings: Postings, asked: Asked, living: npt.NDArray[np.bool_]) -> Iterator[Term]:
    """The query's terms, weightiest first, at most `MAX_TERMS`; `living` marks the passages that count."""
    total = int(living.sum())
    found = []
    for number, weight in asked.weights.items():
        passage, count = postings.of(number)
        keep = living[passage]
        if keep.any():
            found.append(Term(weight, idf(int(keep.sum()), total), passage[keep], count[keep]))
    found.sort(key=lambda term: -term.weight * term.idf)
    yield from found[:MAX_TERMS]
