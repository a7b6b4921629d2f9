"""The crash campaign in its short form; and that its checker sees what it is there to see."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from afterword import open_memory
from afterword.interfaces.http import create_app
from afterword.ports import Candidates, Index, Query
from afterword.records import Scope
from afterword.settings import Settings
from afterword.testing import FakeOpenAI, HashingEmbedder, ScriptedLLM
from afterword.wiring import Around
from bench.crash import Options, Tally, campaign
from bench.crash_plan import SHORT, points, short
from bench.house import Life
from bench.judge import Judge
from bench.ledger_check import KINDS, Findings, compare, examine, opened, text_left
from bench.random_llm import RandomLLM
from bench.told import Person, Said, Told
from tests.serving import client_of
from tests.waiting import idle

pytestmark = pytest.mark.anyio

KILLS = len(list(short(random.Random(7))))


async def test_servers_killed_at_steps_and_at_random_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    tally = Tally()
    options = Options(KILLS, seed=7, chapter=KILLS, short=True, log=tmp_path / "log")
    with anyio.fail_after(240):
        await campaign(options, tally)
    assert not tally.findings.found, "\n".join(tally.findings.shown())
    assert not tally.surprises
    assert tally.kills == KILLS
    assert tally.acknowledged > KILLS
    assert tally.searched > 0
    assert len(set(tally.points) & set(SHORT)) > len(SHORT) / 2, f"points were missed: {tally.missed}"


def test_every_write_has_points_before_inside_and_after_it() -> None:
    named = {point for _, point in points()}
    for step in ("accept", "answer", "apply:remember", "apply:consolidate", "apply:reembed", "reset", "migrate"):
        assert f"{step}.inside" in named
        assert f"{step}.commit" in named
    assert {"index.project.before", "llm.complete.after", "apply:remember.before"} <= named


# ── the checker can fail ───────────────────────────────────────────────────────────────────────────────────────────


TEXTS = ("My kettle bofadok was a gift.", "I bought the piano mugitel in a shop.", "I keep my clock sanovup in a box.")


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger with nothing wrong: turns, memories with versions and vectors, a fact, a reply with its receipt."""
    folder = tmp_path_factory.mktemp("whole")
    settings = Settings(data_dir=folder, debounce=0, debounce_most=0)
    async with open_memory(settings, llm=ScriptedLLM(), embedder=HashingEmbedder()) as memory:
        for number, text in enumerate(TEXTS):
            await memory.submit(text, "ann", "c", turn_id=f"t{number}")
            await idle(memory)
        async for _ in await memory.chat("Where is my clock sanovup?", "ann", "c", turn_id="t3"):
            pass
        await memory.update((await memory.get_all("ann"))[0].id, "I wrote this.", "ann")
        await (await memory.consolidate("ann")).done()
        await idle(memory)
    return folder / "ledger.db"


def told_of(ledger: Path) -> Told:
    """What a client of that ledger was told."""
    told = Told(random.Random(1))
    person = told.person("ann")
    for number, text in enumerate((*TEXTS, "Where is my clock sanovup?")):
        person.said[f"t{number}"] = Said(f"t{number}", "c", text, text.split()[-2], kept=True)
    return told


def judged(ledger: Path, told: Told, plant: str = "", **values: Any) -> dict[str, int]:
    """The findings, by kind, after something was planted in a copy of the ledger."""
    found = Findings()
    with opened(ledger) as book:
        book.rows("COMMIT")
        for statement in filter(str.strip, plant.split(";")):
            book.rows(statement, **values)
        book.rows("BEGIN")
        examine(book, found, rest=True)
        compare(book, told, found)
    return {kind: count for kind, count in found.counts().items() if count}


async def test_a_whole_ledger_has_no_finding(whole: Path) -> None:
    assert judged(whole, told_of(whole)) == {}


_TWICE = "INSERT INTO turn SELECT scope_id, 'again', chat_id, 99, role, text, speaker, said_at, utc_offset, stored_at, "
PLANTS = {
    "a lost turn": ("lost", "DELETE FROM turn WHERE id = 't1'"),
    "a turn with another text": ("lost", "UPDATE turn SET text = 'other' WHERE id = 't1'"),
    "a turn that is there twice": (
        "duplicated",
        _TWICE + "reply_to, cut, searchable, asked, metadata FROM turn WHERE id = 't1'",
    ),
    "a decision applied twice": (
        "duplicated",
        """INSERT INTO decision (scope_id, job_id, kind, chat_id, first, last, author, content, decided_at)
        SELECT scope_id, job_id, kind, chat_id, first, last, author, content, decided_at FROM decision
        WHERE kind = 'remember' LIMIT 1""",
    ),
    "a memory written twice": (
        "duplicated",
        """INSERT INTO memory SELECT scope_id, 'again', kind, 1, chat_id, said_at, seq, retired, strength, used_at
        FROM memory WHERE kind = 'episodic' AND version = 1 LIMIT 1;
        INSERT INTO version SELECT scope_id, 'again', version, text, said_at, utc_offset, written_at, author, sources,
        valid_from, valid_to, why, job_id, metadata FROM version
        WHERE id = (SELECT id FROM memory WHERE kind = 'episodic' AND version = 1 AND id != 'again' LIMIT 1)""",
    ),
    "a memory without its head": ("orphan", "DELETE FROM memory WHERE kind = 'episodic'"),
    "a memory that rests on nothing": ("orphan", "DELETE FROM turn WHERE id = 't0'"),
    "a reply to nothing": ("orphan", "DELETE FROM turn WHERE id = 't3'"),
    "a half applied plan: written, not ended": (
        "half",
        "UPDATE job SET state = 'queued', finished_at = NULL WHERE kind = 'remember'",
    ),
    "a half applied plan: the cursor did not move": ("half", "UPDATE chat SET decided = decided - 1"),
    "a half applied plan: a record is missing": (
        "half",
        "DELETE FROM version WHERE job_id IN (SELECT min(id) FROM job WHERE kind = 'remember')",
    ),
    "a lost version": ("lost", "DELETE FROM version WHERE version = 1 AND author = 'llm'"),
    "a lost decision": ("lost", "DELETE FROM decision WHERE kind = 'remember'"),
    "turns out of order": (
        "disorder",
        "UPDATE turn SET position = 77 WHERE id = 't0'; UPDATE chat SET next = 78",
    ),
    "a record that no index is shown": ("differs", "DELETE FROM entry WHERE record = 't0'"),
    "an index that is shown an old version": ("differs", "UPDATE entry SET version = 9 WHERE record = 't0'"),
    "a vector that is not there": ("half", "DELETE FROM vector WHERE record = 't0'"),
    "a job that nothing would do": (
        "stuck",
        "UPDATE job SET state = 'running', finished_at = NULL WHERE id = (SELECT max(id) FROM job)",
    ),
    "a lane that is held for ever": ("stuck", "UPDATE lane SET busy = 1"),
    "a receipt that was forgotten": ("stuck", "UPDATE receipt SET worked = 0"),
    "a plan out of two answers": (
        "half",
        """UPDATE version SET text = 'The user said calmly: a. The user said proudly: b.'
        WHERE author = 'llm' AND job_id IN (SELECT id FROM job WHERE kind = 'remember')""",
    ),
}


@pytest.mark.parametrize("planted", PLANTS)
async def test_the_checker_sees(whole: Path, planted: str) -> None:
    kind, sql = PLANTS[planted]
    assert kind in KINDS
    assert kind in judged(whole, told_of(whole), sql)


async def test_the_checker_sees_what_was_erased_and_came_back(whole: Path) -> None:
    told = told_of(whole)
    told.person("ann").was_erased("t1")
    assert judged(whole, told) == {"back": 3}, "in turn, entry and vector"
    told.person("ann").was_reset()
    found = Findings()
    text_left(whole.parent, told, found)
    assert found.counts()["back"] >= 2


async def test_the_checker_sees_a_lost_reply_a_second_reply_and_a_lost_edit(whole: Path) -> None:
    told = told_of(whole)
    told.person("ann").edits["no-such-memory"] = ["I wrote this."]
    assert judged(whole, told) == {"lost": 1}


def test_the_checker_sees_a_damaged_file(whole: Path, tmp_path: Path) -> None:
    damaged = bytearray(whole.read_bytes())
    damaged[4096 * 6 : 4096 * 8] = b"\xff" * 8192
    (tmp_path / "ledger.db").write_bytes(damaged)
    found = Findings()
    with opened(tmp_path / "ledger.db") as book:
        examine(book, found)
    assert found.counts()["damaged"]


class ForgetfulIndex:
    """An index that never finds one of the records."""

    def __init__(self, index: Index, forgotten: Callable[[str], bool]) -> None:
        self._index = index
        self._forgotten = forgotten

    def __getattr__(self, name: str) -> Any:
        return getattr(self._index, name)

    async def search(self, scope: Scope, query: Query) -> Candidates:
        found = await self._index.search(scope, query)
        return found.without(frozenset(ref.record for ref in found.refs if self._forgotten(ref.record)))


@pytest.mark.parametrize(("forgotten", "missed"), [("", 0), ("t1", 1)])
async def test_the_checker_sees_an_index_that_does_not_find_what_is_there(
    tmp_path: Path, forgotten: str, missed: int
) -> None:
    settings = Settings(data_dir=tmp_path, debounce=0, debounce_most=0, embedder="none")

    def around(index: Index) -> Any:
        return ForgetfulIndex(index, lambda record: record == forgotten)

    async with open_memory(settings, llm=ScriptedLLM(), around=Around(index=around)) as memory:
        for number, text in enumerate(TEXTS):
            await memory.submit(text, "ann", "c", turn_id=f"t{number}")
        await idle(memory)
        found = Findings()
        async with client_of(create_app(memory, settings)) as http:
            judge = Judge(Life(0, 0.0), http, told_of(tmp_path), tmp_path, random.Random(1))
            await judge.compare_searches(found)
    assert judge.searched > len(TEXTS)
    assert found.counts()["differs"] == missed


async def test_the_random_llm_answers_otherwise_when_it_is_asked_again() -> None:
    asked = {"messages": [{"role": "user", "content": "#1 Monday 2 March 2026 · the user: My kettle is red."}]}
    entries = {"type": "object", "properties": {"#1 the user: My kettle is red.": {"type": "object"}}}
    schema = {"type": "object", "properties": {"entries": entries}}
    wanted = {"type": "json_schema", "json_schema": {"name": "entries", "schema": schema}}
    async with FakeOpenAI() as server, httpx.AsyncClient() as http:
        RandomLLM(random.Random(1)).speak_for(server)
        body = {"model": "fake", "response_format": wanted, **asked}
        said = [(await http.post(f"{server.base_url}/chat/completions", json=body)).json() for _ in range(10)]
    assert len({one["choices"][0]["message"]["content"] for one in said}) > 2


def test_a_person_that_was_reset_keeps_nothing_but_what_must_stay_away() -> None:
    person = Person("ann", {"t": Said("t", "c", "text", "word", kept=True)})
    person.was_reset()
    assert not person.said
    assert person.gone == {"word"}
    assert person.erased == {"t"}


def test_copies_are_read_so_that_the_product_itself_recovers(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.db"
    writer = sqlite3.connect(ledger)
    writer.execute("PRAGMA journal_mode=WAL")
    writer.execute("CREATE TABLE scope (id, user_id)")
    writer.commit()
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir() if path.suffix != ".db-shm"}
    with opened(ledger) as book:
        assert book.people() == {}
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir() if path.suffix != ".db-shm"} == before
    writer.close()
