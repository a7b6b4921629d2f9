"""Half an hour of everything at once: people who talk, an LLM that fails, a server that is killed; looked at every minute.

    scripts/bench soak --minutes 30 --seed 1

People chat, tell, edit, delete and reset over HTTP, one doing after another, while the fake LLM and embedder go through
their faults and the server is now and then killed (or asked to stop) and started again. Every minute the living ledger
is read, on one snapshot, by plain `sqlite3` (`ledger_check`); at the end all work is done and searches are compared.
In the last third nobody kills the server, so that its memory and its open files can be seen to stay as they are.
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from afterword.testing import FakeOpenAI
from bench import traffic
from bench.crash_server import Order
from bench.house import House, Life, died, furnished, reached
from bench.judge import SEARCHES, Judge
from bench.ledger_check import Findings, compare, examine, opened
from bench.told import Told
from bench.traffic import Client, Died

PEOPLE = 6
STILL = 10.0  # seconds of silence that no load explains
WARM = 30.0  # seconds of a life that don't count for its growth
KILLED = 2 / 3  # of the time: after that no more kills
PAGE = os.sysconf("SC_PAGE_SIZE")
FAULTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("chat", {"status": 500}),
    ("chat", {"fault": "cut"}),
    ("chat", {"fault": "hang"}),
    ("chat", {"fault": "empty"}),
    ("complete", {"status": 401}),
    ("complete", {"status": 429, "retry_after": "2"}),
    ("complete", {"status": 503}),
    ("complete", {"fault": "hang"}),
    ("complete", {"fault": "prose"}),
    ("complete", {"fault": "truncated"}),
    ("complete", {"fault": "garbage"}),
    ("complete", {"first_delay": 1.0}),
    ("embeddings", {"status": 500}),
    ("embeddings", {"fault": "nan"}),
    ("embeddings", {"fault": "missing"}),
    ("embeddings", {"first_delay": 1.0}),
)
DEADLINES: dict[str, Any] = {
    "first_token_deadline": 3.0,
    "reply_gap_deadline": 3.0,
    "decider_deadline": 3.0,
    "embed_deadline": 3.0,
    "query_embed_deadline": 0.5,
}


@dataclass(frozen=True)
class Pace:
    """How fast all goes, in seconds (pairs: the least and the most), and how much is looked for."""

    check: float = 60.0  # between two looks at the ledger
    pause: tuple[float, float] = (0.1, 1.0)  # between two doings of one person
    life: tuple[float, float] = (15.0, 75.0)  # until the next kill
    fault: tuple[float, float] = (2.0, 6.0)
    calm: tuple[float, float] = (3.0, 12.0)  # between two faults
    sample: float = 5.0  # between two looks at memory and files
    searches: int = SEARCHES  # at the end


@dataclass(frozen=True)
class Sample:
    """Of a server: seconds since its start, bytes of memory, open files."""

    age: float
    memory: int
    files: int


@dataclass
class Record:
    """What has happened."""

    findings: Findings = field(default_factory=Findings)
    checks: int = 0
    kills: int = 0
    stops: int = 0
    given_up: int = 0
    searched: int = 0
    doings: int = 0
    suspended: float = 0.0  # seconds in which the campaign itself was stopped: they don't count
    faults: Counter[str] = field(default_factory=Counter)
    lives: list[list[Sample]] = field(default_factory=list)

    def growth(self) -> dict[str, Any]:
        """Of the longest life, once it was warm, in all and an hour; and the most that any life had."""
        longest = max(self.lives, key=len, default=[])
        warm = [sample for sample in longest if sample.age >= WARM] or longest
        every = [sample for life in self.lives for sample in life]
        if not every:
            return {}
        tenth = max(1, len(warm) // 10)
        first, last = warm[:tenth], warm[-tenth:]
        return {
            "longest_life_seconds": round(longest[-1].age),
            "memory_mb_first": _mean_mb(first),
            "memory_mb_last": _mean_mb(last),
            "memory_mb_most": round(max(sample.memory for sample in every) / 2**20, 1),
            "files_first": max(sample.files for sample in first),
            "files_last": max(sample.files for sample in last),
            "files_most": max(sample.files for sample in every),
        }


def _mean_mb(samples: list[Sample]) -> float:
    return round(sum(sample.memory for sample in samples) / len(samples) / 2**20, 1)


class Soak:
    """One folder, one server at a time, and everybody who bothers it."""

    def __init__(
        self, house: House, llm: FakeOpenAI, folder: Path, rng: random.Random, seconds: float, pace: Pace
    ) -> None:
        self._house = house
        self._llm = llm
        self._folder = folder
        self._rng = rng
        self._seconds = seconds
        self._pace = pace
        self._began = time.monotonic()
        self._alive = asyncio.Event()  # there is a server, whose files can be read beside it
        self.told = Told(rng)
        self.record = Record()

    @property
    def _left(self) -> float:
        return self._began + self._seconds + self.record.suspended - time.monotonic()

    async def run(self) -> None:
        """Everything, for as long as it was asked for; then the reckoning."""
        life = await self._start()
        self._began = time.monotonic()
        beside = [asyncio.create_task(part()) for part in (self._break, self._look, self._tick)]
        try:
            while not any(task.done() for task in beside):  # one that is done has failed: said below
                await self._live(life)
                if self._left <= 0:
                    break
                life = await self._start()
        finally:
            for task in beside:
                task.cancel()
            ended = await asyncio.gather(*beside, return_exceptions=True)
        for error in ended:
            if isinstance(error, Exception):
                raise error
        await self._reckon()

    async def _start(self) -> Life:
        settings = self._house.settings(self._folder, **DEADLINES)
        life = await self._house.start(Order(settings, str(self._folder / "note")))
        assert life.ready is not None
        return life

    async def _live(self, life: Life) -> None:
        """One server from its start to its end."""
        samples: list[Sample] = []
        self.record.lives.append(samples)
        age = self._rng.uniform(*self._pace.life) if self._left > self._seconds * (1 - KILLED) else self._left
        self._alive.set()
        async with reached(life) as http:
            people = [Client(http, self.told, self.told.person(f"p{n}"), self._rng) for n in range(PEOPLE)]
            tasks = [asyncio.create_task(self._be(client)) for client in people]
            tasks.append(asyncio.create_task(self._sample(life, samples)))
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, min(age, self._left))):
                    await life.dead.wait()
            await self._end(life)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _end(self, life: Life) -> None:
        """Kill it, mostly; or ask it to stop."""
        if life.dead.is_set():
            raise RuntimeError("the server died by itself")
        self._alive.clear()
        stop = self._rng.random() < 0.3
        self.record.stops += stop
        self.record.kills += not stop
        life.kill(signal.SIGTERM if stop else signal.SIGKILL)
        await died(life)

    async def _be(self, client: Client) -> None:
        """A person: what was cut off first, then anything."""
        with suppress(Died):
            await client.resume()
            while True:
                doing = traffic.resetting if self._rng.random() < 0.01 else traffic.brisk
                await doing(client)
                self.record.doings += 1
                await asyncio.sleep(self._rng.uniform(*self._pace.pause))

    async def _tick(self) -> None:
        """Notice that everything stood still."""
        while True:
            before = time.monotonic()
            await asyncio.sleep(1)
            late = time.monotonic() - before - 1
            self.record.suspended += late if late > STILL else 0.0

    async def _break(self) -> None:
        """One fault after another, each healed before the next."""
        while True:
            await asyncio.sleep(self._rng.uniform(*self._pace.calm))
            request, behaviour = self._rng.choice(FAULTS)
            self.record.faults[f"{request}: {' '.join(map(str, behaviour.values()))}"] += 1
            self._llm.script.apply({"request": request, "behaviour": behaviour})
            await asyncio.sleep(self._rng.uniform(*self._pace.fault))
            self._llm.script.reset()

    async def _look(self) -> None:
        """Every minute: what must hold at any moment."""
        while True:
            await asyncio.sleep(self._pace.check)
            await self._alive.wait()
            self.look()
            shown = {kind: count for kind, count in self.record.findings.counts().items() if count}
            print(
                f"{time.monotonic() - self._began:>6.0f} s  {self.record.doings} doings, {self.record.kills} kills, "
                f"{self.record.stops} stops, findings: {shown or 'none'}",
                flush=True,
            )

    def look(self) -> None:
        self.record.checks += 1
        with opened(self._folder / "ledger.db", live=True) as book:
            examine(book, self.record.findings)
            compare(book, self.told, self.record.findings)

    async def _sample(self, life: Life, samples: list[Sample]) -> None:
        while not life.dead.is_set():
            await asyncio.sleep(self._pace.sample)
            with suppress(OSError):
                samples.append(sample_of(life))

    async def _reckon(self) -> None:
        self._llm.script.reset()
        life = await self._start()
        async with reached(life) as http:
            judge = Judge(life, http, self.told, self._folder, self._rng)
            await judge.finish()
            await judge.compare_searches(self.record.findings, self._pace.searches)
            await judge.look_for_text(self.record.findings)
        life.kill()
        await died(life)
        self.record.given_up, self.record.searched = judge.given_up, judge.searched
        with opened(self._folder / "ledger.db") as book:
            examine(book, self.record.findings, rest=True)
            compare(book, self.told, self.record.findings)


def sample_of(life: Life) -> Sample:
    """Raises `OSError` where the system has no /proc, or the process is gone."""
    pages = int(Path(f"/proc/{life.pid}/statm").read_text().split()[1])
    return Sample(time.monotonic() - life.started, pages * PAGE, len(os.listdir(f"/proc/{life.pid}/fd")))


async def soak(minutes: float, seed: int, *, log: Path | None = None, pace: Pace | None = None) -> Soak:
    """The whole of it."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="afterword-soak-") as folder:
        async with furnished(random.Random(rng.random()), log=log) as (house, llm, _):
            soaked = Soak(house, llm, Path(folder), rng, minutes * 60, pace or Pace())
            await soaked.run()
            return soaked


def told(soaked: Soak, minutes: float) -> dict[str, Any]:
    """The last line."""
    record = soaked.record
    counts = record.findings.counts()
    return {
        "minutes": minutes,
        "suspended_seconds": round(record.suspended),
        "kills": record.kills,
        "stops": record.stops,
        "faults": sum(record.faults.values()),
        "doings": record.doings,
        "acknowledged_turns": soaked.told.acknowledged,
        "checks": record.checks,
        "lost": counts.pop("lost"),
        "duplicated": counts.pop("duplicated"),
        "orphans": counts.pop("orphan"),
        **counts,
        "searches": record.searched,
        "given_up_and_retried": record.given_up,
        "surprises": len(soaked.told.surprises),
        **record.growth(),
        "faults_by_kind": dict(sorted(record.faults.items())),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--log", type=Path, default=None, help="a file for the servers' logs")
    given = parser.parse_args()
    soaked = asyncio.run(soak(given.minutes, given.seed, log=given.log))
    for line in [*soaked.record.findings.shown(), *soaked.told.surprises[:20]]:
        print(line)
    print(json.dumps(told(soaked, given.minutes)))
    if soaked.record.findings.found:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
