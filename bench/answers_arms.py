"""What an LLM may be given for a question: nothing, the last turns, plain BM25 hits, Afterword's context, the evidence.

Every text is held to the same budget by the same count (`texts.prompt_tokens`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

from afterword.context.text import build_context
from afterword.language.dates import day
from afterword.language.texts import cut, language_of, prompt_tokens
from afterword.language.tokens import tokens
from afterword.records import Hit, Ref
from bench.recall_data import Said

NONE, LAST, PLAIN, OURS, GOLD = "none", "last", "bm25", "afterword", "gold"
ARMS = (NONE, LAST, PLAIN, OURS, GOLD)
K1, B = 1.2, 0.75


def line_of(said: Said) -> str:
    """`[8 May 2023] Ann: I moved.`: the least that a plain history needs, its date and speaker."""
    turn = said.turns[0]
    text = " ".join(" ".join(part.text for part in said.turns).split())
    language = language_of(text)
    who = turn.speaker or ("user" if turn.role == "user" else "assistant")
    date = f"[{day(turn.said_at, language, weekday=False)}] " if turn.said_at else ""
    return f"{date}{who}: {text}"


class Lines:
    """The lines of the turns that were said before a question, and plain BM25 over them (Robertson, Zaragoza)."""

    def __init__(self, said: Sequence[Said]) -> None:
        self.said = list(said)
        self.lines = [line_of(one) for one in said]
        self.prices = [prompt_tokens(line + "\n") for line in self.lines]
        self._counts = [Counter(tokens(line)) for line in self.lines]
        self._lengths = [sum(counts.values()) for counts in self._counts]
        self._documents = Counter(token for counts in self._counts for token in counts)

    def last(self, budget: int) -> str:
        """The newest that fit, in their order."""
        kept: list[str] = []
        for line, price in zip(reversed(self.lines), reversed(self.prices), strict=True):
            if price > budget:
                break
            kept.append(line)
            budget -= price
        return "\n".join(reversed(kept))

    def best(self, query: str, budget: int) -> str:
        """The best that fit, best first; of one that does not, its beginning."""
        kept: list[str] = []
        for place in self._ranked(query):
            line, price = self.lines[place], self.prices[place]
            if price > budget:
                if budget >= 20:
                    kept.append(cut(line, budget - 1))
                break
            kept.append(line)
            budget -= price
        return "\n".join(kept)

    def _ranked(self, query: str) -> list[int]:
        total, mean = len(self.lines), sum(self._lengths) / max(1, len(self.lines))
        scores = [0.0] * total
        for token in set(tokens(query)):
            found = self._documents.get(token, 0)
            if not found:
                continue
            idf = math.log(1 + (total - found + 0.5) / (found + 0.5))
            for place, counts in enumerate(self._counts):
                if count := counts.get(token, 0):
                    scores[place] += idf * count / (count + K1 * (1 - B + B * self._lengths[place] / mean))
        order = sorted(range(total), key=lambda place: (-scores[place], place))
        return [place for place in order if scores[place] > 0]


def hits_of(said: Iterable[Said]) -> Iterator[Hit]:
    """Turns as Afterword would show them."""
    for place, one in enumerate(said):
        for part in one.turns:
            moment = part.said_at or datetime.now(UTC)
            ref = Ref(str(part.turn_id), 1)
            yield Hit(
                ref,
                "turn",
                part.text,
                1.0,
                {},
                moment,
                0,
                chat_id=part.chat_id,
                role=part.role,
                speaker=part.speaker,
                position=place,
            )


def gold(said: Sequence[Said], evidence: frozenset[str], query: str, now: datetime, budget: int) -> str:
    """The evidence as Afterword shows what it found, so that the ceiling is one of finding alone."""
    hits = list(hits_of(one for one in said if one.id in evidence))
    return build_context(hits, now=now, budget_tokens=budget, language=language_of(query), query=query).text
