"""Search through the public face: whatever is asked gets an answer or a clear error, and every hit says why."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from afterword.errors import InvalidInput
from afterword.records import NewTurn
from tests.conftest import OpenMemory

SAID = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
TOLD = (
    NewTurn("a", "user", "My dog is called Rex.", "Ann", SAID, 0, "t1"),
    NewTurn("a", "user", "我家的狗叫旺财。", "小明", SAID, 0, "t2"),
    NewTurn("b", "assistant", "Try the vet on Main Street; 试试 Main Street 的兽医 🐕", None, SAID, 0, "t3"),
)


@pytest.mark.parametrize(
    "query",
    [
        "x" * 100_000,
        "狗" * 100_000,
        "dog 狗 🐕 " * 10_000,
        "?!。，…—",
        "🐕🐕🐕",
        "\u202e\u200b\ufeff",
        "\x00dog",
        "my 狗 is called 什么 🐕?",
        "'; DROP TABLE turn; --",
        'metadata["mood"] == "good" and 1 == 1 or chat_id != ""',
        "scope_id = 1) OR (1=1",
        "{{u}} %s \\ \" ' ` $(rm -rf /)",
        "2026-03-02 " * 5_000,
        "last week " * 5_000,
    ],
)
async def test_any_text_is_a_query(opened: OpenMemory, query: str) -> None:
    memory = await opened(run_worker=False)
    await memory.add_turns(TOLD, "ann")
    hits = await memory.search(query, "ann")
    assert {hit.id for hit in hits} <= {"t1", "t2", "t3"}
    assert await memory.search(query, "somebody else") == []


@pytest.mark.parametrize("query", ["", " \n\t ", "\x00"])
async def test_an_empty_query_is_refused_in_words(opened: OpenMemory, query: str) -> None:
    memory = await opened(run_worker=False)
    with pytest.raises(InvalidInput, match="query is empty"):
        await memory.search(query, "ann")


async def test_a_query_that_is_too_long_is_refused_with_its_length(opened: OpenMemory) -> None:
    memory = await opened(run_worker=False)
    with pytest.raises(InvalidInput, match="100,001 characters"):
        await memory.search("x" * 100_001, "ann")


async def test_every_hit_says_why(opened: OpenMemory) -> None:
    memory = await opened(run_worker=False)
    await memory.add_turns(TOLD, "ann")
    hits = await memory.search("What is Ann's dog called?", "ann")
    assert hits[0].id == "t1"
    for hit in hits:
        assert hit.ref.version == 1
        assert hit.said_at == SAID
        assert hit.score == pytest.approx(sum(hit.parts.values()))
    assert hits[0].parts["words"] > 0
    assert hits[0].parts["subject"] > 0


async def test_a_question_finds_what_was_said_on_the_day_it_names(opened: OpenMemory) -> None:
    memory = await opened(run_worker=False)
    months = [
        NewTurn(f"m{month}", "user", "We took a walk", None, SAID.replace(month=month), 0, f"m{month}")
        for month in range(1, 13)
    ]
    await memory.add_turns(months, "ann")
    assert (await memory.search("Where did we walk on 2 August 2026?", "ann"))[0].id == "m8"
    assert (await memory.search("2026年11月 walk", "ann"))[0].id == "m11"
