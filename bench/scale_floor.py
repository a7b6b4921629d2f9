"""The floor of `bench.scale`: the bare arithmetic, with no ledger, no rights and no reading back.

The same vectors in one numpy matrix and, with `--bm25s`, as many texts in `bm25s`. That is none of our dependencies:
it lies in an environment of its own, in which this file runs as a script (our packages behind it on the path).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from bench.recall_metrics import percentile
from bench.scale_filling import Talk
from bench.throwaway import environment

SEED = 1
CHUNK = 2_000
LIMIT = 10
QUESTION = 8  # words of a query

Search = Callable[[], object]


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Milliseconds."""
    return {
        name: round(1000 * (percentile(seconds, share) or 0.0), 2)
        for name, share in (("p50", 0.5), ("p95", 0.95), ("max", 1.0))
    }


def floor(size: int, dimensions: int, searches: int) -> dict[str, Any]:
    """One matrix product a search."""
    talk = Talk(SEED, dimensions)
    matrix = np.concatenate([talk.vectors(min(CHUNK, size - at)) for at in range(0, size, CHUNK)])
    queries = talk.vectors(searches)
    return {
        "memories": size,
        "numpy": spread([_took(partial(_nearest, matrix, query)) for query in queries]),
    }


def _nearest(matrix: Any, query: Any) -> Any:
    scores = matrix @ query
    return np.argpartition(-scores, LIMIT)[:LIMIT]


def _took(search: Search) -> float:
    began = time.perf_counter()
    search()
    return time.perf_counter() - began


def bm25s_floors(folder: Path, sizes: Sequence[int], searches: int) -> dict[int, dict[str, float]]:
    """BM25 of as many texts, by size: this file as a script, in an environment made in `folder`."""
    python = environment(folder, "bm25s")
    path = os.pathsep.join(part for part in sys.path if part)
    command = [str(python), str(Path(__file__).resolve()), f"--searches={searches}", *map(str, sizes)]
    made = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    return {int(size): row for size, row in json.loads(made.stdout).items()}


def _bm25s_floor(size: int, searches: int) -> dict[str, float]:
    retriever: Any = import_module("bm25s").BM25()
    talk = Talk(SEED, 1)
    retriever.index([talk.text().split() for _ in range(size)], show_progress=False)
    queries = [[talk.text(QUESTION).split()] for _ in range(searches)]
    return spread([_took(partial(retriever.retrieve, query, k=LIMIT, show_progress=False)) for query in queries])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", type=int, nargs="+", help="texts")
    parser.add_argument("--searches", type=int, default=100)
    options = parser.parse_args()
    print(json.dumps({size: _bm25s_floor(size, options.searches) for size in options.sizes}))


if __name__ == "__main__":
    main()
