"""How well search finds what was said, measured through the public face on a set in the neutral form.

    scripts/bench recall --data FILE.jsonl [--index exact|milvus] [--facts none|extracted|rules]
                         [--embedder local|none] [--sample N] [--quick]

Each conversation is a user of its own, and a question sees the sessions that there were when it was asked. Hits are
mapped to turns: a memory counts as its source turns, in the place where it stands; repeats keep their first place; a
session takes the place of its best turn. Adversarial questions stand apart. No LLM is asked anything: `--facts none`
keeps turns only, `extracted` also stores the set's own facts as episodes (a replayed write decider), `rules` stores
what the product's rules write where there is no LLM.

Passages are embedded once and kept by model and text (`--cache`). Times are taken without that: the queries of the
questions are embedded anew, and the rate of taking in is measured on the first turns of the set. The last line is one
JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from afterword.embedders.cached import CachedEmbedder
from afterword.embedders.local import LocalEmbedder
from afterword.lanes import embed_job
from afterword.llms.quoting import QuotingLLM
from afterword.offload import SystemClock
from afterword.plan import Insert, Plan
from afterword.ports import Desk, Policy
from afterword.project import decide_embed
from afterword.records import Filters, Hit, NewTurn
from afterword.settings import Settings
from afterword.testing import InlineOffload
from afterword.wiring import open_memory
from bench.recall_data import Asked, Conversation, Fact, Said, conversations, parser_of
from bench.recall_metrics import ADVERSARIAL, Level, percentile, table

if TYPE_CHECKING:
    from afterword.memory import AsyncMemory
    from afterword.ports import Clock, Embedder, Vector, Vectors

CACHE = Path("~/.cache/afterword/bench-embeddings")
QUERY_LIMIT = 100_000  # characters of a question that `search` takes
PROBE_TURNS = 200
FEW = 8  # passages that are embedded, and kept, at once: what a slow machine has done is not done again


class TimedEmbedder:
    """Passages from the cache, queries from the model; how long each query took, in seconds."""

    def __init__(self, passages: Embedder, queries: Embedder) -> None:
        self._passages = passages
        self._queries = queries
        self.model = passages.model
        self.max_tokens = passages.max_tokens
        self.took: list[float] = []

    async def query(self, text: str) -> Vector:
        began = time.perf_counter()
        try:
            return await self._queries.query(text)
        finally:
            self.took.append(time.perf_counter() - began)

    async def passages(self, texts: Sequence[str]) -> Vectors:
        made = [await self._passages.passages(texts[at : at + FEW]) for at in range(0, len(texts), FEW)]
        return np.concatenate(made) if made else await self._passages.passages(texts)

    async def aclose(self) -> None:
        await self._passages.aclose()


@dataclass
class Measured:
    turns: Level = field(default_factory=Level)
    sessions: Level = field(default_factory=Level)
    seconds: list[float] = field(default_factory=list)  # of each search, with the query's embedding
    bare_seconds: list[float] = field(default_factory=list)  # without it
    missed: int = 0  # questions that are no query
    unknown: int = 0  # evidence that is in no turn
    records: int = 0


@dataclass
class Told:
    """One conversation as far as it has been told to the memory."""

    user: str
    conversation: Conversation
    turn_of: dict[str, str] = field(default_factory=dict)  # from the memory's ids to the set's
    session_of: dict[str, str] = field(default_factory=dict)  # the same for sessions
    upto: int = 0

    def fresh(self, sessions: int) -> tuple[list[Said], list[Fact]]:
        """What the sessions below this one add."""
        span = range(self.upto, sessions)
        self.upto = max(self.upto, sessions)
        return (
            [said for said in self.conversation.said if said.session in span],
            [fact for fact in self.conversation.facts if fact.session in span],
        )


def stages(conversation: Conversation) -> list[tuple[int, list[Asked]]]:
    """The questions by how many sessions there were when they were asked, earliest first."""
    everything = 1 + max((said.session for said in conversation.said), default=-1)
    found: dict[int, list[Asked]] = {}
    for asked in conversation.asked:
        visible = everything if asked.visible is None else min(asked.visible, everything)
        found.setdefault(visible, []).append(asked)
    return sorted(found.items())


class Run:
    """All conversations of a set in one memory."""

    def __init__(self, memory: AsyncMemory, timed: TimedEmbedder | None, options: argparse.Namespace) -> None:
        self.memory = memory
        self.timed = timed
        self.options = options
        self.measured = Measured()

    async def all(self, sets: Sequence[Conversation]) -> None:
        """Stage by stage: every conversation is told a part, then all questions of that part are asked."""
        plans = [
            (Told(f"user-{number}", conversation), stages(conversation)) for number, conversation in enumerate(sets)
        ]
        for stage in range(max((len(plan) for _, plan in plans), default=0)):
            now = [(told, *plan[stage]) for told, plan in plans if stage < len(plan)]
            for told, sessions, _ in now:
                await self.tell(told, sessions)
            await settled(self.memory, self.timed, self.options)
            for told, _, questions in now:
                for asked in questions:
                    await self.ask(told, asked)
            self._note(f"{sum(len(questions) for _, _, questions in now)} questions of stage {stage + 1}")

    async def tell(self, told: Told, sessions: int) -> None:
        said, facts = told.fresh(sessions)
        for one in said:
            for turn in one.turns:
                told.turn_of[str(turn.turn_id)] = one.id
                told.session_of[str(turn.turn_id)] = one.chat_id
        turns = [turn for one in said for turn in one.turns]
        if turns:
            await self.memory.add_turns(turns, told.user)
            self.measured.records += len(turns)
        if self.options.facts == "extracted" and facts:
            await self._remember(told, facts)

    async def _remember(self, told: Told, facts: Sequence[Fact]) -> None:
        ids = {name: turn_id for turn_id, name in reversed(told.turn_of.items())}
        now = datetime.now(UTC)
        changes = [
            Insert(
                "episodic",
                fact.text,
                fact.said_at or now,
                0,
                (ids[fact.turn],) if fact.turn in ids else (),
                "llm",
                fact.chat_id,
            )
            for fact in facts
        ]
        scope = self.memory.scope(told.user)
        await self.memory.ledger.edit(scope, Plan(tuple(changes)))
        if self.timed is not None:
            await self.memory.ledger.put(scope, [embed_job(scope)])
        self.measured.records += len(changes)

    async def ask(self, told: Told, asked: Asked) -> None:
        hits: list[Hit] = []
        before = len(self.timed.took) if self.timed else 0
        query = asked.text[:QUERY_LIMIT]
        if query.replace("\0", "").strip():
            began = time.perf_counter()
            hits = await self.memory.search(query, told.user, limit=self.options.limit, filters=Filters())
            took = time.perf_counter() - began
            self.measured.seconds.append(took)
            self.measured.bare_seconds.append(took - sum(self.timed.took[before:] if self.timed else ()))
        else:
            self.measured.missed += 1
        self.measured.unknown += asked.unknown
        turns, sessions = places(told, hits)
        self.measured.turns.add(asked.category, turns, asked.evidence)
        self.measured.sessions.add(asked.category, sessions, asked.sessions)

    def _note(self, text: str) -> None:
        if not self.options.quiet:
            print(text, file=sys.stderr, flush=True)


def places(told: Told, hits: Sequence[Hit]) -> tuple[list[str], list[str]]:
    """The set's turns and sessions in the order of the hits, each once."""
    turns: dict[str, None] = {}
    sessions: dict[str, None] = {}
    for hit in hits:
        for name in (hit.id,) if hit.kind == "turn" else hit.sources:
            if name in told.turn_of:
                turns[told.turn_of[name]] = None
                sessions[told.session_of[name]] = None
        if hit.chat_id is not None:
            sessions[hit.chat_id] = None
    return list(turns), list(sessions)


@asynccontextmanager
async def memory_of(
    folder: Path, embedder: Embedder | None, options: argparse.Namespace, clock: Clock | None = None
) -> AsyncIterator[AsyncMemory]:
    """A memory with the product's defaults, but for deadlines: a busy machine is no reason to count a question lost."""
    settings = Settings(
        data_dir=folder,
        embedder="none",
        milvus_uri=str(folder / "milvus.db") if options.index == "milvus" else "",
        recall_deadline=60.0,
        consolidate_cron="",
        index_memory_mb=8192,
    )
    rules = options.facts == "rules"
    async with open_memory(settings, llm=QuotingLLM(), embedder=embedder, clock=clock, run_worker=rules) as memory:
        yield memory


async def settled(memory: AsyncMemory, embedder: Embedder | None, options: argparse.Namespace) -> None:
    """Until all that was told is decided (`--facts rules`) and embedded."""
    if options.facts == "rules":
        await memory.worker.idle()
        return
    if embedder is not None:
        await embed_all(memory, embedder)


async def embed_all(memory: AsyncMemory, embedder: Embedder) -> None:
    """The worker's embedding jobs alone: the write decider stays away, and so do its rules. No job is cut short."""
    desk = Desk(memory.ledger, None, embedder, InlineOffload(), SystemClock(), Policy())
    while jobs := await memory.ledger.claim("bench", ["embed"], 1, 3600.0):
        for job in jobs:
            await memory.ledger.apply(job, await decide_embed(job, desk))
            await memory.index.project(job.scope)


async def probe(sets: Sequence[Conversation], options: argparse.Namespace) -> dict[str, float]:
    """How fast the first turns are taken in, by a memory of its own and without the cache."""
    turns: list[tuple[str, NewTurn]] = [
        (f"user-{number}", turn) for number, one in enumerate(sets) for said in one.said for turn in said.turns
    ][:PROBE_TURNS]
    embedder = LocalEmbedder() if options.embedder == "local" else None
    by_user: dict[str, list[NewTurn]] = {}
    for user, turn in turns:
        by_user.setdefault(user, []).append(turn)
    with tempfile.TemporaryDirectory() as folder:
        async with memory_of(Path(folder), embedder, options) as memory:
            if embedder is not None:
                await embedder.query("warm")
            began = time.perf_counter()
            for user, theirs in by_user.items():
                await memory.add_turns(theirs, user)
            kept = time.perf_counter() - began
            await settled(memory, embedder, options)
            done = time.perf_counter() - began
    if embedder is not None:
        await embedder.aclose()
    return {
        "turns": len(turns),
        "kept_per_second": round(len(turns) / kept, 1),
        "findable_per_second": round(len(turns) / done, 1),
    }


async def measure(sets: Sequence[Conversation], options: argparse.Namespace) -> dict[str, Any]:
    timed: TimedEmbedder | None = None
    if options.embedder == "local":
        model = LocalEmbedder()
        cached = CachedEmbedder(model, options.cache.expanduser())
        timed = TimedEmbedder(cached, cached if options.quick else model)
        if not options.quick:
            await model.query("warm")
    ingest = {} if options.quick else await probe(sets, options)
    with tempfile.TemporaryDirectory() as folder:
        async with memory_of(Path(folder), timed, options) as memory:
            run = Run(memory, timed, options)
            began = time.perf_counter()
            await run.all(sets)
            seconds = time.perf_counter() - began
            index = index_bytes(memory.index)
    if timed is not None:
        await timed.aclose()
    return summary(run.measured, options, ingest, index) | {"seconds": round(seconds, 1)}


def index_bytes(index: object) -> int:
    """What the index holds in this process; of Milvus its lexical half."""
    inner = getattr(index, "_lexical", index)
    return int(getattr(inner, "nbytes", 0))


def summary(measured: Measured, options: argparse.Namespace, ingest: dict[str, float], held: int) -> dict[str, Any]:
    turn, session = measured.turns, measured.sessions
    categories = sorted({*turn.by_category, *session.by_category})
    by_turn, by_session = turn.categories(), session.categories()
    by_category = {name: {"turn": by_turn.get(name), "session": by_session.get(name)} for name in categories}
    return {
        "data": options.data.name,
        "index": options.index,
        "facts": options.facts,
        "embedder": options.embedder,
        "n": max(turn.total()["n"], session.total()["n"]),
        "turn": turn.total(),
        "session": session.total(),
        "adversarial": by_category.get(ADVERSARIAL),
        "by_category": by_category,
        "no_query": measured.missed,
        "unknown_evidence": measured.unknown,
        "ingest": ingest,
        "search_ms": {} if options.quick else milliseconds(measured.seconds),
        "search_ms_without_embedding": {} if options.quick else milliseconds(measured.bare_seconds),
        "records": measured.records,
        "index_mb": round(held / 2**20, 2),
    }


def milliseconds(seconds: Sequence[float]) -> dict[str, float]:
    found = {"p50": percentile(seconds, 0.5), "p95": percentile(seconds, 0.95)}
    return {name: round(1000 * value, 2) for name, value in found.items() if value is not None}


def report(result: dict[str, Any]) -> None:
    """A table for people, then the line for programs."""
    rows: dict[str, dict[str, float]] = {"turns": result["turn"]}
    for name, levels in result["by_category"].items():
        if levels["turn"]:
            rows[f"  {name}"] = levels["turn"]
    rows["sessions"] = result["session"]
    for name, levels in result["by_category"].items():
        if levels["session"]:
            rows[f"  {name} "] = levels["session"]
    table(rows, print)
    for name in ("ingest", "search_ms", "search_ms_without_embedding", "records", "index_mb"):
        print(f"{name}: {result[name]}")
    print(json.dumps(result))


def main() -> None:
    parser = parser_of(__doc__ or "", CACHE)
    parser.add_argument("--limit", type=int, default=50, help="hits asked for: repeats and sessions need more than 10")
    parser.add_argument("--quick", action="store_true", help="no times: queries from the cache too")
    options = parser.parse_args()
    sets = list(conversations(options.data))
    if options.sample:
        sets = sets[:: max(1, len(sets) // options.sample)][: options.sample]
    report(asyncio.run(measure(sets, options)))


if __name__ == "__main__":
    main()
