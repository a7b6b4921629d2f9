"""What the clock starts, and what a changed model sets going."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import anyio
import pytest

from afterword import retries
from afterword.interfaces.page.asked import Asked
from afterword.interfaces.page.render_work import strip_html
from afterword.records import Run
from afterword.settings import Settings
from afterword.testing import FrozenClock, HashingEmbedder, ScriptedLLM
from afterword.wiring import open_memory
from tests.conftest import OpenMemory
from tests.waiting import eventually, idle

pytestmark = pytest.mark.anyio


async def test_consolidation_starts_at_the_time_of_the_cron_setting_and_only_for_users_with_new_episodes(
    settings: Settings,
) -> None:
    clock = FrozenClock()  # 9:00
    nightly = settings.model_copy(update={"consolidate_cron": "0 4 * * *"})
    async with open_memory(nightly, llm=ScriptedLLM(), clock=clock) as memory:
        await memory.add("I moved to Oslo.", "ann", timeout=10)
        await memory.submit("Hello!", "bob")
        await idle(memory)
        with anyio.fail_after(10):
            await clock.until_sleeping(3)
        await clock.advance(timedelta(hours=18).total_seconds())
        assert await memory.runs("ann") == []
        with anyio.fail_after(10):
            await clock.until_sleeping(3)
        await clock.advance(timedelta(hours=1, seconds=1).total_seconds())

        async def finished() -> list[Run]:
            return [run for run in await memory.runs("ann", "consolidate") if run.state == "done"]

        assert len(await eventually(memory, "ann", finished)) == 1
        assert await memory.runs("bob") == []


async def test_a_second_click_on_consolidate_joins_the_run_that_is_under_way(opened: OpenMemory) -> None:
    llm = ScriptedLLM()
    memory = await opened(llm=llm)
    await memory.add("I moved to Oslo.", "ann", timeout=10)
    gate = llm.hold_complete()
    first = await memory.consolidate("ann")
    with anyio.fail_after(10):
        await gate.reached()
    second = await memory.consolidate("ann")
    assert second.run.id == first.run.id
    gate.release()
    with anyio.fail_after(10):
        assert (await second.done()).state == "done"
    assert [record.kind for record in await memory.get_all("ann")].count("semantic") == 1


async def test_a_consolidation_cut_short_by_a_stop_goes_on_at_the_next_start(settings: Settings) -> None:
    llm = ScriptedLLM()
    async with open_memory(settings.model_copy(update={"drain_deadline": 0.0}), llm=llm) as memory:
        await memory.add("I moved to Oslo.", "ann", timeout=10)
        gate = llm.hold_complete()
        run = (await memory.consolidate("ann")).run
        with anyio.fail_after(10):
            await gate.reached()
    async with open_memory(settings, llm=ScriptedLLM()) as memory:
        await idle(memory)
        assert [(found.id, found.state) for found in await memory.runs("ann")] == [(run.id, "done")]
        assert [record.kind for record in await memory.get_all("ann")].count("semantic") == 1


async def test_a_changed_embedding_model_is_noticed_and_the_old_vectors_serve_until_the_new_set_is_complete(
    settings: Settings,
) -> None:
    async with open_memory(settings, llm=ScriptedLLM(), embedder=HashingEmbedder(model="old")) as memory:
        await memory.submit("My dog is called Bruno.", "ann")
        await memory.submit("My sister likes tea.", "ann")
        await idle(memory)
    new = HashingEmbedder(model="new", dimensions=32)
    gate = new.hold_passages()
    async with open_memory(settings, llm=ScriptedLLM(), embedder=new) as memory:
        with anyio.fail_after(10):
            await gate.reached()
        scope = memory.scope("ann")
        assert (await memory.ledger.state(scope)).model == "old"
        assert await memory.search("dog", "ann"), "found while the new vectors are made"
        gate.release()
        await idle(memory)
        assert (await memory.ledger.state(scope)).model == "new"
        have, total = await memory.ledger.vector_counts(scope, "new")
        assert have == total > 0
        assert "meaning" in (await memory.search("dog", "ann"))[0].parts


async def test_finished_jobs_are_pruned_after_their_time_and_given_up_ones_stay(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "ATTEMPTS", 1)
    clock, llm = FrozenClock(), ScriptedLLM()
    kept = settings.model_copy(update={"keep_jobs_days": 2.0})
    async with open_memory(kept, llm=llm, clock=clock) as memory:
        await memory.add("I live in Oslo.", "ann", timeout=10)
        llm.answers = lambda messages, schema: "no JSON"
        await memory.submit("I live in Rome.", "ann", "other")
        await idle(memory)
        assert await memory.job_counts("ann") == {"done": 1, "dead": 1}
        hours = 0
        with anyio.fail_after(20):
            while (await memory.job_counts("ann")).get("done"):
                await clock.until_sleeping(3)
                await clock.advance(3600.0)
                hours += 1
        assert hours >= 48
        assert await memory.job_counts("ann") == {"dead": 1}


async def test_the_page_the_command_line_and_the_metrics_show_the_same_jobs(settings: Settings) -> None:
    llm = ScriptedLLM()
    async with open_memory(settings, llm=llm) as memory:
        gate = llm.hold_complete()
        for user, chat in (("ann", "1"), ("ann", "2"), ("bob", "1")):
            await memory.submit("I moved to Oslo.", user, chat)
        with anyio.fail_after(10):
            await gate.reached(2)
        queue = await memory.ledger.queue()
        status = await memory.status()
        listed = await memory.ledger.job_counts(None)
        assert (queue.count("queued"), queue.count("running")) == (status.waiting, status.running) == (1, 2)
        assert listed == {"queued": 1, "running": 2}
        asked = Asked.read({"user": "ann", "lang": "en"})
        strip = strip_html(await memory.jobs("ann"), await memory.job_counts("ann"), asked, clock_now())
        assert strip.count('class="aw-job running"') == strip.count('class="aw-job queued"') == 1
        gate.release()
        await idle(memory)


def clock_now() -> datetime:
    return datetime.now(UTC)
