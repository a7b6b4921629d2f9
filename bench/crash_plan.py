"""Where a server is killed, and what leads there."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from afterword.testing.kill_points import MOMENTS
from bench import traffic
from bench.random_llm import CURSED
from bench.traffic import Client, Recipe

AROUND = ("before", "after")
PATIENCE = 6.0  # seconds for a point to be reached; then the server is killed where it is
LONGER = 25.0  # for what comes only after a job has failed five times
MOST_TIMES = 3  # a point may be passed twice before it is meant
MOST_STATEMENTS = 14
RANDOM = "random"


@dataclass(frozen=True)
class Place:
    """A step and what leads to it. `rules`: turns are decided without an LLM first. `embed`: the life has another
    embedding model. `delay`: seconds that the LLM takes. `failing`: it is away at first. `anyone`: whoever comes."""

    name: str
    recipe: Recipe
    moments: tuple[str, ...] = MOMENTS
    rules: bool = False
    embed: bool = False
    delay: float = 0.0
    failing: int = 0
    anyone: bool = False
    fresh: bool = False
    patience: float = PATIENCE


async def _cursed(client: Client) -> None:
    await client.tell(extra=CURSED)
    await client.settled()


PLACES = (
    Place("accept", traffic.telling),
    Place("answer", traffic.chatting),
    Place("edit", traffic.mending),
    Place("reset", traffic.resetting),
    Place("delete_chat", traffic.leaving),
    Place("put", traffic.asking),
    Place("claim", traffic.remembering),
    Place("fix_window", traffic.remembering),
    Place("renew", traffic.remembering, delay=1.0, anyone=True),
    Place("postpone", traffic.remembering, failing=2),
    Place("bury", _cursed, AROUND, patience=LONGER),
    Place("cancel", traffic.cancelling, delay=0.3),
    Place("retry", traffic.cancelling, delay=0.3),
    Place("sweep", traffic.mixed, AROUND, anyone=True),
    Place("prune", traffic.mixed, AROUND, anyone=True),
    Place("apply:remember", traffic.remembering),
    Place("apply:reconsolidate", traffic.correcting),
    Place("apply:consolidate", traffic.merging),
    Place("apply:embed", traffic.remembering),
    Place("apply:reembed", traffic.mixed, embed=True, anyone=True),
    Place("apply:backfill", traffic.reading_again, rules=True),
    Place("start_run:consolidate", traffic.merging),
    Place("start_run:reembed", traffic.mixed, embed=True, anyone=True),
    Place("start_run:backfill", traffic.reading_again, rules=True),
    Place("index.search", traffic.chatting, AROUND, anyone=True),
    Place("index.project", traffic.remembering, AROUND),
    Place("llm.complete", traffic.remembering, AROUND, anyone=True),
    Place("llm.stream", traffic.chatting, ("before", "inside", "after"), anyone=True),
    Place("embedder.query", traffic.chatting, AROUND, anyone=True),
    Place("embedder.passages", traffic.remembering, AROUND, anyone=True),
    Place("migrate", traffic.telling, ("inside", "commit", "committing"), anyone=True, fresh=True),
)
_WILD = Place(RANDOM, traffic.mixed, ())
SHORT = (
    "migrate.inside",
    "accept.after",
    "apply:remember.inside",
    "apply:remember.after",
    "answer.committing",
    "reset.commit",
    "apply:reembed.inside",
)
ONCE = {"migrate", "start_run:reembed", "start_run:backfill", "prune"}  # passed at most once in a life


@dataclass(frozen=True)
class Kill:
    """One kill to come. A `point` of "random" is a moment: `seconds` after the server was ready."""

    place: Place
    point: str
    nth: int = 1
    seconds: float = 0.0

    @property
    def at_random(self) -> bool:
        return self.point == RANDOM


def points() -> list[tuple[Place, str]]:
    """Every named point."""
    return [(place, f"{place.name}.{moment}") for place in PLACES for moment in place.moments]


def short(rng: random.Random) -> Iterator[Kill]:
    """One kill at each of the places that matter most, and half as many at random."""
    named = {point: place for place, point in points()}
    for number, point in enumerate(SHORT):
        yield Kill(named[point], point, _nth(rng, named[point], point))
        if number % 2:
            yield Kill(_WILD, RANDOM, seconds=rng.uniform(0, 0.6))


def kills(rng: random.Random) -> Iterator[Kill]:
    """Kills without end: every named point once in each turn of the wheel, and at random in a third of all."""
    while True:
        wheel = points()
        rng.shuffle(wheel)
        for number, (place, point) in enumerate(wheel):
            if number % 2:
                yield Kill(_WILD, RANDOM, seconds=rng.uniform(0, 1.2))
            yield Kill(place, point, _nth(rng, place, point))


def _nth(rng: random.Random, place: Place, point: str) -> int:
    if point.endswith(".inside"):
        return rng.randint(1, 60 if place.name == "migrate" else MOST_STATEMENTS)
    return 1 if place.name in ONCE else rng.randint(1, MOST_TIMES)
