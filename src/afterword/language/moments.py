"""When something was said, as tokens: so that a question that names a day, a month or a year finds what was said then.

A record's moment and the dates that a query names become the same tokens, in either language. They can't be anybody's
words: `tokens` never makes a token with a colon.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date, datetime
from functools import lru_cache

from afterword.language.dates import MONTHS, annotated

_MONTH = "|".join(name if name == "May" else f"{name}|{name[:3]}" for name in MONTHS)
_DAY = r"(?P<day>[12]\d|3[01]|0?[1-9])(?:st|nd|rd|th)?"
_YEAR = r"(?P<year>(?:19|20)\d\d)"
_NAMED = (
    re.compile(rf"\b{_DAY}(?: of)? (?P<month>{_MONTH})\b\.?(?:,? {_YEAR}\b)?", re.IGNORECASE),
    re.compile(rf"\b(?P<month>{_MONTH})\b\.? {_DAY}\b(?:,? {_YEAR}\b)?", re.IGNORECASE),
    re.compile(rf"\b(?P<month>{_MONTH})\b\.?,? (?:of )?{_YEAR}\b", re.IGNORECASE),
    re.compile(rf"\b{_YEAR}[-/.](?P<month>1[0-2]|0?[1-9])(?:[-/.]{_DAY})?(?!\d)"),
    re.compile(rf"{_YEAR}年(?:(?P<month>1[0-2]|0?[1-9])月(?:{_DAY}[日号])?)?"),
    re.compile(rf"(?<!\d)(?P<month>1[0-2]|0?[1-9])月(?:{_DAY}[日号])?"),
    # "may" alone is a verb more often than a month
    re.compile(
        r"\b(?P<month>January|February|March|April|June|July|August|September|October|November|December)\b"
        r"|\b(?:in|of|since|until|by|last|this|next|early|late|mid) (?P<may>May)\b"
    ),
    re.compile(rf"(?<![\d.,$€£¥]){_YEAR}(?![\d.,]\d|[\d%])\b"),
)
_NUMBER = {name[:3].lower(): place for place, name in enumerate(MONTHS, 1)}


@lru_cache(maxsize=4096)
def moment_tokens(said: date) -> tuple[str, ...]:
    """Of the day that something was said on: the day, the month of that year, the month, the year."""
    return (
        f"on:{said.year}-{said.month}-{said.day}",
        f"on:{said.month}-{said.day}",
        f"in:{said.year}-{said.month}",
        f"in:{said.month}",
        f"in:{said.year}",
    )


def named_moments(query: str, now: datetime) -> tuple[str, ...]:
    """Of the dates that a query names, absolute ones or relative to `now`, each once; none where it names none."""
    return tuple(dict.fromkeys(_tokens(annotated(query, now))))


def _tokens(text: str) -> Iterator[str]:
    taken: list[tuple[int, int]] = []
    for pattern in _NAMED:
        for match in pattern.finditer(text):
            if any(match.start() < end and start < match.end() for start, end in taken):
                continue
            taken.append(match.span())
            yield from _named(match.groupdict())


def _named(parts: dict[str, str | None]) -> Iterator[str]:
    year, day = parts.get("year"), parts.get("day")
    name = parts.get("month") or parts.get("may")
    month = None if name is None else _NUMBER.get(name[:3].lower()) or int(name)
    if month and day:
        yield f"on:{month}-{int(day)}"
        if year:
            yield f"on:{year}-{month}-{int(day)}"
    if month:
        yield f"in:{month}"
        if year:
            yield f"in:{year}-{month}"
    if year:
        yield f"in:{year}"
