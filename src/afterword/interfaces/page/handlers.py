"""What the page does: two streams through Gradio's queue, everything else as plain calls.

Nothing of a reply lives here. A handler listens to a reply that the memory owns; when its tab is closed, Gradio
closes the handler and the reply goes on.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import gradio as gr
import structlog

from afterword.errors import AfterwordError, InvalidInput
from afterword.interfaces.page.asked import Asked
from afterword.interfaces.page.look import Looker
from afterword.interfaces.page.markup import esc
from afterword.interfaces.page.strings import words
from afterword.interfaces.page.told import as_sentence, told

if TYPE_CHECKING:
    from afterword.memory import AsyncMemory
    from afterword.reply import Reply
    from afterword.settings import Settings

log = structlog.get_logger(__name__)

MOST_REFUSALS = 1000  # that wait to be asked for
PACE = 0.05  # seconds between two updates of a streaming reply, at least
UPDATES = 60  # a second, of all streaming replies together: each costs Gradio about a millisecond
Answer = dict[str, Any]
Act = Callable[["AsyncMemory", Asked], Awaitable[Answer]]


class Page:
    """The handlers. Holds no user's state: each call says who asks."""

    def __init__(self, memory: Callable[[], AsyncMemory | None], settings: Settings) -> None:
        self._memory = memory
        self._settings = settings
        self._looker = Looker(settings.half_life_days)
        self._pacer = Pacer()
        self._refusals: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._acts: dict[str, Act] = {
            "refused": self._refused,
            "look": self._looker.look,
            "why": self._why,
            "details": self._details,
            "user": self._user,
            "stop": self._stop,
            "edit": self._edit,
            "delete": self._delete,
            "delete-chat": self._delete_chat,
            "consolidate": self._consolidate,
            "backfill": self._backfill,
            "reset": self._reset,
            "retry": self._retry,
        }

    # ── streams ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def ask(self, raw: Any) -> AsyncIterator[str]:
        """Send a message (`text`, with `id` as its turn's id), or ask the kept turn `id` again (no `text`)."""
        asked = Asked.read(raw)
        try:
            memory = self._open(asked)
            if asked.text:
                reply = await memory.chat(
                    asked.text, asked.user, asked.chat, turn_id=asked.id or None, utc_offset=asked.offset
                )
            else:
                reply = await memory.ask_again(asked.user, asked.id)
        except AfterwordError as error:
            raise self._not_sent(asked, told(str(error), asked.lang)) from error
        except Exception as error:  # the edge to the browser; Gradio would print what the exception says
            log.exception("page.failed", do="ask")
            raise self._not_sent(asked, words(asked.lang)["broken"]) from error
        async for text in self._pacer.paced(reply):
            yield text

    async def follow(self, raw: Any) -> AsyncIterator[str]:
        """Take up the reply under way in a chat, from its start (after a reload, or in another tab)."""
        asked = Asked.read(raw)
        memory = self._memory()
        try:
            reply = memory.live(asked.user, asked.chat) if memory is not None else None
        except InvalidInput as error:
            raise self._not_sent(asked, told(str(error), asked.lang)) from error
        if reply is not None:
            async for text in self._pacer.paced(reply):
                yield text

    def _not_sent(self, asked: Asked, why: str) -> gr.Error:
        """The page asks for the cause and tells it itself: Gradio's own notice is headed in English."""
        self._refusals[asked.user, asked.id] = why
        while len(self._refusals) > MOST_REFUSALS:
            self._refusals.popitem(last=False)
        return gr.Error(esc(why), visible=False, print_exception=False)

    async def _refused(self, memory: AsyncMemory, asked: Asked) -> Answer:
        why = self._refusals.pop((asked.user, asked.id), words(asked.lang)["broken"])
        return {"error": words(asked.lang)["not_sent"].format(why=as_sentence(why))}

    def _open(self, asked: Asked) -> AsyncMemory:
        memory = self._memory()
        if memory is None:
            raise InvalidInput(words(asked.lang)["getting_ready"])
        return memory

    # ── calls ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def server_functions(self) -> list[Callable[[Any], Awaitable[Answer]]]:
        """One function, `call`, for the HTML component: it does what its argument's `do` names."""

        async def call(raw: Any) -> Answer:
            return await self.call(raw)

        return [call]

    async def call(self, raw: Any) -> Answer:
        """Never raises: what went wrong is told under `error`, in one sentence."""
        asked = Asked.read(raw)
        memory = self._memory()
        if memory is None:
            return {"ready": False}
        act = self._acts.get(asked.do)
        if act is None:
            return {"error": words(asked.lang)["broken"]}
        try:
            return await act(memory, asked)
        except AfterwordError as error:
            return {"error": told(str(error), asked.lang)}
        except Exception:  # the edge to the browser: one failing part must not take the page down
            log.exception("page.failed", do=asked.do)
            return {"error": words(asked.lang)["broken"]}

    async def _why(self, memory: AsyncMemory, asked: Asked) -> Answer:
        return {"html": await self._looker.why(memory, asked)}

    async def _details(self, memory: AsyncMemory, asked: Asked) -> Answer:
        return {"html": await self._looker.details(memory, asked)}

    async def _user(self, memory: AsyncMemory, asked: Asked) -> Answer:
        try:
            memory.scope(asked.user)
        except InvalidInput as error:
            return {"error": words(asked.lang)["bad_name"].format(why=told(str(error), asked.lang))}
        return {"user": asked.user}

    async def _stop(self, memory: AsyncMemory, asked: Asked) -> Answer:
        reply = memory.live(asked.user, asked.chat)
        if reply is not None:
            reply.stop()
        return {}

    async def _edit(self, memory: AsyncMemory, asked: Asked) -> Answer:
        await memory.update(asked.id, asked.text, asked.user)
        return {}

    async def _delete(self, memory: AsyncMemory, asked: Asked) -> Answer:
        await memory.delete(asked.id, asked.user)
        return {}

    async def _delete_chat(self, memory: AsyncMemory, asked: Asked) -> Answer:
        await memory.delete_chat(asked.user, asked.id)
        return {}

    async def _consolidate(self, memory: AsyncMemory, asked: Asked) -> Answer:
        return {"run": (await memory.consolidate(asked.user)).run.id}

    async def _backfill(self, memory: AsyncMemory, asked: Asked) -> Answer:
        return {"run": (await memory.backfill(asked.user)).run.id}

    async def _reset(self, memory: AsyncMemory, asked: Asked) -> Answer:
        await memory.reset(asked.user)
        return {}

    async def _retry(self, memory: AsyncMemory, asked: Asked) -> Answer:
        if not asked.id.isascii() or not asked.id.isdigit():
            raise InvalidInput("a job is named by its number")
        await memory.retry_job(int(asked.id), asked.user)
        return {}


class Pacer:
    """Shows replies as they grow. The more of them stream, the rarer their updates: what the page spends on showing
    has a limit, so that it can't hold up the first pieces of others."""

    def __init__(self) -> None:
        self._streaming = 0

    @property
    def pace(self) -> float:
        """Seconds between two updates of one reply, as things are now."""
        return max(PACE, self._streaming / UPDATES)

    async def paced(self, reply: Reply) -> AsyncIterator[str]:
        """The reply's text as it grows: its first piece at once, then at most one update each `pace` seconds."""
        made = shown = 0
        pieces = aiter(reply)
        piece = await anext(pieces, None)
        self._streaming += 1
        try:
            while piece is not None:
                made += len(piece)
                if made > shown:  # else it went out with an earlier piece
                    text = reply.text
                    shown = len(text)
                    yield text
                    with suppress(TimeoutError):  # its end is shown at once
                        async with asyncio.timeout(self.pace):
                            await reply.done()
                piece = await anext(pieces, None)
        finally:
            self._streaming -= 1
