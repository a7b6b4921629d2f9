"""What open pages read: what the news named, and no less than that."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta

import anyio
import pytest

from afterword.glance import EVERYTHING, News, Sought
from afterword.interfaces.http import create_app
from afterword.interfaces.page.handlers import Page
from afterword.lanes import consolidate_job, embed_job, remember_job
from afterword.memory import AsyncMemory
from afterword.plan import Change, Decided, Erase, Insert, Plan, Progress, Retire, Revise, Strengthen
from afterword.records import Job, NewJob, NewReply, Receipt, Ref, Scope
from afterword.settings import Settings
from afterword.testing.clock import START
from tests.conftest import OpenMemory
from tests.serving import client_of, events

pytestmark = pytest.mark.anyio

ME = "me"
LEASE = 30.0


@pytest.fixture
async def memory(opened: OpenMemory) -> AsyncMemory:
    """Nothing is done in it but what a test does."""
    return await opened(run_worker=False)


@dataclass
class Tab:
    """A page that shows what it was last sent."""

    page: Page
    shown: dict[str, str] = field(default_factory=dict)
    have: dict[str, str] = field(default_factory=dict)

    async def look(self, news: frozenset[News]) -> set[str]:
        """The parts that were sent."""
        asked = {"do": "look", "user": ME, "chat": "c", "have": self.have, "news": sorted(news)}
        answer = await self.page.call(asked)
        self.shown |= {name: part["html"] for name, part in answer["parts"].items()}
        self.have |= {name: part["tag"] for name, part in answer["parts"].items()}
        return set(answer["parts"])


@pytest.fixture
def page(memory: AsyncMemory, settings: Settings) -> Page:
    return Page(lambda: memory, settings)


# ── what a look reads ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("news", "parts"),
    [
        ("jobs", {"strip", "banner"}),
        ("turns", {"chats", "transcript"}),
        ("memories", {"tabs", "memories"}),
        ("runs", {"runs"}),
    ],
)
async def test_a_look_sends_no_other_parts_than_its_news_concern(page: Page, news: News, parts: set[str]) -> None:
    assert await Tab(page).look(frozenset({news})) == parts


async def test_a_look_without_news_sends_everything(page: Page) -> None:
    assert len(await Tab(page).look(frozenset())) == len(await Tab(page).look(EVERYTHING)) == 7


async def test_a_job_that_ends_changes_the_strip_alone_and_the_panel_is_not_read(memory: AsyncMemory) -> None:
    scope = memory.scope(ME)
    await memory.ledger.put(scope, [embed_job(scope)])
    with memory.ledger.watch(scope) as watch:
        await memory.ledger.apply(await claimed(memory), Plan())
        news = await watch.changed()
    assert news == {"jobs"}
    seen = await memory.glance(ME, Sought(news, "c", 9, "episodic", 9, START, backlog=True))
    assert (seen.talk, seen.panel, seen.runs) == (None, None, None)
    assert seen.work is not None
    assert [job.state for job in seen.work.jobs] == ["done"]


async def test_the_strip_is_told_of_what_is_unfinished_however_much_was_done_since_and_of_no_old_work(
    memory: AsyncMemory,
) -> None:
    scope, ledger = memory.scope(ME), memory.ledger
    await ledger.put(scope, [NewJob("other", "lane", delay=3600.0)])
    for _ in range(70):
        await ledger.put(scope, [embed_job(scope)])
        await ledger.apply(await claimed(memory, "embed"), Plan())
    sought = Sought(frozenset({"jobs"}), "", 9, "episodic", 9, START, backlog=False)
    work = (await memory.glance(ME, sought)).work
    assert work is not None
    assert [work.jobs[0].state, work.jobs[-1].state, work.counts] == ["done", "queued", {"queued": 1}]
    ended = work.jobs[0].finished_at
    assert ended is not None
    later = (await memory.glance(ME, replace(sought, since=ended + timedelta(seconds=1)))).work
    assert later is not None
    assert [job.state for job in later.jobs] == ["queued"]


# ── a tab that follows the news misses nothing ─────────────────────────────────────────────────────────────────────


async def claimed(memory: AsyncMemory, *kinds: str) -> Job:
    wanted = kinds or ("remember", "embed", "consolidate", "other")
    (job,) = await memory.ledger.claim("w", wanted, 1, LEASE)
    return job


async def episode(memory: AsyncMemory) -> Ref:
    return (await memory.get_all(ME))[0].ref


def step(*changes: Callable[[Ref], Change]) -> Callable[[AsyncMemory, Scope], Awaitable[object]]:
    """A job's plan, made for the newest memory."""

    async def act(memory: AsyncMemory, scope: Scope) -> None:
        await memory.ledger.put(scope, [NewJob("other", "lane")])
        ref = await episode(memory)
        await memory.ledger.apply(await claimed(memory, "other"), Plan(tuple(change(ref) for change in changes)))

    return act


async def says(memory: AsyncMemory, _: Scope) -> None:
    await memory.submit("I moved to Oslo.", ME, "c", turn_id="t1")


async def is_answered(memory: AsyncMemory, scope: Scope) -> None:
    reply = NewReply("c", "t1", "How is **Oslo**?", START, 0)
    await memory.ledger.answer(scope, 0, reply, Receipt(), [remember_job(scope, "c", delay=0.0)])


async def remembers(memory: AsyncMemory, scope: Scope) -> None:
    await memory.ledger.put(scope, [remember_job(scope, "c", delay=0.0)])
    job = await memory.ledger.fix_window(await claimed(memory, "remember"), {"chat_id": "c", "first": 0, "last": 0})
    written = Insert("episodic", "The user moved to Oslo.", START, 0, ("t1",), "llm", chat_id="c")
    await memory.ledger.apply(job, Plan((written, Decided("c", 0, 0, "llm"))))


async def claims(memory: AsyncMemory, scope: Scope) -> None:
    await memory.ledger.put(scope, [NewJob("other", "claimed")])
    await claimed(memory, "other")


async def postpones(memory: AsyncMemory, scope: Scope) -> None:
    await memory.ledger.put(scope, [NewJob("other", "late")])
    await memory.ledger.postpone(await claimed(memory, "other"), delay=60, waiting="the LLM is away")


async def gives_up(memory: AsyncMemory, scope: Scope) -> None:
    await memory.ledger.put(scope, [NewJob("other", "dead")])
    await memory.ledger.bury(await claimed(memory, "other"), "it can't be read")


async def tries_again(memory: AsyncMemory, _: Scope) -> None:
    (dead,) = [job for job in await memory.jobs(ME) if job.state == "dead"]
    await memory.retry_job(dead.id, ME)


async def cancels(memory: AsyncMemory, _: Scope) -> None:
    (running, *_more) = [job for job in await memory.jobs(ME) if job.state == "running"]
    await memory.ledger.cancel(running.id)


async def consolidates(memory: AsyncMemory, _: Scope) -> None:
    await memory.consolidate(ME)


async def gets_on(memory: AsyncMemory, scope: Scope) -> None:
    progress = Progress((await memory.runs(ME))[0].id, 1, 3, "one of three")
    await memory.ledger.apply(await claimed(memory, "consolidate"), Plan((progress,), jobs=(consolidate_job(scope),)))


STEPS: dict[str, Callable[[AsyncMemory, Scope], Awaitable[object]]] = {
    "a turn": says,
    "a reply": is_answered,
    "an episode": remembers,
    "a revision": step(lambda ref: Revise(ref, "The user moved to Oslo in May.", "llm")),
    "a use": step(lambda ref: Strengthen(ref.record, 0.25, START)),
    "a fact": step(lambda ref: Insert("semantic", "Lives in Oslo.", START, 0, (ref.record,), "llm")),
    "a running job": claims,
    "a job that waits for an LLM": postpones,
    "a dead job": gives_up,
    "a job tried again": tries_again,
    "a cancelled job": cancels,
    "a consolidation": consolidates,
    "its progress": gets_on,
    "a person's edit": lambda memory, _: _edited(memory),
    "a retired memory": step(lambda ref: Retire(ref, "old")),
    "an erased turn": step(lambda _: Erase("t1")),
    "a deleted chat": lambda memory, _: memory.delete_chat(ME, "c"),
    "a reset": lambda memory, _: memory.reset(ME),
}


async def _edited(memory: AsyncMemory) -> None:
    await memory.update((await episode(memory)).record, "The user moved to Bergen.", ME)


async def test_a_tab_that_looks_only_at_what_the_news_name_shows_what_a_fresh_page_shows(
    memory: AsyncMemory, page: Page
) -> None:
    scope, tab = memory.scope(ME), Tab(page)
    await tab.look(EVERYTHING)
    with memory.ledger.watch(scope) as watch:
        for name, act in STEPS.items():
            before = dict(tab.shown)
            await act(memory, scope)
            with anyio.fail_after(5):
                await tab.look(await watch.changed())
            fresh = Tab(page)
            await fresh.look(EVERYTHING)
            assert tab.shown == fresh.shown, name
            assert tab.shown != before, name


# ── the news ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_news_name_what_changed_and_jobs_that_come_and_go_within_a_moment_are_told_once(
    memory: AsyncMemory, settings: Settings
) -> None:
    scope, ledger = memory.scope(ME), memory.ledger
    with anyio.fail_after(20):
        async with (
            client_of(create_app(memory, settings)) as client,
            client.stream("GET", "/events", params={"user_id": ME}) as response,
        ):
            told = (frozenset(event.data["what"]) async for event in events(response))
            assert await anext(told) == EVERYTHING  # while nobody listened
            for _ in range(2):
                await ledger.put(scope, [embed_job(scope)])
                await ledger.apply(await claimed(memory), Plan())
            assert await anext(told) == {"jobs"}
            await memory.submit("I moved to Oslo.", ME, "c")
            assert await anext(told) == {"turns", "jobs"}
