"""What runs behind the replies gives way to them."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from afterword.pacing import GATHER, GATHER_MOST, GIVE_WAY_MOST, LATE, PIECES, Gathering, Precedence

pytestmark = pytest.mark.anyio


async def test_looks_for_work_become_rare_while_the_loop_is_late_and_frequent_again_when_it_is_not() -> None:
    gathering = Gathering()
    for _ in range(20):
        gathering.noted(10 * LATE)
    assert gathering.seconds == GATHER_MOST
    gathering.noted(0.0)
    assert GATHER < gathering.seconds < GATHER_MOST
    for _ in range(20):
        gathering.noted(0.0)
    assert gathering.seconds == GATHER


async def test_a_jobs_next_piece_waits_until_the_last_search_has_ended() -> None:
    precedence = Precedence()
    await precedence.give_way()  # no search: at once
    with precedence.urgent():
        with precedence.urgent():
            waiting = asyncio.create_task(precedence.give_way())
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not waiting.done()
    with anyio.fail_after(GIVE_WAY_MOST / 2):
        await waiting


async def test_searches_without_end_hold_up_a_job_for_a_moment_only() -> None:
    precedence = Precedence()
    with precedence.urgent(), anyio.fail_after(20 * GIVE_WAY_MOST):
        await precedence.give_way()


async def test_few_jobs_write_at_once_and_the_next_begins_when_one_has_ended() -> None:
    precedence = Precedence()
    began: list[int] = []
    ends = [asyncio.Event() for _ in range(PIECES + 2)]

    async def write(number: int) -> None:
        async with precedence.writing():
            began.append(number)
            await ends[number].wait()

    writing = [asyncio.create_task(write(number)) for number in range(PIECES + 2)]
    await anyio.wait_all_tasks_blocked()
    assert began == list(range(PIECES))
    ends[0].set()
    await anyio.wait_all_tasks_blocked()
    assert began == list(range(PIECES + 1))
    for end in ends:
        end.set()
    with anyio.fail_after(GIVE_WAY_MOST / 2):
        await asyncio.gather(*writing)


async def test_a_write_that_waits_for_a_search_may_be_cancelled_and_leaves_its_place_to_others() -> None:
    precedence = Precedence()

    async def write() -> None:
        async with precedence.writing():
            pass

    with precedence.urgent():
        waiting = [asyncio.create_task(write()) for _ in range(PIECES)]
        await anyio.wait_all_tasks_blocked()
        assert not any(task.done() for task in waiting)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    with anyio.fail_after(GIVE_WAY_MOST / 2):
        await write()
