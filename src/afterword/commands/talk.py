"""`chat`, `add`, `search`."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast, get_args
from zoneinfo import ZoneInfo

import typer
from anyio.from_thread import start_blocking_portal

from afterword.commands.common import Flags, one_line, say, say_json, settings_of, warn, when, with_memory
from afterword.errors import AfterwordError, InvalidInput, StillPending
from afterword.language.dates import ago
from afterword.ranking import PART_NAMES
from afterword.records import Filters, Hit, Kind, NewTurn, Role, local_time
from afterword.wiring import open_memory

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortal

    from afterword.memory import AsyncMemory
    from afterword.reply import Reply
    from afterword.settings import Settings


def chat(flags: Flags, message: str | None, chat_id: str) -> None:
    """The loop runs in a thread of its own, so that the prompt has the main one and Ctrl-C reaches it."""
    settings = settings_of(flags)
    with start_blocking_portal("asyncio") as portal, portal.wrap_async_context_manager(open_memory(settings)) as memory:
        talk = _Talk(portal, memory, settings, chat_id)
        if message is not None:
            if not talk.answer(message):
                raise typer.Exit(1)
            return
        if portal.call(memory.status).llm is None:
            say("No LLM is set: replies quote what is remembered. `afterword doctor` says how to add one.")
        talk.converse()


class _Talk:
    def __init__(self, portal: BlockingPortal, memory: AsyncMemory, settings: Settings, chat_id: str) -> None:
        self._portal = portal
        self._memory = memory
        self._settings = settings
        self._chat_id = chat_id
        self._hits: tuple[Hit, ...] = ()

    def converse(self) -> None:
        prompt = "> " if sys.stdin.isatty() else ""
        while True:
            try:
                line = input(prompt).strip()
            except (EOFError, KeyboardInterrupt):
                say()
                return
            if line == "/quit":
                return
            if line == "/why":
                show_hits(self._hits, explain=True)
            elif line:
                self._safely(line)

    def _safely(self, line: str) -> None:
        try:
            self.answer(line)
        except AfterwordError as error:
            warn(f"afterword: {error}")

    def answer(self, message: str) -> bool:
        """Stream one reply to the terminal; whether it came whole."""
        reply = self._portal.call(self._start, message)
        try:
            self._stream(reply)
        except KeyboardInterrupt:
            self._portal.call(reply.stop)
        self._portal.call(reply.done)
        recalled = self._portal.call(reply.recalled)
        self._hits = tuple(recalled.hits)
        say()
        if recalled.missed:
            warn(f"(without memories: {recalled.missed})")
        if reply.cut:
            warn(f"(only a part: {reply.cut}) {reply.fix}".rstrip())
        return reply.cut is None

    async def _start(self, message: str) -> Reply:
        offset = self._settings.utc_offset(datetime.now(UTC))
        return await self._memory.chat(message, self._settings.user, self._chat_id, utc_offset=offset)

    def _stream(self, reply: Reply) -> None:
        pieces = aiter(reply)
        while (piece := self._portal.call(_next, pieces)) is not None:
            typer.echo(piece, nl=False)
            sys.stdout.flush()


async def _next(pieces: AsyncIterator[str]) -> str | None:
    return await anext(pieces, None)


def add(
    flags: Flags,
    text: str,
    *,
    chat_id: str,
    role: str,
    speaker: str | None,
    said_at: datetime | None,
    turn_id: str | None,
    wait: float,
) -> None:
    text = sys.stdin.read() if text == "-" else text

    async def keep(memory: AsyncMemory, settings: Settings) -> None:
        moment = aware(said_at, settings) if said_at else None
        offset = settings.utc_offset(moment or datetime.now(UTC))
        turn = NewTurn(chat_id, cast(Role, role), text, speaker, moment, offset, turn_id)
        ticket = await memory.add_turns([turn], settings.user)
        if not wait:
            say(f"Kept as turn {ticket.turn_ids[0]}.")
            return
        try:
            ids = await ticket.ids(wait)
        except StillPending:
            warn(f"Kept as turn {ticket.turn_ids[0]}. What it teaches is not decided yet; the work goes on later.")
            return
        say(f"Kept as turn {ticket.turn_ids[0]}." + ("" if ids else " It became no memory of its own."))
        for memory_id in ids:
            found = await memory.get(memory_id, settings.user)
            say(f"  {found.kind}  {found.text}  [{memory_id}]")

    with_memory(flags, keep, run_worker=wait > 0)


def aware(moment: datetime, settings: Settings) -> datetime:
    """A time without an offset is meant in the person's time zone."""
    if moment.tzinfo is not None:
        return moment
    return moment.replace(tzinfo=ZoneInfo(settings.timezone)) if settings.timezone else moment.astimezone()


def search(
    flags: Flags, query: str, *, limit: int, kinds: list[str], chat_id: str | None, as_json: bool, explain: bool
) -> None:
    wrong = [kind for kind in kinds if kind not in get_args(Kind)]
    if wrong:
        raise InvalidInput(f"kind is {wrong[0]!r}: give turn, episodic or semantic")
    filters = Filters(kinds=cast(tuple[Kind, ...], tuple(kinds)), chat_id=chat_id)

    async def find(memory: AsyncMemory, settings: Settings) -> list[Hit]:
        return await memory.search(query, settings.user, limit, filters=filters)

    hits = with_memory(flags, find)
    if as_json:
        say_json([hit_json(hit, explain) for hit in hits])
    elif not hits:
        say("Nothing found.")
    else:
        show_hits(hits, explain=explain)


def context(flags: Flags, query: str, *, budget: int) -> None:
    async def tell(memory: AsyncMemory, settings: Settings) -> str:
        return await memory.context(query, settings.user, budget)

    say(with_memory(flags, tell) or "Nothing to tell.")


def show_hits(hits: list[Hit] | tuple[Hit, ...], *, explain: bool) -> None:
    now = datetime.now(UTC)
    for hit in hits:
        speaker = f"{hit.speaker or hit.role}: " if hit.kind == "turn" else ""
        say(f"{hit.score:.3f}  {when(hit.said_at, hit.utc_offset)}  {hit.kind:<8}  {speaker}{one_line(hit.text)}")
        if explain:
            say("\n".join(f"       {line}" for line in reasons(hit, now)))


def reasons(hit: Hit, now: datetime) -> list[str]:
    """Why this was found: the parts of its score, the greatest first; what it is, and what it rests on."""
    ranked = sorted(hit.parts.items(), key=lambda part: -abs(part[1]))
    age = ago(local_time(hit.said_at, hit.utc_offset).date(), local_time(now, hit.utc_offset).date())
    strength = f", strength {hit.strength:.2f}" if hit.kind != "turn" else ""
    return [
        ", ".join(f"{PART_NAMES.get(name, name)} {part:+.3f}" for name, part in ranked) or "no parts",
        f"id {hit.id}, version {hit.ref.version}, said {age}{strength}",
        *([f"rests on {', '.join(hit.sources)}"] if hit.sources else []),
    ]


def hit_json(hit: Hit, explain: bool) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "id": hit.id,
        "version": hit.ref.version,
        "kind": hit.kind,
        "text": hit.text,
        "score": hit.score,
        "said_at": hit.said_at.isoformat(),
        "chat_id": hit.chat_id,
        "role": hit.role,
        "speaker": hit.speaker,
    }
    if not explain:
        return plain
    age = (datetime.now(UTC) - hit.said_at).total_seconds() / 86_400
    why = {"parts": dict(hit.parts), "sources": list(hit.sources), "strength": hit.strength, "age_days": round(age, 2)}
    return {**plain, **why}
