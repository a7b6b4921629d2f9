"""What is done to a memory under load, and what of it is measured: the same for every memory that is compared.

Needs the standard library alone, so that it runs in another product's environment too.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Search = Callable[[str], Awaitable[int]]  # a query → how many hits
Add = Callable[[str, str], Awaitable[int]]  # user, text → how many memories were written, once they are

BEAT = 0.005
THINGS = (
    "bicycle",
    "piano",
    "boat",
    "kettle",
    "lamp",
    "camera",
    "telescope",
    "violin",
    "tent",
    "clock",
    "globe",
    "ladder",
    "kite",
    "drum",
    "mirror",
    "scarf",
)
COLOURS = ("red", "blue", "green", "yellow", "black", "white", "silver", "purple", "orange", "brown")
PLACES = (
    "Oslo",
    "Lisbon",
    "Kyoto",
    "Lima",
    "Cairo",
    "Dublin",
    "Quito",
    "Tallinn",
    "Accra",
    "Hanoi",
    "Bergen",
    "Porto",
    "Turin",
    "Malmo",
    "Gdansk",
    "Izmir",
)
PEOPLE = (
    "Ann",
    "Ben",
    "Clara",
    "David",
    "Ella",
    "Frank",
    "Grace",
    "Henry",
    "Ivy",
    "Jack",
    "Kate",
    "Liam",
    "Mona",
    "Noah",
    "Olga",
    "Paul",
)
MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)


def sentence(number: int, chance: random.Random) -> str:
    """Something a person may tell about themselves; no two numbers give the same."""
    month, place, who = chance.choice(MONTHS), chance.choice(PLACES), chance.choice(PEOPLE)
    what = f"{chance.choice(COLOURS)} {chance.choice(THINGS)}"
    return f"In {month} {1990 + number % 35} I bought a {what} in {place} with {who}, number {number}."


def question(chance: random.Random) -> str:
    what = f"{chance.choice(COLOURS)} {chance.choice(THINGS)}"
    return f"Where did I buy the {what}, and was {chance.choice(PEOPLE)} there?"


class Heartbeat:
    """How late the event loop is: a task that wants to wake every 5 ms."""

    def __init__(self) -> None:
        self.lags: list[float] = []

    async def beat(self) -> None:
        while True:
            wanted = time.perf_counter() + BEAT
            await asyncio.sleep(BEAT)
            self.lags.append(time.perf_counter() - wanted)

    def take(self) -> dict[str, float]:
        """Seconds late, at the 99th percentile and at most, since the last take."""
        lags, self.lags = sorted(self.lags), []
        if not lags:
            return {"loop_lag_p99": 0.0, "loop_lag_max": 0.0}
        return {"loop_lag_p99": lags[int(len(lags) * 0.99)], "loop_lag_max": lags[-1]}


def at(values: Sequence[float], share: float) -> float:
    """The value below which this share of them lies (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def milliseconds(values: Sequence[float]) -> dict[str, float]:
    """p50, p95, p99 and max of times in seconds, in milliseconds."""
    shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
    return {name: round(1000 * at(values, share), 2) for name, share in shares.items()}


def resident_mb() -> float:
    """Memory of this process that is in RAM (Linux; elsewhere 0)."""
    try:
        status = Path("/proc/self/status").read_text("ascii")
    except OSError:
        return 0.0
    kib = next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")), 0)
    return round(kib / 1024, 1)


@dataclass
class Writers:
    """Adds by so many users at once, each beginning its next when the last is through: always so many in flight."""

    add: Add
    count: int
    seed: int
    name: str = "writer"  # of its users: this and a number
    begun: int = 0
    ended: int = 0
    written: int = 0
    failed: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    _stopping: bool = False

    @property
    def in_flight(self) -> int:
        return self.begun - self.ended

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Writers]:
        """Write while inside; leaving waits for what is under way."""
        tasks = [asyncio.create_task(self._write(place)) for place in range(self.count)]
        try:
            yield self
        finally:
            self._stopping = True
            await asyncio.gather(*tasks)

    async def _write(self, place: int) -> None:
        chance = random.Random(self.seed * 1009 + place)
        await asyncio.sleep(chance.random() * min(1.0, self.count / 50))  # not all at the very same moment
        number = 0
        while not self._stopping:
            self.begun += 1
            began = time.perf_counter()
            try:
                written = await self.add(f"{self.name}{place}", sentence(number, chance))
                self.written += written  # not in one line: others write while this one waits
            except Exception as error:  # noqa: BLE001  (whatever the memory raises is what is counted)
                self.failed.append(f"{type(error).__name__}: {error}")
                await asyncio.sleep(0.1)
            self.ended += 1
            self.seconds.append(time.perf_counter() - began)
            number += 1


@dataclass(frozen=True)
class Pace:
    """So many searches, one every so many seconds, whether or not the last has ended."""

    searches: int = 200
    every: float = 0.05
    warm_up: float = 3.0  # seconds of writing before the first search counts
    seed: int = 1


@dataclass
class Searched:
    """What became of the searches: seconds from when each was due to its end, those that failed left out."""

    seconds: list[float] = field(default_factory=list)
    empty: int = 0
    failed: list[str] = field(default_factory=list)


async def searched(search: Search, pace: Pace, seen: Callable[[], None]) -> Searched:
    """Search at this pace. `seen` is called at each."""
    chance = random.Random(pace.seed)
    began, found = time.perf_counter(), Searched()

    async def one(due: float, query: str) -> None:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        seen()
        try:
            hits = await search(query)
            found.empty += not hits
        except Exception as error:  # noqa: BLE001  (whatever the memory raises is what is counted)
            found.failed.append(f"{type(error).__name__}: {error}")
        else:
            found.seconds.append(time.perf_counter() - due)

    plans = [(began + place * pace.every, question(chance)) for place in range(pace.searches)]
    await asyncio.gather(*(one(due, query) for due, query in plans))
    return found


async def under_writes(
    search: Search, add: Add, in_flight: int, pace: Pace, waiting_on_llm: Callable[[], int]
) -> dict[str, Any]:
    """Search latency while so many adds are in flight, from before the first search to after the last."""
    heartbeat = Heartbeat()
    writers = Writers(add, in_flight, pace.seed, f"writer{in_flight}-")
    flights, asked = list[int](), list[int]()

    def seen() -> None:
        flights.append(writers.in_flight)
        asked.append(waiting_on_llm())

    beating = asyncio.create_task(heartbeat.beat())
    async with writers.running():
        await asyncio.sleep(pace.warm_up if in_flight else 0.2)
        ended, since, worked = writers.ended, time.perf_counter(), time.process_time()
        heartbeat.take()
        found = await searched(search, pace, seen)
        lag = heartbeat.take()
        passed = time.perf_counter() - since
        rate, cpu = (writers.ended - ended) / passed, (time.process_time() - worked) / passed
    beating.cancel()
    return {
        "in_flight": in_flight,
        "search_ms": milliseconds(found.seconds),
        "searches_failed": len(found.failed),
        "found_nothing": found.empty,
        **{name: round(seconds, 4) for name, seconds in lag.items()},
        "in_flight_least": min(flights),
        "in_llm_call_least": min(asked),
        "in_llm_call_median": at(asked, 0.5),
        "in_llm_call_most": max(asked),
        "adds": writers.ended,
        "adds_failed": len(writers.failed),
        "first_failure": (writers.failed + found.failed or [""])[0],
        "memories_written": writers.written,
        "adds_a_second": round(rate, 1),
        "cores_busy": round(cpu, 2),
        "add_ms": milliseconds(writers.seconds),
        "resident_mb": resident_mb(),
    }
