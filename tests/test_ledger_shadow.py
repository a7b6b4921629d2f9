"""What indexes see of the ledger."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from afterword.plan import (
    Erase,
    Plan,
    Retire,
    Revise,
    ServeModel,
)
from afterword.records import NewTurn, Ref, ScopeState
from tests.ledger_house import ANN, BACKENDS, MODEL, House, a_house, vectors

pytestmark = pytest.mark.anyio


@pytest.fixture(params=BACKENDS)
async def house(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[House]:
    async with a_house(request.param, tmp_path) as house:
        yield house


# ── what indexes see ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_index_hears_of_each_record_once_with_its_newest_change(house: House) -> None:
    (turn,) = await house.ledger.accept(ANN, [NewTurn("c", "user", "I moved to Oslo", "Ann")])
    one, two = await house.remember("one moved", "two", sources=[turn.id])
    changes = await house.ledger.changes(ANN, 0)
    assert [change.seq for change in changes] == [1, 2, 3]
    assert [change.record for change in changes] == [turn.id, one.record, two.record]
    entry = changes[0].entry
    assert entry is not None
    assert (entry.kind, entry.role, entry.position, entry.vectors) == ("turn", "user", 0, None)
    assert entry.tokens == ("ann", "i", "move", "to", "oslo")
    await house.run(Revise(one, "one again", "llm"))
    await house.run(Retire(two, "old"))
    newer = await house.ledger.changes(ANN, 3)
    assert [(change.seq, change.record) for change in newer] == [(4, one.record), (5, two.record)]
    assert newer[0].entry is not None
    assert (newer[0].entry.ref, newer[0].entry.tokens) == (Ref(one.record, 2), ("one", "again"))
    assert newer[1].entry is None
    assert [change.seq for change in await house.ledger.changes(ANN, 0)] == [1, 4, 5]
    assert [change.seq for change in await house.ledger.changes(ANN, 0, limit=2)] == [1, 4]


async def test_entries_are_read_in_pages_on_one_state(house: House) -> None:
    await house.say(*[f"line {n}" for n in range(7)])
    seen: list[str] = []
    after = ""
    while True:
        state, entries = await house.ledger.entries(ANN, after, 3)
        assert state == ScopeState(7, 0, None)
        if not entries:
            break
        seen += [entry.ref.record for entry in entries]
        after = seen[-1]
    assert seen == sorted(turn.id for turn in await house.ledger.turns(ANN, "c"))


async def test_the_first_vectors_choose_the_model_that_serves(house: House) -> None:
    one, two = await house.remember("one", "two")
    assert await house.ledger.unembedded(ANN, MODEL, 10) == [
        (ref, text) for ref, text in sorted([(one, "one"), (two, "two")])
    ]
    await house.run(vectors(one, windows=2))
    assert (await house.ledger.state(ANN)).model == MODEL
    assert await house.ledger.vector_counts(ANN, MODEL) == (1, 2)
    assert await house.ledger.unembedded(ANN, MODEL, 10) == [(two, "two")]
    change = (await house.ledger.changes(ANN, 2))[0]
    assert change.entry is not None
    assert change.entry.vectors is not None
    np.testing.assert_array_equal(change.entry.vectors, np.eye(4, dtype=np.float32)[:2])


async def test_the_old_model_serves_until_the_new_one_is_named(house: House) -> None:
    one, two = await house.remember("one", "two")
    await house.run(vectors(one), vectors(two))
    seq = (await house.ledger.state(ANN)).seq
    await house.run(vectors(one, "m2", 2), vectors(two, "m2", 2))
    assert await house.ledger.changes(ANN, seq) == []
    assert await house.ledger.vector_counts(ANN, "m2") == (2, 2)
    assert await _windows(house) == [1, 1]
    await house.run(ServeModel("m2"))
    assert (await house.ledger.state(ANN)).model == "m2"
    assert await _windows(house) == [2, 2]
    assert len(await house.ledger.changes(ANN, seq)) == 2
    assert await house.ledger.vector_counts(ANN, MODEL) == (0, 2)


async def _windows(house: House) -> list[int]:
    _, entries = await house.ledger.entries(ANN)
    return [0 if entry.vectors is None else len(entry.vectors) for entry in entries]


async def test_vectors_of_an_old_version_are_dropped(house: House) -> None:
    (ref,) = await house.remember("one")
    await house.run(vectors(ref))
    (new,) = await house.run(Revise(ref, "one again", "llm"))
    await house.run(vectors(ref))
    assert await _windows(house) == [0]
    assert await house.ledger.unembedded(ANN, MODEL, 10) == [(new, "one again")]


async def test_the_text_to_embed_names_the_speaker(house: House) -> None:
    (turn,) = await house.ledger.accept(ANN, [NewTurn("c", "user", "I moved to Oslo", "Ann")])
    assert await house.ledger.unembedded(ANN, MODEL, 10) == [(turn.ref, "Ann: I moved to Oslo")]


async def test_a_short_turn_is_embedded_with_what_the_other_said_just_before(house: House) -> None:
    long = "We talked about the house and the garden. " * 20
    later = house.clock.now() + timedelta(days=1)
    said = await house.ledger.accept(
        ANN,
        [
            NewTurn("c", "user", "When did you move?", "Ann"),
            NewTurn("c", "user", "Last May", "Ben"),
            NewTurn("c", "user", "I like it", "Ben"),
            NewTurn("c", "user", long, "Ann"),
            NewTurn("c", "user", "So it was", "Ben"),
            NewTurn("c", "user", "Good morning", "Ann", said_at=later),
            NewTurn("other", "user", "Hello"),
        ],
    )
    texts = {ref.record: text for ref, text in await house.ledger.unembedded(ANN, MODEL, 10)}
    when, may, like, talked, was, morning, hello = (texts[turn.id] for turn in said)
    assert when == "Ann: When did you move?"
    assert may == "Ann: When did you move?\nBen: Last May"
    assert like == "Ben: I like it", "the same person's words before it are no question to it"
    assert talked == f"Ann: {long}", "a long one speaks for itself"
    assert was == "Ben: So it was", "a long one before it would drown it"
    assert (morning, hello) == ("Ann: Good morning", "Hello"), "another day, another chat"


async def test_of_what_the_assistant_said_before_only_a_question_goes_into_a_turns_vectors(house: House) -> None:
    said = await house.ledger.accept(
        ANN,
        [
            NewTurn("c", "assistant", "Your dog is called Rex."),
            NewTurn("c", "user", "Thanks!"),
            NewTurn("c", "assistant", "When did you get him?"),
            NewTurn("c", "user", "Last May"),
        ],
    )
    texts = {ref.record: text for ref, text in await house.ledger.unembedded(ANN, MODEL, 10)}
    assert texts[said[1].id] == "Thanks!", "or it would be found where the dog is asked for"
    assert texts[said[2].id] == "Thanks!\nWhen did you get him?"
    assert texts[said[3].id] == "When did you get him?\nLast May"


async def test_vectors_that_held_something_of_an_erased_turn_are_made_again_without_it(house: House) -> None:
    question, answer = await house.ledger.accept(
        ANN, [NewTurn("c", "user", "Who is Rex?", "Ann"), NewTurn("c", "user", "My dog", "Ben")]
    )
    await house.run(vectors(question.ref), vectors(answer.ref))
    assert await house.ledger.unembedded(ANN, MODEL, 10) == []
    seq = (await house.ledger.state(ANN)).seq
    await house.ledger.edit(ANN, Plan((Erase(question.id),)))
    assert await house.ledger.unembedded(ANN, MODEL, 10) == [(answer.ref, "Ben: My dog")]
    changes = {change.record: change.entry for change in await house.ledger.changes(ANN, seq)}
    assert changes[question.id] is None
    left = changes[answer.id]
    assert left is not None
    assert left.vectors is None, "no index goes on with the old ones"
    await house.ledger.sweep(model=MODEL)
    assert "embed" in {job.kind for job in await house.claim()}, "and a job makes new ones"


async def test_of_an_assistants_long_answer_only_the_opening_is_embedded(house: House) -> None:
    long = "It begins here. " + "And it goes on and on. " * 200
    await house.ledger.accept(ANN, [NewTurn("c", "assistant", long), NewTurn("c", "user", long)])
    texts = [text for _, text in await house.ledger.unembedded(ANN, MODEL, 10)]
    assert sorted(len(text) for text in texts)[1] == len(long)
    assert long.startswith(min(texts, key=len))
    assert len(min(texts, key=len)) < 1000
