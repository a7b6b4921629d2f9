"""What runs behind the replies gives way to them."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from afterword.pacing import GATHER, GATHER_MOST, GIVE_WAY_MOST, LATE, Gathering, Precedence

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
