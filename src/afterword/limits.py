"""Back-pressure: how much may wait and how much may go on at once, for one user and in all.

What a limit refuses is told to its caller (`QueueFull`) and nothing of it is kept; what was kept is never dropped. A
chat's own turns are always kept and never wait for room: a person who types is no flood, and a reply must not wait.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from afterword.errors import QueueFull

if TYPE_CHECKING:
    from collections.abc import Sequence

    from afterword.meter import Meter
    from afterword.ports import Clock, Ledger
    from afterword.records import NewTurn, Scope

FRESH = 60.0  # seconds that a measure of what waits is believed
SOONEST = 1.0  # seconds between two measures: who stands at a limit and asks again costs no more reading
KNOWN = 1000  # users whose measures are kept
LATER = 30.0  # seconds after which a refused caller may try again


@dataclass(frozen=True, slots=True)
class Limits:
    """Turns and bytes (of text, as UTF-8) that may wait to be decided, and replies that may be under way at once."""

    waiting_turns: int = 1_000_000
    waiting_turns_per_user: int = 100_000
    waiting_bytes: int = 2_000_000_000
    waiting_bytes_per_user: int = 200_000_000
    replies: int = 2_000
    replies_per_user: int = 256


@dataclass(slots=True)
class _Measure:
    turns: int
    bytes: int
    at: float


class Gate:
    """Who comes in. Measures what waits from the ledger, now and then, and adds what it let in since."""

    def __init__(self, limits: Limits, ledger: Ledger, clock: Clock, meter: Meter) -> None:
        self._limits = limits
        self._ledger = ledger
        self._clock = clock
        self._meter = meter
        self._known: OrderedDict[Scope | None, _Measure] = OrderedDict()

    async def admit(self, scope: Scope, turns: Sequence[NewTurn]) -> None:
        """Let these turns in, or raise `QueueFull`: then none of them is kept."""
        size = sum(len(turn.text.encode("utf-8", "replace")) for turn in turns)
        limits = self._limits
        own = await self._checked(
            scope, len(turns), size, limits.waiting_turns_per_user, limits.waiting_bytes_per_user, "_per_user"
        )
        of_all = await self._checked(None, len(turns), size, limits.waiting_turns, limits.waiting_bytes, "")
        for measure in (own, of_all):
            measure.turns += len(turns)
            measure.bytes += size

    async def _checked(
        self, scope: Scope | None, turns: int, size: int, most_turns: int, most_bytes: int, name: str
    ) -> _Measure:
        measure = await self._measured(scope, FRESH)
        if measure.turns + turns > most_turns or measure.bytes + size > most_bytes:
            measure = await self._measured(scope, SOONEST)  # some may have been decided meanwhile
        whose = "of this user" if scope is not None else "of all users"
        if measure.turns + turns > most_turns:
            told = f"{measure.turns:,} turns {whose} wait to be decided, {most_turns:,} may"
            raise self._refusal(told, f"max_waiting_turns{name}")
        if measure.bytes + size > most_bytes:
            told = f"{measure.bytes / 1e6:,.1f} MB of turns {whose} wait to be decided, {most_bytes / 1e6:,.1f} may"
            raise self._refusal(told, f"max_waiting_mb{name}")
        return measure

    async def _measured(self, scope: Scope | None, fresh: float) -> _Measure:
        now = self._clock.monotonic()
        known = self._known.get(scope)
        if known is not None and now - known.at < fresh:
            self._known.move_to_end(scope)
            return known
        turns, size = await self._ledger.waiting(scope)
        measure = self._known[scope] = _Measure(turns, size, now)
        if len(self._known) > KNOWN:
            self._known.popitem(last=False)
        return measure

    def check_replies(self, of_user: int, of_all: int) -> None:
        """Raise `QueueFull` where so many replies are under way that no other may begin."""
        if of_user >= self._limits.replies_per_user:
            raise self._refusal(
                f"{of_user:,} of {self._limits.replies_per_user:,} replies to this user are under way",
                "max_replies_per_user",
            )
        if of_all >= self._limits.replies:
            raise self._refusal(f"{of_all:,} of {self._limits.replies:,} replies are under way", "max_replies")

    def _refusal(self, told: str, limit: str) -> QueueFull:
        self._meter.refused.add(limit)
        return QueueFull(f"{told} ({limit}): send this again later, nothing of it was kept", retry_after=LATER)
