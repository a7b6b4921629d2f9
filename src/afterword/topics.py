"""Which episodes are about one thing, and which of them can tell a lasting fact: by their words and their form.

A small model that is given a list of episodes copies it; given one topic at a time it can put it into a sentence.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from afterword.language.texts import content_words, language_of, own_words, share

if TYPE_CHECKING:
    from afterword.records import MemoryRecord

MOST = 5  # episodes of a topic
SHARED = 2  # words that two texts about one thing have in common, at least,
SHARE = 0.34  # and how much of the shorter one that is
EVERYWHERE = 0.4  # of the episodes: a word that stands in so many tells no topic apart
FEW = 8  # episodes: among fewer, no word stands everywhere

_ONCE = re.compile(
    r"\d{1,2} (?:January|February|March|April|May|June|July|August|September|October|November|December)\b|\d{4}-\d\d-\d\d|"
    r"\[[^\]]*\d[^\]]*\]|\b(?:yesterday|tomorrow|today|tonight|last (?:week|night|month)|next (?:week|month)|just|about to|off to|"
    r"going to|is (?:thrilled|excited|happy|sad|glad|grateful|swamped|tired|busy|looking forward)|feels?|felt)\b|"
    r"\d{1,2}月\d{1,2}日|昨天|明天|今天|刚刚|刚才|上周|下周|打算|准备去",
    re.IGNORECASE,
)
_OF_DATE = re.compile(
    r"\d|^(?:january|februari|march|april|may|june|juli|august|septemb|octob|novemb|decemb)", re.IGNORECASE
)
_LASTS = re.compile(
    r"\b(?:is|are|am|has|have|lives?|works?|likes?|loves?|hates?|prefers?|wants?|speaks?|teach(?:es)?|eats?|drinks?|plays?|owns?|"
    r"stud(?:y|ies)|needs?|avoids?|never|always|every|each|called|named|don['’]t|doesn['’]t|does not|do not|can(?:no|['’])t|"
    r"allergic|dream|goal|fan|married|since)\b|['’](?:m|s|re|ve)\b|"
    r"[是叫有住爱姓]|喜欢|讨厌|过敏|希望|工作|上班|养|属于|不吃|不喝|不能|总是|从不|每[天周年]|习惯|当|做|读|家",
    re.IGNORECASE,
)


_CHANGES = re.compile(
    r"\b(?:moved to|became|married|divorced|engaged|retired|graduated|adopted|was born|quit|gave up|started (?:work|a job|as)|"
    r"no longer|used to)\b|搬[到去家]|结婚|离婚|订婚|退休|毕业|辞职|不再|出生",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Topic:
    """Episodes about one thing, and the fact that is known of it: numbers from 1; `fact` is 0 where none is."""

    episodes: tuple[int, ...]
    fact: int


def lasting(text: str) -> bool:
    """Whether it has the form of something that stays so: neither a day nor a mood, but what is, has, likes, wants.

    What changes how somebody lives (moved, married, quit) lasts, on whatever day it was.
    """
    plain = own_words(text)
    return bool(_CHANGES.search(plain)) or (bool(_LASTS.search(plain)) and not _ONCE.search(plain))


def topics(episodes: Sequence[MemoryRecord], facts: Sequence[MemoryRecord]) -> list[Topic]:
    """The topics of these episodes that may change the facts, in the order of their first episode."""
    words = _telling([_words(episode.text) for episode in episodes])
    people = subjects(episodes)
    of = [subject(episode.text) for episode in episodes]
    groups: list[list[int]] = []
    for place, own in enumerate(words):
        near = [
            group
            for group in groups
            if len(group) < MOST
            and any(_alike(own, words[other]) for other in group)
            and not any(of[other] != of[place] and {of[other], of[place]} <= people for other in group)
        ]
        if near:
            near[0].append(place)
        else:
            groups.append([place])
    known = [_words(fact.text) for fact in facts]
    found = [(group, _known([words[place] for place in group], known)) for group in groups]
    return [
        Topic(tuple(place + 1 for place in group), fact)
        for group, fact in found
        if fact or len(group) > 1 or _stable(episodes[group[0]])
    ]


def subject(text: str) -> str:
    """What a record begins with: the name of who it is about, `The user`; of a Chinese one its first two characters."""
    words = text.split(maxsplit=2)
    if not words or language_of(text) == "zh":
        return text[:2]
    first = re.sub(r"['’]s$", "", words[0])
    return f"{first} {words[1]}" if first.lower() == "the" and len(words) > 1 else first


def subjects(episodes: Sequence[MemoryRecord]) -> frozenset[str]:
    """Those that more than one episode is about: they are not to be mixed up."""
    counts = Counter(subject(episode.text) for episode in episodes)
    return frozenset(name for name, count in counts.items() if count > 1)


def _stable(episode: MemoryRecord) -> bool:
    kind = episode.metadata.get("kind")
    return kind == "preference_or_instruction" or (kind != "plan_or_event" and lasting(episode.text))


def _words(text: str) -> frozenset[str]:
    """Without what is of a date: two things that were said on one day are not about one thing."""
    return frozenset(word for word in content_words(own_words(text)) if not _OF_DATE.search(word))


def _telling(words: list[frozenset[str]]) -> list[frozenset[str]]:
    """The words that tell episodes apart: not the name that nearly all of them are about."""
    counts = Counter(word for own in words for word in own)
    everywhere = {word for word, count in counts.items() if count >= FEW and count > EVERYWHERE * len(words)}
    return [own - everywhere for own in words]


def _alike(one: frozenset[str], other: frozenset[str]) -> bool:
    common = one & other
    return len(common) >= SHARED and len(common) >= SHARE * min(len(one), len(other))


def _known(group: Sequence[frozenset[str]], facts: Sequence[frozenset[str]]) -> int:
    """The number of the fact that shares most with the group, 0 if none shares enough."""
    told: frozenset[str] = frozenset().union(*group)
    near = [(share(fact, told), -place, place + 1) for place, fact in enumerate(facts) if _alike(fact, told)]
    return max(near)[2] if near else 0
