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


async def test_a_job_goes_on_while_who_waits_waits_for_somebody_outside() -> None:
    precedence = Precedence()
    with precedence.urgent(), precedence.urgent():  # a search within a beginning reply
        with precedence.elsewhere(), anyio.fail_after(GIVE_WAY_MOST / 2):
            await precedence.give_way()
        waiting = asyncio.create_task(precedence.give_way())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not waiting.done()
    with anyio.fail_after(GIVE_WAY_MOST / 2):
        await waiting


async def test_a_reply_that_was_begun_within_a_wait_waits_for_itself() -> None:
    precedence = Precedence()
    begun, ended = asyncio.Event(), asyncio.Event()

    async def reply() -> None:
        await begun.wait()
        with precedence.urgent():
            await ended.wait()

    with precedence.urgent():
        writing = asyncio.create_task(reply())
    begun.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting = asyncio.create_task(precedence.give_way())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not waiting.done()
    ended.set()
    with anyio.fail_after(GIVE_WAY_MOST / 2):
        await asyncio.gather(writing, waiting)


async def test_what_outlives_the_wait_it_belonged_to_holds_nobody_up() -> None:
    precedence = Precedence()
    answered = asyncio.Event()

    async def asks() -> None:
        with precedence.urgent(), precedence.elsewhere():
            await answered.wait()

    with precedence.urgent():
        asking = asyncio.create_task(asks())
        await asyncio.sleep(0)
    answered.set()
    await asking
    with anyio.fail_after(GIVE_WAY_MOST / 2):
        await precedence.give_way()
