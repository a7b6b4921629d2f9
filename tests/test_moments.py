"""Moments as tokens: what a question names meets what was said then."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from afterword.index.exact import ExactIndex
from afterword.language.moments import moment_tokens, named_moments
from afterword.language.tokens import tokens
from afterword.testing import InlineOffload
from tests.index_adapters import Shelf
from tests.test_recall import Search

NOW = datetime(2026, 5, 3, 9, 0, tzinfo=UTC)
SAID = date(2023, 5, 8)


@pytest.mark.parametrize(
    ("query", "shared"),
    [
        ("What happened on 8 May, 2023?", {"on:2023-5-8", "on:5-8", "in:2023-5", "in:5", "in:2023"}),
        ("What happened on May 8th?", {"on:5-8", "in:5"}),
        ("the 8th of May", {"on:5-8", "in:5"}),
        ("2023-05-08", {"on:2023-5-8", "on:5-8", "in:2023-5", "in:5", "in:2023"}),
        ("Who called in May 2023?", {"in:2023-5", "in:5", "in:2023"}),
        ("anything in May", {"in:5"}),
        ("back in 2023", {"in:2023"}),
        ("2023年5月8日我去了哪里？", {"on:2023-5-8", "on:5-8", "in:2023-5", "in:5", "in:2023"}),
        ("5月8号", {"on:5-8", "in:5"}),
        ("2023年的事", {"in:2023"}),
        ("What did I say three years ago?", {"in:2023"}),
        ("on 9 May 2023", {"in:2023-5", "in:5", "in:2023"}),
        ("May I ask you something?", set()),
        ("It may rain, 2,023 people, $2023", set()),
        ("call 8 times", set()),
    ],
)
def test_a_named_date_shares_tokens_with_what_was_said_then(query: str, shared: set[str]) -> None:
    assert set(named_moments(query, NOW)) & set(moment_tokens(SAID)) == shared


def test_a_relative_date_is_worked_out_from_now() -> None:
    assert set(moment_tokens(date(2026, 5, 2))) <= set(named_moments("What did I tell you yesterday?", NOW))
    assert "in:2026-4" in named_moments("上个月我说了什么", NOW)


def test_a_moment_is_nobodys_word() -> None:
    assert not set(tokens("on:2023-5-8 in:2023")) & set(moment_tokens(SAID))


@pytest.mark.parametrize("query", ["today " * 200, "2023-05-08 " * 90, "May 8, " * 100, "2023年5月8日" * 90])
def test_many_dates_are_each_named_once(query: str) -> None:
    named = named_moments(query, NOW)
    assert len(set(named)) == len(named) <= 5


async def test_a_question_that_names_a_day_brings_up_what_was_said_on_it() -> None:
    shelf = Shelf()
    for chat in range(12):
        shelf.say("We went for a walk", chat=f"c{chat}", minutes=chat * 60 * 24 * 40)
    index = ExactIndex(shelf.reads, offload=InlineOffload())
    search = Search(shelf, index)
    said = sorted(shelf.book().records.values(), key=lambda turn: turn.said_at)
    wanted, year = said[6], said[6].said_at.year
    month = wanted.said_at.strftime("%B")
    assert (await search.ids(f"Where did we walk in {month} {year}?"))[0] == wanted.id
    assert (await search.ids(f"{year}年{wanted.said_at.month}月 walk"))[0] == wanted.id
    await index.aclose()
