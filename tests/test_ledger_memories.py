"""Memories, their versions, what indexes see of them, and erasing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from afterword.errors import EpochChanged, InvalidInput, LeaseLost, NotFound, VersionConflict
from afterword.lanes import embed_job, remember_job
from afterword.plan import (
    Decided,
    Erase,
    Plan,
    Progress,
    Reconsolidated,
    Retire,
    Revise,
    Strengthen,
)
from afterword.ports import JobFilter
from afterword.records import Filters, MemoryRecord, NewJob, NewReply, NewTurn, Receipt, ReceiptItem, Ref
from afterword.testing.clock import START
from tests.ledger_house import ANN, BACKENDS, BEN, MODEL, House, a_house, vectors

pytestmark = pytest.mark.anyio


@pytest.fixture(params=BACKENDS)
async def house(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[House]:
    async with a_house(request.param, tmp_path) as house:
        yield house


# ── plans ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_plan_is_applied_with_its_job_its_cursor_its_decision_and_what_follows(house: House) -> None:
    (turn,) = await house.say("I moved to Oslo")
    (ref,) = await house.decide(house.episode("Ann moved to Oslo", [turn.id], chat_id="c"), jobs=[embed_job(ANN)])
    memory = await house.ledger.memory(ANN, ref.record)
    assert (memory.text, memory.version, memory.sources, memory.author) == ("Ann moved to Oslo", 1, (turn.id,), "llm")
    assert await house.ledger.cursor(ANN, "c") == 1
    done = (await house.ledger.jobs(ANN, JobFilter(states=("done",))))[0]
    (decision,) = await house.ledger.decisions(ANN, done.id)
    assert (decision.kind, decision.by, decision.content) == ("remember", "llm", {"kind": "x"})
    assert memory.job_id == done.id
    assert [job.kind for job in await house.claim()] == ["embed"]
    assert await house.ledger.memories_of(ANN, [turn.id]) == [memory]


async def test_a_job_ends_once(house: House) -> None:
    await house.say("I moved to Oslo")
    job = await house.claim_one("remember")
    plan = Plan((house.episode("Ann moved"), Decided("c", 0, 0, "llm")))
    await house.ledger.apply(job, plan)
    with pytest.raises(LeaseLost):
        await house.ledger.apply(job, plan)
    assert len(await house.ledger.memories(ANN, Filters())) == 1


async def test_a_plan_with_one_stale_version_changes_nothing(house: House) -> None:
    first, second = await house.remember("one", "two")
    await house.ledger.edit(ANN, Plan((Revise(second, "two, mended", "person"),)))
    await house.say("more")
    state = await house.ledger.state(ANN)
    job = await house.claim_one("remember")
    changes = (
        house.episode("three"),
        Revise(first, "one, revised", "llm"),
        Revise(second, "two, revised", "llm"),
        Decided("c", 0, 0, "llm"),
    )
    with pytest.raises(VersionConflict):
        await house.ledger.apply(job, Plan(changes, {"a": 1}, (embed_job(ANN),)))
    assert await house.ledger.state(ANN) == state
    texts = {memory.text for memory in await house.ledger.memories(ANN, Filters())}
    assert texts == {"one", "two, mended"}
    assert await house.ledger.cursor(ANN, "c") == 0
    assert await house.ledger.decisions(ANN, job.id) == []
    await house.ledger.apply(job, Plan((Decided("c", 0, 0, "llm"),)))


async def test_what_was_erased_meanwhile_is_a_conflict_to_a_step(house: House) -> None:
    (ref,) = await house.remember("one")
    (turn,) = await house.say("hello")
    job = await house.claim_one("remember")
    await house.ledger.edit(ANN, Plan((Erase(ref.record), Erase(turn.id))))
    for change in (Revise(ref, "new", "llm"), Retire(ref, "old"), house.episode("from it", [turn.id])):
        with pytest.raises(VersionConflict):
            await house.ledger.apply(job, Plan((change,)))
    await house.ledger.apply(job, Plan((Strengthen(ref.record, 2.0, START), vectors(ref), Erase(ref.record))))
    assert await house.ledger.memories(ANN, Filters(), retired=True) == []


async def test_a_reset_ends_all_work_under_way(house: House) -> None:
    await house.say("one", "two")
    await house.remember("one")
    job = await house.claim_one("remember")
    before = await house.ledger.state(ANN)
    assert await house.ledger.reset(ANN) == 1
    after = await house.ledger.state(ANN)
    assert (after.epoch, after.model) == (1, None)
    assert after.seq > before.seq
    for late in (
        house.ledger.apply(job, Plan((house.episode("back"),))),
        house.ledger.postpone(job, delay=0),
        house.ledger.bury(job, "x"),
        house.ledger.fix_window(job, {}),
    ):
        with pytest.raises(EpochChanged):
            await late
    assert await house.ledger.renew("w1", [job], 30) == set()
    assert await house.ledger.jobs(ANN, JobFilter()) == []
    assert await house.ledger.chats(ANN) == []
    assert await house.ledger.entries(ANN) == (after, [])
    assert await house.ledger.sweep(model=MODEL) == 0
    (turn,) = await house.say("anew")
    assert turn.position == 0
    assert (await house.claim_one("remember")).epoch == 1


async def test_a_reset_leaves_others_alone(house: House) -> None:
    await house.say("mine")
    await house.say("his", scope=BEN)
    await house.ledger.reset(ANN)
    assert len(await house.ledger.turns(BEN, "c")) == 1
    assert [job.scope for job in await house.claim()] == [BEN]


async def test_turns_that_remain_after_a_window_get_the_next_job(house: House) -> None:
    await house.say(*[f"line {n}" for n in range(5)])
    job = await house.claim_one("remember")
    await house.ledger.apply(job, Plan((Decided("c", 0, 2, "llm"),)))
    again = await house.claim_one("remember")
    assert (again.lane, again.stream, again.payload) == (job.lane, job.stream, job.payload)
    await house.ledger.apply(again, Plan((Decided("c", 3, 4, "llm"),)))
    assert await house.claim() == []


async def test_a_turn_that_came_while_its_chat_was_decided_waits_in_a_job_of_its_own(house: House) -> None:
    await house.say("one")
    job = await house.claim_one("remember")
    await house.say("two", delay=2.0)
    follow = remember_job(ANN, "c", delay=0.0)
    await house.ledger.apply(job, Plan((Decided("c", 0, 0, "llm"),), jobs=(follow,)))
    assert len(await house.ledger.jobs(ANN, JobFilter(states=("queued",)))) == 1


async def test_the_cursor_never_goes_back(house: House) -> None:
    await house.say("one", "two")
    await house.decide()
    await house.run(Decided("c", 0, 0, "llm"))
    assert await house.ledger.cursor(ANN, "c") == 2


async def test_what_rules_wrote_gives_way_to_the_llm_unless_a_person_touched_it(house: House) -> None:
    await house.say("I moved to Oslo. My cat is Tom.")
    moved, cat = await house.decide(
        house.episode("Ann: I moved to Oslo", author="rules"), house.episode("Ann: my cat", author="rules"), by="rules"
    )
    await house.ledger.edit(ANN, Plan((Revise(cat, "Ann's cat is Tom", "person"),)))
    ((scope, decision),) = await house.ledger.rule_decisions(None, 10)
    assert scope == ANN
    again = Decided("c", 0, 0, "llm", redo_of=decision.id)
    (new,) = await house.run(house.episode("Ann moved to Oslo"), again)
    assert await house.ledger.rule_decisions(ANN, 10) == []
    assert (await house.ledger.memory(ANN, moved.record)).retired
    current = {memory.id for memory in await house.ledger.memories(ANN, Filters())}
    assert current == {new.record, cat.record}
    with pytest.raises(VersionConflict):
        await house.run(again)
    assert await house.ledger.cursor(ANN, "c") == 1


async def test_a_worked_receipt_is_not_swept(house: House) -> None:
    (turn,) = await house.say("Hello?")
    await house.decide()
    reply = await house.reply(turn)
    await house.run(Reconsolidated(reply.id))
    await house.clock.advance(120)
    assert await house.ledger.sweep(model=None) == 0


# ── versions ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_revision_is_a_new_version_and_the_old_one_stays(house: House) -> None:
    old_turn, new_turn = await house.say("I moved to Oslo", "I mean Bergen")
    (ref,) = await house.remember("Ann moved to Oslo", sources=[old_turn.id], metadata={"a": 1}, chat_id="c")
    said = START - timedelta(days=1)
    (new,) = await house.run(Revise(ref, "Ann moved to Bergen", "llm", (new_turn.id,), "corrected", said_at=said))
    assert new == Ref(ref.record, 2)
    first, second = await house.ledger.history(ANN, ref.record)
    assert (first.text, first.sources, first.said_at) == ("Ann moved to Oslo", (old_turn.id,), START)
    assert (second.text, second.sources) == ("Ann moved to Bergen", (old_turn.id, new_turn.id))
    assert (second.said_at, second.why, second.metadata) == (said, "corrected", {"a": 1})
    assert await house.ledger.read(ANN, [ref, new]) == {new: second}
    assert await house.ledger.memories_of(ANN, [new_turn.id]) == [second]


async def test_a_retired_memory_is_history_only(house: House) -> None:
    (ref,) = await house.remember("Ann lives in Oslo")
    until = START + timedelta(days=3)
    await house.run(Retire(ref, "she moved", until))
    memory = await house.ledger.memory(ANN, ref.record)
    assert (memory.retired, memory.valid_to) == ("she moved", until)
    assert await house.ledger.read(ANN, [ref]) == {}
    assert await house.ledger.memories(ANN, Filters()) == []
    assert await house.ledger.memories(ANN, Filters(), retired=True) == [memory]
    with pytest.raises(VersionConflict, match="retired"):
        await house.ledger.edit(ANN, Plan((Revise(ref, "back", "person"),)))


async def test_a_person_is_told_what_is_not_there_or_has_moved_on(house: House) -> None:
    (ref,) = await house.remember("one")
    with pytest.raises(NotFound):
        await house.ledger.edit(ANN, Plan((Erase("nothing"),)))
    with pytest.raises(NotFound):
        await house.ledger.edit(BEN, Plan((Erase(ref.record),)))
    with pytest.raises(NotFound):
        await house.ledger.edit(ANN, Plan((Revise(Ref("nothing", 1), "x", "person"),)))
    with pytest.raises(VersionConflict, match="version 1, not 2"):
        await house.ledger.edit(ANN, Plan((Revise(Ref(ref.record, 2), "x", "person"),)))
    with pytest.raises(InvalidInput, match="Progress"):
        await house.ledger.edit(ANN, Plan((Progress("r", 1, 1),)))


async def test_use_strengthens_without_a_new_version(house: House) -> None:
    (ref,) = await house.remember("one")
    seq = (await house.ledger.state(ANN)).seq
    await house.run(Strengthen(ref.record, 1.7, START + timedelta(hours=1)))
    memory = await house.ledger.memory(ANN, ref.record)
    assert (memory.version, memory.strength, memory.used_at) == (1, 1.7, START + timedelta(hours=1))
    assert (await house.ledger.state(ANN)).seq == seq


async def test_memories_are_listed_newest_first_by_what_is_wanted(house: House) -> None:
    days = [START - timedelta(days=n) for n in range(4)]
    for n, day in enumerate(days):
        kind = "semantic" if n == 3 else "episodic"
        await house.remember(f"day {n}", said_at=day, kind=kind, chat_id=f"c{n % 2}", metadata={"n": n % 2})

    async def listed(limit: int = 100, offset: int = 0, **wanted: object) -> list[str]:
        filters = Filters(**wanted)  # type: ignore[arg-type]
        return [one.text for one in await house.ledger.memories(ANN, filters, limit=limit, offset=offset)]

    assert await listed() == ["day 0", "day 1", "day 2", "day 3"]
    assert await listed(limit=2, offset=1) == ["day 1", "day 2"]
    assert await listed(kinds=("semantic",)) == ["day 3"]
    assert await listed(chat_id="c1") == ["day 1", "day 3"]
    assert await listed(since=days[2], until=days[0]) == ["day 1", "day 2"]
    assert await listed(metadata={"n": 0}) == ["day 0", "day 2"]
    assert await listed(metadata={"n": 0}, limit=1, offset=1) == ["day 2"]
    assert await listed(metadata={"none": None}) == []
    first = (await house.ledger.memories(ANN, Filters()))[0].id
    assert await listed(exclude=frozenset([first])) == ["day 1", "day 2", "day 3"]
    with pytest.raises(InvalidInput, match="turn"):
        await listed(kinds=("turn",))


async def test_episodes_come_in_the_order_of_their_newest_version(house: House) -> None:
    one, two = await house.remember("one", "two")
    await house.remember("a fact", kind="semantic")
    found = await house.ledger.episodes_after(ANN, 0, 10)
    assert [memory.text for _, memory in found] == ["one", "two"]
    await house.run(Revise(one, "one, revised", "llm"), vectors(two))
    after = await house.ledger.episodes_after(ANN, found[-1][0], 10)
    assert [memory.text for _, memory in after] == ["one, revised"]
    assert after[0][0] > found[-1][0]


# ── erasing ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_erased_memory_leaves_a_tombstone_only(house: House) -> None:
    (turn,) = await house.say("My secret is 42")
    (ref,) = await house.decide(house.episode("Ann's secret is 42", [turn.id]))
    await house.run(vectors(ref))
    memory = await house.ledger.memory(ANN, ref.record)
    seq = (await house.ledger.state(ANN)).seq
    await house.ledger.edit(ANN, Plan((Erase(ref.record),)))
    with pytest.raises(NotFound):
        await house.ledger.history(ANN, ref.record)
    (change,) = await house.ledger.changes(ANN, seq)
    assert (change.record, change.entry) == (ref.record, None)
    assert await house.ledger.memories_of(ANN, [turn.id]) == []
    assert memory.job_id is not None
    (decision,) = await house.ledger.decisions(ANN, memory.job_id)
    assert decision.content == {"erased": True}


async def test_a_deleted_chat_takes_along_what_rests_on_it_alone(house: House) -> None:
    (here,) = await house.say("I moved to Oslo", chat="a")
    (there,) = await house.say("Oslo is cold", chat="b")
    alone, both = await house.run(
        house.episode("moved", [here.id], chat_id="a"), house.episode("cold", [here.id, there.id])
    )
    (fact,) = await house.run(house.episode("lives in Oslo", [alone.record], kind="semantic"))
    (kept,) = await house.run(house.episode("finds Oslo cold", [alone.record, both.record], kind="semantic"))
    job = next(job for job in await house.claim("remember") if job.payload["chat_id"] == "a")
    await house.ledger.delete_chat(ANN, "a")
    left = {memory.id for memory in await house.ledger.memories(ANN, Filters(), retired=True)}
    assert left == {both.record, kept.record}
    assert fact.record not in left
    assert [chat.id for chat in await house.ledger.chats(ANN)] == ["b"]
    with pytest.raises(LeaseLost):
        await house.ledger.apply(job, Plan((house.episode("back"),)))
    assert {job.payload["chat_id"] for job in await house.claim()} == {"b"}


async def test_an_erased_turn_is_decided_by_nobody(house: House) -> None:
    (turn,) = await house.ledger.accept(ANN, [NewTurn("c", "user", "forget this")])
    await house.ledger.edit(ANN, Plan((Erase(turn.id),)))
    assert await house.ledger.sweep(model=MODEL) == 0


async def test_ids_of_memories_come_from_their_job(house: House) -> None:
    await house.ledger.put(ANN, [NewJob("other", "l")])
    job = await house.claim_one()
    plan = Plan((house.episode("one"), house.episode("one")))
    refs = await house.ledger.apply(job, plan)
    assert len({ref.record for ref in refs}) == 2
    found = await house.ledger.read(ANN, refs)
    assert all(isinstance(memory, MemoryRecord) and memory.job_id == job.id for memory in found.values())


async def test_a_turn_can_not_take_the_id_of_a_memory(house: House) -> None:
    (ref,) = await house.remember("one")
    with pytest.raises(InvalidInput, match="id of a memory"):
        await house.ledger.accept(ANN, [NewTurn("c", "user", "hi", turn_id=ref.record)])


# ── rows that are read in one step ─────────────────────────────────────────────────────────────────────────────────

ODD = "He said: \"\\ no\" \u2028\t{}[] 🙂 你好\n'quoted'; DROP TABLE turn --"
NUMBERS: dict[str, Any] = {
    "third": 1 / 3,
    "tiny": 5e-324,
    "huge": 1.7976931348623157e308,
    "large": 2**53 + 1,
    "none": None,
    "deep": [{}],
}


async def test_turns_come_back_to_the_last_bit(house: House) -> None:
    said = START + timedelta(microseconds=123_457)
    turns = [
        NewTurn("c", "user", ODD, said_at=said, utc_offset=-210, speaker='"李"', metadata={**NUMBERS, ODD: ODD}),
        NewTurn("c", "user", "plain", said_at=said + timedelta(microseconds=1)),
    ]
    stored = await house.ledger.accept(ANN, turns, [])
    assert await house.ledger.turns(ANN, "c") == stored
    assert await house.ledger.last_turns(ANN, "c", 2) == stored
    assert list((await house.ledger.read(ANN, [turn.ref for turn in stored])).values()) == stored
    assert (stored[0].text, stored[0].metadata, stored[0].said_at) == (ODD, {**NUMBERS, ODD: ODD}, said)


async def test_memories_come_back_to_the_last_bit(house: House) -> None:
    said = START + timedelta(microseconds=654_321)
    (ref,) = await house.remember(ODD, said_at=said, metadata=NUMBERS, why=ODD)
    await house.run(Strengthen(ref.record, 0.1 + 0.2, said))
    alone = await house.ledger.memory(ANN, ref.record)
    assert await house.ledger.memories(ANN, Filters()) == [alone]
    assert await house.ledger.read(ANN, [ref]) == {ref: alone}
    assert (alone.text, alone.why, alone.metadata) == (ODD, ODD, NUMBERS)
    assert (alone.strength, alone.said_at, alone.used_at) == (0.1 + 0.2, said, said)


async def test_receipts_come_back_to_the_last_bit(house: House) -> None:
    (turn,) = await house.say(ODD)
    (first,) = await house.remember("one")
    item = ReceiptItem(first, "episodic", 1 / 3, {"words": 0.1 + 0.2}, (turn.id,))
    new = NewReply("c", turn.id, ODD, house.clock.now(), 0)
    receipt = Receipt((item,), ODD, 1000 / 3)
    reply = await house.ledger.answer(ANN, 0, new, receipt, [])
    assert await house.ledger.receipts(ANN, [reply.id]) == {reply.id: receipt}


async def test_nothing_is_read_where_nothing_is(house: House) -> None:
    assert await house.ledger.turns(BEN, "c") == []
    assert await house.ledger.memories(BEN, Filters()) == []
    assert await house.ledger.chats(BEN) == []
    assert await house.ledger.receipts(BEN, ["r"]) == {}


async def test_a_thousand_turns_are_read_in_their_order(house: House) -> None:
    turns = [NewTurn("c", "user", f"turn {number}") for number in range(1000)]
    await house.ledger.accept(ANN, turns, [])
    assert [turn.text for turn in await house.ledger.turns(ANN, "c")] == [new.text for new in turns]
    assert [turn.text for turn in await house.ledger.last_turns(ANN, "c", 3)] == [new.text for new in turns[-3:]]
