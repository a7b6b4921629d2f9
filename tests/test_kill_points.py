"""Kill points are reached where they say they are. Here the switch notes its moment instead of ending the process."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import anyio
import pytest

from afterword import open_memory
from afterword.settings import Settings
from afterword.testing import HashingEmbedder, ScriptedLLM
from afterword.testing.kill_points import (
    KillOrder,
    KillSwitch,
    watched_embedder,
    watched_index,
    watched_ledger,
    watched_llm,
)
from afterword.testing.kill_statements import watch_statements
from afterword.wiring import Around
from tests.waiting import idle

pytestmark = pytest.mark.anyio

SEEN = (
    "SELECT (SELECT count(*) FROM version), (SELECT count(*) FROM decision WHERE kind = 'remember'),"
    " (SELECT decided FROM chat)"
)


async def struck(folder: Path, point: str, nth: int = 1, *, user: str = "ann") -> list[Any]:
    """What a second reader of the file saw at each strike, while one turn was told and remembered."""
    seen: list[Any] = []

    def look() -> None:
        if not (folder / "ledger.db").exists():  # it is put in its place when it is whole
            seen.append(None)
            return
        ledger = sqlite3.connect(f"file:{folder / 'ledger.db'}?mode=ro", uri=True)
        tables = {name for (name,) in ledger.execute("SELECT name FROM sqlite_master")}
        seen.append(ledger.execute(SEEN).fetchone() if "chat" in tables else None)
        ledger.close()

    switch = KillSwitch(KillOrder.parse(point, nth, user), folder / "note", kill=look)
    stop = watch_statements(switch)
    around = Around(
        ledger=lambda ledger: watched_ledger(ledger, switch),
        index=lambda index: watched_index(index, switch),
        llm=lambda llm: watched_llm(llm, switch),
        embedder=lambda embedder: watched_embedder(embedder, switch),
    )
    settings = Settings(data_dir=folder, debounce=0, debounce_most=0)
    try:
        async with open_memory(settings, llm=ScriptedLLM(), embedder=HashingEmbedder(), around=around) as memory:
            await memory.submit("My kettle was a gift from Lena.", "ann", "c")
            await idle(memory)
            await memory.search("kettle", "ann")
            async for _ in await memory.chat("What was a gift?", "ann", "c"):
                pass
    finally:
        stop()
    return seen


NOTHING, ALL = (0, 0, 0), (1, 1, 1)


@pytest.mark.parametrize(
    ("moment", "there"), [("before", NOTHING), ("inside", NOTHING), ("commit", NOTHING), ("after", ALL)]
)
async def test_a_plan_is_in_no_file_until_its_commit_and_all_there_after_it(
    tmp_path: Path, moment: str, there: tuple[int, int, int]
) -> None:
    assert (await struck(tmp_path, f"apply:remember.{moment}"))[0] == there
    assert (tmp_path / "note").read_text().startswith(f"apply:remember.{moment}\t")


@pytest.mark.parametrize("nth", [1, 3, 6])
async def test_inside_counts_the_statements_of_the_plans_own_transaction(tmp_path: Path, nth: int) -> None:
    assert (await struck(tmp_path, "apply:remember.inside", nth))[0] == NOTHING
    statement = (tmp_path / "note").read_text().partition("\t")[2]
    assert statement.split()[0] in ("SELECT", "INSERT", "UPDATE", "DELETE")


@pytest.mark.parametrize(
    "point",
    [
        "accept.after",
        "claim.after",
        "fix_window.commit",
        "llm.complete.after",
        "embedder.passages.before",
        "apply:embed.inside",
        "index.search.before",
        "index.project.after",
        "llm.stream.inside",
        "answer.commit",
        "migrate.inside",
        "migrate.commit",
    ],
)
async def test_every_step_of_a_turns_way_has_its_points(tmp_path: Path, point: str) -> None:
    assert await struck(tmp_path, point)


async def test_an_order_for_one_user_lets_the_others_be(tmp_path: Path) -> None:
    assert not await struck(tmp_path, "apply:remember.after", user="bob")
    assert not await struck(tmp_path / "x", "apply:remember.commit", user="bob")


async def test_a_commit_is_struck_while_it_runs(tmp_path: Path) -> None:
    with anyio.fail_after(20):
        assert await struck(tmp_path, "apply:remember.committing")


def test_a_point_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="no kill point"):
        KillOrder.parse("apply:remember.later")
