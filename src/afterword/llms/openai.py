"""Any OpenAI-compatible server as an `LLM`, through the official client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing
from typing import TYPE_CHECKING, Any, cast

from afterword.errors import AfterwordError, LLMUnavailable, Outage
from afterword.llms.client import CONNECT, LazyClient
from afterword.llms.dialect import Dialect
from afterword.llms.ollama import find_ollama
from afterword.llms.outages import Service, explained, failures, is_about_input, too_slow
from afterword.llms.thinking import ThinkFilter, without_thoughts
from afterword.meter import note_usage

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletion

    from afterword.ports import Message, Prompt
    from afterword.records import Json

__all__ = ["OpenAILLM", "find_ollama"]

LISTING = 2.0  # seconds for the names of models in an error's fix
NAMED = 5
CHARACTERS_A_TOKEN = 16  # a background answer that is longer than this allows is no answer


class OpenAILLM:
    """An `LLM` behind an OpenAI-compatible address (up to and with `/v1`).

    Deadlines in seconds: to the first sign of life of a reply, between two of them, of a whole reply, of a background
    answer, to a connection. `setting` is the prefix of the settings that its errors name. It never retries: the worker does.
    """

    quotes = False

    def __init__(
        self,
        *,
        base_url: str,
        api_key: str,
        model: str,
        first_token_timeout: float = 60.0,
        gap_timeout: float = 60.0,
        total_timeout: float = 600.0,
        complete_timeout: float = 120.0,
        connect_timeout: float = CONNECT,
        setting: str = "AFTERWORD_LLM",
    ) -> None:
        self.model = model
        self._service = Service(LLMUnavailable, base_url, model, setting, api_key.strip())
        self._client = LazyClient(self._service, connect_timeout)
        self._first, self._gap, self._total = first_token_timeout, gap_timeout, total_timeout
        self._complete_timeout = complete_timeout
        self._dialect = Dialect()

    async def stream(self, prompt: Prompt) -> AsyncGenerator[str, None]:
        """The reply in pieces; an empty piece is a sign of life of a model that still thinks.

        Raises `LLMUnavailable`, or `BadAnswer` where the prompt is too long for the model.
        """
        time = asyncio.get_running_loop().time
        ends = time() + self._total
        wait, setting = self._first, "AFTERWORD_FIRST_TOKEN_DEADLINE"
        thoughts = ThinkFilter()
        async with aclosing(self._deltas(prompt.messages)) as deltas:
            while True:
                try:
                    async with asyncio.timeout(min(wait, ends - time())):
                        delta = await anext(deltas, None)
                except TimeoutError:
                    if time() >= ends:
                        wait, setting = self._total, "AFTERWORD_REPLY_DEADLINE"
                    raise too_slow(self._service, wait, setting) from None
                if delta is None:
                    break
                wait, setting = self._gap, "AFTERWORD_REPLY_GAP_DEADLINE"
                yield thoughts.feed(delta)
        rest = thoughts.rest()
        if rest:
            yield rest

    async def complete(self, messages: Sequence[Message], *, schema: Json, max_tokens: int) -> str:
        """The answer's text. Raises `LLMUnavailable`, or `BadAnswer` where prompt or answer are too long."""
        try:
            async with asyncio.timeout(self._complete_timeout):
                answer = await self._asked(messages, schema, max_tokens)
        except TimeoutError:
            raise too_slow(self._service, self._complete_timeout, "AFTERWORD_DECIDER_DEADLINE") from None
        if not getattr(answer, "choices", None):
            raise explained(ValueError(), self._service)
        choice = answer.choices[0]
        usage = getattr(answer, "usage", None)
        note_usage(getattr(usage, "prompt_tokens", None), getattr(usage, "completion_tokens", None))
        text = without_thoughts(choice.message.content or "")
        if not text and choice.finish_reason == "length":
            raise self._service.bad(f"{self.model} used up {max_tokens} tokens before it began its answer")
        if len(text) > max(4000, CHARACTERS_A_TOKEN * max_tokens):
            raise self._service.bad(
                f"{self.model} answered {len(text):,} characters, {max_tokens} tokens were asked for"
            )
        return text

    async def list_models(self) -> list[str]:
        """The names of the server's models. Raises `LLMUnavailable`."""
        client = await self._client.get()
        try:
            async with asyncio.timeout(self._first):
                listed = await client.models.list()
            return [model.id for model in listed.data]
        except TimeoutError:
            raise too_slow(self._service, self._first, "AFTERWORD_FIRST_TOKEN_DEADLINE") from None
        except failures() as error:
            raise explained(error, self._service) from None

    async def aclose(self) -> None:
        await self._client.aclose()

    async def _deltas(self, messages: Sequence[Message]) -> AsyncGenerator[str, None]:
        """Texts as they come; "" for each piece of reasoning. Closing this closes the response."""
        sent = [{"role": message.role, "content": message.content} for message in messages]
        body = {"model": self.model, "messages": sent, "stream": True}
        began = finished = False
        client = await self._client.get()
        from openai import AsyncStream

        try:
            # plain JSON: making the client's objects takes more of the loop's time than all else in a piece
            response = await client.post(
                "/chat/completions", cast_to=object, body=body, stream=True, stream_cls=AsyncStream[object]
            )
            async with AsyncExitStack() as leaving:
                leaving.push_async_callback(response.close)
                async for chunk in response:
                    began = True
                    text, alive, ended = _read(chunk)
                    finished = finished or ended
                    if alive:
                        yield text
        except failures() as error:
            raise await self._explained(error) from None
        if not began:
            raise explained(ValueError(), self._service)
        if not finished:
            raise self._service.down(f"{self._service.base_url} broke off in the middle of the reply", "ask again")

    async def _asked(self, messages: Sequence[Message], schema: Json, max_tokens: int) -> ChatCompletion:
        """Ask in the dialect that worked last; refused, in the next one."""
        dialect = self._dialect
        client = await self._client.get()
        while True:
            request = dialect.request(messages, schema, max_tokens)
            try:
                answer = await cast(Any, client.chat.completions).create(model=self.model, **request)
            except failures() as error:
                other = dialect.adapted(str(error)) if _asks_otherwise(error) else None
                if other is None:
                    raise await self._explained(error) from None
                dialect = other
            else:
                self._dialect = dialect
                return cast("ChatCompletion", answer)

    async def _explained(self, error: Exception) -> AfterwordError:
        from openai import NotFoundError

        told = explained(error, self._service)
        if isinstance(error, NotFoundError) and isinstance(told, Outage) and "_MODEL" in told.fix:
            names = await self._names()
            if names:
                told.fix += f": {', '.join(names)}"
        return told

    async def _names(self) -> list[str]:
        """A few models that the server has, if it says so quickly."""
        try:
            async with asyncio.timeout(LISTING):
                return (await self.list_models())[:NAMED]
        except (LLMUnavailable, TimeoutError):
            return []


def _asks_otherwise(error: Exception) -> bool:
    """Whether the server refused the way of asking (400, 422), and not a text that is too long for the model."""
    from openai import BadRequestError, UnprocessableEntityError

    return isinstance(error, BadRequestError | UnprocessableEntityError) and not is_about_input(error)


def _read(chunk: Any) -> tuple[str, bool, bool]:
    """Of a piece of a stream: its text, whether it is a sign of life, whether it is the last with a choice."""
    if usage := chunk.get("usage"):
        note_usage(usage.get("prompt_tokens"), usage.get("completion_tokens"))
    choices = chunk.get("choices")
    if not choices:
        return "", False, False  # usage, filters' verdicts
    delta = choices[0].get("delta") or {}
    text = delta.get("content") or ""
    reasons = bool(delta.get("reasoning_content") or delta.get("reasoning"))
    return text, bool(text) or reasons, choices[0].get("finish_reason") is not None
