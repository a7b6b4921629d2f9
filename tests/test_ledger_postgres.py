"""What only a server shows: two processes' ledgers on one PostgreSQL hear of each other and never share a job."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from afterword.errors import LedgerError
from afterword.ledger import SqlLedger
from afterword.plan import Plan
from afterword.records import NewJob, NewTurn, Scope
from tests.ledger_house import ANN, BEN, House, a_house, on_postgres, opened

pytestmark = [pytest.mark.anyio, on_postgres]


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with a_house("postgresql", tmp_path) as house:
        yield house


@pytest.fixture
async def other(house: House) -> AsyncIterator[SqlLedger]:
    async with opened(house.url, house.clock) as ledger:
        yield ledger


async def test_another_ledgers_write_wakes_the_watch_of_its_scope_only(house: House, other: SqlLedger) -> None:
    with house.ledger.watch(ANN) as ann, house.ledger.watch(BEN) as ben:
        await other.accept(ANN, [NewTurn("c", "user", "hi")])
        with anyio.fail_after(10):
            assert await ann.changed() == {"turns", "jobs"}
        with anyio.move_on_after(0.2) as quiet:
            await ben.changed()
    assert quiet.cancelled_caught


async def test_many_writers_of_one_scope_number_their_changes_without_gaps(house: House, other: SqlLedger) -> None:
    async with anyio.create_task_group() as tasks:
        for number in range(30):
            ledger = (house.ledger, other)[number % 2]
            tasks.start_soon(ledger.accept, ANN, [NewTurn("c", "user", f"text {number}")])
    assert [change.seq for change in await house.ledger.changes(ANN, 0)] == list(range(1, 31))
    assert [turn.position for turn in await other.turns(ANN, "c")] == list(range(30))


async def test_workers_of_two_ledgers_end_each_job_once(house: House, other: SqlLedger) -> None:
    for user in range(6):
        scope = Scope("t", f"u{user}")
        await house.ledger.put(scope, [NewJob("other", f"lane {user}") for _ in range(5)])
    ended: list[int] = []

    async def work(ledger: SqlLedger, worker: str) -> None:
        with anyio.fail_after(60):
            while len(ended) < 30:
                for job in await ledger.claim(worker, ["other"], 3, 30.0):
                    await ledger.apply(job, Plan())
                    ended.append(job.id)

    async with anyio.create_task_group() as tasks:
        for number in range(4):
            tasks.start_soon(work, (house.ledger, other)[number % 2], f"w{number}")
    assert sorted(ended) == sorted(set(ended))
    assert await house.ledger.job_counts(None) == {"done": 30}


async def test_a_row_that_another_program_keeps_locked_fails_a_write_in_time_and_costs_nothing(house: House) -> None:
    await house.say("one")
    blocker = create_async_engine(house.url)
    async with opened(house.url, house.clock, lock_seconds=0.3) as impatient:
        async with blocker.connect() as held:
            await held.execute(sa.text("SELECT * FROM scope FOR UPDATE"))
            with anyio.fail_after(20), pytest.raises(LedgerError, match="locked by another program"):
                await impatient.accept(ANN, [NewTurn("c", "user", "two")])
            assert len(await impatient.turns(ANN, "c")) == 1, "reading waits for nobody"
        await impatient.accept(ANN, [NewTurn("c", "user", "two")])
        assert len(await impatient.turns(ANN, "c")) == 2
    await blocker.dispose()


async def test_a_server_that_is_not_there_is_told_of_at_once(house: House) -> None:
    nowhere = sa.make_url(house.url).set(port=9, password="sesame").render_as_string(hide_password=False)
    with anyio.fail_after(20), pytest.raises(LedgerError) as told:
        async with opened(nowhere, house.clock, lock_seconds=1.0):
            pass
    assert "127.0.0.1:9" in str(told.value)
    assert "sesame" not in str(told.value)
