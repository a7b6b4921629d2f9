"""What small models get wrong in a record, told by its form alone. A record with a slip gives way to the person's own
words. Found by reading what a model of 1.5 billion parameters wrote; a large one seldom trips any of these."""

from __future__ import annotations

import re
from collections.abc import Sequence

_QUESTION = re.compile(r"[?？]\s*$")
_FIRST_PERSON = re.compile(r"\bI\b|\b(?:my|me|mine|our|ours|us|we)\b(?!\s*\.)|[我咱](?!国)", re.IGNORECASE)
_QUOTES = re.compile(r"[“\"「『《].*?[”\"」』》]")
_TALK = re.compile(
    r"\b(?:asked|asks|wonders?|wondered|thanked|thanks|greeted|greets|wants? to (?:know|say|ask|thank)|would like to know|agrees?|"
    r"appreciates?|compliments?|complimented|congratulates?|congratulated|(?:is|was|feels?|felt) (?:so |very |really )?(?:proud of|happy for|"
    r"grateful|thankful|glad|impressed))\b"
    r"|(?:问了?|询问|感谢|谢谢|想知道|想问|打招呼|表示(?:感谢|理解|同意))",
    re.IGNORECASE,
)
_WISH = re.compile(r"\b(?:wants?|wishes|would like|hopes?|prefers?)\b|希望|想要|想让", re.IGNORECASE)
_WISHED = re.compile(
    r"\b(?:want|wish|would like|'d like|hope|prefer|rather|please|always|never|don['’]t|do not|stop|call me|from now on|plan|"
    r"going to|dream|love to|keen|remember|need|should|let|use|keep|try|intend|aim)\b|希望|想|要|请|以后|别|不要|总是|一直|"
    r"打算|计划|准备|叫我|记住|用",
    re.IGNORECASE,
)
_TWICE = re.compile(r"(?P<said>\b[\w ]{4,40}?) \[(?P=said)\]", re.IGNORECASE)
_AGAIN = re.compile(r"\b(?P<said>(?:in|on|of|at) (?:\w+ ){0,3}?\d{4})(?: (?P=said))+\b", re.IGNORECASE)
_MONTH = r"(?:January|February|March|April|May|June|July|August|September|October|November|December) \d{4}"
_ANEW = re.compile(rf"(?P<first>\b(?:in|on|of) (?P<date>(?:\d{{1,2}} )?{_MONTH})),? (?:in|on|of) (?P=date)\b")
_ON_MONTH = re.compile(rf"\bon (?={_MONTH})")


def tidied(text: str) -> str:
    """Dates that are told twice are told once: `in May 2026 [May 2026]`, `in 2020 in 2020`, `in May 2026 on May 2026`."""
    text = _TWICE.sub(lambda found: found["said"], text)
    text = _AGAIN.sub(lambda found: found["said"], text)
    return _ON_MONTH.sub("in ", _ANEW.sub(lambda found: found["first"], text)).strip()


def slip(text: str, said: str, speaker: str, people: Sequence[str]) -> str:
    """What is wrong with a record of what `speaker` `said`, "" when nothing is. `people` are all who talk."""
    bare = _QUOTES.sub("", text)
    if _QUESTION.search(text):
        return "a question"
    if _FIRST_PERSON.search(bare):
        return "it says I"
    if _TALK.search(bare):
        return "about the talk itself"
    if _WISH.search(bare) and not _WISHED.search(said):
        return "a wish that nobody had"
    if speaker and not _of(speaker, text, said, people):
        return "told of somebody else"
    return ""


def _of(speaker: str, text: str, said: str, people: Sequence[str]) -> bool:
    """Whether the one who is named first is the speaker, or somebody whom the speaker told something of.

    A name that is only called ("Thanks, Bea!") is not told of. Who talks alone need not be named.
    """
    places = {name: text.lower().find(name.lower()) for name in people}
    named = [name for name, place in places.items() if place >= 0]
    if not named:
        return len(people) < 2
    first = min(named, key=lambda name: places[name])
    return first == speaker or bool(re.search(rf"(?<!, )(?<!\w){re.escape(first)}(?![\w]*\s*[,!.?，。！？]|\w)", said))
