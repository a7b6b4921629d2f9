"""One fault after another against a real server: what the person sees, what is kept, that it heals, who else suffers.

    scripts/bench faults [--only NAME] [--seed S] [--short]

A server process on loopback (HTTP interface, no page) with a fake LLM and a fake embedder that fail on order. One row
a fault; the last line is one JSON object. `--only` takes the beginning of a name (`llm`, `embedder_nan`, `storage`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from bench import faults_milvus as milvus
from bench import faults_models as models
from bench import faults_process as process
from bench import faults_storage as storage
from bench.faults_house import FULL, SHORT, Form, Row, serving
from bench.faults_house import models as fake_models

Alone = Callable[[Path, Form], Awaitable[Row]]

ALONE: dict[str, Alone] = {
    **{f"storage_{name}": fault for name, fault in storage.FAULTS.items()},
    **{f"process_{name}": fault for name, fault in process.FAULTS.items()},
    **{f"milvus_{name}": fault for name, fault in milvus.FAULTS.items()},
}
BESIDE = {
    **{f"storage_{name}": fault for name, fault in storage.BESIDE.items()},
    **{f"process_{name}": fault for name, fault in process.BESIDE.items()},
}
NAMES = (
    *(f"llm_{name}" for name in models.LLM),
    *(f"embedder_{name}" for name in models.EMBEDDER),
    "llm_dead_with_jobs_waiting",
    *BESIDE,
    *ALONE,
)


async def campaign(names: list[str], form: Form, show: Callable[[str, Row], None]) -> dict[str, Row]:
    rows: dict[str, Row] = {}
    began = time.monotonic()

    def done(name: str, row: Row) -> None:
        nonlocal began
        row.figures["seconds_in_all"], began = round(time.monotonic() - began, 1), time.monotonic()
        rows[name] = row
        show(name, row)

    shared = [name for name in names if name not in ALONE]
    if shared:
        with tempfile.TemporaryDirectory(prefix="afterword-faults-") as folder:
            await _on_one_server(shared, Path(folder), form, done)
    for name in names:
        if name in ALONE:
            with tempfile.TemporaryDirectory(prefix="afterword-faults-") as folder:
                done(name, await ALONE[name](Path(folder), form))
    return rows


async def _on_one_server(names: list[str], folder: Path, form: Form, done: Callable[[str, Row], None]) -> None:
    lease = form.suspended / 2  # so that a suspension outlasts it
    async with (
        fake_models() as (llm, embedder),
        serving(folder / "data", llm.base_url, embedder.base_url, lease=lease) as server,
    ):
        await server.chat("calm", "Good morning, I live by the sea.")  # first use of every path
        for name in names:
            kind, _, fault = name.partition("_")
            if name in BESIDE:
                done(name, await BESIDE[name](server, llm, form))
            elif name == "llm_dead_with_jobs_waiting":
                done(name, await models.breaker(server, llm, form))
            elif kind == "llm":
                done(name, await models.llm_fault(fault, server, llm, form))
            else:
                done(name, await models.embedder_fault(fault, server, embedder, form))


def show(name: str, row: Row) -> None:
    told = row.skipped or row.seen
    ratio = "" if row.others_ratio is None else f"  others ×{row.others_ratio}"
    marks = f"{'kept' if row.kept else 'LOST'} {'healed' if row.healed else 'NOT HEALED'}"
    print(
        f"{name:<28} {marks if not row.skipped else 'skipped':<12}{ratio}  {row.figures['seconds_in_all']:>5} s  {told[:150]}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="the beginning of a name: " + ", ".join(NAMES))
    parser.add_argument("--seed", type=int, default=1, help="of the order in which the faults come")
    parser.add_argument("--short", action="store_true", help="seconds instead of minutes, for the tests")
    options = parser.parse_args()
    names = [name for name in NAMES if name.startswith(options.only)]
    if not names:
        parser.error(f"there is no fault named {options.only}")
    random.Random(options.seed).shuffle(names)
    form = SHORT if options.short else FULL
    rows = asyncio.run(campaign(names, form, show))
    failed = {name: why for name in rows if (why := rows[name].failures(form))}
    for name, why in failed.items():
        print(f"FAILED {name}: {', '.join(why)}", file=sys.stderr)
    print(json.dumps({"faults": {name: row.as_json() for name, row in rows.items()}, "failed": sorted(failed)}))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
