"""The neutral form of a recall set: one conversation a line, with turns, questions and maybe extracted facts.

Read forgivingly: a key that is missing counts as null, a text that is empty can't be said and is left out, a text that
is longer than a turn may be is said in pieces that all count as the same turn.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from afterword.records import ID_LIMIT, TEXT_LIMIT, NewTurn, Role

ROLES: Mapping[str, Role] = {
    **dict.fromkeys(("user", "human", "用户"), "user"),
    **dict.fromkeys(("assistant", "ai", "bot", "system", "助手"), "assistant"),
}


@dataclass(frozen=True, slots=True)
class Said:
    """A turn as the set has it; `session` counts from 0 in the order of first appearance."""

    id: str
    session: int
    chat_id: str
    turns: tuple[NewTurn, ...]  # more than one where the text is too long for one


@dataclass(frozen=True, slots=True)
class Fact:
    """What the set's authors let an LLM write; `turn` is None where only the session is known."""

    text: str
    turn: str | None
    session: int
    chat_id: str
    said_at: datetime | None


@dataclass(frozen=True, slots=True)
class Asked:
    """A question. `visible` is how many sessions there were when it was asked (None: all); `choices` by letter."""

    id: str
    text: str
    category: str
    evidence: frozenset[str]
    sessions: frozenset[str]
    visible: int | None
    unknown: int  # evidence that the conversation does not hold
    answer: str = ""
    choices: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Conversation:
    said: tuple[Said, ...]
    asked: tuple[Asked, ...]
    facts: tuple[Fact, ...]


def conversations(path: Path) -> Iterator[Conversation]:
    """Each line of the file. Lines end with `\\n` only: texts may hold other line ends."""
    with path.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            if line.strip():
                yield _conversation(json.loads(line))


def _conversation(raw: Mapping[str, Any]) -> Conversation:
    turns = raw.get("turns") or []
    numbers: dict[str, int] = {}
    for turn in turns:
        numbers.setdefault(_session(turn), len(numbers))
    said = tuple(_said(turns, numbers))
    by_id = {one.id: one for one in said}
    asked = tuple(_asked(question, by_id) for question in raw.get("questions") or [])
    facts = tuple(fact for row in raw.get("extracted_facts") or [] if (fact := _fact(row, by_id, numbers)) is not None)
    return Conversation(said, asked, facts)


def _session(row: Mapping[str, Any]) -> str:
    return _id(str(row.get("session") or "session"))


def _id(text: str) -> str:
    """An id that the product takes: printable, at most 200 characters, not empty."""
    return "".join(c for c in text if c.isprintable())[:ID_LIMIT].strip() or "none"


def _said(turns: Sequence[Mapping[str, Any]], numbers: Mapping[str, int]) -> Iterator[Said]:
    at: datetime | None = next((_time(turn) for turn in turns if _time(turn)), None)
    for place, turn in enumerate(turns):
        text = str(turn.get("text") or "")
        at = _time(turn) or at
        if not text.replace("\0", "").strip():
            continue
        role, speaker = _who(turn)
        chat = _session(turn)
        pieces = [text[start : start + TEXT_LIMIT] for start in range(0, len(text), TEXT_LIMIT)]
        new = [
            NewTurn(chat, role, piece, speaker, at, 0, f"{place:06}.{part:03}")
            for part, piece in enumerate(pieces)
            if piece.replace("\0", "").strip()
        ]
        yield Said(str(turn.get("id") or place), numbers[chat], chat, tuple(new))


def _who(turn: Mapping[str, Any]) -> tuple[Role, str | None]:
    """`user` and `assistant` are roles; anybody else is a person with a name."""
    speaker = str(turn.get("speaker") or "user").strip()
    role = ROLES.get(speaker.casefold())
    return (role, None) if role else ("user", _id(speaker))


def _time(turn: Mapping[str, Any]) -> datetime | None:
    """`said_at`, as UTC where it names no zone."""
    try:
        at = datetime.fromisoformat(str(turn.get("said_at") or ""))
    except ValueError:
        return None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _asked(row: Mapping[str, Any], by_id: Mapping[str, Said]) -> Asked:
    named = [str(name) for name in row.get("evidence") or []]
    known = frozenset(name for name in named if name in by_id)
    sessions = {_id(str(name)) for name in row.get("sessions") or []} or {by_id[name].chat_id for name in known}
    visible = row.get("visible_sessions")
    return Asked(
        id=str(row.get("id") or row.get("text") or ""),
        text=str(row.get("text") or ""),
        category=str(row.get("category") or "none"),
        evidence=known,
        sessions=frozenset(sessions),
        visible=None if visible is None else int(visible),
        unknown=len(set(named)) - len(known),
        answer=str(row.get("answer") or ""),
        choices=_choices(row.get("choices")),
    )


def _choices(given: object) -> dict[str, str]:
    """By letter; a list is lettered, anything else is no choice."""
    if isinstance(given, Mapping):
        return {str(letter): str(text) for letter, text in given.items()}
    if isinstance(given, list):
        return {chr(ord("A") + place): str(text) for place, text in enumerate(given[:26])}
    return {}


def _fact(row: Mapping[str, Any], by_id: Mapping[str, Said], numbers: Mapping[str, int]) -> Fact | None:
    text = str(row.get("text") or "")[:TEXT_LIMIT]
    if not text.replace("\0", "").strip():
        return None
    source = by_id.get(str(row.get("turn")))
    if source is not None:
        return Fact(text, source.id, source.session, source.chat_id, source.turns[0].said_at)
    chat = _session(row)
    if chat not in numbers:
        return None
    first = next((one for one in by_id.values() if one.chat_id == chat), None)
    return Fact(text, None, numbers[chat], chat, first.turns[0].said_at if first else None)


def parser_of(about: str, cache: Path) -> argparse.ArgumentParser:
    """The options of everything that tells a set to a memory and asks it."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a file in the neutral form")
    parser.add_argument("--index", choices=["exact", "milvus"], default="exact")
    parser.add_argument("--facts", choices=["none", "extracted", "rules"], default="none")
    parser.add_argument("--embedder", choices=["local", "none"], default="local")
    parser.add_argument("--sample", type=int, default=0, help="N conversations, spread over the file (0: all)")
    parser.add_argument("--cache", type=Path, default=cache, help="a folder for embeddings, outside the repository")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    return parser
