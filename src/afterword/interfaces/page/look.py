"""What the page shows, read from the memory and made into HTML, part by part.

The browser says what changed since it last looked, as the news told it: only parts that this concerns are read. It says
what it has (a tag for each part), too: only parts that differ are sent.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from datetime import UTC, datetime
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from afterword.errors import NotFound
from afterword.glance import EVERYTHING, Sought
from afterword.interfaces.page.markup import markdown
from afterword.interfaces.page.render_chat import Shown, WhySummary, chats_html, transcript_html, why_html
from afterword.interfaces.page.render_memory import details_html, memories_html, tabs_html
from afterword.interfaces.page.render_work import RECENT, banner_html, runs_html, strip_html

if TYPE_CHECKING:
    from collections.abc import Sequence

    from afterword.glance import Glance
    from afterword.interfaces.page.asked import Asked
    from afterword.memory import AsyncMemory
    from afterword.records import MemoryRecord, Turn

KEPT_SUMMARIES = 5000
LONG_REPLY = 2000  # characters
SOURCES_SHOWN = 20
SOURCE_TURNS = 5000  # how far back in a chat a source is looked for


class Looker:
    """Reads for the page. One for all users and tabs; what it keeps is bounded and holds no text."""

    def __init__(self, half_life_days: float) -> None:
        self._half_life_days = half_life_days
        self._why: OrderedDict[tuple[str, str, str], WhySummary] = OrderedDict()

    async def look(self, memory: AsyncMemory, asked: Asked) -> dict[str, Any]:
        """The parts that the browser does not have, of those that may have changed; and what is going on in the chat that
        is open. A look that news led to gives way to beginning replies, as the jobs do that made the news."""
        if asked.news != EVERYTHING:
            await memory.worker.precedence.give_way()
        chat = asked.chat or await _newest_chat(memory, asked.user)
        live = memory.live(asked.user, chat) if chat else None
        answering = live.turn.id if live is not None else None
        now = datetime.now(UTC)
        seen = await memory.glance(asked.user, _sought(memory, asked, chat, now))
        parts = await self._parts(memory, seen, asked, chat, answering, now)
        return {
            "ready": True,
            "chat": chat,
            "live": answering,
            "parts": {
                name: {"html": html, "tag": tag}
                for name, html in parts.items()
                if asked.have.get(name) != (tag := _tag(html))
            },
        }

    async def _parts(
        self, memory: AsyncMemory, seen: Glance, asked: Asked, chat: str, live: str | None, now: datetime
    ) -> dict[str, str]:
        parts = {}
        if seen.talk is not None:
            parts["chats"] = chats_html(seen.talk.chats, asked, chat)
            parts["transcript"] = await self._transcript(memory, seen.talk.turns, asked, live)
        if seen.work is not None:
            parts["strip"] = strip_html(seen.work.jobs, seen.work.counts, asked, now)
            parts["banner"] = banner_html(memory.llm, seen.work.backlog, memory.worker.trouble, asked)
        if seen.runs is not None:
            parts["runs"] = runs_html(seen.runs, asked)
        if seen.panel is not None:
            parts["tabs"] = tabs_html(seen.panel.numbers, asked)
            parts["memories"] = memories_html(seen.panel.records, asked, now, self._half_life_days)
        return parts

    async def _transcript(self, memory: AsyncMemory, turns: Sequence[Turn], asked: Asked, live: str | None) -> str:
        replies = {}
        for turn in turns:
            if turn.role == "assistant":
                why = await self._summary(memory, asked.user, turn) if turn.reply_to is not None else None
                replies[turn.id] = Shown(await _rendered(turn.text), why)
        return transcript_html(turns, replies, asked, live)

    async def _summary(self, memory: AsyncMemory, user: str, reply: Turn) -> WhySummary | None:
        scope = memory.scope(user)
        key = (scope.tenant, user, reply.id)
        if key not in self._why:
            found = await memory.ledger.receipt(scope, reply.id)
            if found is None:
                return None
            self._why[key] = WhySummary(len(found.items), bool(found.missed))
            while len(self._why) > KEPT_SUMMARIES:
                self._why.popitem(last=False)
        return self._why[key]

    async def why(self, memory: AsyncMemory, asked: Asked) -> str:
        """What opens under a reply. Raises `NotFound`."""
        found = await memory.receipt(asked.user, asked.id)
        if found is None:
            raise NotFound("this reply has no receipt")
        return why_html(*found, asked)

    async def details(self, memory: AsyncMemory, asked: Asked) -> str:
        """What opens under a memory: versions and sources. Raises `NotFound`."""
        versions = await memory.history(asked.id, asked.user)
        newest = versions[-1]
        if newest.kind == "semantic":
            return details_html(versions, (), await self._episodes(memory, asked.user, newest), asked)
        return details_html(versions, await self._turns(memory, asked.user, newest), (), asked)

    async def _episodes(self, memory: AsyncMemory, user: str, fact: MemoryRecord) -> list[MemoryRecord]:
        episodes = []
        for source in fact.sources[:SOURCES_SHOWN]:
            try:
                episodes.append(await memory.get(source, user))
            except NotFound:
                continue  # erased since: the fact may outlive it until the next consolidation
        return episodes

    async def _turns(self, memory: AsyncMemory, user: str, episode: MemoryRecord) -> list[Turn]:
        if episode.chat_id is None:
            return []
        wanted = set(episode.sources[:SOURCES_SHOWN])
        return [turn for turn in await memory.turns(user, episode.chat_id, SOURCE_TURNS) if turn.id in wanted]


def _sought(memory: AsyncMemory, asked: Asked, chat: str, now: datetime) -> Sought:
    """One memory more than is shown tells that there are more."""
    backlog = memory.llm is not None
    return Sought(asked.news, chat, asked.turns, asked.tab, asked.memories + 1, now - RECENT, backlog=backlog)


async def _newest_chat(memory: AsyncMemory, user: str) -> str:
    chats = await memory.chats(user)
    return chats[0].id if chats else ""


async def _rendered(text: str) -> str:
    """A reply's HTML. Rendering takes about 3 ms a thousand characters: long ones are made in a thread, and the loop
    gets a turn after each."""
    if len(text) > LONG_REPLY:
        return await asyncio.to_thread(markdown, text)
    await asyncio.sleep(0)
    return markdown(text)


def _tag(html: str) -> str:
    return blake2b(html.encode("utf-8", "replace"), digest_size=9).hexdigest()
