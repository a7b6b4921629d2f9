"""What the memory does under load: recall while others write, one user's crowd beside another, many open pages.

    scripts/bench load [--parts recall,fair,page,mem0] [--embedder hashing|local] [--memories N] [--in-flight 0,6,20,50,200]
                       [--short] [--seed S]

Each part prints its rows; the last line is one JSON object with all figures and, under `bars`, whether each bar is held.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.load_pace import Pace
from bench.load_recall import House, crowded, cycles, drained, fill, level

Row = dict[str, Any]
Show = Callable[[str, Row], None]
PARTS = ("recall", "fair", "page", "mem0")


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


SHORT = Form(
    memories=200,
    in_flight=(0, 6, 20),
    pace=Pace(20, 0.02, 0.5),
    llm_delay=0.2,
    burst=(8, 40, 20),
    cycles=(3, 6, 0.3),
    crowd=(60, 12, 2),
)


async def recall_part(house: House, form: Form, show: Show) -> Row:
    """Search latency by adds in flight, a burst that drains, and what stays resident over cycles."""
    found: Row = {"fill": await fill(house), "levels": []}
    show("filled", found["fill"])
    for in_flight in form.in_flight:
        row = await level(house, in_flight)
        found["levels"].append(row)
        show(f"{in_flight} adds in flight", row)
    found["drain"] = await drained(house, *form.burst)
    show("burst", found["drain"])
    found["cycles"] = await cycles(house, *form.cycles)
    show("cycles", found["cycles"])
    return found


async def fair_part(house: House, form: Form, show: Show) -> Row:
    found = await crowded(house, *form.crowd)
    show("one user's crowd", found)
    return found


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
            if part == "recall":
                found[part] = await recall_part(house, form, show)
            elif part == "fair":
                found[part] = await fair_part(house, form, show)
    return {**found, "bars": bars(found)}


# ── bars ───────────────────────────────────────────────────────────────────────────────────────────────────────────

LAG_P99 = 0.05  # seconds
RECALL_P95 = 50.0  # milliseconds
GROWTH = 16.0  # megabytes, after the warm-up
DELAYED = 250.0  # milliseconds


def bars(found: Row) -> dict[str, bool]:
    """What is promised, and whether these figures hold it."""
    held: dict[str, bool] = {}
    if "recall" in found:
        held |= recall_bars(found["recall"])
    if "fair" in found:
        fair = found["fair"]
        held["another_users_first_memory_is_not_delayed"] = max(fair["beside_ms"]) <= max(fair["alone_ms"]) + DELAYED
    return held


def recall_bars(recall: Row) -> dict[str, bool]:
    rows = {row["in_flight"]: row for row in recall["levels"]}
    held = {
        "nothing_lost": not any(row["adds_failed"] or row["jobs_left"] or row["jobs_dead"] for row in rows.values())
        and not recall["drain"]["turns_without_memory"],
        "queue_drains": recall["drain"]["queue_left"] == 0,
        "no_growth": recall["cycles"]["growth_mb"] <= GROWTH,
    }
    if 0 in rows and 50 in rows:
        idle, busy = rows[0]["search_ms"]["p95"], rows[50]["search_ms"]["p95"]
        held["recall_p95_with_50_near_idle"] = busy <= max(1.5 * idle, idle + 10)
        held["recall_p95_with_50_within_50_ms"] = busy <= RECALL_P95
        held["loop_lag_p99_with_50"] = rows[50]["loop_lag_p99"] < LAG_P99
    return held


def options_of(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="recall,fair", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--embedder", choices=["hashing", "local"], default="hashing")
    parser.add_argument("--memories", type=int)
    parser.add_argument("--in-flight", help="comma-separated counts of adds; 0 is idle")
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
    return Form(**{**form.__dict__, **changes})


def main(arguments: list[str] | None = None) -> None:
    options = options_of(arguments)
    parts = [part for part in PARTS if part in options.parts.split(",")]

    def show(name: str, row: Row) -> None:
        print(f"{name:<20} {json.dumps(row)}", flush=True)

    found = asyncio.run(campaign(parts, form_of(options), options, show))
    print(json.dumps({"short": options.short, "embedder": options.embedder, "seed": options.seed, **found}))


if __name__ == "__main__":
    main()
