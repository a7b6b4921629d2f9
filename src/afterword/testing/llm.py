"""An LLM that says what a test has written, when the test lets it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from afterword.testing.gates import Failures, Gate
from afterword.testing.openai_answers import answer_json

if TYPE_CHECKING:
    from afterword.ports import Clock, Message, Prompt
    from afterword.records import Json

_Script = Sequence[str | BaseException]
Replies = _Script | Callable[["Prompt"], str]
Answers = _Script | Callable[[Sequence["Message"], "Json"], str]
_PIECE = re.compile(r"\S+\s*|\s+")


@dataclass(frozen=True, slots=True)
class Completion:
    """One call of `complete`, as it came."""

    messages: tuple[Message, ...]
    schema: Json
    max_tokens: int


@dataclass
class _Hold:
    gate: Gate
    after: int


class ScriptedLLM:
    """An `LLM` whose replies and answers are given as lists (used up in order) or as functions.

    Past the end of its list, `stream` replies "You said: …" and `complete` answers as `answer_json` does.
    An exception in a list is raised in its turn. Pieces are words. Delays are in seconds, on `clock` when there is one.
    """

    quotes = False

    def __init__(
        self,
        model: str = "scripted",
        *,
        replies: Replies = (),
        answers: Answers = (),
        stream_delay: float = 0.0,
        gap_delay: float = 0.0,
        complete_delay: float = 0.0,
        clock: Clock | None = None,
    ) -> None:
        self.model = model
        self.replies = replies
        self.answers = answers
        self.stream_delay = stream_delay
        self.gap_delay = gap_delay
        self.complete_delay = complete_delay
        self.streamed: list[Prompt] = []
        self.completed: list[Completion] = []
        self.cancelled: list[Prompt | Completion] = []
        self.running = 0
        self.most_running = 0
        self.closed = False
        self._clock = clock
        self._stream_holds: list[_Hold] = []
        self._complete_gates: list[Gate] = []
        self._stream_failures = Failures()
        self._complete_failures = Failures()

    @property
    def replies(self) -> Replies:
        """What `stream` says: set it to a list (used up in order) or to a function of the prompt."""
        return self._replies

    @replies.setter
    def replies(self, replies: Replies) -> None:
        self._replies = replies if callable(replies) else list(replies)

    @property
    def answers(self) -> Answers:
        """What `complete` says: set it to a list (used up in order) or to a function of messages and schema."""
        return self._answers

    @answers.setter
    def answers(self, answers: Answers) -> None:
        self._answers = answers if callable(answers) else list(answers)

    def hold_stream(self, after: int = 0) -> Gate:
        """Hold each stream back once it has given `after` pieces, until released."""
        gate = Gate()
        self._stream_holds.append(_Hold(gate, after))
        return gate

    def hold_complete(self) -> Gate:
        """Hold each `complete` back until released."""
        gate = Gate()
        self._complete_gates.append(gate)
        return gate

    def fail_with(
        self,
        error: BaseException | type[BaseException],
        times: int | None = 1,
        *,
        on: Literal["both", "stream", "complete"] = "both",
        after: int = 0,
    ) -> None:
        """The next `times` calls (None: all, until `heal`) raise this, streams once they gave `after` pieces.

        With `both`, `times` counts streams and completions each for themselves.
        """
        if on != "complete":
            self._stream_failures.plan(error, times, after)
        if on != "stream":
            self._complete_failures.plan(error, times)

    def heal(self) -> None:
        """Forget planned failures."""
        self._stream_failures.heal()
        self._complete_failures.heal()

    async def stream(self, prompt: Prompt) -> AsyncGenerator[str, None]:
        self.streamed.append(prompt)
        self._begin()
        try:
            failure = self._stream_failures.take()
            text = self._reply(prompt)
            await self._pass(0)
            await self._sleep(self.stream_delay)
            for given, piece in enumerate(_PIECE.findall(text)):
                if failure and failure[0] <= given:
                    break
                if given:
                    await self._sleep(self.gap_delay)
                yield piece
                await self._pass(given + 1)
            if failure:
                raise failure[1]
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled.append(prompt)
            raise
        finally:
            self.running -= 1

    async def complete(self, messages: Sequence[Message], *, schema: Json, max_tokens: int) -> str:
        call = Completion(tuple(messages), schema, max_tokens)
        self.completed.append(call)
        self._begin()
        try:
            failure = self._complete_failures.take()
            for gate in self._complete_gates:
                await gate.wait()
            await self._sleep(self.complete_delay)
            if failure:
                raise failure[1]
            return self._answer(call)
        except asyncio.CancelledError:
            self.cancelled.append(call)
            raise
        finally:
            self.running -= 1

    async def aclose(self) -> None:
        self.closed = True

    def _begin(self) -> None:
        self.running += 1
        self.most_running = max(self.most_running, self.running)

    async def _pass(self, given: int) -> None:
        for hold in self._stream_holds:
            if hold.after == given:
                await hold.gate.wait()

    async def _sleep(self, seconds: float) -> None:
        if seconds:
            await (self._clock.sleep(seconds) if self._clock else asyncio.sleep(seconds))

    def _reply(self, prompt: Prompt) -> str:
        if callable(self._replies):
            return self._replies(prompt)
        return _said(self._replies.pop(0)) if self._replies else f"You said: {prompt.question}"

    def _answer(self, call: Completion) -> str:
        if callable(self._answers):
            return self._answers(call.messages, call.schema)
        if self._answers:
            return _said(self._answers.pop(0))
        asked = [message.content for message in call.messages if message.role == "user"]
        return answer_json(call.schema, asked[-1] if asked else "")


def _said(entry: str | BaseException) -> str:
    if isinstance(entry, BaseException):
        raise entry
    return entry
