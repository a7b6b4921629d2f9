"""The documents are true: their code is files, the files run, and the made pages are up to date."""

from __future__ import annotations

import asyncio
import gc
import re
import runpy
import sqlite3
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from afterword import AsyncMemory, Memory
from afterword.settings import Settings
from afterword.testing import ScriptedLLM
from docs.code import embed, four_places, lost_work, outbox, standing_still, with_add_async
from docs.code.embed import DOCUMENTS, MADE, ROOT
from docs.code.standing_still import SlowLLM
from tests.serving import client_of
from tests.waiting import eventually, idle

OpenMemory = Callable[..., Awaitable[AsyncMemory]]


def a_tab(pieces: Any) -> Any:
    """Listens, and may be closed, as Gradio does it to a handler."""
    return aclosing(pieces)


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


# ── the pages ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_code_block_is_the_file_that_it_names(name: str) -> None:
    text = read(name)
    assert embed.embedded(text) == text, "run  python -m docs.code.embed"
    assert text.count("```python") == len(embed.names(text)), "a block of Python names no file"


@pytest.mark.parametrize("name", MADE)
def test_a_made_page_is_up_to_date(name: str) -> None:
    assert MADE[name]() == read(name), "run  python -m docs.code.embed"


@pytest.mark.parametrize("name", [name for name in DOCUMENTS if ".zh-CN" not in name])
def test_both_languages_show_the_same_code(name: str) -> None:
    assert embed.names(read(name)) == embed.names(read(name.replace(".md", ".zh-CN.md")))


@pytest.mark.parametrize("name", [*DOCUMENTS, *MADE, "docs/operations.md", "docs/reliability.md"])
def test_every_link_within_the_repository_leads_somewhere(name: str) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#\s]+)[^)]*\)|src=\"(?!https?:)([^\"]+)\"", read(name)):
        path = (ROOT / name).parent / (target[0] or target[1])
        assert path.exists(), path


def test_every_setting_that_the_readme_names_is_one() -> None:
    for name in ("README.md", "README.zh-CN.md"):
        named = set(re.findall(r"AFTERWORD_([A-Z][A-Z_]*[A-Z])", read(name)))
        assert named
        assert {setting.lower() for setting in named} <= {*Settings.model_fields, "config", "installer"}


def test_both_readmes_name_the_same_settings_and_commands() -> None:
    words = re.compile(r"`(?:AFTERWORD_[A-Z_]+|afterword [a-z]+|\./scripts/[a-z]+)")
    assert set(words.findall(read("README.md"))) == set(words.findall(read("README.zh-CN.md")))


# ── the loop stands still ──────────────────────────────────────────────────────────────────────────────────────────


async def _remembered(llm: SlowLLM) -> str:
    done = threading.Event()
    reply = await standing_still.blocking(llm, "Hello.", lambda _: done.set())
    assert done.wait(10)
    return reply


async def test_a_write_in_a_thread_leaves_a_blocking_handler_blocking() -> None:
    llm = SlowLLM(patience=0.2)
    assert await standing_still.two_users(lambda: _remembered(llm), llm) == "the others stood still"


@pytest.mark.parametrize("handler", [standing_still.in_a_thread, standing_still.native])
async def test_while_a_thread_or_the_loop_waits_others_are_served(handler: Callable[..., Awaitable[str]]) -> None:
    llm = SlowLLM(patience=20)
    reply = await standing_still.two_users(lambda: handler(llm, "Hello."), llm)
    assert reply == "the others were served meanwhile"


# ── work is lost ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_task_that_nobody_keeps_may_be_collected() -> None:
    told: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["message"]))
    assert await lost_work.collected()
    gc.collect()
    assert told == ["Task was destroyed but it is pending!"]


async def test_what_stands_after_the_last_piece_does_not_run_when_the_tab_is_closed() -> None:
    remembered: list[str] = []
    async with a_tab(lost_work.reply_then_remember("Ann can't eat nuts.", remembered)) as pieces:
        assert await anext(pieces) == "Noted"
    assert remembered == []
    assert [piece async for piece in lost_work.reply_then_remember("Once more.", remembered)]
    assert remembered == ["Once more."]


def test_a_task_behind_the_reply_ends_with_the_server() -> None:
    remembered: list[str] = []
    assert asyncio.run(lost_work.reply_and_remember("Ann can't eat nuts.", remembered)) == "Noted."
    assert remembered == []


# ── the template ───────────────────────────────────────────────────────────────────────────────────────────────────


class Work:
    """What stands behind a reply, as a test wants it."""

    def __init__(self, failures: int = 0) -> None:
        self.done: list[str] = []
        self.tried = 0
        self.changed = anyio.Event()
        self.free = anyio.Event()
        self.free.set()
        self._failures = failures

    async def __call__(self, job: Any) -> None:
        await self.free.wait()
        self.tried += 1
        if self.tried <= self._failures:
            raise RuntimeError("not today")
        self.done.append(job.message)
        self.changed.set()

    async def until(self, count: int) -> None:
        with anyio.fail_after(20):
            while len(self.done) < count:
                self.changed = anyio.Event()
                await self.changed.wait()


def rows(path: Path, wanted: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(f"select {wanted} from turn order by seq").fetchall()
    finally:
        connection.close()


async def test_the_template_keeps_a_message_before_its_work_begins(tmp_path: Path) -> None:
    work = Work()
    work.free = anyio.Event()
    async with outbox.Outbox(tmp_path / "outbox.db", work) as kept:
        await kept.put("chat", "Ann can't eat nuts.")
        assert rows(tmp_path / "outbox.db", "message, state") == [("Ann can't eat nuts.", "waiting")]
        work.free.set()
        await kept.put("chat", "She lives in Oslo.")
        await work.until(2)
    assert rows(tmp_path / "outbox.db", "state")[0] == ("done",)


async def test_the_template_tries_again_and_keeps_a_chats_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(outbox, "POLL", 0.01)
    monkeypatch.setattr("docs.code.outbox.time", SimpleNamespace(time=lambda: clock[0]))
    work = Work(failures=1)
    async with outbox.Outbox(tmp_path / "outbox.db", work) as kept:
        for message in ("one", "two"):
            await kept.put("chat", message)
        await kept.put("another chat", "elsewhere")
        await work.until(1)
        assert work.done == ["elsewhere"]  # "one" has failed and waits; "two" waits for it; nobody else does
        clock[0] = 10.0
        await work.until(3)
    assert work.done == ["elsewhere", "one", "two"]
    assert rows(tmp_path / "outbox.db", "attempt, state")[0] == (1, "done")


async def test_the_template_gives_an_input_up_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "POLL", 0.01)
    monkeypatch.setattr("docs.code.outbox.time", SimpleNamespace(time=iter(range(0, 10**9, 100)).__next__))
    work = Work(failures=outbox.ATTEMPTS)
    async with outbox.Outbox(tmp_path / "outbox.db", work) as kept:
        await kept.put("chat", "bad")
        await kept.put("chat", "good")
        await work.until(1)
    assert rows(tmp_path / "outbox.db", "message, state")[0] == ("bad", "dead")


DIES = """
import asyncio, os, sys
from pathlib import Path
from docs.code.outbox import Outbox

async def work(job):
    await asyncio.sleep(3600)

async def main():
    async with Outbox(Path(sys.argv[1]), work) as kept:
        await kept.put("chat", "Ann can't eat nuts.")
        os._exit(9)

asyncio.run(main())
"""


async def test_after_a_crash_the_templates_next_start_does_the_work(tmp_path: Path) -> None:
    command = [sys.executable, "-c", DIES, str(tmp_path / "outbox.db")]
    assert (await anyio.run_process(command, cwd=ROOT, check=False)).returncode == 9
    work = Work()
    async with outbox.Outbox(tmp_path / "outbox.db", work):
        await work.until(1)
    assert work.done == ["Ann can't eat nuts."]


class HeldLLM:
    """An LLM that makes its first piece, then the rest when it is let."""

    def __init__(self) -> None:
        self.began, self.go_on = anyio.Event(), anyio.Event()

    async def __call__(self, *_: Any) -> AsyncIterator[str]:
        yield "No "
        self.began.set()
        await self.go_on.wait()
        yield "nuts."


async def test_the_templates_reply_goes_on_when_its_tab_is_closed(tmp_path: Path) -> None:
    llm = HeldLLM()
    async with outbox.Outbox(tmp_path / "outbox.db", Work()) as kept:
        replies = outbox.Replies(kept, llm)
        turn_id = await kept.put("chat", "What may I cook?")
        reply = replies.start(turn_id, "What may I cook?")
        async with a_tab(aiter(reply)) as tab:
            assert await anext(tab) == "No "
        llm.go_on.set()
        with anyio.fail_after(10):
            assert [text async for text in reply][-1] == "No nuts."
        await asyncio.gather(*replies._tasks)
    assert rows(tmp_path / "outbox.db", "reply, cut") == [("No nuts.", None)]


async def test_the_templates_shutdown_keeps_the_part_that_was_made(tmp_path: Path) -> None:
    llm = HeldLLM()
    async with outbox.Outbox(tmp_path / "outbox.db", Work()) as kept:
        replies = outbox.Replies(kept, llm)
        replies.start(await kept.put("chat", "What may I cook?"), "What may I cook?")
        with anyio.fail_after(10):
            await llm.began.wait()
        await replies.close()
    assert rows(tmp_path / "outbox.db", "reply, cut") == [("No ", "stopped")]


async def ask(app: Any, message: str) -> str:
    """What a page shows at the end, asked for through Gradio's own protocol."""
    async with app.router.lifespan_context(app), client_of(app) as client:
        called = await client.post("/gradio_api/call/chat", json={"data": [message]})
        answer = await client.get(f"/gradio_api/call/chat/{called.json()['event_id']}")
        return answer.text


async def test_the_template_answers_on_a_real_page(tmp_path: Path) -> None:
    module = pytest.importorskip("docs.code.outbox_page")
    llm, work = HeldLLM(), Work()
    llm.go_on.set()
    answer = await ask(module.build(tmp_path / "outbox.db", llm, work), "What may I cook?")
    assert '"No nuts."' in answer
    assert rows(tmp_path / "outbox.db", "message, reply, cut") == [("What may I cook?", "No nuts.", None)]


# ── with Afterword ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_variant_with_afterword_answers_on_a_real_page(settings: Settings, opened: OpenMemory) -> None:
    module = pytest.importorskip("docs.code.with_afterword")
    given: list[Any] = []

    async def llm(messages: list[dict[str, str]]) -> AsyncIterator[str]:
        given.append(messages)
        yield "No nuts."

    assert '"No nuts."' in await ask(module.build(llm, settings), "Ann can't eat nuts.")
    assert given[0][-1]["content"] == "Ann can't eat nuts."
    memory = await opened()
    chats = await memory.chats("ann")
    assert [turn.text for turn in await memory.turns("ann", chats[0].id)] == ["Ann can't eat nuts.", "No nuts."]


async def test_the_variant_with_afterword_keeps_a_closed_tabs_part(settings: Settings, opened: OpenMemory) -> None:
    module = pytest.importorskip("docs.code.with_afterword")

    async def llm(messages: Any) -> AsyncIterator[str]:
        while True:
            yield "nuts "
            await asyncio.sleep(0.01)

    app = module.build(llm, settings)
    async with app.router.lifespan_context(app), client_of(app) as client:
        handlers = (await client.get("/config")).json()["dependencies"]
        chat = next(handler["id"] for handler in handlers if handler["api_name"] == "chat")
        message = {"data": ["What may I cook?", None], "fn_index": chat, "session_hash": "tab"}
        await client.post("/gradio_api/queue/join", json=message)
        async with client.stream("GET", "/gradio_api/queue/data?session_hash=tab") as tab:
            async for line in tab.aiter_lines():
                if '"nuts ' in line:
                    break  # and leaving the block closes the tab
        memory = await opened(run_worker=False)

        async def kept() -> list[str | None]:
            return [turn.cut for turn in await memory.turns("ann", "tab") if turn.text.startswith("nuts nuts")]

        assert await eventually(memory, "ann", kept) == ["only a part came"]


async def test_the_short_variant_streams_a_whole_turn(opened: OpenMemory) -> None:
    module = pytest.importorskip("docs.code.with_afterword")
    memory = await opened()
    shown = [text async for text in module.whole_turn(memory, "Hello there.", "chat")]
    assert shown[-1] == "You said: Hello there."
    await idle(memory)


def test_the_variant_with_add_async_waits_for_what_a_turn_became(settings: Settings) -> None:
    contexts: list[str] = []

    async def llm(context: str, message: str) -> AsyncIterator[str]:
        contexts.append(context)
        yield "Noted."

    async def turn(memory: Memory) -> list[str]:
        return [text async for text in with_add_async.handler(memory, llm, "Ann can't eat nuts.", "chat")]

    with Memory(settings, llm=ScriptedLLM()) as memory:
        assert len(asyncio.run(with_add_async.note(memory, "My sister Ann moved to Oslo."))) == 1
        shown = asyncio.run(turn(memory))
        turns = [hit for hit in memory.search("nuts", "ann") if hit.kind == "turn"]
    assert shown == ["Noted.", "Noted.\n\n(1 remembered)"]
    assert "Oslo" in contexts[0]
    assert len(turns) == 1


# ── the four places ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_each_call_runs_where_the_rule_puts_it() -> None:
    offload, here = four_places.Offload(), four_places.here()
    try:
        text, thread = await offload.in_thread(four_places.old_driver, "oslo", 10)
        count, process = await offload.in_process(four_places.count_primes, 100)
    finally:
        offload.close()
    assert (text, count) == ("OSLO", 25)
    assert thread.pid == here.pid
    assert thread.thread.startswith("driver")
    assert process.pid != here.pid


# ── the ten lines of the README ────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def nothing_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a fresh machine: no LLM, no other settings, an empty home."""
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "DEEPSEEK_API_KEY", "SILICONFLOW_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AFTERWORD_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("AFTERWORD_EMBEDDER", "none")
    monkeypatch.setenv("AFTERWORD_DEBOUNCE", "0")
    monkeypatch.setattr("afterword.llms.ollama.OLLAMA", "http://127.0.0.1:9/v1")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("nothing_set")
@pytest.mark.parametrize("name", ["library_async", "library_blocking"])
def test_the_ten_lines_run_with_nothing_set(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / "docs" / "code" / f"{name}.py"), run_name="__main__")
    assert "My sister Ann moved to Oslo." in capsys.readouterr().out
