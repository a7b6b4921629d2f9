"""What the browser asks for, read from its JSON: nothing in it is trusted, nothing in it can break a handler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from afterword.glance import EVERYTHING, News
from afterword.records import ID_LIMIT, MemoryKind

MOST_TURNS = 2000
MOST_MEMORIES = 5000
MOST_OFFSET = 14 * 60  # minutes; no clock on earth is further from UTC


@dataclass(frozen=True, slots=True)
class Asked:
    """Who asks, where they are on the page, and in which language and time zone they read it."""

    do: str = ""
    user: str = ""
    chat: str = ""
    lang: str = "en"
    offset: int = 0  # minutes east of UTC
    tab: MemoryKind = "episodic"
    turns: int = 60
    memories: int = 100
    id: str = ""
    text: str = ""
    have: Mapping[str, str] = field(default_factory=dict)  # part of the page → tag of what is shown there
    news: frozenset[News] = EVERYTHING  # what changed since they last looked, as far as they have heard

    @classmethod
    def read(cls, raw: object) -> Asked:
        """Fields that are missing or of the wrong type take their defaults; numbers are held in their limits."""
        given = raw if isinstance(raw, dict) else {}
        have = given.get("have")
        return cls(
            do=_text(given, "do"),
            user=_text(given, "user"),
            chat=_text(given, "chat"),
            lang="zh" if given.get("lang") == "zh" else "en",
            offset=_number(given, "offset", 0, -MOST_OFFSET, MOST_OFFSET),
            tab="semantic" if given.get("tab") == "semantic" else "episodic",
            turns=_number(given, "turns", 60, 2, MOST_TURNS),
            memories=_number(given, "memories", 100, 1, MOST_MEMORIES),
            id=_text(given, "id"),
            text=_text(given, "text", None),
            news=_news(given),
            have={str(k): str(v) for k, v in have.items()} if isinstance(have, dict) else {},
        )


def _text(given: dict[Any, Any], name: str, limit: int | None = ID_LIMIT + 1) -> str:
    value = given.get(name)
    return value[:limit] if isinstance(value, str) else ""


def _news(given: dict[Any, Any]) -> frozenset[News]:
    """Those that are known; where none is, everything is looked at."""
    named = given.get("news")
    known = frozenset(one for one in EVERYTHING if isinstance(named, list) and one in named)
    return known or EVERYTHING


def _number(given: dict[Any, Any], name: str, default: int, least: int, most: int) -> int:
    value = given.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool) or value != value:
        return default
    return round(max(least, min(most, value)))
