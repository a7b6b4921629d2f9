"""What the memory does under load: recall while others write, one user's crowd beside another, many open pages.

    scripts/bench load [--parts recall,burst,cycles,fair,page,mem0] [--embedder hashing|local] [--memories N] [--in-flight 0,6,20,50,200]
                       [--searches N] [--every SECONDS] [--short] [--seed S]

Each part prints its rows; the last line is one JSON object with all figures and, under `bars`, whether each bar is held.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.load_mem0 import rows as mem0_rows
from bench.load_pace import Pace
from bench.load_page import Crowd, compared
from bench.load_recall import House, crowded, cycles, drained, fill, level

Row = dict[str, Any]
Show = Callable[[str, Row], None]


@dataclass(frozen=True)
class Form:
    """How much of everything. Times in seconds."""

    memories: int = 10_000
    in_flight: tuple[int, ...] = (0, 6, 20, 50, 200)
    pace: Pace = field(default_factory=Pace)
    llm_delay: float = 1.0
    burst: tuple[int, int, int] = (50, 1000, 500)  # jobs at once, turns, chats
    cycles: tuple[int, int, float] = (9, 50, 4.0)  # how often, writers, seconds of searches
    crowd: tuple[int, int, int] = (5000, 200, 8)  # turns, chats, other users
    page: Crowd = field(default_factory=Crowd)


SHORT = Form(
    memories=200,
    in_flight=(0, 6, 20),
    pace=Pace(20, 0.02, 0.5),
    llm_delay=0.2,
    burst=(8, 40, 20),
    cycles=(3, 6, 0.3),
    crowd=(60, 12, 2),
    page=Crowd(tabs=12, active=6, messages=2, seconds=3.0, llm_seconds=0.2),
)


async def recall_part(house: House, form: Form, show: Show) -> Row:
    """Search latency by adds in flight."""
    found: Row = {"fill": await fill(house), "levels": []}
    show("filled", found["fill"])
    for in_flight in form.in_flight:
        row = await level(house, in_flight)
        found["levels"].append(row)
        show(f"{in_flight} adds in flight", row)
    return found


async def burst_part(house: House, form: Form, show: Show) -> Row:
    """A burst that drains."""
    found = await drained(house, *form.burst)
    show("burst", found)
    return found


async def cycles_part(house: House, form: Form, show: Show) -> Row:
    """What stays resident over cycles of the same work."""
    await fill(replace(house, memories=min(house.memories, 1000)))
    found = await cycles(house, *form.cycles)
    show("cycles", found)
    return found


async def fair_part(house: House, form: Form, show: Show) -> Row:
    """One user's crowd of turns beside another's first memory."""
    found = await crowded(house, *form.crowd)
    show("crowd", found)
    return found


async def page_part(house: House, form: Form, show: Show) -> Row:
    """Many open tabs."""
    found = await asyncio.to_thread(compared, form.page, house.embedder, house.seed)
    for design, row in found.items():
        show(design, row)
    return found


async def mem0_part(house: House, form: Form, show: Show) -> Row:
    """mem0's AsyncMemory under the very same load."""
    house.folder.mkdir(parents=True, exist_ok=True)
    pace = {"searches": form.pace.searches, "every": form.pace.every, "warm_up": form.pace.warm_up}
    delays = {"llm_delay": house.llm_delay, "embed_delay": house.embed_delay}
    sizes = {"memories": form.memories, "in_flight": ",".join(map(str, form.in_flight)), "seed": house.seed}
    wanted = {**sizes, **pace, **delays}

    def run() -> list[Row]:
        found = []
        for row in mem0_rows(house.folder, wanted):
            show(f"mem0, {row['in_flight']} in flight" if "in_flight" in row else "mem0 filled", row)
            found.append(row)
        return found

    head, *levels = await asyncio.to_thread(run)
    return {**head, "levels": levels}


WORK: dict[str, Callable[[House, Form, Show], Awaitable[Row]]] = {
    "recall": recall_part,
    "burst": burst_part,
    "cycles": cycles_part,
    "fair": fair_part,
    "page": page_part,
    "mem0": mem0_part,
}


async def campaign(parts: list[str], form: Form, options: argparse.Namespace, show: Show) -> Row:
    """Every part in a folder of its own; the figures by part."""
    found: Row = {}
    with tempfile.TemporaryDirectory(prefix="afterword-load-") as folder:
        for part in parts:
            house = House(
                Path(folder, part),
                memories=form.memories,
                llm_delay=form.llm_delay,
                embedder=options.embedder,
                seed=options.seed,
                pace=form.pace,
            )
            found[part] = await WORK[part](house, form, show)
    return {**found, "bars": bars(found)}


# ── bars ───────────────────────────────────────────────────────────────────────────────────────────────────────────

LAG_P99 = LAG_ABOVE = 0.05  # seconds
FIRST_ABOVE = 0.05  # seconds
RECALL_P95 = 50.0  # milliseconds
GROWTH = 16.0  # megabytes, after the warm-up
DELAYED = 250.0  # milliseconds


def bars(found: Row) -> dict[str, bool]:
    """What is promised, and whether these figures hold it."""
    held: dict[str, bool] = {}
    for part, judged in JUDGED.items():
        if part in found:
            held |= judged(found[part])
    return held


def burst_bars(burst: Row) -> dict[str, bool]:
    return {"burst_loses_nothing": not burst["turns_without_memory"], "queue_drains": burst["queue_left"] == 0}


def cycles_bars(found: Row) -> dict[str, bool]:
    return {"no_growth": found["growth_mb"] <= GROWTH}


def fair_bars(fair: Row) -> dict[str, bool]:
    return {"anothers_first_memory_is_not_delayed": max(fair["beside_ms"]) <= max(fair["alone_ms"]) + DELAYED}


def page_bars(page: Row) -> dict[str, bool]:
    floor, ours = page["floor"], page["product"]
    return {
        "page_answers_everybody": not (floor["failed"] or ours["failed"] or ours["queue_left"]),
        "first_token_p95_near_the_floor": ours["ttft_p95"] <= floor["ttft_p95"] + FIRST_ABOVE,
        "page_loop_lag_p99": ours["loop_lag_p99"] < LAG_P99,
        "page_loop_lag_max_near_the_floor": ours["loop_lag_max"] <= floor["loop_lag_max"] + LAG_ABOVE,
    }


def recall_bars(recall: Row) -> dict[str, bool]:
    rows = {row["in_flight"]: row for row in recall["levels"]}
    lost = any(
        row["adds_failed"] or row["searches_failed"] or row["jobs_left"] or row["jobs_dead"] for row in rows.values()
    )
    held = {"nothing_lost": not lost}
    if 0 in rows and 50 in rows:
        idle, busy = rows[0]["search_ms"]["p95"], rows[50]["search_ms"]["p95"]
        held["recall_p95_with_50_near_idle"] = busy <= max(1.5 * idle, idle + 10)
        held["recall_p95_with_50_within_50_ms"] = busy <= RECALL_P95
        held["loop_lag_p99_with_50"] = rows[50]["loop_lag_p99"] < LAG_P99
    return held


JUDGED: dict[str, Callable[[Row], dict[str, bool]]] = {
    "recall": recall_bars,
    "burst": burst_bars,
    "cycles": cycles_bars,
    "fair": fair_bars,
    "page": page_bars,
}


def options_of(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="recall,burst,cycles,fair,page", help=f"of {', '.join(WORK)}")
    parser.add_argument("--embedder", choices=["hashing", "local"], default="hashing")
    parser.add_argument("--memories", type=int)
    parser.add_argument("--in-flight", help="comma-separated counts of adds; 0 is idle")
    parser.add_argument("--searches", type=int, help="of each row")
    parser.add_argument("--every", type=float, help="seconds from one search to the next")
    parser.add_argument("--short", action="store_true", help="tiny numbers, to see that everything works")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args(arguments)


def form_of(options: argparse.Namespace) -> Form:
    form = SHORT if options.short else Form()
    changes: dict[str, Any] = {}
    if options.memories:
        changes["memories"] = options.memories
    if options.in_flight:
        changes["in_flight"] = tuple(int(part) for part in options.in_flight.split(","))
    pace = replace(form.pace, searches=options.searches or form.pace.searches, every=options.every or form.pace.every)
    return replace(form, pace=pace, **changes)


def main(arguments: list[str] | None = None) -> None:
    options = options_of(arguments)
    parts = [part for part in WORK if part in options.parts.split(",")]

    def show(name: str, row: Row) -> None:
        print(f"{name:<20} {json.dumps(row)}", flush=True)

    found = asyncio.run(campaign(parts, form_of(options), options, show))
    print(json.dumps({"short": options.short, "embedder": options.embedder, "seed": options.seed, **found}))


if __name__ == "__main__":
    main()
