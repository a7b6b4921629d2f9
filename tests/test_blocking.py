"""`Memory`: the same memory for code that blocks, over one loop in one thread."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from afterword.blocking import Memory
from afterword.errors import Closed, StillPending
from afterword.ports import Message
from afterword.settings import Settings
from afterword.testing import ScriptedLLM
from afterword.threaded import ThreadedEmbedder, ThreadedLLM


@pytest.fixture
def llm() -> ScriptedLLM:
    return ScriptedLLM()


@pytest.fixture
def memory(settings: Settings, llm: ScriptedLLM) -> Iterator[Memory]:
    with Memory(settings, llm=llm) as opened:
        yield opened


def test_what_is_added_is_found(memory: Memory) -> None:
    ids = memory.add("I moved to Oslo.", "ann", timeout=10)
    assert [record.id for record in memory.get_all("ann")] == ids
    assert "Oslo" in memory.search("Where did I move?", "ann")[0].text


def test_a_reply_streams_into_blocking_code(memory: Memory) -> None:
    reply = memory.chat("Hello there, friend.", "ann")
    assert "".join(reply) == "You said: Hello there, friend."
    stored = reply.done()
    assert stored is not None
    assert stored.cut is None


def test_a_reply_of_somebodys_own_making_is_handed_in(memory: Memory) -> None:
    memory.submit("My dog is called Bruno.", "ann", "old")
    turn = memory.turn("What is my dog called?", "ann", "new")
    assert "Bruno" in turn.context
    assert turn.reply("Bruno.").reply_to == turn.turn.id


def test_it_may_be_used_from_many_threads_at_once(memory: Memory) -> None:
    def tell(number: int) -> None:
        memory.submit(f"I own {number} boats.", "ann", f"chat{number}").ids(20)

    threads = [threading.Thread(target=tell, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(memory.get_all("ann")) == 10


def test_add_async_is_awaitable_from_any_loop(memory: Memory) -> None:
    first = asyncio.run(memory.add_async("I moved to Oslo.", "ann", timeout=10))
    second = asyncio.run(memory.add_async("My dog is called Bruno.", "ann", timeout=10))
    assert {record.id for record in memory.get_all("ann")} == {*first, *second}
    assert asyncio.run(memory.reconsolidate_async("I left Oslo.", "ann"))


def _wait_for_a_job(memory: Memory, held: anyio.Event, loop: asyncio.AbstractEventLoop) -> None:
    while not memory.jobs("ann"):
        time.sleep(0.01)
    loop.call_soon_threadsafe(held.set)


def test_cancelling_the_await_stops_the_waiting_not_the_work(memory: Memory, llm: ScriptedLLM) -> None:
    gate = llm.hold_complete()

    async def give_up() -> None:
        held = anyio.Event()
        threading.Thread(target=_wait_for_a_job, args=(memory, held, asyncio.get_running_loop())).start()
        waiting = asyncio.create_task(memory.add_async("I moved to Oslo.", "ann"))
        with anyio.fail_after(10):
            await held.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(give_up())
    gate.release()
    memory.submit("Hello.", "ann").ids(10)
    assert any("Oslo" in record.text for record in memory.get_all("ann"))


def test_a_time_out_carries_a_ticket(memory: Memory, llm: ScriptedLLM) -> None:
    gate = llm.hold_complete()
    with pytest.raises(StillPending):
        memory.add("I moved to Oslo.", "ann", timeout=0.05)
    gate.release()


def test_a_call_on_its_own_thread_is_refused_rather_than_hanging(settings: Settings) -> None:
    caught: list[BaseException] = []
    held: list[Memory] = []

    def answer(messages: Sequence[Message], schema: Any) -> str:
        try:
            held[0].search("anything", "ann")
        except Closed as error:
            caught.append(error)
        return '{"entries": []}'

    with Memory(settings, llm=ScriptedLLM(answers=answer)) as opened:
        held.append(opened)
        opened.add("I moved to Oslo.", "ann", timeout=10)
    assert "own thread" in str(caught[0])


def test_after_close_the_error_says_so(settings: Settings, llm: ScriptedLLM) -> None:
    memory = Memory(settings, llm=llm)
    memory.close()
    memory.close()
    with pytest.raises(Closed, match="make a new one"):
        memory.get_all("ann")


def _in_a_child(memory: Memory, results: Any) -> None:
    try:
        memory.get_all("ann")
    except Closed as error:
        results.put(str(error))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_after_a_fork_the_error_says_so(memory: Memory) -> None:
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    child = context.Process(target=_in_a_child, args=(memory, results))
    child.start()
    assert "fork" in results.get(timeout=10)
    child.join(10)


def test_a_script_that_ends_at_once_loses_nothing(settings: Settings) -> None:
    script = (
        "from afterword import Memory, Settings\n"
        "from afterword.testing import ScriptedLLM\n"
        f"memory = Memory(Settings(data_dir={str(settings.data_dir)!r}, embedder='none'), llm=ScriptedLLM())\n"
        "print(memory.submit('I moved to Oslo.', 'ann').turn_ids[0])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    with Memory(settings, llm=ScriptedLLM()) as memory:
        found = [hit for hit in memory.search("Oslo", "ann") if hit.kind == "turn"]
        assert [hit.id for hit in found] == [done.stdout.strip()]
        memory.submit("Hello.", "ann").ids(10)
        assert len(memory.get_all("ann")) >= 1


def test_a_script_without_a_main_guard_can_add_long_texts_and_is_not_run_again(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from afterword import Memory, Settings\n"
        "from afterword.records import NewTurn\n"
        "print('begun')\n"
        f"memory = Memory(Settings(data_dir={str(tmp_path / 'data')!r}, embedder='none', llm_model=''))\n"
        "turns = [NewTurn('c', 'user', f'My boat {n} is green. ' + 'word ' * 60) for n in range(200)]\n"
        "print(len(memory.add_turns(turns, 'ann').turn_ids))\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["begun", "200"]


class _SlowLLM:
    model = "slow"

    def __init__(self) -> None:
        self.free = threading.Event()

    def generate(self, messages: Sequence[Message], schema: Any) -> Iterator[str]:
        if schema is not None:
            self.free.wait(20)
            yield '{"entries": []}'
            return
        yield from ("one ", "two")


class _Letters:
    model = "letters"

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        return [[float(text.lower().count(letter)) + 0.1 for letter in "aeiou"] for text in texts]


def test_a_slow_blocking_component_does_not_starve_the_others(settings: Settings) -> None:
    slow = _SlowLLM()
    parts = {"llm": ThreadedLLM(slow, threads=4), "embedder": ThreadedEmbedder(_Letters())}
    with Memory(settings.model_copy(update={"drain_deadline": 0.1}), **parts) as memory:
        for number in range(3):
            memory.submit(f"I own {number} boats.", f"user{number}")
        assert "".join(memory.chat("Hello?", "ann")) == "one two"
        assert memory.search("boats", "user1")
        slow.free.set()


async def _leave_early(llm: ThreadedLLM) -> str:
    from afterword.ports import Prompt  # noqa: PLC0415
    from afterword.testing import FrozenClock  # noqa: PLC0415

    prompt = Prompt((Message("user", "x"),), "x", (), FrozenClock().now(), 0)
    stream = llm.stream(prompt)
    piece = await anext(stream)
    await stream.aclose()
    return piece


def test_leaving_a_blocking_stream_early_ends_it() -> None:
    ended = threading.Event()

    class Endless:
        model = "endless"

        def generate(self, messages: Sequence[Message], schema: Any) -> Iterator[str]:
            try:
                while True:
                    yield "again "
            finally:
                ended.set()

    llm = ThreadedLLM(Endless())
    assert anyio.run(_leave_early, llm) == "again "
    assert ended.wait(10)
