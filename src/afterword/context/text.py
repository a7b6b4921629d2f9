"""Hits → the text that goes into the prompt: dated, grouped, within a budget, and data from beginning to end.

What a memory says can't end the block it stands in, and a memory that reads like an order to the model is left out.
Pure: the same input gives the same text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from afterword.context.wording import (
    BESIDE_TOKENS,
    Ended,
    Reader,
    before_note,
    ended_note,
    fact_line,
    harmless,
    heading,
    later_note,
    order_note,
    question_line,
    reads_like_an_order,
    said_line,
    standing_line,
)
from afterword.decisions import names_in
from afterword.language.texts import Language, content_words, prompt_tokens
from afterword.records import Hit, Ref, local_time

__all__ = ["Beside", "Context", "Ended", "Known", "build_context", "prompt_tokens", "reads_like_an_order"]

OPEN, CLOSE = "<memories>", "</memories>"
STANDING_SHARE = 0.15  # of the budget, at most, for what always comes along
STANDING_TOKENS = 60  # of one standing fact
LONGEST = 4  # no record takes more than one part in so many of the budget
LEAST = 60  # tokens that it may take anyway
TOLD = 0.9  # of a line's content words: what another line of the same chat and day says too is not told twice
STANDING, FACTS, SAID = 0, 1, 2  # the parts of the text
MEMORY_LAST = 1 << 40  # a memory's place in its chat: behind the turns of the same moment

_TITLES: dict[Language, tuple[str, str, str]] = {
    "en": ("Who they are, what they avoid, how they want to be answered", "Facts", "From earlier chats, by date"),
    "zh": ("对方是谁，忌什么，希望怎样被回答", "事实", "以前的聊天，按日期"),
}
_END: dict[Language, str] = {
    "en": "What is not written above is not known.",
    "zh": "上面没有写的，就是不知道的。",
}
_NOTHING: dict[Language, str] = {"en": "(nothing about this)", "zh": "（还没有相关记忆）"}


@dataclass(frozen=True, slots=True)
class Beside:
    """The neighbouring turns that a hit needs: the question before an answer, the answer after a question."""

    question: Hit | None = None
    answer: Hit | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """What belongs to the hits: neighbours by the hit's id, standing facts (the weightiest first), what no longer
    holds by the id of the record that says it, what held before a fact by that fact's id, what was said later by the id
    of a turn whose episode was revised; and the ids of replies that only echo what is remembered, which are left out."""

    beside: Mapping[str, Beside] = field(default_factory=dict)
    standing: Sequence[Hit] = ()
    ended: Mapping[str, Ended] = field(default_factory=dict)
    before: Mapping[str, Ended] = field(default_factory=dict)
    later: Mapping[str, str] = field(default_factory=dict)
    echoes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Context:
    """The text; the hits that are in it, best first; neighbours and standing facts that came along; how many hits are
    not there (no room, or they read like orders), and those of them that read like orders."""

    text: str
    used: tuple[Ref, ...]
    left_out: int
    beside: tuple[Hit, ...] = ()
    standing: tuple[Hit, ...] = ()
    orders: tuple[Ref, ...] = ()


@dataclass(frozen=True, slots=True)
class _Item:
    hit: Hit
    part: int  # STANDING, FACTS or SAID
    group: tuple[str, str]  # date and chat: what stands under one heading
    line: str
    role: str = "hit"  # or "beside", "standing"


def build_context(
    hits: Sequence[Hit],
    *,
    now: datetime,
    budget_tokens: int,
    count: Callable[[str], int] = prompt_tokens,
    utc_offset: int = 0,
    language: Language = "en",
    allow_orders: bool = False,
    known: Known | None = None,
    query: str = "",
    says_nothing: bool = True,
) -> Context:
    """The hits, best first, as text of at most `budget_tokens` as `count` counts them; the best that fit are taken.

    Dates are those of the clock where it was said; how long ago is told from `now` at `utc_offset`. Of a long record
    stand the sentences that share words with `query`. Standing facts take at most `STANDING_SHARE` of the budget.
    The same input gives the same text. Without anything to tell, the text says that nothing is remembered about this
    (empty where `says_nothing` is False, or where even that is over the budget).
    """
    reader = Reader(now, utc_offset, language, content_words(query) if query else frozenset())
    page = _Page(reader, budget_tokens, count, allow_orders, known or Known())
    page.add_standing()
    for hit in hits:
        page.add(hit)
    return page.finished(hits, query, says_nothing=says_nothing)


class _Page:
    """The text as it fills."""

    def __init__(
        self, reader: Reader, budget: int, count: Callable[[str], int], allow_orders: bool, known: Known
    ) -> None:
        self._reader = reader
        self._budget = budget
        self._count = count
        self._allow_orders = allow_orders
        self._known = known
        self._kept: list[_Item] = []
        self._ids: set[str] = set()
        self._orders: dict[Ref, None] = {}
        self._told: dict[str, list[Hit]] = {}  # by the record whose line says all that they say
        self._room = budget - count(_rendered([], reader))
        self._longest = max(LEAST, budget // LONGEST)

    # ── filling ────────────────────────────────────────────────────────────────────────────────────────────────────

    def add_standing(self) -> None:
        room = int(STANDING_SHARE * self._budget)
        for hit in self._known.standing:
            item = _Item(hit, STANDING, ("", ""), standing_line(hit, self._reader, STANDING_TOKENS), "standing")
            price = self._price([item])
            if hit.id not in self._ids and price <= room and not self._is_order(hit) and self._take([item]):
                room -= price

    def add(self, hit: Hit) -> None:
        """The hit with its neighbours, or alone, or not at all."""
        order = self._is_order(hit)
        if order and not self._allow_orders:
            return
        if hit.id in self._ids:  # it came along already, as a neighbour or a standing fact
            self._told.setdefault(hit.id, []).append(hit)
            return
        item = self._item(hit, order)
        teller = next((one for one in self._kept if _tells(one, item)), None)
        if teller is not None:
            self._told.setdefault(teller.hit.id, []).append(hit)
            return
        told = [one for one in self._kept if one.role == "hit" and _tells(item, one)]
        beside = [one for one in self._beside(hit) if not self._is_order(one.hit) and not self._is_told(one)]
        self._drop(told)
        if (beside and self._take([item, *beside])) or self._take([item]):
            self._told[hit.id] = [other for one in told for other in (one.hit, *self._told.pop(one.hit.id, ()))]
        else:
            self._take(told)

    def _is_told(self, item: _Item) -> bool:
        return item.hit.id in self._ids or any(_tells(one, item) for one in self._kept)

    def _drop(self, items: Sequence[_Item]) -> None:
        self._kept = [one for one in self._kept if one not in items]
        self._room += sum(self._count(item.line + "\n") for item in items)

    def _is_order(self, hit: Hit) -> bool:
        found = reads_like_an_order(hit.text)
        if found:
            self._orders[hit.ref] = None
        return found

    def _take(self, items: list[_Item]) -> bool:
        price = self._price(items)
        if price > self._room:
            return False
        self._kept += items
        self._ids |= {item.hit.id for item in items}
        self._room -= price
        return True

    def _price(self, items: list[_Item]) -> int:
        price, there = 0, list(self._kept)
        for item in items:
            lines = [*_headings(item, there, self._reader), item.line]
            price += sum(self._count(line + "\n") for line in lines)
            there.append(item)
        return price

    def _item(self, hit: Hit, order: bool) -> _Item:
        if hit.kind == "semantic":
            line, part, group = fact_line(hit, self._reader, self._longest), FACTS, ("", "")
        else:
            line, part, group = said_line(hit, self._reader, self._longest), SAID, _group(hit)
        ended, before = self._known.ended.get(hit.id), self._known.before.get(hit.id)
        mark = order_note(self._reader) if order else ""
        note = ended_note(ended, self._reader) if ended else self._later(hit)
        note += before_note(before, self._reader) if before and not reads_like_an_order(before.text) else ""
        return _Item(hit, part, group, f"- {mark}{line[2:]}{note}")

    def _later(self, hit: Hit) -> str:
        later = self._known.later.get(hit.id, "")
        return later_note(later, self._reader) if later else ""

    def _beside(self, hit: Hit) -> Iterator[_Item]:
        needs = self._known.beside.get(hit.id, Beside())
        if needs.question is not None:
            line = question_line(needs.question, self._reader)
            yield _Item(needs.question, SAID, _group(needs.question), line, "beside")
        if needs.answer is not None:
            line = said_line(needs.answer, self._reader, min(self._longest, BESIDE_TOKENS))
            yield _Item(needs.answer, SAID, _group(needs.answer), line, "beside")

    # ── the end ────────────────────────────────────────────────────────────────────────────────────────────────────

    def finished(self, hits: Sequence[Hit], query: str, *, says_nothing: bool) -> Context:
        kept = self._kept
        text = _rendered(kept, self._reader)
        while kept and self._count(text) > self._budget:  # a counter of whole texts may not add up
            kept.pop()
            text = _rendered(kept, self._reader)
        if self._count(text) > self._budget or not (kept or says_nothing):
            text = ""
        unknown = _unmentioned(query, text, self._reader) if kept else ""
        if unknown and self._count(text + unknown) <= self._budget:
            text += unknown
        used = self._used()
        return Context(
            text,
            tuple(dict.fromkeys(hit.ref for hit in hits if hit.ref in used)),
            len(hits) - len(used),
            tuple(item.hit for item in kept if item.role == "beside"),
            tuple(item.hit for item in kept if item.role == "standing"),
            tuple(self._orders),
        )

    def _used(self) -> set[Ref]:
        shown = [item.hit for item in self._kept if item.role == "hit"]
        told = [hit for item in self._kept for hit in self._told.get(item.hit.id, ())]
        return {hit.ref for hit in (*shown, *told)}


def _tells(one: _Item, other: _Item) -> bool:
    """Whether a line of the same day and chat says all that another says."""
    if one.part != SAID or one.group != other.group:
        return False
    words = content_words(other.line)
    return len(words & content_words(one.line)) >= TOLD * len(words) > 0


def _group(hit: Hit) -> tuple[str, str]:
    return local_time(hit.said_at, hit.utc_offset).date().isoformat(), hit.chat_id or ""


def _headings(item: _Item, there: Sequence[_Item], reader: Reader) -> list[str]:
    """The headings that this item needs and that are not there yet."""
    lines = []
    if all(other.part != item.part for other in there):
        lines.append(f"## {_TITLES[reader.language][item.part]}")
    if item.part == SAID and all(other.group != item.group for other in there):
        again = any(other.group[0] == item.group[0] for other in there)
        lines.append(heading(item.hit, reader, again=again))
    return lines


def _rendered(kept: Sequence[_Item], reader: Reader) -> str:
    """Standing facts as they came, lasting ones by date, then what was said: by date, chat, and place in the chat."""
    lines = [OPEN]
    shown: list[_Item] = []
    for item in sorted(kept, key=_place):
        lines += [*_headings(item, shown, reader), item.line]
        shown.append(item)
    if not kept:
        lines.append(_NOTHING[reader.language])
    return "\n".join([*lines, CLOSE, _END[reader.language]])


def _place(item: _Item) -> tuple[object, ...]:
    if item.part == STANDING:
        return (STANDING,)
    hit = item.hit
    in_chat = MEMORY_LAST if hit.position is None else hit.position
    return item.part, item.group, hit.said_at, in_chat, hit.ref


def _unmentioned(query: str, text: str, reader: Reader) -> str:
    """A sentence on the names that the query gives and that stand nowhere in the text."""
    low = text.lower()
    names = [name for name in sorted(names_in(query)) if name not in low][:3]
    found = [re.search(re.escape(name), query, re.IGNORECASE) for name in names]
    listed = ", ".join(harmless(match.group()) for match in found if match)
    if not listed:
        return ""
    return f"其中没有提到：{listed}。" if reader.zh else f" Nothing above mentions: {listed}."
