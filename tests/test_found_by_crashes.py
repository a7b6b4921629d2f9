"""What the crash campaign found. Each of these failed before it was mended."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import anyio
import pytest

from afterword import open_memory
from afterword.interfaces.http import create_app
from afterword.ledger import sqlite as sqlite_ledger
from afterword.ports import JobFilter
from afterword.records import NewTurn
from afterword.settings import Settings
from afterword.testing import HashingEmbedder, ScriptedLLM
from tests.serving import client_of
from tests.waiting import idle

pytestmark = pytest.mark.anyio


def quick(folder: Path) -> Settings:
    return Settings(data_dir=folder, debounce=0, debounce_most=0, embedder="none")


async def test_a_job_that_was_cancelled_before_it_began_can_be_tried_again(tmp_path: Path) -> None:
    async with open_memory(quick(tmp_path), llm=ScriptedLLM(), run_worker=False) as memory:
        await memory.submit("My kettle was a gift from Lena.", "ann", "c")
        (job,) = await memory.jobs("ann", JobFilter(kinds=("remember",)))
        await memory.cancel_job(job.id)
        await memory.retry_job(job.id)
    async with open_memory(quick(tmp_path), llm=ScriptedLLM()) as memory:
        await idle(memory)
        assert (await memory.ledger.job(job.id)).state == "done"
        assert [found.sources for found in await memory.get_all("ann")]


async def test_a_deleted_chat_leaves_no_decision_behind_that_quotes_it(tmp_path: Path) -> None:
    async with open_memory(quick(tmp_path), llm=ScriptedLLM()) as memory:
        await memory.submit("My zither stands in the kitchen in Bonn.", "ann", "first")
        await idle(memory)
        for message in ("Where does my zither stand?", "Actually my zither stands in the cellar in Bonn now."):
            async for _ in await memory.chat(message, "ann", "second"):
                pass
            await idle(memory)
        await memory.delete_chat("ann", "second")
        await memory.delete_chat("ann", "first")
    ledger = sqlite3.connect(tmp_path / "ledger.db")
    left = ledger.execute("SELECT job_id, content FROM decision").fetchall()
    jobs = {job for (job,) in ledger.execute("SELECT id FROM job")}
    ledger.close()
    assert not [row for row in left if row[0] not in jobs or "ither" in row[1]]


async def test_what_a_person_edits_and_what_follows_an_erased_turn_is_embedded_at_once(tmp_path: Path) -> None:
    async def lacking() -> int:
        await idle(memory)
        have, total = await memory.ledger.vector_counts(memory.scope("ann"), embedder.model)
        return total - have

    embedder = HashingEmbedder()
    async with open_memory(quick(tmp_path), llm=ScriptedLLM(), embedder=embedder) as memory:
        said = [NewTurn("c", "user", text) for text in ("I moved to Oslo.", "My boat is green.")]
        first, _ = (await memory.add_turns(said, "ann")).turns
        assert await lacking() == 0
        await memory.delete(first.id, "ann")
        assert await lacking() == 0
        (kept, *_) = await memory.get_all("ann")
        await memory.update(kept.id, "The user's boat is blue.", "ann")
        assert await lacking() == 0


async def test_text_erased_just_before_a_kill_leaves_the_write_ahead_log_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = tmp_path / "killed"

    def as_if_killed(_: sqlite3.Connection) -> bool:
        if not killed.exists():
            shutil.copytree(tmp_path / "data", killed)
        return False

    with monkeypatch.context() as patched:
        patched.setattr(sqlite_ledger, "scrub", as_if_killed)
        async with open_memory(quick(tmp_path / "data"), llm=ScriptedLLM(), run_worker=False) as memory:
            await memory.submit("My zither stands in the kitchen.", "ann", "c")
            await memory.reset("ann")
    assert any(b"zither" in path.read_bytes() for path in killed.iterdir()), "the kill came before the log was emptied"
    async with open_memory(quick(killed), llm=ScriptedLLM(), run_worker=False) as memory:
        assert not await memory.turns("ann", "c")
        with anyio.fail_after(10):
            while any(b"zither" in path.read_bytes() for path in killed.glob("ledger.db*")):
                await memory.jobs("ann")  # a read a look: the writer empties the log by itself


async def test_a_reply_that_was_given_no_episode_leaves_no_receipt_to_work_through(tmp_path: Path) -> None:
    async with open_memory(quick(tmp_path), llm=ScriptedLLM(), run_worker=False) as memory:
        await memory.submit("My zither stands in the kitchen.", "ann", "first")
        async for _ in await memory.chat("Where does my zither stand?", "ann", "second"):
            pass
        (_, answered) = await memory.turns("ann", "second", 10)
        found = await memory.receipt("ann", answered.id)
        assert found is not None
        assert [item.kind for item in found[0].items] == ["turn"]
    ledger = sqlite3.connect(tmp_path / "ledger.db")
    assert ledger.execute("SELECT worked FROM receipt").fetchall() == [(1,)], "else a sweep puts a job for it"
    ledger.close()


async def test_a_message_that_comes_while_the_memory_closes_is_refused_for_now_and_not_as_wrong(tmp_path: Path) -> None:
    async with open_memory(quick(tmp_path), llm=ScriptedLLM(), run_worker=False) as memory:
        pass
    async with client_of(create_app(memory, quick(tmp_path))) as http:
        answer = await http.post("/api/chat", json={"user_id": "ann", "message": "Are you there?"})
    assert answer.status_code == 503, answer.text
