"""How many jobs may wait: met to the job by one process, overrun by little where several share a ledger."""

from __future__ import annotations

from pathlib import Path

import pytest

from afterword.errors import QueueFull
from afterword.ledger.jobs import BELIEVED
from afterword.plan import Plan
from afterword.records import NewJob
from tests.ledger_house import ANN, WallClock, a_house, opened

pytestmark = pytest.mark.anyio

JOB = NewJob("other", "l")


@pytest.mark.parametrize("limit", [1, 3, 40, 100])
async def test_the_limit_is_met_to_the_job_though_not_each_one_is_counted_for(tmp_path: Path, limit: int) -> None:
    async with a_house("sqlite", tmp_path, max_waiting_jobs=1000, max_waiting_per_scope=limit) as house:
        for _ in range(limit):
            await house.ledger.put(ANN, [JOB])
        for _ in range(2):
            with pytest.raises(QueueFull):
                await house.ledger.put(ANN, [JOB])
        await house.ledger.apply(await house.claim_one("other"), Plan())
        await house.ledger.put(ANN, [JOB])
        with pytest.raises(QueueFull):
            await house.ledger.put(ANN, [JOB])
        assert (await house.ledger.job_counts(ANN))["queued"] == limit


async def test_two_processes_overrun_a_limit_by_no_more_than_one_count_lets_in(tmp_path: Path) -> None:
    limits = {"max_waiting_jobs": 1000, "max_waiting_per_scope": 200}
    async with a_house("sqlite", tmp_path, **limits) as house, opened(house.url, WallClock(), **limits) as other:
        refused = 0
        for number in range(400):
            try:
                await (house.ledger, other)[number % 7 == 0].put(ANN, [JOB])
            except QueueFull:
                refused += 1
        assert (await house.ledger.job_counts(ANN))["queued"] == 400 - refused <= 200 + BELIEVED
        for ledger in (house.ledger, other):
            with pytest.raises(QueueFull):
                await ledger.put(ANN, [JOB])
