"""Kill points: wrappers of the ports that end their own process, by SIGKILL, at one named moment.

A campaign starts a server whose ports are wrapped (`wiring.Around`), with an order such as
`apply:remember.commit`, sends it work, and finds it dead at that moment. No product code knows of them.

The moments of a call: `before` it is handed on; `inside` its transaction, at the n-th statement; `commit`, when all is
written and the commit is about to begin; `committing`, up to two milliseconds later, in another thread; `after`, when
it is durable but nobody has been told. Those in the middle are seen in what SQLite is given to do
(`kill_statements`), so they are there for SQLite alone.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from afterword.records import Job, Scope

if TYPE_CHECKING:
    from afterword.ports import LLM, Embedder, Index, Ledger, Prompt

Moment = Literal["before", "inside", "commit", "committing", "after"]
MOMENTS: tuple[Moment, ...] = get_args(Moment)

# The ledger's writing methods; those with kinds are named `apply:remember`.
LEDGER = (
    "accept",
    "answer",
    "edit",
    "reset",
    "delete_chat",
    "start_run",
    "put",
    "claim",
    "fix_window",
    "renew",
    "apply",
    "postpone",
    "bury",
    "retry",
    "cancel",
    "sweep",
    "prune",
)
INDEX = ("search", "project", "rebuild")
OF_KINDS = frozenset({"apply", "start_run"})


@dataclass(frozen=True, slots=True)
class KillOrder:
    """Die at the `nth` time that `name` (e.g. `apply:remember`, `llm.complete`, `index.project`, `migrate`) comes to
    `moment`, counted for this `user` alone where one is named. At `inside`, `nth` counts statements."""

    name: str
    moment: Moment
    nth: int = 1
    user: str = ""

    @classmethod
    def parse(cls, point: str, nth: int = 1, user: str = "") -> KillOrder:
        """Of `name.moment`. Raises `ValueError`."""
        name, _, moment = point.rpartition(".")
        if not name or moment not in MOMENTS:
            raise ValueError(f"{point!r} is no kill point: give name.moment, moment one of {', '.join(MOMENTS)}")
        return cls(name, moment, nth, user)


def die() -> None:
    """End this process at once, as a crash does: nothing is flushed, closed or told."""
    os.kill(os.getpid(), signal.SIGKILL)


class KillSwitch:
    """Carries out one order. `note`: a file in which the last act is to write where it was."""

    def __init__(self, order: KillOrder, note: Path, kill: Callable[[], None] = die) -> None:
        self.order = order
        self._note = note
        self._kill = kill
        self._left = order.nth
        self._calls: list[str] = []  # what marks the transactions of calls under way

    def reach(self, name: str, moment: Moment, user: str | None = None, detail: str = "") -> None:
        """A call has come to this moment; `user` None: it is everybody's."""
        order = self.order
        if (name, moment) != (order.name, order.moment) or not self._meant(user):
            return
        self._left -= 1
        if self._left <= 0:
            self.strike(detail)

    def strike(self, detail: str = "") -> None:
        """Do it now."""
        self._note.write_text(f"{self.order.name}.{self.order.moment}\t{' '.join(detail.split())[:200]}")
        self._kill()

    def _meant(self, user: str | None) -> bool:
        return not self.order.user or user is None or user == self.order.user

    # ── what the statements are told ───────────────────────────────────────────────────────────────────────────────

    def begins(self, name: str, user: str | None, mark: str) -> bool:
        """Whether the order lies within this call. `mark` stands in the SQL of its transaction and of no other."""
        ours = name == self.order.name and self._meant(user)
        if ours:
            self._calls.append(mark)
        return ours

    def ends(self, mark: str) -> None:
        self._calls.remove(mark)

    def under_way(self, sql: str) -> bool:
        """Whether this statement is of a call that the order lies within."""
        return any(mark in sql for mark in list(self._calls))


# ── wrappers ───────────────────────────────────────────────────────────────────────────────────────────────────────


class _Watched:
    """A port whose calls tell the switch when they begin and end; everything else goes through."""

    def __init__(self, port: object, switch: KillSwitch, names: Mapping[str, str]) -> None:
        self._port = port
        self._switch = switch
        self._names = names

    def __getattr__(self, method: str) -> Any:
        found = getattr(self._port, method)
        return self._watched(self._names[method], found) if method in self._names else found

    def _watched(self, name: str, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        switch = self._switch

        async def watched(*args: Any, **named: Any) -> Any:
            full, user, mark = f"{name}{_kind(name, args)}", _user(args), _mark(name, args)
            switch.reach(full, "before", user)
            within = switch.begins(full, user, mark)
            try:
                result = await call(*args, **named)
            finally:
                if within:
                    switch.ends(mark)
            switch.reach(full, "after", _user(tuple(result)) if name == "claim" else user)
            return result

        return watched


def _kind(name: str, args: tuple[Any, ...]) -> str:
    if name not in OF_KINDS:
        return ""
    return f":{args[0].kind}" if isinstance(args[0], Job) else f":{args[1]}"


def _user(args: tuple[Any, ...]) -> str | None:
    first = args[0] if args else None
    scope = first.scope if isinstance(first, Job) else first
    return scope.user if isinstance(scope, Scope) else None


def _mark(name: str, args: tuple[Any, ...]) -> str:
    """What stands in the SQL of this call's transaction: the job's id, or the user's name as a value."""
    first = args[0] if args else None
    if isinstance(first, Job):
        return f"job.id = {first.id} "
    if isinstance(first, int):
        return f"job.id = {first}"
    if isinstance(first, Scope):
        return f"'{first.user}'"
    return {"claim": "UPDATE job ", "prune": "DELETE FROM job", "sweep": "INSERT INTO job"}.get(name, "SAVEPOINT")


class _WatchedLLM(_Watched):
    async def stream(self, prompt: Prompt) -> AsyncGenerator[str, None]:
        """The reply; each piece is a moment `inside`."""
        llm = cast("LLM", self._port)
        self._switch.reach("llm.stream", "before")
        async with aclosing(llm.stream(prompt)) as pieces:
            async for piece in pieces:
                self._switch.reach("llm.stream", "inside")
                yield piece
        self._switch.reach("llm.stream", "after")


def watched_ledger(ledger: Ledger, switch: KillSwitch) -> Ledger:
    """The ledger, its writes watched: `accept` (a chat's `begin` too), `apply:remember` …"""
    return cast("Ledger", _Watched(ledger, switch, {**{name: name for name in LEDGER}, "begin": "accept"}))


def watched_index(index: Index, switch: KillSwitch) -> Index:
    """The index: `index.search`, `index.project`, `index.rebuild`."""
    return cast("Index", _Watched(index, switch, {name: f"index.{name}" for name in INDEX}))


def watched_llm(llm: LLM, switch: KillSwitch) -> LLM:
    """The LLM: `llm.complete` and `llm.stream`."""
    return cast("LLM", _WatchedLLM(llm, switch, {"complete": "llm.complete"}))


def watched_embedder(embedder: Embedder, switch: KillSwitch) -> Embedder:
    """The embedder: `embedder.query` and `embedder.passages`."""
    return cast("Embedder", _Watched(embedder, switch, {name: f"embedder.{name}" for name in ("query", "passages")}))
