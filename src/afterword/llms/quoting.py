"""The stand-in where no LLM is set: it replies by quoting what is remembered."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING

from afterword.errors import LLMUnavailable
from afterword.language.dates import MONTHS
from afterword.language.questions import asks
from afterword.language.texts import cut, own_words
from afterword.records import local_time

if TYPE_CHECKING:
    from datetime import datetime

    from afterword.ports import Message, Prompt
    from afterword.records import Hit, Json

MOST = 3  # quotes in a reply
NEAR = 0.6  # of the best hit's score: what is worse is not quoted beside it
QUOTE_TOKENS = 120
_CJK = re.compile(r"[\u3400-\u9fff]")


class QuotingLLM:
    """An `LLM` that quotes: its replies are not indexed, and it can't decide anything."""

    model = "quoting"
    quotes = True

    async def stream(self, prompt: Prompt) -> AsyncGenerator[str, None]:
        """A quote a piece, in the language of the question; a short word where there is nothing to quote."""
        for piece in _pieces(prompt):
            yield piece
            await asyncio.sleep(0)

    async def complete(self, messages: Sequence[Message], *, schema: Json, max_tokens: int) -> str:
        """Raises `LLMUnavailable`."""
        raise LLMUnavailable("no LLM is set", fix="set AFTERWORD_LLM_BASE_URL and AFTERWORD_LLM_MODEL")

    async def aclose(self) -> None: ...


def _pieces(prompt: Prompt) -> list[str]:
    chinese = _CJK.search(prompt.question) is not None
    if not asks(prompt.question):
        return ["记下了。" if chinese else "Noted."]
    quoted = _best(prompt.recalled)
    if not quoted:
        return ["这个我还不知道。" if chinese else "I don't know that yet."]
    year = local_time(prompt.now, prompt.utc_offset).year
    lines = [(_chinese if chinese else _english)(hit, year) for hit in quoted]
    return [line + "\n\n" for line in lines[:-1]] + [lines[-1]]


def _best(hits: Sequence[Hit]) -> list[Hit]:
    """The best few, without a memory and the turn that it rests on side by side."""
    chosen: list[Hit] = []
    for hit in hits:
        near = hit.score >= NEAR * hits[0].score
        told = any(hit.id in other.sources or other.id in hit.sources or hit.text == other.text for other in chosen)
        if near and not told and len(chosen) < MOST:
            chosen.append(hit)
    return chosen


def _english(hit: Hit, year: int) -> str:
    said, text = local_time(hit.said_at, hit.utc_offset), _quote(hit)
    date = _english_date(said, year)
    if hit.kind != "turn" and not _by_user(hit):
        return f"I remember ({date}): “{text}”"
    if hit.speaker:
        return f"On {date} {hit.speaker} said: “{text}”"
    return f"On {date} {'I said' if hit.role == 'assistant' else 'you told me'}: “{text}”"


def _chinese(hit: Hit, year: int) -> str:
    said, text = local_time(hit.said_at, hit.utc_offset), _quote(hit)
    date = f"{said.month}月{said.day}日" if said.year == year else f"{said.year}年{said.month}月{said.day}日"
    if hit.kind != "turn" and not _by_user(hit):
        return f"我记得（{date}）：“{text}”"
    if hit.speaker:
        return f"{date}{hit.speaker}说过：“{text}”"
    return f"{date}{'我说过' if hit.role == 'assistant' else '你告诉过我'}：“{text}”"


def _english_date(said: datetime, year: int) -> str:
    date = f"{said.day} {MONTHS[said.month - 1]}"
    return date if said.year == year else f"{date} {said.year}"


def _quote(hit: Hit) -> str:
    text = own_words(hit.text) if _by_user(hit) else hit.text
    return cut(" ".join(text.split()), QUOTE_TOKENS)


def _by_user(hit: Hit) -> bool:
    """A record of rules that holds the user's own sentence."""
    return hit.text.startswith(("The user", "用户")) and own_words(hit.text) != hit.text
