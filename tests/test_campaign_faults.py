"""The short form of the fault campaign: the main fault of each kind, on real server processes.

Each kind of fault has tests of its own elsewhere; this one sees that nothing is lost, all heals, and nobody beside it
suffers. The whole list: `scripts/bench faults`.
"""

from __future__ import annotations

import pytest

from bench.faults import NAMES, campaign
from bench.faults_house import SHORT, Row

pytestmark = pytest.mark.anyio

SHOWN = (
    "llm_refused",
    "llm_401",
    "llm_429_retry_after",
    "llm_prose",
    "llm_dead_with_jobs_waiting",
    "embedder_nan",
    "embedder_wrong_dimension",
    "storage_locked",
    "process_second_server",
    "process_suspended",
    "storage_disk_full",
    "process_sigterm_under_load",
)
TOLD = {
    "llm_refused": "nothing answers at",
    "llm_401": "the key was refused (401): set AFTERWORD_LLM_API_KEY",
    "llm_429_retry_after": "too many requests (429)",
    "llm_prose": "a reply: ",
    "embedder_nan": "searched by words only",
    "embedder_wrong_dimension": "65 dimensions where it had 64",
    "storage_locked": "is locked by another program",
    "storage_disk_full": "no space is left",
    "process_second_server": "a server already runs on",
}


async def test_every_fault_is_told_loses_nothing_heals_and_slows_nobody() -> None:
    assert set(SHOWN) <= set(NAMES)
    shown: list[str] = []

    def show(name: str, row: Row) -> None:
        shown.append(f"{name}: {row.as_json()}")

    rows = await campaign(list(SHOWN), SHORT, show)
    failed = {name: why for name, row in rows.items() if (why := row.failures(SHORT))}
    assert failed == {}, "\n".join(shown)
    for name, words in TOLD.items():
        assert words in rows[name].seen, (name, rows[name].seen)
    assert rows["process_suspended"].figures["attempts"] == [1]
    assert rows["llm_dead_with_jobs_waiting"].figures["calls"] <= 8 + 4, "a first volley, then one try after another"
