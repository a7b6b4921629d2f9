"""A turn is answered at once with what is known; what it teaches is worked out behind the reply."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import anyio
import pytest

from afterword.errors import InvalidInput, LLMUnavailable
from afterword.llms.quoting import QuotingLLM
from afterword.ports import Message, Prompt
from afterword.records import NewTurn
from afterword.reply import Reply
from afterword.settings import Settings
from afterword.testing import HashingEmbedder, ScriptedLLM
from afterword.wiring import open_memory
from tests.conftest import OpenMemory
from tests.waiting import idle

pytestmark = pytest.mark.anyio


async def finish(reply: Reply) -> str:
    with anyio.fail_after(20):
        await reply.done()
    return reply.text


async def test_the_reply_is_complete_while_the_decider_of_the_same_turn_is_still_held_back(opened: OpenMemory) -> None:
    llm = ScriptedLLM()
    gate = llm.hold_complete()
    memory = await opened(llm=llm)

    reply = await memory.chat("I moved to Oslo in May.", "ann")
    assert await finish(reply) == "You said: I moved to Oslo in May."
    with anyio.fail_after(20):
        await gate.reached()
    assert await memory.get_all("ann") == []

    gate.release()
    await idle(memory)
    assert [record.kind for record in await memory.get_all("ann")] == ["episodic"]


async def test_the_users_turn_is_durable_before_the_llm_is_called(opened: OpenMemory, settings: Settings) -> None:
    llm = ScriptedLLM()
    gate = llm.hold_stream()
    memory = await opened(llm=llm)
    reply = await memory.chat("My dog is called Bruno.", "ann")
    with anyio.fail_after(20):
        await gate.reached()

    async with open_memory(settings, llm=ScriptedLLM(), run_worker=False) as another:
        turns = await another.turns("ann", "default")
    assert [turn.text for turn in turns] == ["My dog is called Bruno."]
    gate.release()
    await finish(reply)


async def test_a_reply_goes_on_and_is_stored_whole_when_nobody_listens(opened: OpenMemory) -> None:
    llm = ScriptedLLM(replies=["one two three four"])
    gate = llm.hold_stream(after=1)
    memory = await opened(llm=llm)
    reply = await memory.chat("count", "ann")
    async for _ in reply:
        break  # the tab is closed
    assert memory.live("ann", "default") is reply

    gate.release()
    await finish(reply)
    assert [turn.text for turn in await memory.turns("ann", "default")] == ["count", "one two three four"]
    assert memory.live("ann", "default") is None


async def test_every_listener_hears_the_reply_from_its_start(opened: OpenMemory) -> None:
    llm = ScriptedLLM(replies=["one two three"])
    gate = llm.hold_stream(after=2)
    memory = await opened(llm=llm)
    reply = await memory.chat("count", "ann")
    with anyio.fail_after(20):
        await gate.reached()
    heard: list[str] = []

    async def listen() -> None:
        heard.append("".join([piece async for piece in reply]))

    async with anyio.create_task_group() as group:
        group.start_soon(listen)
        group.start_soon(listen)
        gate.release()
    assert heard == ["one two three", "one two three"]


async def test_stop_keeps_the_part_that_was_made_marked_as_cut(opened: OpenMemory) -> None:
    llm = ScriptedLLM(replies=["one two three"])
    gate = llm.hold_stream(after=1)
    memory = await opened(llm=llm)
    reply = await memory.chat("count", "ann")
    with anyio.fail_after(20):
        await gate.reached()
    reply.stop()
    await finish(reply)
    stored = (await memory.turns("ann", "default"))[-1]
    assert (stored.text.strip(), stored.cut) == ("one", "stopped")
    assert llm.cancelled, "the LLM's call must end too"


async def test_a_reply_stopped_before_its_first_step_still_ends(opened: OpenMemory) -> None:
    memory = await opened()
    reply = await memory.chat("count", "ann")
    reply.stop()
    await finish(reply)
    assert reply.state == "cut"


async def test_an_llm_error_is_shown_with_cause_and_fix_and_the_turn_is_kept_and_remembered(opened: OpenMemory) -> None:
    llm = ScriptedLLM()
    llm.fail_with(LLMUnavailable("nothing answers there", fix="Start it."), on="stream")
    memory = await opened(llm=llm)
    reply = await memory.chat("I moved to Oslo in May.", "ann")
    await finish(reply)
    assert (reply.cut, reply.fix) == ("nothing answers there", "Start it.")
    stored = (await memory.turns("ann", "default"))[-1]
    assert (stored.cut, stored.metadata["fix"]) == ("nothing answers there", "Start it.")
    await idle(memory)
    assert len(await memory.get_all("ann")) == 1


async def test_shutdown_keeps_the_part_that_was_made(settings: Settings) -> None:
    llm = ScriptedLLM(replies=["one two three"])
    gate = llm.hold_stream(after=1)
    async with open_memory(settings, llm=llm) as memory:
        await memory.chat("count", "ann")
        with anyio.fail_after(20):
            await gate.reached()
    async with open_memory(settings, llm=ScriptedLLM()) as memory:
        stored = (await memory.turns("ann", "default"))[-1]
    assert (stored.text.strip(), stored.cut) == ("one", "shutdown")


async def test_an_unanswered_turn_can_be_asked_again(opened: OpenMemory) -> None:
    memory = await opened(llm=ScriptedLLM(replies=["Hello again."]))
    ticket = await memory.add_turns([NewTurn("default", "user", "Are you there?", asked=True)], "ann")
    reply = await memory.ask_again("ann", ticket.turn_ids[0])
    assert await finish(reply) == "Hello again."
    assert [turn.reply_to for turn in await memory.turns("ann", "default")] == [None, ticket.turn_ids[0]]


async def test_asking_again_replaces_a_cut_reply(opened: OpenMemory) -> None:
    llm = ScriptedLLM(replies=lambda prompt: "whole")
    llm.fail_with(LLMUnavailable("away"), on="stream")
    memory = await opened(llm=llm)
    reply = await memory.chat("count", "ann")
    await finish(reply)
    await finish(await memory.ask_again("ann", reply.turn.id))
    assert [(turn.text, turn.cut) for turn in await memory.turns("ann", "default")] == [
        ("count", None),
        ("whole", None),
    ]


async def test_a_turn_id_given_twice_is_one_turn_with_one_reply(opened: OpenMemory) -> None:
    llm = ScriptedLLM()
    memory = await opened(llm=llm)
    first = await memory.chat("hello", "ann", turn_id="t1")
    await finish(first)
    second = await memory.chat("hello", "ann", turn_id="t1")
    assert await finish(second) == first.text
    assert len(llm.streamed) == 1
    assert len(await memory.turns("ann", "default")) == 2


async def test_a_slow_embedder_costs_the_reply_its_meaning_search_and_why_says_so(opened: OpenMemory) -> None:
    embedder = HashingEmbedder()
    memory = await opened(embedder=embedder, recall_deadline=0.3)
    await memory.submit("My dog is called Bruno.", "ann", "old")
    await idle(memory)
    embedder.hold_query()
    reply = await memory.chat("What is my dog called?", "ann", "new")
    await finish(reply)
    assert reply.state == "done"
    assert reply.stored is not None
    kept = await memory.receipt("ann", reply.stored.id)
    assert kept is not None
    assert "embed" in kept[0].missed


async def test_the_prompt_holds_what_is_remembered_as_data_and_never_the_turn_itself(opened: OpenMemory) -> None:
    llm = ScriptedLLM()
    memory = await opened(llm=llm)
    await memory.submit("My dog is called Bruno.", "ann", "old")
    reply = await memory.chat("What is my dog called?", "ann", "new")
    await finish(reply)
    prompt: Prompt = llm.streamed[-1]
    assert "Bruno" in prompt.messages[0].content
    assert all(hit.id != reply.turn.id for hit in prompt.recalled)
    assert prompt.messages[-1] == Message("user", "What is my dog called?")


async def test_turns_that_stand_in_the_prompts_history_are_not_recalled_too(opened: OpenMemory) -> None:
    llm = ScriptedLLM()
    memory = await opened(llm=llm)
    first = await memory.chat("My dog is called Bruno.", "ann")
    await finish(first)
    await finish(await memory.chat("What is my dog called?", "ann"))
    prompt = llm.streamed[-1]
    assert Message("user", "My dog is called Bruno.") in prompt.messages
    assert first.turn.id not in {hit.id for hit in prompt.recalled}


@pytest.mark.parametrize("quotes", [False, True])
async def test_the_same_question_asked_three_times_brings_up_the_answer_each_time(
    opened: OpenMemory, quotes: bool
) -> None:
    memory = await opened(llm=QuotingLLM() if quotes else ScriptedLLM(replies=["Bruno, you said."] * 3))
    told = await memory.submit("My dog is called Bruno.", "ann", "old")
    for chat_id in ("one", "two", "three"):
        reply = await memory.chat("What is my dog called?", "ann", chat_id)
        text = await finish(reply)
        await idle(memory)
        hits = (await reply.recalled()).hits
        assert hits, "the answer must come up"
        assert {hits[0].id, *hits[0].sources} & set(told.turn_ids), hits[0].text
        assert "Bruno" in text


async def test_reset_while_a_reply_is_streamed_brings_nothing_back(opened: OpenMemory) -> None:
    llm = ScriptedLLM(replies=["one two three"])
    stream, decide = llm.hold_stream(after=1), llm.hold_complete()
    memory = await opened(llm=llm)
    reply = await memory.chat("I moved to Oslo.", "ann")
    with anyio.fail_after(20):
        await stream.reached()
        await decide.reached()
    await memory.reset("ann")
    stream.release()
    decide.release()
    await finish(reply)
    await idle(memory)
    assert await memory.chats("ann") == []
    assert await memory.get_all("ann") == []
    assert await memory.jobs("ann") == []
    assert await memory.search("Oslo", "ann") == []


async def test_two_users_see_only_their_own(opened: OpenMemory) -> None:
    llm = ScriptedLLM()
    memory = await opened(llm=llm)
    await memory.submit("My dog is called Bruno.", "ann")
    await memory.submit("My dog is called Rex.", 'ann" or 1=1 --')
    assert [hit.text for hit in await memory.search("dog", "ann") if hit.kind == "turn"] == ["My dog is called Bruno."]
    await finish(await memory.chat("What is my dog called?", 'ann" or 1=1 --', "new"))
    assert "Rex" in llm.streamed[-1].messages[0].content
    assert "Bruno" not in llm.streamed[-1].messages[0].content


@pytest.mark.parametrize("user_id", ["", " ", "a\0b", "x" * 10_000, "\ud800"])
async def test_an_id_that_cannot_be_kept_is_refused_with_the_fix(opened: OpenMemory, user_id: str) -> None:
    memory = await opened()
    with pytest.raises(InvalidInput, match=r"user_id .*(give|remove)"):
        await memory.chat("hello", user_id)


async def test_somebodys_own_llm_gets_the_context_and_hands_in_its_reply(opened: OpenMemory) -> None:
    memory = await opened()
    await memory.submit("My dog is called Bruno.", "ann", "old")
    turn = await memory.turn("What is my dog called?", "ann", "new")
    assert "Bruno" in turn.context
    stored = await turn.reply("Bruno.")
    assert [t.text for t in await memory.turns("ann", "new")] == ["What is my dog called?", "Bruno."]
    kept = await memory.receipt("ann", stored.id)
    assert kept is not None
    assert [hit.ref for hit in kept[1]] == [hit.ref for hit in turn.hits]


async def test_a_recalled_memory_is_never_extracted_again_as_if_the_user_had_said_it(opened: OpenMemory) -> None:
    seen: list[str] = []

    def answer(messages: Sequence[Message], schema: Any) -> str:
        if "entries" in schema["properties"]:  # the write decider's question
            seen.append("\n".join(message.content for message in messages))
        return json.dumps({"entries": [], "verdicts": []})

    memory = await opened(llm=ScriptedLLM(answers=answer, replies=["As I recall."]))
    await memory.submit("My dog is called Bruno.", "ann", "old")
    await idle(memory)
    seen.clear()
    await finish(await memory.chat("What is my dog called? I have a cat called Tom, too.", "ann", "new"))
    await idle(memory)
    assert seen
    assert all("Bruno" not in text for text in seen)


async def test_an_answer_without_end_is_cut_kept_and_can_be_asked_again(opened: OpenMemory) -> None:
    llm = ScriptedLLM(replies=lambda _: "blah " * 30_000)
    memory = await opened(llm=llm)
    reply = await memory.chat("Tell me everything.", "ann")
    with anyio.fail_after(20):
        stored = await reply.done()
    assert stored is not None
    assert 99_000 < len(stored.text) <= 100_000
    assert stored.cut == "the LLM wrote more than 100,000 characters"
    llm.replies = lambda _: "Enough."
    again = await (await memory.ask_again("ann", reply.turn.id)).done()
    assert again is not None
    assert (again.text, again.cut) == ("Enough.", None)


SLOW = [
    ({"first_token_deadline": 0.1}, 0, "the LLM began no reply within 0.1 s", "AFTERWORD_FIRST_TOKEN_DEADLINE"),
    ({"reply_gap_deadline": 0.1}, 1, "the LLM fell silent for 0.1 s", "AFTERWORD_REPLY_GAP_DEADLINE"),
    ({"reply_deadline": 0.1}, 1, "the reply was not at its end after 0.1 s", "AFTERWORD_REPLY_DEADLINE"),
]


@pytest.mark.parametrize(("deadline", "pieces", "cause", "setting"), SLOW)
async def test_each_deadline_of_a_reply_names_itself(
    opened: OpenMemory, deadline: dict[str, float], pieces: int, cause: str, setting: str
) -> None:
    llm = ScriptedLLM(replies=lambda _: "one two three")
    llm.hold_stream(after=pieces)
    reply = await (await opened(llm=llm, **deadline)).chat("Count.", "ann")
    with anyio.fail_after(10):
        stored = await reply.done()
    assert stored is not None
    assert stored.cut is not None
    assert stored.cut.startswith(cause)
    assert stored.metadata["fix"].endswith(setting)
