"""Turns, replies, receipts and chats as the ledger keeps them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import anyio
import pytest

from afterword.errors import EpochChanged, InvalidInput, NotFound
from afterword.lanes import embed_job, reconsolidate_job, remember_job
from afterword.plan import Erase, Plan
from afterword.ports import JobFilter
from afterword.records import NewReply, NewTurn, Receipt, Ref
from afterword.testing.clock import START
from tests.ledger_house import ANN, BACKENDS, BEN, House, a_house

pytestmark = pytest.mark.anyio


@pytest.fixture(params=BACKENDS)
async def house(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[House]:
    async with a_house(request.param, tmp_path) as house:
        yield house


async def test_turns_keep_the_order_in_which_they_were_accepted(house: House) -> None:
    await house.say("one", "two")
    await house.say("three")
    turns = await house.ledger.turns(ANN, "c")
    assert [(turn.position, turn.text) for turn in turns] == [(0, "one"), (1, "two"), (2, "three")]
    assert [turn.text for turn in await house.ledger.last_turns(ANN, "c", 2)] == ["two", "three"]
    assert [turn.text for turn in await house.ledger.turns(ANN, "c", first=1, last=1)] == ["two"]
    places = [("c", 0), ("c", 9), ("d", 0)]
    assert [turn.text for turn in await house.ledger.turns_at(ANN, places)] == ["one"]


async def test_a_turn_comes_back_as_it_was_said(house: House) -> None:
    said = datetime(2023, 5, 8, 13, 56, tzinfo=timezone(timedelta(hours=2)))
    new = NewTurn("c", "user", "I moved 🏠", "Ann", said, None, "t1", {"from": ["import", 1]}, asked=True)
    (turn,) = await house.ledger.accept(ANN, [new])
    assert turn == await house.ledger.turn(ANN, "t1")
    assert (turn.said_at, turn.utc_offset, turn.stored_at) == (said, 120, START)
    assert (turn.said_at.tzinfo, turn.speaker, turn.asked, turn.metadata) == (UTC, "Ann", True, {"from": ["import", 1]})


async def test_a_known_turn_id_is_one_turn(house: House) -> None:
    new = NewTurn("c", "user", "once", turn_id="t1")
    (first,) = await house.ledger.accept(ANN, [new], [remember_job(ANN, "c")])
    again, also = await house.ledger.accept(ANN, [new, replace(new, metadata={"a": 1})], [remember_job(ANN, "x")])
    assert first == again == also
    assert len(await house.ledger.turns(ANN, "c")) == 1
    assert {job.payload["chat_id"] for job in await house.ledger.jobs(ANN, JobFilter())} == {"c"}


@pytest.mark.parametrize("other", [{"text": "else"}, {"chat_id": "d"}, {"role": "assistant"}])
async def test_a_turn_id_of_another_turn_is_refused_and_nothing_is_kept(house: House, other: dict[str, str]) -> None:
    new = NewTurn("c", "user", "once", turn_id="t1")
    await house.ledger.accept(ANN, [new])
    with pytest.raises(InvalidInput, match="turn_id"):
        await house.ledger.accept(ANN, [NewTurn("c", "user", "fresh"), replace(new, **other)])  # type: ignore[arg-type]
    assert len(await house.ledger.turns(ANN, "c")) == 1


async def test_a_turn_id_belongs_to_one_user(house: House) -> None:
    new = NewTurn("c", "user", "mine", turn_id="t1")
    await house.ledger.accept(ANN, [new])
    (other,) = await house.ledger.accept(BEN, [replace(new, text="his")])
    assert other.text == "his"
    assert (await house.ledger.turn(ANN, "t1")).text == "mine"


async def test_the_last_offset_that_was_named_is_used_again(house: House) -> None:
    new = NewTurn("c", "user", "hi")
    turns = [new, replace(new, utc_offset=-300), new]
    assert [turn.utc_offset for turn in await house.ledger.accept(ANN, turns)] == [0, -300, -300]
    (later,) = await house.ledger.accept(ANN, [new])
    assert later.utc_offset == -300


async def test_a_long_import_is_kept_whole_and_given_again_adds_nothing(house: House) -> None:
    turns = [NewTurn(f"c{n % 3}", "user", f"line {n}", turn_id=f"t{n}") for n in range(450)]
    stored = await house.ledger.accept(ANN, turns, [remember_job(ANN, "c0")])
    assert [turn.id for turn in stored] == [turn.turn_id for turn in turns]
    seq = (await house.ledger.state(ANN)).seq
    assert await house.ledger.accept(ANN, turns, [remember_job(ANN, "c1")]) == stored
    assert (await house.ledger.state(ANN)).seq == seq == 450
    assert len(await house.ledger.jobs(ANN, JobFilter())) == 1


async def test_an_import_that_broke_off_is_completed_by_giving_it_again(house: House) -> None:
    turns = [NewTurn("c", "user", f"line {n}", turn_id=f"t{n}") for n in range(450)]
    await house.ledger.accept(ANN, turns[:200])
    stored = await house.ledger.accept(ANN, turns, [remember_job(ANN, "c")])
    assert [turn.position for turn in stored] == list(range(450))
    assert len(await house.ledger.jobs(ANN, JobFilter())) == 1


async def test_a_long_import_with_a_turn_that_is_refused_writes_nothing(house: House) -> None:
    turns = [NewTurn("c", "user", f"line {n}", turn_id=f"t{n}") for n in range(450)]
    with pytest.raises(InvalidInput, match="twice"):
        await house.ledger.accept(ANN, [*turns, NewTurn("c", "user", "other", turn_id="t3")])
    assert await house.ledger.turns(ANN, "c") == []


async def test_metadata_that_is_no_json_is_refused(house: House) -> None:
    with pytest.raises(InvalidInput, match="metadata"):
        await house.ledger.accept(ANN, [NewTurn("c", "user", "hi", metadata={"a": object()})])


async def test_what_a_reply_starts_from_is_one_snapshot_with_the_turns_before_it(house: House) -> None:
    told = [(await house.say(f"number {number}"))[0] for number in range(4)]
    await house.say("of another chat", chat="d")
    opening = await house.ledger.opening(ANN, told[3].id, 2)
    assert (opening.turn, opening.reply, opening.before) == (told[3], None, (told[1], told[2]))
    assert opening.epoch == (await house.ledger.state(ANN)).epoch
    assert (await house.ledger.opening(ANN, told[0].id, 2)).before == ()
    with pytest.raises(NotFound):
        await house.ledger.opening(ANN, "nobody's", 2)


async def test_a_turn_that_begins_a_reply_is_kept_with_its_jobs_and_gives_what_the_reply_starts_from(
    house: House,
) -> None:
    told = [(await house.say(f"number {number}"))[0] for number in range(3)]
    new = NewTurn("c", "user", "Where do I live?", turn_id="t", asked=True)
    begun = await house.ledger.begin(ANN, new, [embed_job(ANN)], 2)
    assert begun == await house.ledger.opening(ANN, "t", 2)
    assert (begun.turn.text, begun.reply, begun.before) == ("Where do I live?", None, (told[1], told[2]))
    assert {job.kind for job in await house.ledger.jobs(ANN, JobFilter())} == {"remember", "embed"}


async def test_a_turn_that_begins_a_reply_once_more_gives_the_reply_that_it_has(house: House) -> None:
    new = NewTurn("c", "user", "Where do I live?", turn_id="t", asked=True)
    begun = await house.ledger.begin(ANN, new, (), 5)
    reply = await house.reply(begun.turn, "In Oslo")
    again = await house.ledger.begin(ANN, new, [embed_job(ANN)], 5)
    assert (again.turn, again.reply, again.epoch) == (begun.turn, reply, begun.epoch)
    assert await house.ledger.job_counts(ANN) == {}
    with pytest.raises(InvalidInput, match="another text"):
        await house.ledger.begin(ANN, replace(new, text="Where do I work?"), (), 5)


async def test_a_reply_is_kept_with_its_receipt(house: House) -> None:
    (turn,) = await house.say("Where do I live?")
    recalled = Ref("m1", 3)
    reply = await house.reply(turn, "In Oslo", recalled=(recalled,), metadata={"model": "x"})
    assert (await house.ledger.opening(ANN, turn.id, 5)).reply == reply
    assert (reply.role, reply.reply_to, reply.position, reply.cut) == ("assistant", turn.id, 1, None)
    receipt = await house.ledger.receipt(ANN, reply.id)
    assert receipt is not None
    assert (receipt.items[0].ref, receipt.items[0].parts, receipt.recall_ms) == (recalled, {"bm25": 1.5}, 3.5)
    assert await house.ledger.receipt(ANN, turn.id) is None
    assert await house.ledger.receipts(ANN, [turn.id, reply.id]) == {reply.id: receipt}


async def test_a_cut_reply_makes_place_for_a_whole_one_and_that_for_none(house: House) -> None:
    (turn,) = await house.say("Where do I live?")
    part = await house.reply(turn, "In O", cut="stopped")
    whole = await house.reply(turn, "In Oslo")
    assert [one.text for one in await house.ledger.turns(ANN, "c")] == ["Where do I live?", "In Oslo"]
    assert await house.ledger.receipt(ANN, part.id) is None
    assert whole.position == 2
    with pytest.raises(InvalidInput, match="whole reply"):
        await house.reply(turn, "In Rome")


async def test_a_reply_that_nothing_came_of_is_kept_and_not_found(house: House) -> None:
    (turn,) = await house.say("Hello?")
    reply = await house.reply(turn, "", cut="connection refused")
    assert not reply.searchable
    assert await house.ledger.read(ANN, [reply.ref]) == {}


async def test_a_reply_by_quoting_is_shown_and_not_found(house: House) -> None:
    (turn,) = await house.say("Hello?")
    reply = await house.reply(turn, "You told me …", searchable=False)
    assert await house.ledger.turns(ANN, "c") == [turn, reply]
    assert await house.ledger.read(ANN, [turn.ref, reply.ref]) == {turn.ref: turn}
    _, entries = await house.ledger.entries(ANN)
    assert [entry.ref for entry in entries] == [turn.ref]


async def test_a_reply_under_way_does_not_survive_a_reset(house: House) -> None:
    (turn,) = await house.say("Hello?")
    await house.ledger.reset(ANN)
    with pytest.raises(EpochChanged):
        await house.ledger.answer(ANN, 0, NewReply("c", turn.id, "hi", START, 0), Receipt())
    assert await house.ledger.turns(ANN, "c") == []


async def test_a_reply_to_a_turn_that_was_erased_is_not_kept(house: House) -> None:
    (turn,) = await house.say("Hello?")
    await house.ledger.edit(ANN, Plan((Erase(turn.id),)))
    with pytest.raises(EpochChanged):
        await house.reply(turn)


async def test_a_reply_puts_off_the_waiting_remember_within_its_limit(house: House) -> None:
    (turn,) = await house.say("Hello?", delay=2.0)
    for seconds, due in [(1.5, 3.5), (17.5, 20.0)]:
        await house.clock.advance(seconds)
        await house.reply(turn, "part", cut="stopped")
        assert await house.ledger.next_due(["remember"]) == START + timedelta(seconds=due)


async def test_a_reply_does_not_put_off_what_is_not_debounced(house: House) -> None:
    (turn,) = await house.say("Hello?", delay=0.0)
    await house.reply(turn)
    assert await house.ledger.next_due(["remember"]) == START


async def test_a_reply_puts_its_jobs(house: House) -> None:
    (turn,) = await house.say("Hello?")
    await house.reply(turn, jobs=[reconsolidate_job(ANN, "c", "r")])
    assert [job.kind for job in await house.ledger.jobs(ANN, JobFilter())] == ["reconsolidate", "remember"]


async def test_chats_are_listed_newest_first_under_their_first_words(house: House) -> None:
    await house.say("  About\n my  cat " + "x" * 200, chat="a")
    await house.clock.advance(60)
    (turn,) = await house.say("About my dog", chat="b")
    chats = await house.ledger.chats(ANN)
    assert [(chat.id, chat.turns) for chat in chats] == [("b", 1), ("a", 1)]
    assert chats[0].title == "About my dog"
    assert chats[1].title.startswith("About my cat xxx")
    assert len(chats[1].title) <= 80
    await house.ledger.edit(ANN, Plan((Erase(turn.id),)))
    assert [chat.id for chat in await house.ledger.chats(ANN)] == ["a"]


async def test_what_is_not_there_is_said_so(house: House) -> None:
    for missing in (house.ledger.turn(ANN, "x"), house.ledger.memory(ANN, "x"), house.ledger.history(ANN, "x")):
        with pytest.raises(NotFound):
            await missing
    with pytest.raises(NotFound):
        await house.ledger.job(7)
    assert await house.ledger.chats(ANN) == []
    assert await house.ledger.cursor(ANN, "c") == 0


async def test_a_caller_that_stops_waiting_harms_nobody(house: House) -> None:
    with anyio.move_on_after(0) as scope:
        await house.say("given up")
    assert scope.cancelled_caught
    await house.say("kept")
    texts = [turn.text for turn in await house.ledger.turns(ANN, "c")]
    assert texts in (["kept"], ["given up", "kept"])


async def test_writes_that_wait_together_fail_alone(house: House) -> None:
    await house.ledger.accept(ANN, [NewTurn("c", "user", "first", turn_id="t")])
    refused: list[str] = []

    async def accept(number: int) -> None:
        turn = NewTurn("c", "user", f"text {number}", turn_id="t" if number % 2 else None)
        try:
            await house.ledger.accept(ANN, [turn])
        except InvalidInput:
            refused.append(turn.text)

    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(accept, number)
    turns = await house.ledger.turns(ANN, "c")
    assert len(refused) == 10
    assert [turn.position for turn in turns] == list(range(11))
    assert not {turn.text for turn in turns} & set(refused)
