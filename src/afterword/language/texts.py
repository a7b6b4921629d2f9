"""Plain measures of text: its language, its length in tokens, its sentences, and how much two texts share."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

from afterword.language.tokens import tokens

Language = Literal["en", "zh"]

_CJK = re.compile(r"[\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uffef\uac00-\ud7af]")
_HAN = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]")
_DIGIT = re.compile(r"[0-9]")
_LETTER = re.compile(r"[^\W\d_]")
_SENTENCE = re.compile(r"(?<=[.!?…])[\"'”’)]*\s+|(?<=[。！？；!?])(?=[^\s.。！？!?”’」])|\n+")
_SPEAKER = re.compile(r"[^\n:：]{1,60}: ")
CUT = " […]"

_STOP = """
a an the this that these those and or but if so as of at by for from in into on onto out over to up with about than
then there here it its he him his she her hers they them their theirs we us our ours you your yours i me my mine am is
are was were be been being do does did done have has had having will would can could shall should may might must not no
nor yes ok okay just very really quite too also only some any all more most much many such own same other another what
which who whom whose when where why how user assistant said says say told tell tells on ago now today yes please thanks
thank hi hello got get gets go goes went like know think want i'm i've i'll i'd it's
that's don't didn't isn't aren't wasn't won't can't doesn't you're he's she's we're they're there's what's let's
的 了 是 在 和 与 及 或 也 都 就 还 又 很 太 更 最 我 你 他 她 它 我们 你们 他们 她们 自己 这 那 这个 那个 这些 那些 什么 怎么
吗 呢 吧 啊 呀 哦 嗯 有 没 没有 不 要 会 能 可以 想 说 说过 告诉 让 给 把 被 对 从 到 上 下 里 个 一 一个 用户 助手 谢谢 请 好 好的
年 月 日 号 天 于 为 以 及 因为 所以 但 但是 而 其 之 等 着 过 去 来 做
"""
_SAID_ON = re.compile(
    r"^.{1,80}? said on \d{1,2} \w+ \d{4}(?:, asked “[^”]*”)?: |^.{1,60}?在\d{4}年\d{1,2}月\d{1,2}日(?:被问“[^”]*”时)?说："
)


def language_of(text: str) -> Language:
    """`zh` where a fifth of the letters or more are Chinese characters, else `en`: names in Latin script weigh more."""
    if text.isascii():  # most are, and everything is asked
        return "en"
    letters = len(_LETTER.findall(text))
    return "zh" if letters and len(_HAN.findall(text)) >= 0.2 * letters else "en"


def estimate_tokens(text: str) -> int:
    """A careful guess without a tokenizer: 1 a CJK character, 1 for each 3 bytes of UTF-8 of the rest."""
    wide = 0 if text.isascii() else len(_CJK.findall(text))
    rest = len(text.encode("utf-8", "replace")) - 3 * wide
    return wide + -(-rest // 3)


def prompt_tokens(text: str) -> int:
    """The same, erring upwards further: 1 a digit, as many models have it. Dates and tables of numbers hold many."""
    return estimate_tokens(text) + -(-2 * len(_DIGIT.findall(text)) // 3)


def cut(text: str, limit: int) -> str:
    """The text, or as much of its beginning as fits `limit` estimated tokens together with the mark of the cut."""
    if estimate_tokens(text) <= limit:
        return text
    return text[: _fitting(text, limit - estimate_tokens(CUT))].rstrip() + CUT


def excerpt(text: str, wanted: frozenset[str], limit: int) -> str:
    """The text, or the sentences of it that hold most of the wanted content words, in order, within `limit` tokens.

    What is left of the room goes to the sentences that follow those. Gaps are marked.
    """
    if estimate_tokens(text) <= limit:
        return text
    parts = sentences(text)
    shared = [len(content_words(part) & wanted) for part in parts]
    if len(parts) < 2 or not any(shared):
        return cut(text, limit)
    prices = [estimate_tokens(part) + 1 for part in parts]
    taken = _taken(shared, prices, limit - 2 * estimate_tokens(CUT))
    if not taken:
        return cut(parts[shared.index(max(shared))], limit)
    pieces = [
        parts[place] if place == 0 or place - 1 in taken else f"{CUT.strip()} {parts[place]}" for place in sorted(taken)
    ]
    return " ".join(pieces) + ("" if len(parts) - 1 in taken else CUT)


def _taken(shared: list[int], prices: list[int], room: int) -> set[int]:
    """Places of the sentences that are worth most and fit, then of those that follow them."""
    taken: set[int] = set()
    best = sorted((place for place, count in enumerate(shared) if count), key=lambda place: (-shared[place], place))
    gap = estimate_tokens(CUT)
    for place in [*best, *(place + 1 for place in best)]:
        if place < len(prices) and place not in taken and prices[place] + gap <= room:
            taken.add(place)
            room -= prices[place] + (0 if place - 1 in taken else gap)
    return taken


def _fitting(text: str, limit: int) -> int:
    """How many characters from the start fit `limit` tokens."""
    low, high = 0, min(len(text), 3 * max(limit, 0))
    while low < high:
        middle = (low + high + 1) // 2
        if estimate_tokens(text[:middle]) <= limit:
            low = middle
        else:
            high = middle - 1
    return low


def sentences(text: str) -> list[str]:
    """Sentences of English and Chinese, without the blanks around them."""
    return [part.strip() for part in _SENTENCE.split(text) if part and part.strip()]


def joined(parts: Sequence[str]) -> str:
    """Sentences as one text: Chinese has no blank between them."""
    text = ""
    for part in parts:
        gap = "" if not text or _CJK.match(text[-1]) or _CJK.match(part) else " "
        text += gap + part
    return text


def windows(text: str, max_tokens: int, most: int = 16) -> list[str]:
    """The text in pieces of at most `max_tokens` estimated tokens, on sentence ends where there are any.

    Neighbours share their border sentence when it is short. A speaker's name (`Ann: …`) stands before each piece. Of
    more than `most` pieces, `most` are taken, spread evenly from the first to the last.
    """
    if estimate_tokens(text) <= max_tokens:
        return [text]
    named = _SPEAKER.match(text)
    prefix = named.group() if named and estimate_tokens(named.group()) * 4 < max_tokens else ""
    pieces = _packed(_units(text[len(prefix) :], max_tokens - estimate_tokens(prefix)), max_tokens, prefix)
    if len(pieces) > most:
        step = (len(pieces) - 1) / max(1, most - 1)
        pieces = [pieces[round(place * step)] for place in range(most)]
    return pieces


def opening(text: str, max_tokens: int) -> str:
    """The first of the text's windows."""
    return windows(text[: 4 * max_tokens], max_tokens)[0]


def _units(text: str, room: int) -> list[str]:
    units: list[str] = []
    for sentence in sentences(text):
        rest = sentence
        while estimate_tokens(rest) > room:
            end = _fitting(rest, room)
            blank = rest.rfind(" ", end // 2, end)
            end = max(1, blank if blank > 0 else end)
            units.append(rest[:end])
            rest = rest[end:].lstrip()
        if rest:
            units.append(rest)
    return units


def _packed(units: list[str], max_tokens: int, prefix: str) -> list[str]:
    pieces: list[str] = []
    held: list[str] = []
    for unit in units:
        if held and estimate_tokens(prefix + " ".join([*held, unit])) > max_tokens:
            pieces.append(prefix + " ".join(held))
            border = held[-1]
            again = estimate_tokens(border) * 4 <= max_tokens and len(held) > 1
            held = [border] if again and estimate_tokens(f"{prefix}{border} {unit}") <= max_tokens else []
        held.append(unit)
    if held:
        pieces.append(prefix + " ".join(held))
    return pieces


@lru_cache(maxsize=1)
def _stop_tokens() -> frozenset[str]:
    return frozenset(token for word in _STOP.split() for token in tokens(word)) | frozenset(_STOP.split())


def own_words(text: str) -> str:
    """A record that rules made, without who said it and when: what was said, in the person's words."""
    return _SAID_ON.sub("", text)


@lru_cache(maxsize=4096)
def content_words(text: str) -> frozenset[str]:
    """The text's tokens without the words that every text has."""
    return frozenset(tokens(text)) - _stop_tokens()


def share(part: frozenset[str], whole: frozenset[str]) -> float:
    """How much of `part` is in `whole`, from 0 to 1; an empty part shares nothing."""
    return len(part & whole) / len(part) if part else 0.0


def alike(one: frozenset[str], other: frozenset[str]) -> float:
    """How much of the larger of both is in the other, from 0 to 1."""
    return len(one & other) / max(len(one), len(other)) if one and other else 0.0
