"""What an LLM can answer from what it is given, on a set in the neutral form.

    scripts/bench answers --data FILE.jsonl [--embedder local|none] [--facts none|extracted|rules] [--sample N]
                          [--llm-base-url URL --llm-model NAME --budget T --ask N --arms bm25,afterword,…]

Five arms: no memory, the last turns that fit, plain BM25 hits that fit, Afterword's context, the gold evidence turns.
Without a model: `coverage`, the share of the gold answer's content words that stand in the text, at 500, 1,000 and
2,000 tokens, over all questions that have an answer; adversarial questions are left out. With one, `--ask`
questions, spread over the set, are answered from each arm at `--budget` tokens. Answers are kept by prompt in
`--answers`, so that a run goes on where it stopped. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import fmean
from typing import Any

from afterword.embedders.cached import CachedEmbedder
from afterword.embedders.local import LocalEmbedder
from afterword.offload import SystemClock
from bench.answers_arms import GOLD, LAST, NONE, OURS, PLAIN, Lines, gold
from bench.answers_judge import ENOUGH, chosen, coverage, interval, right, token_f1
from bench.answers_llm import Asker
from bench.recall import CACHE, QUERY_LIMIT, Run, TimedEmbedder, Told, memory_of
from bench.recall_data import Asked, Conversation, conversations, parser_of
from bench.recall_metrics import ADVERSARIAL

BUDGETS = (500, 1000, 2000)
ANSWERS = Path("~/.cache/afterword/bench-answers")


class ShiftedClock(SystemClock):
    """The system's clock, put to another day."""

    shift = timedelta(0)

    def now(self) -> datetime:
        return super().now() + self.shift

    def put_to(self, moment: datetime) -> None:
        self.shift = moment - super().now()


@dataclass(frozen=True, slots=True)
class Row:
    """A question, how much of its answer each arm's text holds, and the texts that a model is to answer from."""

    asked: Asked
    covered: Mapping[tuple[str, int], float]
    texts: Mapping[str, str]  # empty where no model is asked


@dataclass
class Judged:
    """What a model answered, by arm."""

    right: dict[str, list[float]] = field(default_factory=dict)
    f1: dict[str, list[float]] = field(default_factory=dict)
    failed_though_there: dict[str, list[str]] = field(default_factory=dict)  # ids


class Answers(Run):
    """Tells as the recall bench does, and asks for texts instead of hits."""

    def __init__(
        self, memory: Any, timed: TimedEmbedder | None, options: argparse.Namespace, clock: ShiftedClock
    ) -> None:
        super().__init__(memory, timed, options)
        self.clock = clock
        self.rows: list[Row] = []
        self._lines: dict[tuple[str, int], Lines] = {}

    async def ask(self, told: Told, asked: Asked) -> None:
        query = asked.text[:QUERY_LIMIT]
        counts = asked.category != ADVERSARIAL and coverage(asked.answer, "") is not None
        if not counts or not query.strip():
            return
        found: dict[tuple[str, int], float] = {}
        texts: dict[str, str] = {}
        for budget in budgets_of(self.options):
            texts = await self._texts(told, asked, budget)
            found |= {(arm, budget): coverage(asked.answer, text) or 0.0 for arm, text in texts.items()}
        self.rows.append(Row(asked, found, {NONE: "", **texts} if self.options.llm_base_url else {}))

    async def _texts(self, told: Told, asked: Asked, budget: int) -> dict[str, str]:
        lines = self._seen(told)
        moments = [turn.said_at for one in lines.said for turn in one.turns if turn.said_at]
        now = (max(moments) if moments else datetime.now(UTC)) + timedelta(days=1)
        self.clock.put_to(now)
        ours = await self.memory.context(asked.text[:QUERY_LIMIT], told.user, budget)
        self.clock.shift = timedelta(0)
        return {
            LAST: _block(lines.last(budget - 12)),
            PLAIN: _block(lines.best(asked.text, budget - 12)),
            OURS: ours,
            GOLD: gold(lines.said, asked.evidence, asked.text, now, budget),
        }

    def _seen(self, told: Told) -> Lines:
        key = told.user, told.upto
        if key not in self._lines:
            self._lines.clear()
            self._lines[key] = Lines([one for one in told.conversation.said if one.session < told.upto])
        return self._lines[key]


def budgets_of(options: argparse.Namespace) -> tuple[int, ...]:
    """With a model, that of its prompts only."""
    return (options.budget,) if options.llm_base_url else BUDGETS


def _block(text: str) -> str:
    return f"<memories>\n{text}\n</memories>" if text else ""


# ── without a model ────────────────────────────────────────────────────────────────────────────────────────────────


def covered(rows: Sequence[Row], budgets: Sequence[int]) -> dict[str, Any]:
    """Mean coverage by budget and arm, and how much of the way from plain BM25 to the gold evidence ours goes.

    Over the questions whose evidence is known, where there are such."""
    known = [row for row in rows if row.asked.evidence]
    found: dict[str, Any] = {}
    for budget in budgets:
        arms = (LAST, PLAIN, OURS, GOLD) if known else (LAST, PLAIN, OURS)
        means = {arm: fmean(row.covered[arm, budget] for row in known or rows) for arm in arms}
        gap = means.get(GOLD, 0.0) - means[PLAIN]
        better = interval([row.covered[OURS, budget] - row.covered[PLAIN, budget] for row in known or rows])
        found[str(budget)] = {
            "n": len(known or rows),
            **{arm: round(mean, 4) for arm, mean in means.items()},
            "gap_closed": round((means[OURS] - means[PLAIN]) / gap, 3) if gap > 0 else None,
            "afterword-bm25": [round(value, 4) for value in better],
        }
    return found


# ── with a model ───────────────────────────────────────────────────────────────────────────────────────────────────


def judged(rows: Sequence[Row], asker: Asker, options: argparse.Namespace) -> dict[str, Any]:
    """Question by question, all arms of one before the next, so that what a short run did can be compared."""
    spread = rows[:: max(1, len(rows) // max(1, options.ask))][: options.ask]
    result = Judged()
    until = time.monotonic() + 60 * options.minutes
    for number, row in enumerate(spread, 1):
        if time.monotonic() > until:
            break
        for arm in options.arms.split(","):
            _judge(result, arm, row, asker.answer(row.texts[arm], row.asked.text, row.asked.choices))
        if not options.quiet:
            print(f"{number}/{len(spread)}, {asker.asked} asked", file=sys.stderr, flush=True)
    return _figures(result)


def _judge(result: Judged, arm: str, row: Row, given: str) -> None:
    is_right = right(row.asked.answer, given, row.asked.choices)
    result.right.setdefault(arm, []).append(float(is_right))
    letter = chosen(given, row.asked.choices) if row.asked.choices else None
    result.f1.setdefault(arm, []).append(token_f1(row.asked.answer, row.asked.choices[letter] if letter else given))
    there = (coverage(row.asked.answer, row.texts[arm]) or 0.0) >= ENOUGH
    if there and not is_right:
        result.failed_though_there.setdefault(arm, []).append(row.asked.id)


def _figures(result: Judged) -> dict[str, Any]:
    arms = {
        arm: {
            "n": len(values),
            "right": round(fmean(values), 4),
            "f1": round(fmean(result.f1[arm]), 4),
            "wrong_though_there": result.failed_though_there.get(arm, []),
        }
        for arm, values in result.right.items()
    }
    paired = {}
    for other in (NONE, LAST, PLAIN, GOLD):
        if OURS in arms and other in arms:
            pairs = zip(result.right[OURS], result.right[other], strict=True)
            paired[f"afterword-{other}"] = [round(value, 4) for value in interval([a - b for a, b in pairs])]
    return {"arms": arms, "paired": paired}


# ── the run ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def texts(sets: Sequence[Conversation], options: argparse.Namespace) -> list[Row]:
    timed: TimedEmbedder | None = None
    if options.embedder == "local":
        cached = CachedEmbedder(LocalEmbedder(), options.cache.expanduser())
        timed = TimedEmbedder(cached, cached)
    clock = ShiftedClock()
    with tempfile.TemporaryDirectory() as folder:
        async with memory_of(Path(folder), timed, options, clock) as memory:
            run = Answers(memory, timed, options, clock)
            await run.all(sets)
    if timed is not None:
        await timed.aclose()
    return run.rows


def measure(sets: Sequence[Conversation], options: argparse.Namespace) -> dict[str, Any]:
    rows = asyncio.run(texts(sets, options))
    result: dict[str, Any] = {
        "data": options.data.name,
        "embedder": options.embedder,
        "facts": options.facts,
        "n": len(rows),
        "coverage": covered(rows, budgets_of(options)) if rows else {},
        "by_category": {
            name: covered([row for row in rows if row.asked.category == name], budgets_of(options))
            for name in sorted({row.asked.category for row in rows})
        },
    }
    if options.llm_base_url and rows:
        asker = Asker(options.llm_base_url, options.llm_model, options.answers)
        try:
            result["answers"] = {"budget": options.budget, **judged(rows, asker, options)}
        finally:
            asker.close()
    return result


def report(result: dict[str, Any]) -> None:
    """Tables for people, then the line for programs."""
    print(f"{result['data']}: {result['n']} questions; share of the gold answer's content words in the text")
    print(f"{'tokens':>8}" + "".join(f"{arm:>12}" for arm in (LAST, PLAIN, OURS, GOLD)) + f"{'gap closed':>12}")
    for budget, row in result["coverage"].items():
        figures = "".join(f"{row.get(arm, float('nan')):12.3f}" for arm in (LAST, PLAIN, OURS, GOLD))
        print(f"{budget:>8}{figures}{row['gap_closed'] if row['gap_closed'] is not None else '-':>12}")
    answers = result.get("answers", {})
    for arm, row in answers.get("arms", {}).items():
        print(f"{arm:>10}: n {row['n']}, right {row['right']:.3f}, F1 {row['f1']:.3f}")
    for pair, (mean, low, high) in answers.get("paired", {}).items():
        print(f"{pair}: {mean:+.3f} [{low:+.3f}, {high:+.3f}]")
    print(json.dumps(result))


def main() -> None:
    parser = parser_of(__doc__ or "", CACHE)
    parser.add_argument("--llm-base-url", default="", help="an OpenAI-compatible address: answers are asked for")
    parser.add_argument("--llm-model", default="test")
    parser.add_argument("--budget", type=int, default=800, help="tokens of a text that is answered from")
    parser.add_argument("--ask", type=int, default=60, help="N questions, spread over the set")
    parser.add_argument("--minutes", type=float, default=600.0, help="after which no more is asked")
    parser.add_argument("--arms", default=",".join((PLAIN, OURS, GOLD, NONE, LAST)), help="which, in which order")
    parser.add_argument("--answers", type=Path, default=ANSWERS, help="a folder for answers, outside the repository")
    options = parser.parse_args()
    sets = list(conversations(options.data))
    if options.sample:
        sets = sets[:: max(1, len(sets) // options.sample)][: options.sample]
    report(measure(sets, options))


if __name__ == "__main__":
    main()
