"""Whether what was found fits the message at all: small talk, and what nothing is known about, bring no memories. Pure.

Two kinds of evidence, each absolute. By words: how many of the message's telling words a single record says too, or a
name that both give. By meaning: how far the nearest record stands out from what this user's records are to this message
in general, as a share of the way from there to the message's very words. A share, because cosines mean something else
with every model: with multilingual-e5 unrelated texts lie at .75, with others at .1.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from afterword.decisions import names_in
from afterword.language.questions import asks, names
from afterword.language.smalltalk import asks_for_memory, asks_of_oneself, is_small_talk, telling_words
from afterword.language.texts import content_words, sentences
from afterword.language.tokens import tokens
from afterword.rules import corrects

if TYPE_CHECKING:
    from afterword.recall import Recalled
    from afterword.records import Hit

_CAPITALISED = re.compile(r"\b[A-Z][a-zA-Z-]+\b")

Legs = Mapping[str, float]

NEAR = 0.3  # of the way: near enough without a word in common
NEAR_ANY_WAY = 0.4  # the same with a model whose vectors lie in all directions: there, chance reaches further
ONE_CONE = 0.25  # mean cosine from which on a model's vectors lie in one direction
NOT_FAR = 0.2  # of the way: enough where they ask about themselves; below this, words in common are chance
ONE_WORD = 0.5  # of the telling words, where a record says only one of them
ONE_WORD_OF_ONESELF = 0.25  # the same where they ask about themselves: that is what a memory is for
MANY = 8  # telling words: of a longer message no record says the same share
TWO_WORDS = 0.3  # where it says two or more
FEW = 20  # records of a user below which a question is let through more easily: there is little to be mistaken in
LOOKED_AT = 30  # best hits: what fits, if anything does, is among them
LONG = 4_000  # characters of a hit that are looked at
SENTENCES = 20  # of a message, its last: what is asked about a long paste stands at its end
SHORT = 300  # characters of a text in which the characters of a word stand together by no chance


def fitting(query: str, recalled: Recalled) -> tuple[Hit, ...]:
    """The hits, best first, if any of them fits the query; else none. A memory that shows no raw scores is trusted."""
    if is_small_talk(query):
        return ()
    if not recalled.legs or asks_for_memory(query) or _fits(query, recalled):
        return recalled.hits
    return ()


def _fits(query: str, recalled: Recalled) -> bool:
    oneself = asks_of_oneself(query)
    telling = [hit for hit in recalled.hits[:LOOKED_AT] if len(hit.text) > SHORT or not is_small_talk(hit.text)]
    near = {hit.ref: nearness(recalled.legs.get(hit.ref, {})) for hit in telling}
    meant = max(near.values(), default=-1.0)
    cone = any(recalled.legs.get(hit.ref, {}).get("dense_mean", 0.0) >= ONE_CONE for hit in telling[:1])
    if meant >= (NEAR if cone else NEAR_ANY_WAY) or (oneself and meant >= (NOT_FAR if cone else NEAR)):
        return True
    if asks(query) and (
        (_few(recalled) and (oneself or _touches(query, telling))) or _asks_of_a_speaker(query, telling)
    ):
        return True
    one_word = ONE_WORD_OF_ONESELF if oneself else ONE_WORD
    one_word = 0.0 if corrects(query) else one_word  # what a message takes back must be found, for it to be revised
    # words in common are chance with what is far in meaning (not with what has no vector yet); of oneself, they are not
    able = telling if oneself else [hit for hit in telling if not (cone and 0 <= near[hit.ref] < NOT_FAR)]
    return any(_fits_by_words(part, able, one_word) for part in sentences(query)[-SENTENCES:])


def _few(recalled: Recalled) -> bool:
    return any(legs.get("records", FEW) < FEW for legs in recalled.legs.values())


def _touches(query: str, hits: Sequence[Hit]) -> bool:
    """Whether any record says a single one of the telling words."""
    wanted = telling_words(query)
    return any(word in frozenset(tokens(text)) or _spelt(word, text, 1) for text in map(_told, hits) for word in wanted)


def _asks_of_a_speaker(query: str, hits: Sequence[Hit]) -> bool:
    """Whether it gives the name of somebody who spoke in what was found: then it is about what they said."""
    return any(names(speaker, query) for speaker in {hit.speaker for hit in hits if hit.speaker})


def _fits_by_words(part: str, hits: Sequence[Hit], one_word: float) -> bool:
    """A sentence of the message against each record: what a long message asks stands in one of its sentences."""
    wanted = telling_words(part) or (content_words(part) if one_word < ONE_WORD else frozenset())
    named = frozenset(name.lower() for name in _CAPITALISED.findall(part) if wanted.intersection(tokens(name)))
    return any(_says(wanted, _told(hit), one_word) or _names(named, hit) for hit in hits)


def _told(hit: Hit) -> str:
    return f"{hit.speaker or ''} {hit.text[:LONG]}"


def _names(named: frozenset[str], hit: Hit) -> bool:
    """Whether the record gives, or was said by, one of these."""
    return bool(named) and not named.isdisjoint(names_in(hit.text[:LONG]) | set((hit.speaker or "").lower().split()))


def _says(wanted: frozenset[str], text: str, one_word: float) -> bool:
    words, shortest = frozenset(tokens(text)), 1 if one_word < ONE_WORD else 2
    same = [word for word in wanted if word in words or _spelt(word, text, shortest)]
    if all(word.isdecimal() for word in same):
        return False
    return len(same) / min(len(wanted), MANY) >= (min(TWO_WORDS, one_word) if len(same) > 1 else one_word)


def _spelt(word: str, text: str, shortest: int) -> bool:
    """Whether a Chinese word stands in the text, cut otherwise: where a word ends is told differently each time."""
    if word.isascii() or len(word) < shortest:
        return False
    return word in text or (len(text) <= SHORT and all(character in text for character in word))


def nearness(legs: Legs) -> float:
    """How far a record stands out, 0 to 1; -1 where its meaning is not known."""
    cosine, mean = legs.get("dense"), legs.get("dense_mean", 1.0)
    if cosine is None or not math.isfinite(cosine) or mean >= 1.0:
        return -1.0
    return max(0.0, (cosine - mean) / (1.0 - mean))
