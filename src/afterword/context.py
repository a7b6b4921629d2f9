"""Hits → the text that goes into the prompt: dated, grouped, within a budget, and data from beginning to end.

What a memory says can't end the block it stands in, and a memory that reads like an order to the model is left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from afterword.dates import ago, day
from afterword.records import Hit, Kind, Ref, local_time
from afterword.texts import Language, cut, estimate_tokens

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["Context", "build_context", "estimate_tokens", "reads_like_an_order"]

OPEN, CLOSE = "<memories>", "</memories>"
_ORDER: tuple[Kind, ...] = ("semantic", "episodic", "turn")
_TITLES: dict[Language, dict[Kind, str]] = {
    "en": {"semantic": "Facts", "episodic": "What happened or was said", "turn": "Word for word, from earlier chats"},
    "zh": {"semantic": "事实", "episodic": "发生过或说过的事", "turn": "以前聊天的原话"},
}
_END: dict[Language, str] = {
    "en": "What is not written above is not known.",
    "zh": "上面没有写的，就是不知道的。",
}
_MARK = re.compile(
    r"[<＜‹〈]\s*/?\s*(?=memor)|<(?=\||/?(?:s|system|user|assistant|im_\w+)\b)|\[(?=/?INST\])", re.IGNORECASE
)
_ORDERS = re.compile(
    r"\b(?:ignore|disregard|forget|override|bypass)\b[^.\n]{0,30}\b(?:previous|prior|above|earlier|preceding|all|your|system|"
    r"these|the)\b[^.\n]{0,30}\b(?:instructions?|prompts?|rules?|guidelines|messages?|directions)\b|"
    r"(?:^|\n|[.!?]\s)\s*(?:\[|<|#+ ?)?(?:system|developer)(?: (?:prompt|message|note|override))?\s*[:：\]>]|"
    r"<\|\w+\|>|\[/?INST\]|\bnew (?:system )?instructions?\s*:|\byou are now (?:an?|in|the)\b|"
    r"\b(?:reveal|print|repeat|show|output|leak)\b[^.\n]{0,30}\b(?:system prompt|hidden instructions|your instructions|"
    r"your prompt)\b|"
    r"(?:忽略|无视|忘记|忘掉|不要理会|不理会|跳过)[^。\n]{0,12}(?:以上|之前|上面|前面|先前|所有|你的|系统)[^。\n]{0,12}"
    r"(?:指令|指示|提示|规则|内容|命令|要求|设定)|(?:^|\n)\s*(?:系统|系统提示|系统消息|系统指令)\s*[:：]|"
    r"(?:显示|输出|打印|泄露|重复|告诉我)[^。\n]{0,10}(?:系统提示|提示词|系统指令)|从现在起你(?:是|就是|将扮演)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Context:
    """The text, the records that are in it, and how many hits are not (no room, or they read like orders)."""

    text: str
    used: tuple[Ref, ...]
    left_out: int


@dataclass(frozen=True, slots=True)
class _Item:
    hit: Hit
    group: tuple[int, str, str]  # place of the kind, chat, date: what stands under one heading
    heading: str
    line: str


def reads_like_an_order(text: str) -> bool:
    """Whether the text speaks to the model about its instructions, as injected text does."""
    return bool(_ORDERS.search(text))


def build_context(
    hits: Sequence[Hit],
    *,
    now: datetime,
    budget_tokens: int,
    count: Callable[[str], int] = estimate_tokens,
    utc_offset: int = 0,
    language: Language = "en",
    allow_orders: bool = False,
) -> Context:
    """The hits, best first, as text of at most `budget_tokens` as `count` counts them; the best that fit are taken.

    Dates are those of the clock where it was said; how long ago is told from `now` at `utc_offset`. The same input
    gives the same text. Without hits that fit, the text says that nothing is remembered, or is empty when even that
    is over the budget.
    """
    seen: set[str] = set()
    kept: list[_Item] = []
    room = budget_tokens - count(_rendered([], language))
    for hit in hits:
        if hit.id in seen or (not allow_orders and reads_like_an_order(hit.text)):
            continue
        seen.add(hit.id)
        item = _item(hit, now, utc_offset, language, max(60, budget_tokens // 3))
        price = count(item.line + "\n") + sum(count(line + "\n") for line in _headings(item, kept, language))
        if price <= room:
            kept.append(item)
            room -= price
    text = _rendered(kept, language)
    while kept and count(text) > budget_tokens:  # a counter of whole texts may not add up
        kept.pop()
        text = _rendered(kept, language)
    if count(text) > budget_tokens:
        text = ""
    return Context(text, tuple(item.hit.ref for item in kept), len(hits) - len(kept))


def _item(hit: Hit, now: datetime, utc_offset: int, language: Language, limit: int) -> _Item:
    local = local_time(hit.said_at, hit.utc_offset).date()
    past = ago(local, local_time(now, utc_offset).date(), language)
    when = f"{day(local, language)}，{past}" if language == "zh" else f"{day(local, language)}, {past}"
    text = cut(_harmless(hit.text), limit)
    if hit.kind == "semantic":
        return _Item(
            hit, (0, "", ""), "", f"- {text}（{when}得知）" if language == "zh" else f"- {text} (as of {when})"
        )
    if hit.kind == "turn":
        text = f"{_speaker(hit, language)}: {text}"
    place = _ORDER.index(hit.kind)
    return _Item(hit, (place, hit.chat_id or "", local.isoformat()), when, f"- {text}")


def _speaker(hit: Hit, language: Language) -> str:
    if hit.speaker:
        return _harmless(hit.speaker)
    if language == "zh":
        return "用户" if hit.role == "user" else "助手"
    return "the user" if hit.role == "user" else "assistant"


def _harmless(text: str) -> str:
    """On one line, and without what could end the block or start a turn of the chat's format."""
    return " ".join(_MARK.sub("‹ ", text).split())


def _headings(item: _Item, kept: Sequence[_Item], language: Language) -> list[str]:
    """The headings that this item needs and that are not there yet."""
    lines = []
    if all(other.hit.kind != item.hit.kind for other in kept):
        lines.append(f"## {_TITLES[language][item.hit.kind]}")
    if item.heading and all(other.group != item.group for other in kept):
        lines.append(f"### {item.heading}")
    return lines


def _rendered(kept: Sequence[_Item], language: Language) -> str:
    """Facts first; then by chat, chats in order of their first date; by date within."""
    first: dict[tuple[int, str], str] = {}
    for item in kept:
        chat = item.group[:2]
        first[chat] = min(first.get(chat, item.group[2]), item.group[2])
    ordered = sorted(kept, key=lambda i: (i.group[0], first[i.group[:2]], i.group, i.hit.said_at, i.hit.ref))
    lines = [OPEN]
    shown: list[_Item] = []
    for item in ordered:
        lines += [*_headings(item, shown, language), item.line]
        shown.append(item)
    if not kept:
        lines.append("（还没有相关记忆）" if language == "zh" else "(nothing about this)")
    return "\n".join([*lines, CLOSE, _END[language]])
