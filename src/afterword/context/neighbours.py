"""The turns before and after a hit in its chat: which of them it needs to be understood, and what only echoes. Pure."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from afterword.context.text import Beside
from afterword.language.questions import asks, names, only_asks
from afterword.language.smalltalk import asks_for_memory, asks_of_oneself
from afterword.language.texts import content_words, share
from afterword.records import Hit, hit_of
from afterword.rules import clear_alone, teaches_nothing

if TYPE_CHECKING:
    from afterword.records import Turn

REPEATED = 0.5  # of a reply's telling words that stand in the message it answers
FEW_WORDS = 3  # telling words below which an answer is unclear without its question


def needed(hit: Hit, before: Turn | None, after: Turn | None, spoke: Collection[str]) -> Beside | None:
    """The answer to what it asks, or the question that it answers. What an assistant asked is needed only where the
    answer is unclear alone: it ends most of its replies in a question. `spoke` are the names of those who spoke."""
    asking = asks(hit.text)
    if asking and after is not None and _another(hit, after):
        answer = _neighbour(after, hit)
        return None if is_echo(answer, hit, spoke) else Beside(answer=answer)
    if not asking and before is not None and _another(hit, before) and asks(before.text):
        by_person = before.role == "user" or before.speaker is not None
        if by_person or not clear_alone(hit.text) or len(content_words(hit.text)) < FEW_WORDS:
            return Beside(question=_neighbour(before, hit))
    return None


def is_echo(hit: Hit, question: Turn | Hit, spoke: Collection[str]) -> bool:
    """Whether an assistant's reply only gave back what it had just been told, or, rightly or wrongly, what was remembered
    of the person who asked or of somebody who spoke: it is no evidence beside what they said themselves."""
    if hit.role != "assistant" or hit.speaker is not None or question.role != "user":
        return False
    asked = question.text
    if share(content_words(hit.text), content_words(asked)) >= REPEATED:
        return True
    of_memory = asks_of_oneself(asked) or asks_for_memory(asked) or any(names(name, asked) for name in spoke)
    return of_memory and only_asks(asked) and teaches_nothing(asked)


def _another(hit: Hit, turn: Turn) -> bool:
    return (hit.role, hit.speaker) != (turn.role, turn.speaker)


def _neighbour(turn: Turn, hit: Hit) -> Hit:
    return hit_of(turn, hit.score, {"beside": hit.score})
