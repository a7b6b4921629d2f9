"""Every leg and part of the ranking for every question's candidates, as tables that can be weighed again in seconds.

Taken from the product itself: its index finds the candidates, its ranking gives the parts, each with a weight of one.
Trials are legs that the product does not have; they see the question and the candidates' records.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from afterword.language.questions import read_question, stop_words
from afterword.language.tokens import tokens
from afterword.ports import Candidates
from afterword.ranking import Item, Weights, fuse, item_of, leaders, rank
from afterword.recall import CANDIDATES, LONG_EMBEDDED, query_for, shortened, shortened_tokens
from afterword.records import Filters, Ref
from bench.recall import Run, Told

if TYPE_CHECKING:
    from bench.recall_data import Asked

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

NONE = Weights(**{one.name: 0.0 for one in fields(Weights)})
FUSED = ("words", "words_rank", "around", "around_rank", "meaning", "meaning_around", "session_words")
RANKED = ("session_best", "answers", "answered", "subject", "when", "asked_before")
PART_OF = {"words_rank": "words", "around_rank": "around"}
SIMILAR = 0.35  # cosine below which two words have nothing to do with one another
TURNS = Filters(kinds=("turn",))  # what rules may have written beside them is another question


@dataclass(frozen=True, slots=True)
class Seen:
    """A question and its candidates, as a trial sees them."""

    text: str
    items: Sequence[Item]


@dataclass
class Table:
    """Rows are candidates, question by question, in the order of their sessions."""

    names: tuple[str, ...]
    features: Floats
    question: Ints
    session: Ints  # as the set numbers them
    wanted: Mask  # rows that are evidence
    wanted_session: Mask  # rows of sessions that are
    evidence: Ints  # of each question: how many turns
    sessions: Ints  # of each question: how many sessions
    conversation: Ints
    category: npt.NDArray[np.str_]

    def column(self, name: str) -> Floats:
        column: Floats = self.features[:, self.names.index(name)]
        return column

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, Any] = {one.name: np.asarray(getattr(self, one.name)) for one in fields(self)}
        np.savez_compressed(path, **arrays)

    @classmethod
    def load(cls, path: Path) -> Table:
        with np.load(path) as held:
            arrays: dict[str, Any] = {one.name: held[one.name] for one in fields(cls)}
        return cls(**{**arrays, "names": tuple(str(name) for name in arrays["names"])})


# ── trials ─────────────────────────────────────────────────────────────────────────────────────────────────────────

_STANDING = re.compile(
    r"^\W*(please )?(always|never)\b|\b(i('d| would) like you to|i want you to|remember to|make sure to) always\b"
    r"|\b(always|never) \w+[^.?!]{0,120}\b(when|whenever|if|every time) (i|we) (ask|mention|say|talk|request)"
    r"|\b(from now on|whenever i ask|every time i ask)\b"
    r"|(以后|今后|从现在起).{0,20}(都|要|请|别|不要)|(每次|每当).{0,20}(都|请|要)|(请|务必)(始终|总是|一直|永远)",
    re.IGNORECASE,
)


def standing(seen: Seen) -> Sequence[float]:
    """1 for what tells the assistant how to answer from now on."""
    return [float(item.role == "user" and _STANDING.search(item.text) is not None) for item in seen.items]


class Kin:
    """How near each word of the question is to the candidate's nearest word (MaxSim), by static word vectors.

    `wordllama` bundles them; English. The square of the cosine counts, weighed by how rare a match as good is.
    """

    def __init__(self) -> None:
        package = import_module("wordllama")
        folder = Path(str(package.__file__)).parent
        self._model = package.WordLlama.load(cache_dir=folder, disable_download=True)
        self._vectors: dict[str, Floats] = {}

    def __call__(self, seen: Seen) -> Sequence[float]:
        asked = sorted(set(tokens(seen.text)) - stop_words(tokens))
        said = [sorted(set(tokens(item.text)) - stop_words(tokens)) for item in seen.items]
        if not asked or re.search(r"[\u4e00-\u9fff]", seen.text):
            return [0.0] * len(said)
        vocabulary = sorted({word for words in said for word in words})
        place = {word: number for number, word in enumerate(vocabulary)}
        near = np.clip(self._of(asked) @ self._of(vocabulary).T, 0.0, 1.0) if vocabulary else np.zeros((len(asked), 0))
        near = np.where(near < SIMILAR, 0.0, near**2)
        best = np.zeros((len(asked), len(said)), np.float32)
        for number, words in enumerate(said):
            if words:
                best[:, number] = near[:, [place[word] for word in words]].max(axis=1)
        holding = (best > 0.999).sum(axis=1)
        rarity = np.log1p((len(said) - holding + 0.5) / (holding + 0.5))
        total: list[float] = (rarity @ best / max(float(rarity.sum()), 1e-6)).tolist()
        return total

    def _of(self, words: Sequence[str]) -> Floats:
        fresh = [word for word in words if word not in self._vectors]
        if fresh:
            made = np.asarray(self._model.embed(fresh), np.float32)
            made /= np.maximum(np.linalg.norm(made, axis=1, keepdims=True), 1e-9)
            self._vectors.update(zip(fresh, made, strict=True))
        return np.stack([self._vectors[word] for word in words])


def trials() -> dict[str, Callable[[Seen], Sequence[float]]]:
    """Legs on trial; what is not installed is left out."""
    found: dict[str, Callable[[Seen], Sequence[float]]] = {"standing": standing}
    if find_spec("wordllama"):
        found["kin"] = Kin()
    return found


# ── the product's own legs and parts ───────────────────────────────────────────────────────────────────────────────


def parts_of(text: str, found: Candidates, items: Sequence[Item]) -> dict[str, dict[Ref, float]]:
    """Each part of the sum with a weight of one, by candidate. Parts that rest on the sum take the product's own."""
    parts: dict[str, dict[Ref, float]] = {}
    for name in FUSED:
        alone = fuse(found, replace(NONE, **{name: 1.0}))
        parts[name] = dict(zip(found.refs, alone[PART_OF.get(name, name)], strict=True))
    own = Weights()
    fused = leaders(found.refs, fuse(found, own), len(found))
    question = read_question(text, tokens, {item.speaker for item in items if item.speaker})
    for name in RANKED:
        parts[name] = dict.fromkeys(found.refs, 0.0)
    for one in rank(items, fused, question, tokens, own):
        for name in RANKED:
            parts[name][one.item.ref] = one.parts.get(name, 0.0) / (getattr(own, name) or 1.0)
    return parts


@dataclass
class _Rows:
    lists: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))


class Gather(Run):
    """Asks no question: keeps the candidates' parts instead."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.trials = trials()
        self.names = (*FUSED, *RANKED, *self.trials)
        self._held = _Rows()

    async def ask(self, told: Told, asked: Asked) -> None:
        words = shortened_tokens(tokens(asked.text))
        if not words or not (asked.evidence or asked.sessions):
            return
        scope = self.memory.scope(told.user)
        vector = None if self.timed is None else await self.timed.query(shortened(asked.text, LONG_EMBEDDED))
        model = None if self.timed is None else self.timed.model
        query = query_for(asked.text, words, vector, model, TURNS, CANDIDATES, datetime.now(UTC))
        found = await self.memory.index.search(scope, query)
        records = await self.memory.ledger.read(scope, found.refs)
        items = [item_of(record, record.said_at, 60.0) for record in records.values()]
        items.sort(key=lambda item: (item.chat_id or "", item.position or 0))
        gone = frozenset(ref.record for ref in found.refs if ref not in records)
        self._keep(told, asked, found.without(gone), items)

    def _keep(self, told: Told, asked: Asked, found: Candidates, items: Sequence[Item]) -> None:
        parts: dict[str, Mapping[Ref, float]] = {**parts_of(asked.text, found, items)}
        for name, trial in self.trials.items():
            values = trial(Seen(asked.text, items))
            parts[name] = {item.ref: value for item, value in zip(items, values, strict=True)}
        lists = self._held.lists
        number = len(lists["evidence"])
        turn = [told.turn_of.get(item.ref.record, "") for item in items]
        session = [told.session_of.get(item.ref.record, "") for item in items]
        known = {name: place for place, name in enumerate(dict.fromkeys(session))}
        lists["features"] += [[parts[name][item.ref] for name in self.names] for item in items]
        lists["question"] += [number] * len(items)
        lists["session"] += [known[name] for name in session]
        lists["wanted"] += [name in asked.evidence for name in turn]
        lists["wanted_session"] += [name in asked.sessions for name in session]
        lists["evidence"].append(len(asked.evidence))
        lists["sessions"].append(len(asked.sessions))
        lists["conversation"].append(int(told.user.removeprefix("user-")))
        lists["category"].append(asked.category)

    def table(self) -> Table:
        lists = self._held.lists
        return Table(
            self.names,
            np.array(lists["features"], np.float32).reshape(-1, len(self.names)),
            np.array(lists["question"], np.int64),
            np.array(lists["session"], np.int64),
            np.array(lists["wanted"], np.bool_),
            np.array(lists["wanted_session"], np.bool_),
            np.array(lists["evidence"], np.int64),
            np.array(lists["sessions"], np.int64),
            np.array(lists["conversation"], np.int64),
            np.array(lists["category"], np.str_),
        )
