"""The ledger as a SQLite file: durability, erased text, damage, other processes, and who waits for whom."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sqlite3
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.dialects import sqlite as dialect

from afterword.errors import Closed, LedgerDamaged, LedgerError, SettingsError
from afterword.glance import EVERYTHING
from afterword.ledger import SqlLedger, claims, migrate, schema
from afterword.ledger.sqlite import SqliteDatabase
from afterword.plan import Erase, Plan, Revise
from afterword.records import NewTurn
from afterword.testing import InlineOffload
from tests.ledger_house import ANN, BEN, KINDS, House, WallClock, a_house, opened

pytestmark = pytest.mark.anyio

WRITER = """
import asyncio, os, sys
from afterword.ledger import SqlLedger
from afterword.offload import SystemClock
from afterword.records import NewTurn, Scope
from afterword.testing import InlineOffload

async def main():
    ledger = SqlLedger(sys.argv[1], clock=SystemClock(), offload=InlineOffload())
    await ledger.open()
    await ledger.accept(Scope("home", "ann"), [NewTurn("c", "user", "from another process")])
    print("written", flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with a_house("sqlite", tmp_path, poll_seconds=0.02) as house:
        yield house


def database(ledger: SqlLedger) -> SqliteDatabase:
    assert isinstance(ledger._db, SqliteDatabase)
    return ledger._db


def driver(ledger: SqlLedger) -> sqlite3.Connection:
    writing = database(ledger)._writing
    assert writing is not None
    connection = writing.connection.dbapi_connection
    assert isinstance(connection, sqlite3.Connection)
    return connection


def in_files(folder: Path, text: str) -> bool:
    return any(text.encode() in path.read_bytes() for path in folder.iterdir())


async def test_what_another_process_acknowledged_survives_its_kill_and_wakes_a_watch(house: House) -> None:
    with house.ledger.watch(BEN) as watch, anyio.fail_after(60):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", WRITER, house.url, stdout=asyncio.subprocess.PIPE
        )
        try:
            assert process.stdout is not None
            assert await process.stdout.readline() == b"written\n"
            assert await watch.changed() == EVERYTHING  # what it was is not known
        finally:
            process.send_signal(signal.SIGKILL)
            await process.wait()
            process._transport.close()  # type: ignore[attr-defined]
    assert [turn.text for turn in await house.ledger.turns(ANN, "c")] == ["from another process"]


async def test_a_watch_wakes_for_its_own_scope_and_keeps_what_happened_before_it_was_asked(house: House) -> None:
    with house.ledger.watch(ANN) as ann, house.ledger.watch(BEN) as ben, house.ledger.watch(None) as anybody:
        await house.say("one")
        await house.say("two")
        with anyio.fail_after(5):
            assert await ann.changed() == await anybody.changed() == {"turns", "jobs"}
        with anyio.move_on_after(0.1) as again:
            await ann.changed()
        with anyio.move_on_after(0.1) as other:
            await ben.changed()
    assert again.cancelled_caught
    assert other.cancelled_caught


async def test_after_an_erasure_the_file_is_written_anew_at_the_next_start_also_where_a_kill_came_between(
    house: House, tmp_path: Path
) -> None:
    path = tmp_path / "ledger.db"
    await house.say(*(f"My secret number {n} is written down. " * 40 for n in range(100)))
    await house.ledger.reset(ANN)
    full = path.stat().st_size
    shutil.copytree(tmp_path, tmp_path / "killed")
    async with opened(f"sqlite:///{tmp_path}/killed/ledger.db", house.clock) as ledger:
        assert (tmp_path / "killed" / "ledger.db").stat().st_size < full / 2
        assert await ledger.turns(ANN, "c") == []
        await ledger.accept(ANN, [NewTurn("c", "user", "hi")])
    await house.ledger.aclose()
    assert path.stat().st_size < full / 2


async def test_erased_text_stands_in_no_file(house: House, tmp_path: Path) -> None:
    (turn,) = await house.say("the turn says xylophone")
    (ref,) = await house.remember("the memory says bassoon")
    await house.ledger.edit(ANN, Plan((Revise(ref, "the memory says clarinet", "person"),)))
    assert in_files(tmp_path, "xylophone")
    await house.ledger.edit(ANN, Plan((Erase(turn.id), Erase(ref.record))))
    for word in ("xylophon", "bassoon", "clarinet"):
        assert not in_files(tmp_path, word)


async def test_a_reset_leaves_no_text_in_any_file(house: House, tmp_path: Path) -> None:
    await house.ledger.accept(ANN, [NewTurn("c", "user", f"zither {n} " + "x" * 500) for n in range(300)])
    await house.ledger.reset(ANN)
    assert not in_files(tmp_path, "zither")


async def test_a_read_never_waits_for_a_write(house: House) -> None:
    held = threading.Event()
    try:
        writing = asyncio.ensure_future(database(house.ledger).write(lambda tx: held.wait(30), 0))
        with anyio.fail_after(10):
            assert await house.ledger.turns(ANN, "c") == []
        assert not writing.done()
    finally:
        held.set()
    assert await writing


async def test_a_reply_goes_before_background_writes_that_wait(house: House) -> None:
    db, held, order = database(house.ledger), threading.Event(), list[str]()
    first = asyncio.ensure_future(db.write(lambda tx: held.wait(30), 2))
    await asyncio.sleep(0)

    def noting(name: str, rank: int) -> asyncio.Future[None]:
        return asyncio.ensure_future(db.write(lambda tx: order.append(name), rank))

    waiting = [noting(f"job {number}", 2) for number in range(3)]
    await asyncio.sleep(0)
    reply = noting("reply", 0)
    await asyncio.sleep(0)
    held.set()
    await asyncio.gather(first, *waiting, reply)
    assert order == ["reply", "job 0", "job 1", "job 2"]


async def test_a_reply_is_durable_before_background_writes_behind_it_are_done(house: House) -> None:
    db, queued, told = database(house.ledger), threading.Event(), threading.Event()
    first = asyncio.ensure_future(db.write(lambda tx: queued.wait(30), 2))
    await asyncio.sleep(0)
    reply = asyncio.ensure_future(db.write(lambda tx: True, 0))
    behind = asyncio.ensure_future(db.write(lambda tx: told.wait(30), 2))
    await asyncio.sleep(0)
    queued.set()
    try:
        with anyio.fail_after(10):
            assert await reply
        assert not behind.done()
    finally:
        told.set()
    assert all(await asyncio.gather(first, behind))


async def test_a_full_disk_fails_what_did_not_fit_and_nothing_else(house: House) -> None:
    await house.say("before")
    connection = driver(house.ledger)
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count={pages + 2}")
    big = [NewTurn("c", "user", "x" * 50_000)]
    outcomes = await asyncio.gather(
        house.say("small"), house.ledger.accept(ANN, big), house.say("small too"), return_exceptions=True
    )
    connection.execute("PRAGMA max_page_count=1000000")
    failed = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    assert len(failed) == 1
    assert isinstance(failed[0], LedgerError)
    assert "no space" in str(failed[0])
    await house.say("after")
    texts = [turn.text for turn in await house.ledger.turns(ANN, "c")]
    assert texts == ["before", "small", "small too", "after"]


async def test_a_lock_of_another_program_fails_all_that_waits_at_once_and_heals(tmp_path: Path) -> None:
    async with a_house("sqlite", tmp_path, lock_seconds=0.3) as house:
        await house.say("before")
        other = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with anyio.fail_after(3):  # one after the other they would take 6 s
            outcomes = await asyncio.gather(*(house.say(f"line {n}") for n in range(20)), return_exceptions=True)
            assert [turn.text for turn in await house.ledger.turns(ANN, "c")] == ["before"]
        other.execute("ROLLBACK")
        other.close()
        assert all(isinstance(outcome, LedgerError) and "locked" in str(outcome) for outcome in outcomes)
        await house.say("after")


async def test_a_file_that_is_no_database_is_named_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(b"this is a letter, not a ledger. " * 200)
    with pytest.raises(LedgerDamaged, match=r"ledger\.db.*backup"):
        async with opened(f"sqlite:///{path}", WallClock()):
            pass
    assert path.read_bytes().startswith(b"this is a letter")


async def test_a_truncated_file_is_named_rather_than_opened_as_empty(tmp_path: Path) -> None:
    async with a_house("sqlite", tmp_path) as house:
        await house.say(*["a line"] * 300)
    path = tmp_path / "ledger.db"
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(LedgerDamaged, match=r"ledger\.db"):
        async with opened(f"sqlite:///{path}", WallClock()):
            pass


async def test_an_emptied_file_is_named_rather_than_taken_for_a_new_one(tmp_path: Path) -> None:
    async with a_house("sqlite", tmp_path) as house:
        await house.say("a line")
    os.truncate(tmp_path / "ledger.db", 0)
    with pytest.raises(LedgerDamaged, match=r"ledger\.db is empty.*backup"):
        async with opened(f"sqlite:///{tmp_path / 'ledger.db'}", WallClock()):
            pass
    assert (tmp_path / "ledger.db").stat().st_size == 0


async def test_a_start_that_dies_while_it_makes_the_file_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    with monkeypatch.context() as dying:
        dying.setattr(migrate, "_upgrade", die)
        with pytest.raises(KeyboardInterrupt):
            SqliteDatabase(sa.make_url(url), WallClock(), 0.1, 1.0)._open_writer()
    assert os.listdir(tmp_path) == []
    async with opened(url, WallClock()) as ledger:
        assert await ledger.scopes(None, 10) == []
    assert os.listdir(tmp_path) == ["ledger.db"]


async def test_two_processes_that_make_the_file_at_once_have_one_ledger(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    async with opened(url, WallClock()) as one, opened(url, WallClock()) as other:
        await one.accept(ANN, [NewTurn("c", "user", "from one")])
        await other.accept(ANN, [NewTurn("c", "user", "from the other")])
        assert len(await one.turns(ANN, "c")) == 2


async def test_a_folder_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(LedgerError, match="file"):
        async with opened(f"sqlite:///{tmp_path}/file/ledger.db", WallClock()):
            pass


async def test_a_ledger_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    async with a_house("sqlite", tmp_path) as house:
        driver(house.ledger).execute("UPDATE afterword_version SET version_num = '9999'")
    with pytest.raises(LedgerError, match="newer"):
        async with opened(house.url, WallClock()):
            pass


@pytest.mark.parametrize("url", ["sqlite://", "mysql://localhost/x", "not a url"])
def test_a_url_that_keeps_no_ledger_is_refused(url: str) -> None:
    with pytest.raises(SettingsError):
        SqlLedger(url, clock=WallClock(), offload=InlineOffload())


async def test_a_closed_ledger_says_so(tmp_path: Path) -> None:
    async with a_house("sqlite", tmp_path) as house:
        await house.say("kept")
    await house.ledger.aclose()
    for late in (house.ledger.state(ANN), house.say("late")):
        with pytest.raises(Closed):
            await late
    assert not (tmp_path / "ledger.db-wal").exists()


async def test_a_ledger_opened_again_goes_on(tmp_path: Path) -> None:
    async with a_house("sqlite", tmp_path) as house:
        await house.say("one")
    async with opened(house.url, house.clock) as ledger:
        assert [turn.text for turn in await ledger.turns(ANN, "c")] == ["one"]
        assert len(await ledger.claim("w2", KINDS, 5, 30)) == 1


async def test_the_rehearsal_at_the_start_leaves_nothing(house: House) -> None:
    assert await house.ledger.scopes(None, 10) == []
    assert await house.ledger.job_counts(None) == {}


def test_the_migrations_make_the_schema(tmp_path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/m.db")
    with engine.connect() as conn:
        migrate.migrate(conn)
        context = MigrationContext.configure(conn, opts={"version_table": migrate.VERSION_TABLE})
        assert compare_metadata(context, schema.metadata) == []
    engine.dispose()


async def test_a_claim_looks_only_at_lanes_that_are_free_and_at_heads_of_streams(house: House) -> None:
    query = claims._looks(tuple(KINDS)).free.params(now=house.clock.now(), count=5)
    sql = str(query.compile(dialect=dialect.dialect(), compile_kwargs={"literal_binds": True}))
    plan = [row[3] for row in driver(house.ledger).execute(f"EXPLAIN QUERY PLAN {sql}")]
    assert any("lane USING INDEX lane_ready" in line for line in plan), plan
    assert any("job USING INDEX job_ready" in line for line in plan), plan
    assert not any(line.startswith("SCAN") for line in plan), plan


async def test_a_probe_reaches_the_disk_and_leaves_nothing(house: House, tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    log = path.with_name(path.name + "-wal")
    with sqlite3.connect(path) as other:
        assert other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
    other.close()
    assert log.stat().st_size == 0
    await house.ledger.probe()
    assert log.stat().st_size > 0
    assert await house.ledger._db.read(lambda conn: conn.execute(sa.text("SELECT * FROM afterword_version")).all()) == [
        (migrate.HEAD,)
    ]
