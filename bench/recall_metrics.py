"""How good a ranking is: any@k, all@k, frac@k, MRR, nDCG@10, of turns and of sessions, summed and by category."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

NAMES = ("any@1", "any@5", "any@10", "all@5", "all@10", "frac@10", "mrr", "ndcg@10")
ADVERSARIAL = "adversarial"


def figures(ranking: Sequence[str], wanted: Collection[str]) -> dict[str, float]:
    """Of one question. `ranking` has no repeats and `wanted` is not empty."""
    places = sorted(place for place, name in enumerate(ranking, 1) if name in wanted)

    def within(k: int) -> int:
        return sum(place <= k for place in places)

    gain = sum(1 / math.log2(place + 1) for place in places if place <= 10)
    ideal = sum(1 / math.log2(place + 1) for place in range(1, min(10, len(wanted)) + 1))
    return {
        "any@1": float(within(1) > 0),
        "any@5": float(within(5) > 0),
        "any@10": float(within(10) > 0),
        "all@5": float(within(5) == len(wanted)),
        "all@10": float(within(10) == len(wanted)),
        "frac@10": within(10) / len(wanted),
        "mrr": 1 / places[0] if places else 0.0,
        "ndcg@10": gain / ideal,
    }


@dataclass
class Level:
    """Figures of all questions at one level, by category."""

    by_category: dict[str, list[dict[str, float]]] = field(default_factory=lambda: defaultdict(list))

    def add(self, category: str, ranking: Sequence[str], wanted: Collection[str]) -> None:
        """A question without evidence at this level is not counted."""
        if wanted:
            self.by_category[category].append(figures(ranking, wanted))

    def total(self) -> dict[str, float]:
        """All but the adversarial questions."""
        return mean(row for category, rows in self.by_category.items() if category != ADVERSARIAL for row in rows)

    def categories(self) -> dict[str, dict[str, float]]:
        return {category: mean(rows) for category, rows in sorted(self.by_category.items())}


def mean(rows: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each figure, with `n`; only that when there is none."""
    found = list(rows)
    means = {name: round(sum(row[name] for row in found) / len(found), 4) for name in NAMES if found}
    return {"n": len(found), **means}


def percentile(values: Collection[float], share: float) -> float | None:
    """The value below which `share` of the values lie; None of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None


def table(rows: Mapping[str, Mapping[str, float]], say: Callable[[str], None]) -> None:
    """One line a row, the figures beside one another."""
    width = max(len(name) for name in rows)
    say(f"{'':<{width}} {'n':>6} " + " ".join(f"{name:>8}" for name in NAMES))
    for name, row in rows.items():
        shown = " ".join(f"{row[key]:>8.3f}" if key in row else f"{'–':>8}" for key in NAMES)
        say(f"{name:<{width}} {row['n']:>6.0f} {shown}")
