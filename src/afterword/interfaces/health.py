"""`/healthz` (is the process alive), `/readyz` (can it do its work, and if not, why), and how late the event loop is.

Ready means: what is told is kept and what is asked is answered. What only makes answers poorer (an LLM or an embedder
that is away, work that piles up) is told as a reason and does not make the server unready: sending people elsewhere
would not mend it.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections import deque
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from starlette.requests import Request
from starlette.responses import JSONResponse

from afterword.errors import AfterwordError, LedgerError

if TYPE_CHECKING:
    from pathlib import Path

    from afterword.interfaces.holder import MemoryHolder
    from afterword.memory import AsyncMemory
    from afterword.meter import Meter
    from afterword.ports import Queue
    from afterword.settings import Settings

SAMPLE = 0.1  # seconds between two looks at the event loop
WINDOW = 60.0  # seconds over which its worst lag is told
PROBE_EVERY = 5.0  # seconds: everybody may ask for readiness, and a probe writes
PROBE_DEADLINE = 3.0
SPACE_LOW, SPACE_OUT = 200_000_000, 1_000_000  # bytes; below the second a probe may still find room, a turn may not
STUCK = 600.0  # seconds that a job may be due and not begun
LATE = 1.0  # seconds of lag that people notice
NAMES = {"llm": "the LLM", "decider": "the LLM for background work", "embedder": "the embedder"}


@dataclass(frozen=True, slots=True)
class Reason:
    """What is wrong with a part. `down`: the server can't do its work; `degraded`: it does it less well."""

    part: str
    state: Literal["down", "degraded"]
    why: str
    fix: str = ""


class LoopLag:
    """Measures how late the loop wakes a sleeper, ten times a second: what every request waits at least."""

    def __init__(self) -> None:
        self._worst: deque[tuple[float, float]] = deque()  # (when, lag), lags falling

    @property
    def worst(self) -> float:
        """The greatest lag of the last minute, in seconds."""
        self._forget(time.monotonic())
        return self._worst[0][1] if self._worst else 0.0

    def add(self, at: float, lag: float) -> None:
        self._forget(at)
        while self._worst and self._worst[-1][1] <= lag:
            self._worst.pop()
        self._worst.append((at, lag))

    def _forget(self, now: float) -> None:
        while self._worst and self._worst[0][0] < now - WINDOW:
            self._worst.popleft()

    async def run(self, meter: Meter) -> None:
        """Measure until cancelled."""
        while True:
            began = time.monotonic()
            await asyncio.sleep(SAMPLE)
            now = time.monotonic()
            lag = max(0.0, now - began - SAMPLE)
            self.add(now, lag)
            meter.loop_lag.add(lag)


class Readiness:
    """Finds the reasons; asks the disk at most every few seconds, however often it is asked."""

    def __init__(self, settings: Settings, lag: LoopLag) -> None:
        self._settings = settings
        self._lag = lag
        self._folder: Path | None = settings.data_dir if settings.ledger_url.startswith("sqlite") else None
        self._probed_at = -PROBE_EVERY
        self._probed: list[Reason] = []
        self._probing = asyncio.Lock()

    async def reasons(self, memory: AsyncMemory) -> list[Reason]:
        """All that is wrong now, the worst first."""
        async with self._probing:
            if time.monotonic() - self._probed_at >= PROBE_EVERY:
                self._probed = await self._probe(memory)
                self._probed_at = time.monotonic()
        found = [*self._probed, *_away(memory)]
        if self._lag.worst > LATE:
            found.append(
                Reason("event loop", "degraded", f"it stood still for {self._lag.worst:.1f} s in the last minute")
            )
        return sorted(found, key=lambda reason: reason.state != "down")

    async def _probe(self, memory: AsyncMemory) -> list[Reason]:
        try:
            async with asyncio.timeout(PROBE_DEADLINE):
                await memory.ledger.probe()
                queue = await memory.ledger.queue()
        except TimeoutError:
            return [Reason("ledger", "down", f"it did not write within {PROBE_DEADLINE:g} s", "look at its disk")]
        except LedgerError as error:
            return [Reason("ledger", "down", error.public)]
        space = await asyncio.to_thread(_space, self._folder) if self._folder is not None else []
        return [*space, *_work(queue, self._settings.max_waiting_jobs, datetime.now(UTC))]


def _space(folder: Path) -> list[Reason]:
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return [Reason("disk", "degraded", f"the data folder can't be looked at: {error.strerror}")]
    if free > SPACE_LOW:
        return []
    state: Literal["down", "degraded"] = "down" if free < SPACE_OUT else "degraded"
    return [Reason("disk", state, f"{free / 1e6:.0f} MB are left for the data folder", "make room on this disk")]


def _work(queue: Queue, most: int, now: datetime) -> list[Reason]:
    found = []
    if queue.count("queued") >= most:
        why = f"{queue.count('queued'):,} jobs wait, no more fit (max_waiting_jobs): turns are kept and decided later"
        found.append(Reason("work", "degraded", why, "start more `afterword worker`, or raise the limit"))
    late = (now - queue.due).total_seconds() if queue.due is not None else 0.0
    if late > STUCK and not queue.count("running"):
        why = f"a job is due since {late / 60:.0f} minutes and none runs"
        found.append(Reason("work", "degraded", why, "is an `afterword worker` running? `afterword jobs` lists them"))
    return found


def _away(memory: AsyncMemory) -> list[Reason]:
    """Parts whose last call failed, and what the worker waits for."""
    found = {
        NAMES[part]: Reason(part, "degraded", error.public, getattr(error, "fix", ""))
        for part, error in memory.watch.away.items()
        if part in NAMES
    }
    told = {reason.why for reason in found.values()}
    waits = [error for error in memory.worker.outages if error.public not in told]
    return [*found.values(), *(Reason("work", "degraded", error.public, getattr(error, "fix", "")) for error in waits)]


async def health(request: Request) -> JSONResponse:
    """`/healthz`."""
    state = request.app.state.holder.state
    return JSONResponse({"status": state}, 200 if state == "ok" else 503)


async def ready(request: Request) -> JSONResponse:
    """`/readyz`: 200 and `ready` or `degraded`, 503 and `starting`, `stopping` or `down`; with every reason.

    Anybody may ask; who does not have the token is told the parts and their states only.
    """
    holder: MemoryHolder = request.app.state.holder
    memory = holder.peek()
    if memory is None:
        return JSONResponse({"status": holder.state, "reasons": []}, 503)
    readiness: Readiness = request.app.state.readiness
    try:
        found = await readiness.reasons(memory)
    except AfterwordError as error:
        found = [Reason("memory", "down", error.public)]
    state = "ready" if not found else found[0].state
    told = [asdict(reason) for reason in found]
    if not request.scope.get("afterword.known", True):
        told = [{"part": reason.part, "state": reason.state} for reason in found]
    return JSONResponse({"status": state, "reasons": told}, 503 if state == "down" else 200)
