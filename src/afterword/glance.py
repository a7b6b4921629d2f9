"""What may change of a user, and what is read again when it did: all of it at one look."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from afterword.records import Chat, Job, MemoryKind, MemoryRecord, Run, Turn

News = Literal["turns", "memories", "jobs", "runs"]
EVERYTHING: frozenset[News] = frozenset(get_args(News))


@dataclass(frozen=True, slots=True)
class Sought:
    """What of a user is looked at, and how much of it."""

    news: frozenset[News]
    chat_id: str  # "": turns of none
    turns: int
    kind: MemoryKind  # whose records are listed; of the other the number is enough
    memories: int
    since: datetime  # jobs that were done before are old
    backlog: bool  # whether there is an LLM that could read it


@dataclass(frozen=True, slots=True)
class Talk:
    chats: Sequence[Chat]  # newest first
    turns: Sequence[Turn]  # the newest of the chat, in order


@dataclass(frozen=True, slots=True)
class Panel:
    records: Sequence[MemoryRecord]  # current, newest first
    numbers: Mapping[MemoryKind, int]  # of current ones; counted no further than was sought


@dataclass(frozen=True, slots=True)
class Work:
    jobs: Sequence[Job]  # waiting, running, dead, and those done lately; newest first
    counts: Mapping[str, int]  # of all that wait, run or are dead, by state
    backlog: int  # turns of all users that rules decided and an LLM could read again


@dataclass(frozen=True, slots=True)
class Glance:
    """What was there at one moment. None is what was not sought."""

    talk: Talk | None = None
    panel: Panel | None = None
    work: Work | None = None
    runs: Sequence[Run] | None = None  # newest first
