"""What an LLM is given for a message: what was found and fits it, the turns beside that, and the standing facts.

The same for the chat and for `memory.context`. Everything is read under the search's own deadline: what comes too late
is left out, and the receipt says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import structlog

from afterword.context.lasting import Lasting, LastingFacts
from afterword.context.neighbours import is_echo, needed
from afterword.context.relevance import fitting
from afterword.context.text import Beside, Context, Ended, Known, build_context
from afterword.errors import LedgerError
from afterword.language.questions import read_question
from afterword.language.smalltalk import is_small_talk
from afterword.language.texts import language_of, prompt_tokens
from afterword.language.tokens import tokens
from afterword.recall import Recalled, shortened
from afterword.records import Filters, Hit, Scope, Turn, hit_of

if TYPE_CHECKING:
    from datetime import datetime

    from afterword.ports import Clock, Reads
    from afterword.recall import Recaller

log = structlog.get_logger(__name__)
T = TypeVar("T")

LEAST = 0.05  # seconds that reading beside the hits is left with
LONG_QUERY = 4_000  # characters of a message, its beginning and its end, that what was found is held against


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a text is wanted for: at most `limit` hits in `budget_tokens`, told on a clock of `utc_offset` minutes (None:
    ours)."""

    query: str
    limit: int
    budget_tokens: int
    utc_offset: int | None = None
    exclude: frozenset[str] = frozenset()
    allow_orders: bool = False
    count: Callable[[str], int] | None = None


@dataclass(frozen=True, slots=True)
class Brief:
    """The text, the hits that are in it (best first), and all that was given: those, neighbours, standing facts."""

    text: str
    hits: tuple[Hit, ...]
    given: Recalled


class Briefing:
    """Makes briefs for one memory. `deadline` is in seconds, for a whole brief; `utc_offset` gives the offset of our
    clock at a moment, in minutes; `count` counts tokens."""

    def __init__(
        self,
        reads: Reads,
        recall: Recaller,
        clock: Clock,
        deadline: float,
        utc_offset: Callable[[datetime], int],
        count: Callable[[str], int] | None = None,
    ) -> None:
        self._reads = reads
        self._recall = recall
        self._clock = clock
        self._deadline = deadline
        self._utc_offset = utc_offset
        self._count = count or prompt_tokens
        self._lasting = LastingFacts(reads)

    def expect(self, query: str) -> None:
        """A brief for this is about to be wanted."""
        self._recall.expect(query)

    async def brief(self, scope: Scope, wanted: Wanted) -> Brief:
        """Never raises for an outage: `given.missed` says what is lacking."""
        started = self._clock.monotonic()
        search = self._recall.search(scope, wanted.query, limit=wanted.limit, filters=Filters(), exclude=wanted.exclude)
        facts = _in_time(self._lasting.of(scope), Lasting(), self._deadline, "the standing facts")
        recalled, (lasting, late) = await asyncio.gather(search, facts)
        wanted = replace(wanted, query=shortened(wanted.query, LONG_QUERY))
        hits = fitting(wanted.query, recalled)
        left = max(LEAST, self._deadline - (self._clock.monotonic() - started))
        about = self._known(scope, wanted, hits, lasting)
        known, later = await _in_time(about, _known_of(lasting), left, "the turns beside what was found")
        hits = tuple(hit for hit in hits if hit.id not in known.echoes)
        context = self._written(wanted, hits, known)
        missed = "; ".join(part for part in (recalled.missed, late, later) if part)
        ms = 1000 * (self._clock.monotonic() - started)
        return _brief(context, hits, Recalled((), missed, ms))

    def _written(self, wanted: Wanted, hits: Sequence[Hit], known: Known) -> Context:
        now = self._clock.now()
        return build_context(
            hits,
            now=now,
            budget_tokens=wanted.budget_tokens,
            count=wanted.count or self._count,
            utc_offset=self._utc_offset(now) if wanted.utc_offset is None else wanted.utc_offset,
            language=language_of(wanted.query),
            allow_orders=wanted.allow_orders,
            known=known,
            query=wanted.query,
            says_nothing=not is_small_talk(wanted.query),
        )

    # ── what belongs to the hits ───────────────────────────────────────────────────────────────────────────────────

    async def _known(self, scope: Scope, wanted: Wanted, hits: Sequence[Hit], lasting: Lasting) -> Known:
        around, ended = await asyncio.gather(self._around(scope, hits), self._ended(scope, hits, lasting))
        of_assistant = read_question(wanted.query, tokens).about == "assistant"
        spoke = {hit.speaker for hit in hits if hit.speaker}
        echoes: set[str] = set()
        beside: dict[str, Beside] = {}
        for hit, before, after in around:
            if not of_assistant and before is not None and is_echo(hit, before, spoke):
                echoes.add(hit.id)
            needs = needed(hit, _shown(before, wanted), _shown(after, wanted), spoke)
            if needs is not None:
                beside[hit.id] = needs
        return replace(_known_of(lasting), beside=beside, ended={**lasting.ended, **ended}, echoes=frozenset(echoes))

    async def _around(self, scope: Scope, hits: Sequence[Hit]) -> list[tuple[Hit, Turn | None, Turn | None]]:
        """Each turn among the hits, with the one before it and the one after it in its chat."""
        turns = [hit for hit in hits if hit.kind == "turn" and hit.chat_id is not None and hit.position is not None]
        places = {(hit.chat_id or "", (hit.position or 0) + step) for hit in turns for step in (-1, 1)}
        read = await self._reads.turns_at(scope, sorted(places)) if places else []
        at = {(turn.chat_id, turn.position): turn for turn in read}
        near = [(hit, hit.chat_id or "", hit.position or 0) for hit in turns]
        return [(hit, at.get((chat, place - 1)), at.get((chat, place + 1))) for hit, chat, place in near]

    async def _ended(self, scope: Scope, hits: Sequence[Hit], lasting: Lasting) -> dict[str, Ended]:
        """Turns whose episodes no longer hold."""
        turns = [hit.id for hit in hits if hit.kind == "turn"]
        if not lasting.ended or not turns:
            return {}
        episodes = await self._reads.memories_of(scope, turns)
        gone = [episode for episode in episodes if episode.id in lasting.ended]
        return {source: lasting.ended[episode.id] for episode in gone for source in episode.sources}


async def _in_time(awaited: Awaitable[T], otherwise: T, patience: float, what: str) -> tuple[T, str]:
    """The value and "", or what stands in for it and why."""
    try:
        async with asyncio.timeout(patience):
            return await awaited, ""
    except TimeoutError:
        missed = f"without {what}: they were not read within {patience:.2g} s"
    except LedgerError as error:
        missed = f"without {what}: {error}"
    log.warning("brief_incomplete", reason=missed)
    return otherwise, missed


def _known_of(lasting: Lasting) -> Known:
    standing = tuple(hit_of(memory, 1.0, {"standing": 1.0}) for memory in lasting.standing)
    return Known({}, standing, lasting.ended, lasting.before, lasting.later)


def _shown(turn: Turn | None, wanted: Wanted) -> Turn | None:
    """The turn, if it may stand in the text."""
    may = turn is not None and turn.searchable and turn.text.strip() and turn.id not in wanted.exclude
    return turn if may else None


def _brief(context: Context, hits: Sequence[Hit], found: Recalled) -> Brief:
    by_ref = {hit.ref: hit for hit in hits}
    used = tuple(by_ref[ref] for ref in context.used)
    along = tuple(hit for hit in (*context.beside, *context.standing) if hit.ref not in context.used)
    return Brief(context.text, used, replace(found, hits=used + along))
