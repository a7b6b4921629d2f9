"""The Milvus index on a real Milvus Lite in a process of its own."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, cast

import anyio
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from afterword.errors import IndexUnavailable
from afterword.index.exact import ExactIndex
from afterword.index.milvus import MilvusIndex
from afterword.index.milvus_lite import LiteProcess
from afterword.index.milvus_rows import literal, rows_of, scope_key
from afterword.index.milvus_store import MilvusStore, collection_name
from afterword.offload import SystemClock
from afterword.ports import Candidates, Entry, IndexChange, Query, Reads
from afterword.records import Filters, Kind, Ref, Role, Scope, ScopeState
from afterword.testing import InlineOffload

if TYPE_CHECKING:
    from afterword.ports import Vector

MODEL = "test/8"
NAME = collection_name("", MODEL)
DIMENSIONS = 8
NOON = datetime(2026, 5, 3, 12, 0, tzinfo=UTC)
EPOCHS = itertools.count(1)  # of all tests: they share a collection
ANN = Scope("t", "ann")
BEN = Scope("t", "ben")
HOSTILE = ("it's", '"quoted"', 'x" or 1 == 1 or record == "', "back\\slash\\", "a{b}%_$", "🌧️ 雨", "[1, 2]", "; DROP")


def along(*axes: int) -> Vector:
    """A unit vector between these axes."""
    vector = np.zeros(DIMENSIONS, np.float32)
    vector[list(axes)] = 1.0
    return vector / np.float32(np.linalg.norm(vector))


def entry(
    record: str,
    *axes: int,
    version: int = 1,
    kind: Kind = "episodic",
    role: Role | None = None,
    chat_id: str | None = None,
    minutes: int = 0,
    windows: int = 1,
    metadata: dict[str, str] | None = None,
) -> Entry:
    vectors = np.stack([along(*axes)] + [along(DIMENSIONS - 1)] * (windows - 1)) if axes else None
    said_at = NOON + timedelta(minutes=minutes)
    tokens = tuple(f"word{axis}" for axis in axes)
    return Entry(
        Ref(record, version), kind, role, chat_id, None, said_at, tokens, metadata=metadata or {}, vectors=vectors
    )


class Shadow:
    """What an index reads of a ledger, in memory."""

    def __init__(self) -> None:
        self.states: dict[Scope, ScopeState] = {}
        self.held: dict[Scope, dict[str, tuple[int, Entry | None]]] = {}

    def put(self, scope: Scope, *entries: Entry) -> None:
        for one in entries:
            self._change(scope, one.ref.record, one)

    def retire(self, scope: Scope, record: str) -> None:
        self._change(scope, record, None)

    def reset(self, scope: Scope, model: str | None = MODEL) -> None:
        before = self.states.get(scope, ScopeState(0, 0, model))
        self.states[scope] = ScopeState(before.seq + 1, next(EPOCHS), model)
        self.held[scope] = {}

    def _change(self, scope: Scope, record: str, one: Entry | None) -> None:
        before = self.states.get(scope, ScopeState(0, 0, MODEL))
        self.states[scope] = before._replace(seq=before.seq + 1)
        self.held.setdefault(scope, {})[record] = (before.seq + 1, one)

    async def state(self, scope: Scope) -> ScopeState:
        return self.states.get(scope, ScopeState(0, 0, MODEL))

    async def changes(self, scope: Scope, after: int, limit: int = 2000) -> list[IndexChange]:
        held = self.held.get(scope, {}).items()
        found = [IndexChange(seq, record, one) for record, (seq, one) in held if seq > after]
        return sorted(found, key=lambda change: change.seq)[:limit]

    async def entries(self, scope: Scope, after: str = "", limit: int = 2000) -> tuple[ScopeState, list[Entry]]:
        held = sorted((r, one) for r, (_, one) in self.held.get(scope, {}).items() if one is not None and r > after)
        return await self.state(scope), [one for _, one in held[:limit]]


def index_on(shadow: Shadow, data_dir: Path) -> MilvusIndex:
    reads, offload = cast(Reads, shadow), InlineOffload()
    lexical = ExactIndex(reads, offload=offload, keep_vectors=False)
    return MilvusIndex(
        reads,
        uri=str(data_dir / "milvus.db"),
        token="",
        data_dir=data_dir,
        offload=offload,
        clock=SystemClock(),
        lexical=lexical,
        timeout=20.0,
    )


@asynccontextmanager
async def opened(shadow: Shadow, data_dir: Path, *, connect_timeout: float = 20.0) -> AsyncIterator[MilvusIndex]:
    index = index_on(shadow, data_dir)
    index.store.connect_timeout = connect_timeout
    await index.open()
    try:
        yield index
    finally:
        await index.aclose()


def query(*axes: int, filters: Filters | None = None, limit: int = 10, words: bool = True) -> Query:
    tokens = tuple(f"word{axis}" for axis in axes) if words else ()
    return Query(tokens, along(*axes), MODEL, filters or Filters(), limit)


def dense(found: Candidates) -> dict[str, float]:
    legs = found.legs_of(found.refs)
    return {ref.record: round(known["dense"], 3) for ref, known in legs.items() if "dense" in known}


async def rows(index: MilvusIndex, scope: Scope) -> dict[str, int]:
    """Records that lie in Milvus, and in which version."""
    where = f"scope == {literal(scope_key(scope))} and kind != {literal('mark')}"
    found = await index.store.query(NAME, where, ("record", "version")) if await index.store.exists(NAME) else []
    return {row["record"]: row["version"] for row in found}


def lite_of(index: MilvusIndex) -> LiteProcess:
    assert index.store.lite is not None
    return index.store.lite


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data folder whose Lite process lives as long as the module: this process holds on to it."""
    data_dir = tmp_path_factory.mktemp("milvus")
    process = LiteProcess(data_dir / "milvus.db", data_dir)
    anyio.run(process.address)
    yield data_dir
    anyio.run(process.aclose)
    assert process.served() is None


@pytest.fixture
async def shadow() -> Shadow:
    return Shadow()


@pytest.fixture
async def index(shadow: Shadow, folder: Path) -> AsyncIterator[MilvusIndex]:
    async with opened(shadow, folder) as index:
        for scope in (ANN, BEN):
            shadow.reset(scope)
            await index.project(scope)
        for scope in (ANN, BEN):  # epochs of the last test lie in the same collection
            assert await rows(index, scope) == {}
        yield index


async def test_a_search_sees_a_write_before_and_after_it_is_projected(index: MilvusIndex, shadow: Shadow) -> None:
    shadow.put(ANN, entry("a", 1), entry("b", 2))
    before = await index.search(ANN, query(1))
    assert dense(before)["a"] == 1.0
    await index.project(ANN)
    assert await rows(index, ANN) == {"a": 1, "b": 1}
    after = await index.search(ANN, query(1))
    assert after.legs_of(after.refs) == before.legs_of(before.refs)


async def test_it_finds_the_same_candidates_with_the_same_legs_as_the_exact_index(
    index: MilvusIndex, shadow: Shadow
) -> None:
    generator = np.random.default_rng(7)
    for number in range(60):
        axes = generator.choice(DIMENSIONS, 2, replace=False)
        turn: Kind = "turn" if number % 2 else "episodic"
        one = entry(
            f"r{number}", *axes.tolist(), kind=turn, chat_id=f"c{number % 3}", minutes=number, windows=1 + number % 3
        )
        shadow.put(ANN, replace(one, position=number if turn == "turn" else None))
        if number == 40:
            await index.project(ANN)
    exact = ExactIndex(cast(Reads, shadow), offload=InlineOffload())
    asked = (query(1), query(2, 3, limit=50), query(4, filters=Filters(kinds=("turn",), chat_id="c1")))
    for one_query in asked:
        expected, found = await exact.search(ANN, one_query), await index.search(ANN, one_query)
        theirs, ours = expected.legs_of(expected.refs), found.legs_of(found.refs)
        assert theirs
        assert ours.keys() == theirs.keys()
        for ref, legs in theirs.items():
            assert ours[ref].keys() == legs.keys()
            assert ours[ref]["dense"] == pytest.approx(legs["dense"], abs=1e-5)
    await exact.aclose()


async def test_a_revision_takes_the_place_of_the_old_version(index: MilvusIndex, shadow: Shadow) -> None:
    shadow.put(ANN, entry("a", 1, windows=3), entry("b", 2))
    await index.project(ANN)
    shadow.put(ANN, entry("a", 4, version=2))
    found = await index.search(ANN, query(4))
    near = [ref for ref, legs in found.legs_of(found.refs).items() if legs.get("dense") == pytest.approx(1.0)]
    assert near == [Ref("a", 2)]
    await index.project(ANN)
    assert await rows(index, ANN) == {"a": 2, "b": 1}
    shadow.retire(ANN, "b")
    assert "b" not in dense(await index.search(ANN, query(2, words=False)))
    await index.project(ANN)
    assert await rows(index, ANN) == {"a": 2}


async def test_users_never_see_one_another(index: MilvusIndex, shadow: Shadow) -> None:
    shadow.put(ANN, entry("same id", 1))
    shadow.put(BEN, entry("same id", 2))
    await index.project(ANN)
    await index.project(BEN)
    assert dense(await index.search(ANN, query(1))) == {"same id": 1.0}
    assert dense(await index.search(BEN, query(2))) == {"same id": 1.0}
    shadow.reset(ANN)
    await index.project(ANN)
    assert await rows(index, ANN) == {}
    assert await rows(index, BEN) == {"same id": 1}


async def test_filters_hold_for_the_dense_leg(index: MilvusIndex, shadow: Shadow) -> None:
    shadow.put(
        ANN,
        entry("turn", 1, kind="turn", role="user", chat_id="c1", minutes=0),
        entry("fact", 1, kind="semantic", minutes=10),
        entry("tagged", 1, chat_id="c2", minutes=20, metadata={"tag": "x"}),
    )
    await index.project(ANN)
    wanted = [
        (Filters(kinds=("semantic",)), {"fact"}),
        (Filters(chat_id="c1"), {"turn"}),
        (Filters(role="user"), {"turn"}),
        (Filters(since=NOON + timedelta(minutes=10)), {"fact", "tagged"}),
        (Filters(until=NOON + timedelta(minutes=10)), {"turn"}),
        (Filters(exclude=frozenset({"turn", "fact"})), {"tagged"}),
    ]
    for filters, records in wanted:
        assert dense(await index.search(ANN, query(1, filters=filters, words=False))).keys() == records, filters
    tagged = Filters(metadata={"tag": "x"})
    assert dense(await index.search(ANN, query(1, filters=tagged, words=False))).keys() == {"tagged"}


async def test_hostile_ids_are_kept_apart(index: MilvusIndex, shadow: Shadow) -> None:
    for number, one in enumerate(HOSTILE):
        scope = Scope(one, one)
        shadow.reset(scope)
        shadow.put(scope, entry(one, number % DIMENSIONS, chat_id=one), entry("other", 0, chat_id="other"))
        await index.project(scope)
    for number, one in enumerate(HOSTILE):
        scope = Scope(one, one)
        of_chat = query(number % DIMENSIONS, filters=Filters(chat_id=one))
        assert dense(await index.search(scope, of_chat)) == {one: 1.0}
        without = Filters(exclude=frozenset({one}))
        assert one not in dense(await index.search(scope, query(number % DIMENSIONS, filters=without)))
        shadow.retire(scope, one)
        await index.project(scope)
        assert await rows(index, scope) == {"other": 1}


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.sets(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=40), max_size=12)
)
def test_any_value_matches_itself_alone_in_a_filter(folder: Path, values: set[str]) -> None:
    async def check() -> None:
        store = MilvusStore(str(folder / "milvus.db"), token="", data_dir=folder, offload=InlineOffload(), timeout=20.0)
        await store.open()
        name, scope = collection_name("", "hostile"), Scope("t", "hypothesis")
        await store.ensure(name, DIMENSIONS)
        await store.delete_where(name, f"scope == {literal(scope_key(scope))}")
        for value in values:
            await store.insert(name, list(rows_of(scope, 1, "build", entry(value, 1))))
        for value in values:
            found = await store.query(name, f"record == {literal(value)}", ("record",))
            assert [row["record"] for row in found] == [value]
        await store.aclose()

    anyio.run(check)


async def test_another_epoch_drops_the_rows_and_builds_again(index: MilvusIndex, shadow: Shadow) -> None:
    shadow.put(ANN, entry("old", 1))
    await index.project(ANN)
    shadow.reset(ANN)
    shadow.put(ANN, entry("new", 1))
    assert dense(await index.search(ANN, query(1))) == {"new": 1.0}
    await index.project(ANN)
    assert await rows(index, ANN) == {"new": 1}


async def test_a_reset_that_leaves_no_model_leaves_no_rows(index: MilvusIndex, shadow: Shadow) -> None:
    shadow.put(ANN, entry("old", 1))
    await index.project(ANN)
    shadow.reset(ANN, model=None)
    await index.project(ANN)
    assert await rows(index, ANN) == {}


async def test_projecting_again_changes_nothing_and_a_rebuild_mends(index: MilvusIndex, shadow: Shadow) -> None:
    shadow.put(ANN, entry("a", 1), entry("b", 2))
    await index.project(ANN)
    where = f"scope == {literal(scope_key(ANN))}"
    keys = {row["key"] for row in await index.store.query(NAME, where, ("key",))}
    await index.project(ANN)
    again = {row["key"] for row in await index.store.query(NAME, where, ("key",))}
    assert again == keys
    await index.rebuild(ANN)
    assert await rows(index, ANN) == {"a": 1, "b": 1}
    assert dense(await index.search(ANN, query(2)))["b"] == 1.0


async def test_rows_that_were_lost_are_noticed_and_written_again(
    folder: Path, index: MilvusIndex, shadow: Shadow
) -> None:
    shadow.put(ANN, entry("a", 1), entry("b", 2))
    await index.project(ANN)
    await index.store.delete_where(NAME, f'scope == {literal(scope_key(ANN))} and record == "a"')
    async with opened(shadow, folder) as other:  # what is known of a connection's rows is not counted again
        await other.project(ANN)
        assert await rows(other, ANN) == {"a": 1, "b": 1}
        assert dense(await other.search(ANN, query(1)))["a"] == 1.0


async def test_a_crash_between_rows_and_marker_leaves_nothing_double(index: MilvusIndex, shadow: Shadow) -> None:
    shadow.put(ANN, entry("a", 1))
    await index.project(ANN)
    shadow.put(ANN, entry("b", 2), entry("a", 3, version=2))
    build = (await index.store.query(NAME, f"scope == {literal(scope_key(ANN))}", ("build",)))[0]["build"]
    await index.store.insert(NAME, list(rows_of(ANN, shadow.states[ANN].epoch, build, entry("b", 2))))
    await index.project(ANN)
    assert await rows(index, ANN) == {"a": 2, "b": 1}
    assert len(await index.store.query(NAME, f"scope == {literal(scope_key(ANN))}", ("key",))) == 3


async def test_an_index_of_another_process_is_noticed(folder: Path, index: MilvusIndex, shadow: Shadow) -> None:
    async with opened(shadow, folder) as other:
        shadow.put(ANN, entry("a", 1))
        assert dense(await other.search(ANN, query(1))) == {"a": 1.0}
        await index.project(ANN)
        assert dense(await other.search(ANN, query(1))) == {"a": 1.0}
        await index.rebuild(ANN)
        shadow.put(ANN, entry("b", 1))
        assert dense(await other.search(ANN, query(1, words=False))).keys() >= {"b"}


async def test_a_killed_lite_process_is_started_again_and_has_its_rows(tmp_path: Path, shadow: Shadow) -> None:
    shadow.put(ANN, entry("a", 1))
    async with opened(shadow, tmp_path) as index:
        await index.project(ANN)
        served = lite_of(index).served()
        assert served is not None
        index._timeout = 0.2  # too short for a start
        os.kill(served.pid, signal.SIGKILL)
        with pytest.raises(IndexUnavailable) as caught:
            await index.search(ANN, query(1))
        assert caught.value.fix
        index._timeout = 20.0
        assert dense(await index.search(ANN, query(1))) == {"a": 1.0}
        assert await rows(index, ANN) == {"a": 1}
    assert lite_of(index).served() is None


HOLD = """
import anyio, sys
from pathlib import Path
from afterword.index.milvus_lite import LiteProcess
async def main():
    folder = Path(sys.argv[1])
    process = LiteProcess(folder / "milvus.db", folder, idle=float(sys.argv[2]))
    await process.address()
    print(process.served().pid, flush=True)
    await anyio.sleep_forever()
anyio.run(main)
"""


def orphan(folder: Path, idle: float) -> int:
    """The pid of a server whose only user was killed."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), str(idle)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        pid = int(holder.stdout.readline())
        holder.kill()
    return pid


async def test_an_orphan_that_nobody_wants_ends_by_itself(tmp_path: Path) -> None:
    await anyio.to_thread.run_sync(orphan, tmp_path, 0.5)
    process = LiteProcess(tmp_path / "milvus.db", tmp_path)
    with anyio.fail_after(60):
        while process.served() is not None:  # noqa: ASYNC110 - another process has no event to wait for
            await anyio.sleep(0.05)


async def test_an_orphan_is_used_again_and_one_that_hangs_is_replaced(tmp_path: Path, shadow: Shadow) -> None:
    pid = await anyio.to_thread.run_sync(orphan, tmp_path, 600.0)
    shadow.put(ANN, entry("a", 1))
    async with opened(shadow, tmp_path) as index:
        await index.project(ANN)
        first = lite_of(index).served()
        assert first is not None
        assert first.pid == pid
        os.kill(pid, signal.SIGSTOP)
        async with opened(shadow, tmp_path, connect_timeout=2.0) as other:
            assert dense(await other.search(ANN, query(1))) == {"a": 1.0}
            second = lite_of(other).served()
            assert second is not None
            assert second.pid != pid
        assert dense(await index.search(ANN, query(1))) == {"a": 1.0}
    assert lite_of(index).served() is None


async def test_a_damaged_collection_is_built_again(tmp_path: Path, shadow: Shadow) -> None:
    shadow.put(ANN, entry("a", 1))
    async with opened(shadow, tmp_path) as index:
        await index.project(ANN)
    for path in (tmp_path / "milvus.db" / "collections").rglob("*.json"):
        path.write_text(path.read_text()[:20])
    async with opened(shadow, tmp_path) as index:
        await index.project(ANN)
        assert await rows(index, ANN) == {"a": 1}
        assert dense(await index.search(ANN, query(1))) == {"a": 1.0}


async def test_a_file_that_is_none_of_lites_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "milvus.db").write_text("a diary")
    process = LiteProcess(tmp_path / "milvus.db", tmp_path)
    with pytest.raises(IndexUnavailable, match="is a file"):
        await process.address()
    await process.aclose()
    assert (tmp_path / "milvus.db").read_text() == "a diary"


async def test_a_server_that_is_away_is_named_with_a_fix(tmp_path: Path, shadow: Shadow) -> None:
    store = MilvusStore("http://127.0.0.1:9", token="", data_dir=tmp_path, offload=InlineOffload(), timeout=0.3)
    with pytest.raises(IndexUnavailable, match="does not answer") as caught:
        await store.open()
    assert "AFTERWORD_MILVUS_URI" in caught.value.fix
    await store.aclose()


async def test_the_state_file_tells_who_serves(folder: Path, index: MilvusIndex) -> None:
    told = json.loads((folder / "milvus-lite.json").read_text())
    served = lite_of(index).served()
    assert served is not None
    assert (told["pid"], told["port"]) == (served.pid, served.port)
