"""What the page shows, read from the memory and made into HTML, part by part.

The browser says what it has (a tag for each part); only parts that differ are sent.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from datetime import UTC, datetime
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from afterword.errors import NotFound
from afterword.interfaces.page.markup import markdown
from afterword.interfaces.page.render_chat import Shown, WhySummary, chats_html, transcript_html, why_html
from afterword.interfaces.page.render_memory import details_html, memories_html, tabs_html
from afterword.interfaces.page.render_work import banner_html, runs_html, strip_html
from afterword.ports import JobFilter
from afterword.records import Filters, MemoryKind, MemoryRecord, Turn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from afterword.interfaces.page.asked import Asked
    from afterword.memory import AsyncMemory

KINDS: tuple[MemoryKind, ...] = ("episodic", "semantic")
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
        """The parts that the browser does not have, and what is going on in the chat that is open."""
        chats = await memory.chats(asked.user)
        chat = asked.chat or (chats[0].id if chats else "")
        live = memory.live(asked.user, chat) if chat else None
        answering = live.turn.id if live is not None else None
        now = datetime.now(UTC)
        turns = await memory.turns(asked.user, chat, asked.turns) if chat else []
        parts = {
            "chats": chats_html(chats, asked, chat),
            "transcript": await self._transcript(memory, turns, asked, answering),
            "strip": strip_html(
                await memory.jobs(asked.user, JobFilter(limit=60)), await memory.job_counts(asked.user), asked, now
            ),
            "runs": runs_html(await memory.runs(asked.user), asked),
            "banner": banner_html(await memory.status(), asked),
            **await self._panel(memory, asked, now),
        }
        return {
            "ready": True,
            "chat": chat,
            "live": answering,
            "last": next((turn.id for turn in reversed(turns) if turn.role == "user"), ""),
            "parts": {
                name: {"html": html, "tag": tag}
                for name, html in parts.items()
                if asked.have.get(name) != (tag := _tag(html))
            },
        }

    async def _transcript(self, memory: AsyncMemory, turns: Sequence[Turn], asked: Asked, live: str | None) -> str:
        replies = {}
        for turn in turns:
            if turn.role == "assistant":
                why = await self._summary(memory, asked.user, turn) if turn.reply_to is not None else None
                replies[turn.id] = Shown(await _rendered(turn.text), why)
        return transcript_html(turns, replies, asked, live)

    async def _summary(self, memory: AsyncMemory, user: str, reply: Turn) -> WhySummary | None:
        key = (memory.scope(user).tenant, user, reply.id)
        if key not in self._why:
            found = await memory.receipt(user, reply.id)
            if found is None:
                return None
            self._why[key] = WhySummary(len(found[0].items), bool(found[0].missed))
            while len(self._why) > KEPT_SUMMARIES:
                self._why.popitem(last=False)
        return self._why[key]

    async def _panel(self, memory: AsyncMemory, asked: Asked, now: datetime) -> dict[str, str]:
        found = {
            kind: await memory.get_all(asked.user, Filters(kinds=(kind,)), limit=asked.memories + 1) for kind in KINDS
        }
        return {
            "tabs": tabs_html({kind: len(records) for kind, records in found.items()}, asked),
            "memories": memories_html(found[asked.tab], asked, now, self._half_life_days),
        }

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


async def _rendered(text: str) -> str:
    """A reply's HTML. Rendering takes about 3 ms a thousand characters: long ones are made in a thread, and the loop
    gets a turn after each."""
    if len(text) > LONG_REPLY:
        return await asyncio.to_thread(markdown, text)
    await asyncio.sleep(0)
    return markdown(text)


def _tag(html: str) -> str:
    return blake2b(html.encode("utf-8", "replace"), digest_size=9).hexdigest()
