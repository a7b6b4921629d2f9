"""What each leg of the ranking is worth, and which weights hold on conversations that they were not fitted to.

    scripts/bench recall_study --data FILE.jsonl … [--leave LEG …] [--add LEG …] [--fresh]

The candidates of every question, with every part of the sum, come from the product through `recall_study_tables`, once,
and are kept as arrays in `--tables`; after that a question of weights takes seconds. Weights are fitted by the softmax
over a question's candidates (the chance of its evidence), never below zero, drawn towards zero. Figures stand for

- `now`: the product's weights;
- `all`: fitted on everything that they are measured on, so a little too good;
- `half`: fitted on half of each file's conversations (of its questions, where it has one), measured on the other half;
- `others`: fitted on the other files only.

`bound` is the share of the evidence among the first 20, 50 and 100, and among all candidates. With `--leave` and `--add`
the same without a leg, or with one on trial. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from afterword.embedders.cached import CachedEmbedder
from afterword.embedders.local import LocalEmbedder
from afterword.ranking import Weights
from bench.recall import CACHE, TimedEmbedder, memory_of
from bench.recall_data import conversations
from bench.recall_metrics import ADVERSARIAL
from bench.recall_study_tables import FUSED, RANKED, Floats, Gather, Ints, Mask, Table

TABLES = Path("~/.cache/afterword/recall-study")
SHARPNESS = 6.0  # of the softmax: how much one point of the sum counts
DRAWN = 0.02  # towards zero
STEPS = 150
ADVERSARIAL_SHARE = 0.25  # of a file's say, for its adversarial questions
Seed = int


@dataclass(frozen=True, slots=True)
class Study:
    """The tables of all files below one another; `file` of each question."""

    table: Table
    file: npt.NDArray[np.str_]
    starts: Ints  # the first row of each question that has rows

    @property
    def questions(self) -> int:
        return len(self.file)


def joined(tables: dict[str, Table]) -> Study:
    counts = [len(table.evidence) for table in tables.values()]
    offsets = np.concatenate([[0], np.cumsum(counts)[:-1]])
    several = list(tables.values())

    def together(name: str) -> Any:
        return np.concatenate([getattr(table, name) for table in several])

    question = np.concatenate([table.question + at for table, at in zip(several, offsets, strict=True)])
    rest = ("features", "session", "wanted", "wanted_session", "evidence", "sessions", "conversation", "category")
    table = Table(names=several[0].names, question=question, **{name: together(name) for name in rest})
    starts = np.flatnonzero(np.concatenate([[True], question[1:] != question[:-1]]))
    return Study(table, np.repeat(list(tables), counts), starts)


# ── figures ────────────────────────────────────────────────────────────────────────────────────────────────────────


def places(study: Study, score: Floats) -> Ints:
    """Where each row stands among its question's, from 0."""
    order = np.lexsort((-score, study.table.question))
    place = np.empty(len(score), np.int64)
    first = study.starts[np.searchsorted(study.starts, order, side="right") - 1]
    place[order] = np.arange(len(score)) - first
    return place


def figures(study: Study, score: Floats) -> dict[str, Floats]:
    """Of each question; NaN where it has no evidence of that kind."""
    table, place = study.table, places(study, score)

    def found(rows: Mask, k: int) -> Floats:
        return np.bincount(table.question[rows & (place < k)], minlength=study.questions).astype(np.float32)

    with np.errstate(invalid="ignore", divide="ignore"):
        hits = {k: found(table.wanted, k) / table.evidence for k in (1, 10, 20, 50, 100, len(score))}
    shown = {"frac@10": hits[10], "all@10": np.where(np.isnan(hits[10]), np.nan, hits[10] >= 1), "any@1": hits[1]}
    shown["any@1"] = np.where(np.isnan(hits[1]), np.nan, hits[1] > 0)
    sessions = _sessions(study, place)
    bounds = {f"bound@{k}" if k <= 100 else "bound": hits[k] for k in hits if k >= 20}
    return {name: np.asarray(value, np.float32) for name, value in {**shown, **sessions, **bounds}.items()}


def _sessions(study: Study, place: Ints) -> dict[str, Floats]:
    """A session takes the place of its best row."""
    table = study.table
    key = table.question * (int(table.session.max()) + 1) + table.session
    order = np.lexsort((place, key))
    first = np.concatenate([[True], np.diff(key[order]) != 0])
    best = order[first]
    best = best[np.lexsort((place[best], table.question[best]))]
    question = table.question[best]
    starts = np.flatnonzero(np.concatenate([[True], np.diff(question) != 0]))
    rank = np.arange(len(best)) - starts[np.searchsorted(starts, np.arange(len(best)), side="right") - 1]
    wanted = table.wanted_session[best]
    count = {k: np.bincount(question[wanted & (rank < k)], minlength=study.questions) for k in (1, 5)}
    none = table.sessions == 0
    return {
        "session all@5": np.where(none, np.nan, count[5] >= table.sessions).astype(np.float32),
        "session any@1": np.where(none, np.nan, count[1] > 0).astype(np.float32),
    }


# ── fitting ────────────────────────────────────────────────────────────────────────────────────────────────────────


def shares(study: Study, among: Mask) -> Floats:
    """How much each question's evidence counts: each file as much as another."""
    adversarial = study.table.category == ADVERSARIAL
    share = np.zeros(study.questions, np.float32)
    for name in np.unique(study.file):
        for hostile, whole in ((False, 1.0), (True, ADVERSARIAL_SHARE)):
            mine = among & (study.file == name) & (adversarial == hostile)
            share[mine] = whole / max(1, int(mine.sum()))
    return share


def fitted(study: Study, columns: Sequence[int], among: Mask) -> Floats:
    """Weights by softmax regression on the questions `among`, by Adam (Kingma and Ba, 2015), kept at zero or above."""
    table = study.table
    rows = np.flatnonzero(among[table.question])
    features = table.features[rows][:, columns]
    question = np.unique(table.question[rows], return_inverse=True)[1]
    starts = np.flatnonzero(np.concatenate([[True], np.diff(question) != 0]))
    # where only sessions are known, any row of a right session may stand for it
    wanted = np.where(table.evidence[table.question] > 0, table.wanted, table.wanted_session)[rows]
    able = np.add.reduceat(wanted, starts) > 0
    share = shares(study, among)[table.question[rows[starts]]] * able
    weights = np.full(len(columns), 0.1)
    mean, square = np.zeros(len(columns)), np.zeros(len(columns))
    for step in range(1, STEPS + 1):
        slope = _slope(features, question, starts, wanted, share, weights) + 2 * DRAWN * weights
        mean, square = 0.9 * mean + 0.1 * slope, 0.99 * square + 0.01 * slope**2
        move = (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.99**step)) + 1e-9)
        weights = np.maximum(0.0, weights - 0.02 * move)
    return weights.astype(np.float32)


def _slope(
    features: Floats, question: Ints, starts: Ints, wanted: Mask, share: Floats, weights: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Of the mean loss: minus the log of the evidence's share in the softmax."""
    raw = SHARPNESS * (features @ weights.astype(np.float32))
    raw = np.exp(raw - np.maximum.reduceat(raw, starts)[question])
    every = raw / np.add.reduceat(raw, starts)[question]
    right = np.where(wanted, raw, 0.0)
    right = right / np.maximum(np.add.reduceat(right, starts), 1e-9)[question]
    slope: npt.NDArray[np.float64] = SHARPNESS * ((every - right) * share[question]) @ features
    return slope.astype(np.float64)


def halves(study: Study, seed: Seed) -> Mask:
    """Half of each file's conversations; half of its questions, where it has one conversation."""
    random = np.random.default_rng(seed)
    half = np.zeros(study.questions, np.bool_)
    for name in np.unique(study.file):
        mine = np.flatnonzero(study.file == name)
        groups = study.table.conversation[mine]
        groups = groups if len(np.unique(groups)) > 1 else np.arange(len(mine))
        chosen = random.permutation(np.unique(groups))[: (len(np.unique(groups)) + 1) // 2]
        half[mine] = np.isin(groups, chosen)
    return half


def crossed(study: Study, columns: Sequence[int], parts: Sequence[Mask]) -> Floats:
    """Scores of the questions of each part under weights that were fitted on all others."""
    score = np.zeros(len(study.table.question), np.float32)
    for part in parts:
        rows = part[study.table.question]
        score[rows] = study.table.features[rows][:, columns] @ fitted(study, columns, ~part)
    return score


# ── the report ─────────────────────────────────────────────────────────────────────────────────────────────────────

SHOWN = ("frac@10", "all@10", "any@1", "session all@5", "session any@1")
BOUNDS = ("bound@20", "bound@50", "bound@100", "bound")


def lines(study: Study, score: Floats) -> Iterator[tuple[str, dict[str, float]]]:
    """A row for each file, and for what stands apart in it."""
    each = figures(study, score)
    adversarial = study.table.category == ADVERSARIAL
    for name in dict.fromkeys(study.file):
        groups = {str(name): ~adversarial, f"{name} {ADVERSARIAL}": adversarial}
        groups[f"{name} multi-hop"] = study.table.category == "multi-hop"
        for label, group in groups.items():
            mine = group & (study.file == name)
            if mine.any():
                known = {key: each[key][mine] for key in (*SHOWN, *BOUNDS)}
                yield label, {key: _mean(values) for key, values in known.items()}


def _mean(values: Floats) -> float:
    return round(float(np.nanmean(values)), 4) if np.isfinite(values).any() else float("nan")


def report(study: Study, title: str, score: Floats) -> dict[str, dict[str, float]]:
    found = dict(lines(study, score))
    print(title)
    for label, row in found.items():
        shown = " ".join(f"{row[key]:.3f}" for key in SHOWN)
        print(f"  {label:<32} {shown}   bounds {' '.join(f'{row[key]:.3f}' for key in BOUNDS)}")
    return found


def study_of(study: Study, names: Sequence[str]) -> dict[str, Any]:
    """The report for one set of legs."""
    columns = [study.table.names.index(name) for name in names]
    everything = np.ones(study.questions, np.bool_)
    weights = fitted(study, columns, everything)
    half = halves(study, 0)
    files = [study.file == name for name in dict.fromkeys(study.file)]
    print("weights", {name: round(float(one), 3) for name, one in zip(names, weights, strict=True)})
    found: dict[str, Any] = {"weights": dict(zip(names, weights.tolist(), strict=True))}
    found["all"] = report(study, "all", study.table.features[:, columns] @ weights)
    found["half"] = report(study, "half", crossed(study, columns, (half, ~half)))
    if len(files) > 1:
        found["others"] = report(study, "others", crossed(study, columns, files))
    return found


async def gathered(data: Path, cache: Path) -> Table:
    sets = list(conversations(data))
    options = argparse.Namespace(facts="none", index="exact", quiet=False, limit=50)
    cached = CachedEmbedder(LocalEmbedder(), cache)
    timed = TimedEmbedder(cached, cached)
    with tempfile.TemporaryDirectory() as folder:
        async with memory_of(Path(folder), timed, options) as memory:
            run = Gather(memory, timed, options)
            await run.all(sets)
    await timed.aclose()
    return run.table()


def tables(options: argparse.Namespace) -> dict[str, Table]:
    found: dict[str, Table] = {}
    for data in options.data:
        path = options.tables.expanduser() / f"{data.stem}.npz"
        if options.fresh or not path.exists():
            asyncio.run(gathered(data, options.cache.expanduser())).save(path)
        found[data.stem] = Table.load(path)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="files in the neutral form")
    parser.add_argument("--leave", nargs="*", default=[], help="legs of the product to do without")
    parser.add_argument("--add", nargs="*", default=[], help="legs on trial to take in")
    parser.add_argument("--tables", type=Path, default=TABLES, help="a folder outside the repository")
    parser.add_argument("--cache", type=Path, default=CACHE, help="of embeddings, outside the repository too")
    parser.add_argument("--fresh", action="store_true", help="gather the tables anew: after a change of the product")
    options = parser.parse_args()
    study = joined(tables(options))
    own = Weights()
    names = [name for name in (*FUSED, *RANKED) if name not in options.leave]
    now = [study.table.names.index(name) for name in (*FUSED, *RANKED)]
    weights = np.array([getattr(own, name) for name in (*FUSED, *RANKED)], np.float32)
    found = {"now": report(study, "now", study.table.features[:, now] @ weights)}
    print(json.dumps({**found, **study_of(study, [*names, *options.add])}))


if __name__ == "__main__":
    main()
