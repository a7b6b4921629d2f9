"""One question to an LLM: its answer is read; what can't be read is asked for once more, with the error shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from afterword.errors import BadAnswer
from afterword.ports import Message
from afterword.prompts import asked_again

if TYPE_CHECKING:
    from afterword.ports import LLM
    from afterword.prompts import Question

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answered(Generic[T]):
    """What was read, by which model, in how many calls."""

    value: T
    model: str
    calls: int


async def ask(llm: LLM, question: Question, read: Callable[[str], T]) -> Answered[T]:
    """Raises `BadAnswer` when the second answer can't be read either; `LLMUnavailable` passes through."""
    text = await _complete(llm, question)
    try:
        return Answered(read(text), llm.model, 1)
    except BadAnswer as error:
        question = asked_again(question, text, str(error))
    return Answered(read(await _complete(llm, question)), llm.model, 2)


async def _complete(llm: LLM, question: Question) -> str:
    messages = [Message(part.role, part.text) for part in question.parts]
    return await llm.complete(messages, schema=question.schema, max_tokens=question.max_tokens)
