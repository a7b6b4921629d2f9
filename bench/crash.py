"""Kills a server again and again, at named steps and at random moments, and looks whether anything was lost.

    scripts/bench crash --kills 1000 --seed 1 [--index exact|milvus] [--cold]

Each server is a real process on a real data folder, spoken to over HTTP, with a fake LLM that answers by chance. It is
killed by SIGKILL: before, inside and after every write of the ledger, around the index, the LLM and the embedder
(`crash_plan`), or at a random moment. After each kill the ledger's files are copied and read with plain `sqlite3`
(`ledger_check`); after every 50 the work that is left is done, searches are compared with the ledger, and a new
folder is begun. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import statistics
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from afterword.testing import FakeOpenAI
from bench import traffic
from bench.crash_plan import Kill, kills, short
from bench.crash_server import Order
from bench.house import House, Life, furnished, reached, until_dead
from bench.judge import SEARCHES, Judge
from bench.ledger_check import Findings, compare, examine, opened
from bench.told import Told
from bench.traffic import Client, Died

CHAPTER = 50  # kills on one data folder
LAST_REQUEST = 2.0  # seconds


@dataclass
class Tally:
    """What has happened so far."""

    kills: int = 0
    reserved: int = 0
    points: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)  # killed elsewhere: the point was not reached in time
    starts: list[float] = field(default_factory=list)
    acknowledged: int = 0
    given_up: int = 0
    searched: int = 0
    surprises: list[str] = field(default_factory=list)
    findings: Findings = field(default_factory=Findings)

    def reserve(self, options: Options) -> int:
        """How many kills the next chapter has; 0 when all are given out."""
        count = min(options.chapter, options.kills - self.reserved)
        self.reserved += count
        return count

    def told(self, began: float) -> dict[str, Any]:
        """The last line."""
        counts = self.findings.counts()
        counts["orphans"] = counts.pop("orphan")
        return {
            "kills": self.kills,
            "lost": counts.pop("lost"),
            "duplicated": counts.pop("duplicated"),
            "orphans": counts.pop("orphans"),
            **counts,
            "acknowledged_turns": self.acknowledged,
            "searches": self.searched,
            "given_up_and_retried": self.given_up,
            "surprises": len(self.surprises),
            "seconds": round(time.monotonic() - began, 1),
            "start_median": round(statistics.median(self.starts), 3) if self.starts else None,
            "missed": sum(self.missed.values()),
            "points": dict(sorted(self.points.items())),
        }


@dataclass(frozen=True)
class Options:
    kills: int
    seed: int
    index: str = "exact"
    cold: bool = False
    chapter: int = CHAPTER
    patience: float = 1.0  # times the usual
    log: Path | None = None
    only: str = ""
    short: bool = False
    lanes: int = 1
    keep: Path | None = None


class Chapter:
    """Kills on one data folder, and the reckoning at its end."""

    def __init__(self, house: House, llm: FakeOpenAI, folder: Path, rng: random.Random, options: Options) -> None:
        self._house = house
        self._llm = llm
        self._folder = folder
        self._rng = rng
        self._told = Told(rng)
        self._embed = "embed-a"
        self._more: dict[str, Any] = {"milvus_uri": str(folder / "milvus.db")} if options.index == "milvus" else {}
        self._patience = options.patience
        self._searches = SEARCHES // 4 if options.short else SEARCHES
        self._keep = options.keep
        self._findings = Findings()
        self._number = 0

    async def kill(self, planned: Kill, tally: Tally) -> None:
        """One life and its end."""
        self._number += 1
        user = f"u{self._number}"
        if planned.place.rules:
            await self._by_rules(user)
        if planned.place.embed:
            self._embed = "embed-b" if self._embed == "embed-a" else "embed-a"
        target = "" if planned.place.anyone or planned.at_random else user
        note = self._folder / "note"
        note.unlink(missing_ok=True)
        point = "" if planned.at_random else planned.point
        self._set_llm(planned)
        life = await self._house.start(Order(self._settings(), str(note), point, planned.nth, target))
        if life.ready is not None:
            tally.starts.append(life.ready)
            await self._live(life, user, planned)
        self._llm.script.reset()
        self._count(planned, note, tally)
        self._look(tally)

    def _settings(self, **more: Any) -> dict[str, Any]:
        return self._house.settings(self._folder, embed=self._embed, **self._more, **more)

    def _set_llm(self, planned: Kill) -> None:
        self._llm.always("complete", first_delay=planned.place.delay or 0.01)
        if planned.place.failing:
            self._llm.next("complete", planned.place.failing, status=500)

    async def _by_rules(self, user: str) -> None:
        """A life without an LLM, ended by SIGTERM: its turns are decided by rules."""
        life = await self._house.start(Order(self._settings(llm=False), str(self._folder / "note")))
        async with reached(life) as http:
            client = Client(http, self._told, self._told.person(user), self._rng)
            await client.bring()
            await client.settled()
        life.kill()
        await life.dead.wait()

    async def _live(self, life: Life, user: str, planned: Kill) -> None:
        others = [person for person in self._told.people if person != user]
        beside = self._rng.sample(others, min(2, len(others)))
        async with reached(life) as http:
            clients = [Client(http, self._told, self._told.person(name), self._rng) for name in (user, *beside)]
            work = [asyncio.create_task(self._beside(client)) for client in clients[1:]]
            try:
                patience = planned.seconds if planned.at_random else planned.place.patience * self._patience
                await until_dead(life, lambda: planned.place.recipe(clients[0]), patience)
            finally:
                await _ended(work)

    async def _beside(self, client: Client) -> None:
        """What somebody else does meanwhile: first what the last crash left undone."""
        with suppress(Died):
            await client.resume()
            while True:
                await traffic.mixed(client)

    def _count(self, planned: Kill, note: Path, tally: Tally) -> None:
        tally.kills += 1
        struck = note.read_text().partition("\t")[0] if note.exists() else ""
        if not planned.at_random and struck != planned.point:
            tally.missed[planned.point] += 1
        tally.points[struck or "random"] += 1

    def _look(self, tally: Tally, *, rest: bool = False) -> None:
        with opened(self._folder / "ledger.db") as book:
            examine(book, self._findings, rest=rest)
            compare(book, self._told, self._findings)
        tally.findings.found |= self._findings.found

    async def end(self, tally: Tally) -> None:
        """Let everything be done that is left, and look whether all is well."""
        life = await self._house.start(Order(self._settings(), str(self._folder / "note")))
        async with reached(life) as http:
            judge = Judge(life, http, self._told, self._folder, self._rng)
            await judge.finish()
            await judge.compare_searches(self._findings, self._searches)
            await judge.look_for_text(self._findings)
        life.kill()
        await life.dead.wait()
        self._look(tally, rest=True)
        tally.given_up += judge.given_up
        tally.searched += judge.searched
        tally.acknowledged += self._told.acknowledged
        tally.surprises += self._told.surprises

    def keep(self, tally: Tally) -> None:
        """Leave a folder in which something was found to be looked at."""
        if self._keep is not None and self._findings.found:
            shutil.copytree(self._folder, self._keep / f"after-{tally.kills}-{self._folder.name}")


async def _ended(work: list[asyncio.Task[None]]) -> None:
    """Tasks whose server is dead end at their next request; cancelled while they connect, they would leave a socket open."""
    if work:
        _, late = await asyncio.wait(work, timeout=LAST_REQUEST)
        for task in late:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)


async def campaign(options: Options, tally: Tally) -> None:
    """Run all kills, on several folders at once: a lane waits most of the time."""
    rng = random.Random(options.seed)
    lanes = [_lane(random.Random(rng.random()), options, tally) for _ in range(options.lanes)]
    async with asyncio.TaskGroup() as group:
        for lane in lanes:
            group.create_task(lane)


async def _lane(rng: random.Random, options: Options, tally: Tally) -> None:
    plan = short(rng) if options.short else (kill for kill in kills(rng) if options.only in kill.point)
    async with furnished(random.Random(rng.random()), cold=options.cold, log=options.log) as (house, llm, _):
        while count := tally.reserve(options):
            with tempfile.TemporaryDirectory(prefix="afterword-crash-") as folder:
                await _chapter(Chapter(house, llm, Path(folder), rng, options), plan, count, tally)


async def _chapter(chapter: Chapter, plan: Iterator[Kill], count: int, tally: Tally) -> None:
    for number in range(count):
        planned = next(plan)
        while planned.place.fresh and number:  # a migration can be killed on a new folder only
            planned = next(plan)
        await chapter.kill(planned, tally)
    await chapter.end(tally)
    shown = {kind: count for kind, count in tally.findings.counts().items() if count}
    print(f"{tally.kills:>5} kills, {tally.acknowledged} turns, findings: {shown or 'none'}", flush=True)
    for line in tally.findings.shown():  # now: a long run may be broken off
        print(f"      {line}", flush=True)
    chapter.keep(tally)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--index", choices=["exact", "milvus"], default="exact")
    parser.add_argument("--cold", action="store_true", help="each server from a process of its own, imports and all")
    parser.add_argument("--chapter", type=int, default=CHAPTER, help="kills on one data folder")
    parser.add_argument("--only", default="", help="only points with this in their name")
    parser.add_argument("--keep", type=Path, default=None, help="where data folders go in which something was found")
    parser.add_argument("--log", type=Path, default=None, help="a file for the servers' logs")
    parser.add_argument("--lanes", type=int, default=2, help="data folders at once, each with a server of its own")
    options = Options(**vars(parser.parse_args()))
    tally, began = Tally(), time.monotonic()
    broken = ""
    try:
        asyncio.run(campaign(options, tally))
    except (Exception, KeyboardInterrupt) as error:  # what was done until then is worth telling  # noqa: BLE001
        traceback.print_exc()
        broken = type(error).__name__
    for line in [*tally.findings.shown(), *tally.surprises[:20]]:
        print(line)
    print("not reached in time:", dict(tally.missed.most_common(20)))
    print(json.dumps(tally.told(began) | ({"broken_off": broken} if broken else {})))
    if tally.findings.found or broken:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
