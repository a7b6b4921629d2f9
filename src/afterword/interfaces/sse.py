"""Server-sent events: a reply as it is made, and the news of one user."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from sse_starlette import EventSourceResponse, ServerSentEvent

from afterword.errors import AfterwordError
from afterword.glance import EVERYTHING, News
from afterword.interfaces.forms import as_json, receipt_json

if TYPE_CHECKING:
    from afterword.interfaces.holder import MemoryHolder
    from afterword.memory import AsyncMemory
    from afterword.ports import Watch
    from afterword.reply import Reply

PING = 15.0  # seconds
GATHERED = 1.0  # seconds that news of jobs alone wait for more
JOBS: frozenset[News] = frozenset({"jobs"})
CLEANUP = 1.0  # seconds that a generator gets to end after its client has gone


def event(name: str, **data: Any) -> ServerSentEvent:
    return ServerSentEvent(json.dumps(data, ensure_ascii=False), event=name, sep="\n")


def reply_stream(memory: AsyncMemory, user_id: str, reply: Reply) -> EventSourceResponse:
    """The reply from its first piece. Whoever stops listening ends the listening, not the reply."""
    return EventSourceResponse(_pieces(memory, user_id, reply), ping=PING, cleanup_timeout=CLEANUP)


async def _pieces(memory: AsyncMemory, user_id: str, reply: Reply) -> AsyncIterator[ServerSentEvent]:
    yield event("accepted", turn_id=reply.turn.id, chat_id=reply.turn.chat_id)
    recalled = await reply.recalled()
    yield event("recall", hits=as_json(recalled.hits), missed=recalled.missed, ms=round(recalled.ms, 1))
    async for piece in reply:
        yield event("piece", text=piece)
    stored = await reply.done()
    reply_id = stored.id if stored is not None else None
    if reply.cut is not None:
        yield event("cut", why=reply.cut, fix=reply.fix, reply_id=reply_id)
        return
    yield event("done", reply_id=reply_id, receipt=await _receipt(memory, user_id, reply_id))


async def _receipt(memory: AsyncMemory, user_id: str, reply_id: str | None) -> Any:
    try:
        return receipt_json(await memory.receipt(user_id, reply_id)) if reply_id else None
    except AfterwordError:
        return None  # the reply was given; its receipt can be asked for later


def news_stream(holder: MemoryHolder, user_id: str) -> EventSourceResponse:
    """`changed` with the user's change counter and what may have changed (all of it at first), now and after each change;
    ends when the server stops."""
    return EventSourceResponse(_news(holder, user_id), ping=PING, cleanup_timeout=CLEANUP)


async def _news(holder: MemoryHolder, user_id: str) -> AsyncIterator[ServerSentEvent]:
    memory = holder.get()
    scope = memory.scope(user_id)
    closing = asyncio.ensure_future(holder.closing.wait())
    news = EVERYTHING
    try:
        with memory.ledger.watch(scope) as watch:
            while not closing.done():
                if news:
                    await memory.worker.precedence.give_way()
                    state = await memory.ledger.state(scope)
                    yield event("changed", seq=state.seq, epoch=state.epoch, what=sorted(news))
                news = await _gathered(watch, closing)
    finally:
        closing.cancel()


async def _gathered(watch: Watch, closing: asyncio.Future[Any]) -> frozenset[News]:
    """The next news. A job that is put, claimed and done is three of them, mostly before anybody could read the first:
    news of jobs alone wait a moment for more."""
    news = await _next(watch, closing, None)
    time = asyncio.get_running_loop().time
    ends = time() + GATHERED
    while news == JOBS and (left := ends - time()) > 0 and not closing.done():
        news |= await _next(watch, closing, left)
    return news


async def _next(watch: Watch, closing: asyncio.Future[Any], seconds: float | None) -> frozenset[News]:
    """What changes next; nothing, where the time is over or the server stops before."""
    change = asyncio.ensure_future(watch.changed())
    try:
        await asyncio.wait({change, closing}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        return change.result() if change.done() else frozenset()
    finally:
        if not change.done():
            change.cancel()
            await asyncio.wait({change})
