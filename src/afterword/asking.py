"""One question to an LLM: its answer is read; what can't be read is asked for once more, with the error shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Generic, TypeVar

from afterword.errors import BadAnswer
from afterword.ports import Message
from afterword.prompts import asked_again

if TYPE_CHECKING:
    from afterword.ports import LLM, Step
    from afterword.prompts import Question

T = TypeVar("T")
BESIDE_ASKING = 30.0  # seconds a step gets for all else that it does


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


def with_time_to_ask(steps: Iterable[Step], deadline: float) -> list[Step]:
    """The steps with time for an LLM that needs its whole `deadline` (seconds), and is asked again.

    Else the step would end first, and an LLM that is merely slow would use up a job's attempts; that is an outage.
    """
    return [replace(step, timeout=max(step.timeout, 2 * deadline + BESIDE_ASKING)) for step in steps]


async def _complete(llm: LLM, question: Question) -> str:
    messages = [Message(part.role, part.text) for part in question.parts]
    return await llm.complete(messages, schema=question.schema, max_tokens=question.max_tokens)
