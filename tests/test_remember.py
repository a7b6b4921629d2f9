"""The write decider: a window of new turns becomes dated records, or nothing."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from afterword.errors import BadAnswer, LLMUnavailable
from afterword.lanes import remember_job
from afterword.ports import Decision, Policy
from afterword.records import NewTurn
from afterword.remember import STEP, Span, decide_span, remember_jobs, says_the_same
from afterword.testing import HashingEmbedder, ScriptedLLM
from tests.fake_reads import NOW, SCOPE, FakeReads, apply, decided, desk, inserts, job

JOB = job(remember_job(SCOPE, "c"))


def entries(*items: tuple[list[int], str, str]) -> str:
    return json.dumps({"entries": [{"turns": t, "kind": k, "record": r} for t, k, r in items]})


async def window(reads: FakeReads, policy: Policy | None = None) -> dict[str, object]:
    assert STEP.window is not None
    return dict(await STEP.window(JOB, desk(reads, policy=policy)))


# ── which jobs, which window ───────────────────────────────────────────────────────────────────────────────────────


def test_each_chat_with_a_users_turn_gets_one_job() -> None:
    turns = [NewTurn("a", "user", "x"), NewTurn("a", "user", "y"), NewTurn("b", "assistant", "z")]
    (only,) = remember_jobs(SCOPE, turns, debounce=True)
    assert (only.payload["chat_id"], only.delay, only.max_wait) == ("a", 2.0, 20.0)
    assert [new.delay for new in remember_jobs(SCOPE, turns, debounce=False)] == [0.0]


async def test_a_window_ends_at_its_number_of_turns() -> None:
    reads = FakeReads(cursors={"c": 2})
    for _ in range(40):
        reads.say("hello there")
    assert await window(reads) == {"chat_id": "c", "first": 2, "last": 25}


async def test_a_window_ends_before_its_tokens_run_out_but_holds_one_turn() -> None:
    reads = FakeReads()
    for _ in range(3):
        reads.say("word " * 1200)
    assert (await window(reads))["last"] == 0
    assert (await window(reads, Policy(window_tokens=100)))["last"] == 0


async def test_nothing_new_is_an_empty_plan() -> None:
    plan = await STEP.decide(JOB, desk(FakeReads(cursors={"c": 5})))
    assert plan.changes == ()


async def test_a_decision_ends_where_its_window_does() -> None:
    reads = FakeReads()
    for _ in range(30):
        reads.say("I live in Oslo.")
    plan = await STEP.decide(job(remember_job(SCOPE, "c"), window=await window(reads)), desk(reads))
    assert decided(plan).last == 23  # the ledger puts the job for the others
    assert plan.jobs == ()


# ── by rules ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_without_an_llm_rules_write_and_mark_it() -> None:
    reads = FakeReads()
    turn = reads.say("I moved to Oslo. What is it like?")
    reads.say("I moved there too.", role="assistant")
    plan = await STEP.decide(JOB, desk(reads, embedder=HashingEmbedder()))
    (insert,) = inserts(plan)
    assert insert.text == "The user said on 3 May 2026: I moved to Oslo."
    assert (insert.author, insert.sources, insert.chat_id) == ("rules", (turn.id,), "c")
    assert (insert.said_at, insert.kind) == (turn.said_at, "episodic")
    assert (decided(plan).by, decided(plan).first, decided(plan).last) == ("rules", 0, 1)
    assert [new.kind for new in plan.jobs] == ["embed"]


async def test_a_quoting_llm_decides_nothing() -> None:
    llm = ScriptedLLM()
    llm.quotes = True
    reads = FakeReads()
    reads.say("I live in Oslo.")
    assert decided(await STEP.decide(JOB, desk(reads, llm=llm))).by == "rules"
    assert llm.completed == []


async def test_what_is_never_to_be_written_is_left_out() -> None:
    reads = FakeReads()
    reads.say("My salary is 3000 a month. My dog is called Rex.")
    plan = await STEP.decide(JOB, desk(reads, policy=Policy(never="salary")))
    assert [insert.text for insert in inserts(plan)] == ["The user said on 3 May 2026: My dog is called Rex."]


async def test_a_thing_said_twice_is_written_once() -> None:
    reads = FakeReads()
    reads.say("I live in Oslo.")
    apply(reads, await STEP.decide(JOB, desk(reads)))
    reads.say("I live in Oslo.", said_at=NOW + timedelta(days=9))
    plan = await STEP.decide(JOB, desk(reads))
    assert inserts(plan) == []
    assert plan.decision["known_already"] == 1


def test_one_other_name_or_number_is_another_thing() -> None:
    assert says_the_same("The user lives in Oslo with two cats.", "The user lives in Oslo with two cats.")
    assert not says_the_same("The user's flight to Oslo leaves at 9.", "The user's flight to Oslo leaves at 10.")
    long = "The user took the old red bike from the cellar and rode along the river to {} in the rain"
    assert not says_the_same(long.format("Bonn"), long.format("Mainz"))


# ── by the LLM ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_llm_writes_records_with_their_source_and_the_turns_date() -> None:
    reads = FakeReads()
    said = reads.say("I adopted a parrot called Coco yesterday", said_at=NOW - timedelta(days=30), utc_offset=120)
    llm = ScriptedLLM(answers=[entries(([1], "plan_or_event", "The user adopted a parrot called Coco yesterday."))])
    plan = await STEP.decide(JOB, desk(reads, llm=llm))
    (insert,) = inserts(plan)
    assert insert.text == "The user adopted a parrot called Coco on 2 April 2026."
    assert (insert.said_at, insert.utc_offset, insert.sources) == (said.said_at, 120, (said.id,))
    assert (insert.author, insert.metadata) == ("llm", {"kind": "plan_or_event"})
    assert decided(plan).by == "llm"
    assert (plan.decision["model"], plan.decision["calls"], plan.decision["written"]) == ("scripted", 1, 1)


@pytest.mark.parametrize("kind", ["general_question", "task_request", "small_talk"])
async def test_other_kinds_are_not_written_whatever_the_record_says(kind: str) -> None:
    reads = FakeReads()
    reads.say("Tell me about parrots like Coco.")
    llm = ScriptedLLM(answers=[entries(([1], kind, "The user has a parrot called Coco."))])
    assert inserts(await STEP.decide(JOB, desk(reads, llm=llm))) == []


async def test_the_assistants_turn_is_no_evidence() -> None:
    reads = FakeReads()
    reads.say("I like birds, which one would suit me?")
    reads.say("You should adopt a parrot.", role="assistant")
    llm = ScriptedLLM(answers=[entries(([2], "personal_fact", "The user should adopt a parrot."))])
    plan = await STEP.decide(JOB, desk(reads, llm=llm))
    assert inserts(plan) == []
    assert plan.decision["entries"][0]["note"] == "rests on no turn of a person"


async def test_both_people_of_a_transcript_are_remembered_by_name() -> None:
    reads = FakeReads()
    reads.say("I started painting lakes.", speaker="Mira")
    answered = reads.say("My brother Tom broke his arm.", role="assistant", speaker="Jo")
    llm = ScriptedLLM(answers=[entries(([2], "personal_fact", "Jo's brother Tom broke his arm."))])
    insert, left_out = inserts(await STEP.decide(JOB, desk(reads, llm=llm)))
    assert left_out.text == "Mira said on 3 May 2026: I started painting lakes."
    assert insert.sources == (answered.id,)


@pytest.mark.parametrize(
    "record",
    [
        "The user flew to Lima with Pedro.",  # nothing of it was said
        "用户收养了一只鹦鹉叫 Coco。",  # another language
        "The user adopted a parrot called Coco in 2019.",  # nobody said 2019
        "",
    ],
)
async def test_a_record_that_is_not_what_was_said_gives_way_to_the_persons_own_words(record: str) -> None:
    reads = FakeReads()
    reads.say("I adopted a parrot called Coco")
    llm = ScriptedLLM(answers=[entries(([1], "personal_fact", record))])
    (insert,) = inserts(await STEP.decide(JOB, desk(reads, llm=llm)))
    assert (insert.text, insert.author) == (
        "The user said on 3 May 2026: I adopted a parrot called Coco",
        "rules",
    )


async def test_a_second_record_of_a_turn_that_adds_nothing_is_left_out() -> None:
    reads = FakeReads()
    reads.say("I adopted a grey parrot called Coco")
    full, again = "The user adopted a grey parrot called Coco.", "The user has a parrot called Coco."
    llm = ScriptedLLM(answers=[entries(([1], "personal_fact", full), ([1], "personal_fact", again))])
    assert [insert.text for insert in inserts(await STEP.decide(JOB, desk(reads, llm=llm)))] == [full]


async def test_what_a_record_passes_over_is_kept_in_the_persons_own_words() -> None:
    reads = FakeReads()
    reads.say("I adopted a parrot called Coco. We plan to marry in Lisbon. Nice, isn't it?")
    record = "The user adopted a parrot called Coco."
    llm = ScriptedLLM(answers=[entries(([1], "personal_fact", record))])
    texts = [insert.text for insert in inserts(await STEP.decide(JOB, desk(reads, llm=llm)))]
    assert texts == [record, "The user said on 3 May 2026: We plan to marry in Lisbon."]


async def test_a_record_under_a_slip_of_a_kind_is_kept_when_the_turn_tells_something() -> None:
    reads = FakeReads()
    reads.say("I signed up for a pottery class, guess what", speaker="Marc")
    llm = ScriptedLLM(answers=[entries(([1], "task_request", "Marc signed up for a pottery class."))])
    (insert,) = inserts(await STEP.decide(JOB, desk(reads, llm=llm)))
    assert (insert.text, insert.metadata) == ("Marc signed up for a pottery class.", {"kind": "personal_fact"})


async def test_small_talk_and_plain_questions_cost_no_call() -> None:
    llm = ScriptedLLM()
    reads = FakeReads()
    reads.say("Hello!")
    reads.say("Hi, how can I help?", role="assistant")
    reads.say("What is the capital of Peru?")
    plan = await STEP.decide(JOB, desk(reads, llm=llm))
    assert (llm.completed, inserts(plan), decided(plan).last) == ([], [], 2)


async def test_entries_are_asked_for_only_where_something_may_be_taught() -> None:
    reads = FakeReads()
    for said in ("Hi there!", "I adopted a parrot called Coco", "thanks", "How high is Everest?"):
        reads.say(said)
        reads.say("Fine.", role="assistant")
    llm = ScriptedLLM(answers=[entries(([3], "personal_fact", "The user adopted a parrot called Coco."))])
    assert len(inserts(await STEP.decide(JOB, desk(reads, llm=llm)))) == 1
    (call,) = llm.completed
    assert call.messages[-1].content.endswith("\nENTRIES\n#3 the user: I adopted a parrot called")
    assert list(call.schema["properties"]["entries"]["properties"]) == ["#3 the user: I adopted a parrot called"]


async def test_the_turns_before_the_window_are_context_only() -> None:
    reads = FakeReads(cursors={"c": 2})
    reads.say("I have a parrot called Coco.")
    reads.say("Lovely!", role="assistant")
    reads.say("It bit my neighbour Ida today.")
    record = "The user's parrot Coco bit the neighbour Ida on 3 May 2026."
    llm = ScriptedLLM(answers=[entries(([1], "plan_or_event", record))])
    (insert,) = inserts(await STEP.decide(JOB, desk(reads, llm=llm)))
    assert (insert.text, insert.sources) == (record, ("c-2",))
    asked = llm.completed[0].messages[-1].content
    assert asked.index("CONTEXT") < asked.index("Coco") < asked.index("NEW") < asked.index("Ida")


async def test_a_bad_answer_is_asked_again_and_then_left_to_the_worker() -> None:
    reads = FakeReads()
    reads.say("I live in Oslo.")
    with pytest.raises(BadAnswer):
        await STEP.decide(JOB, desk(reads, llm=ScriptedLLM(answers=["no", "no"])))
    with pytest.raises(LLMUnavailable):
        await STEP.decide(JOB, desk(reads, llm=ScriptedLLM(answers=[LLMUnavailable("away")])))


async def test_the_rules_own_records_do_not_stand_in_the_way_of_the_llms() -> None:
    reads = FakeReads()
    reads.say("I live in Oslo.")
    apply(reads, await STEP.decide(JOB, desk(reads)))
    llm = ScriptedLLM(answers=[entries(([1], "personal_fact", "The user lives in Oslo."))])
    old = Decision(7, 1, "remember", "c", 0, 0, "rules", {}, NOW)
    changes, _ = await decide_span(SCOPE, Span("c", 0, 0, old.id), desk(reads, llm=llm))
    assert [type(change).__name__ for change in changes] == ["Insert", "Decided"]


async def test_no_call_gets_more_than_a_window_of_text() -> None:
    reads = FakeReads()
    reads.say("I live in Oslo. " * 5000)
    llm = ScriptedLLM(answers=[entries(([1], "personal_fact", "The user lives in Oslo."))])
    await STEP.decide(JOB, desk(reads, llm=llm))
    assert len(llm.completed[0].messages[-1].content) < 3 * 3100


@pytest.mark.parametrize("text", ["I am allergic to peanuts.", "我对海鲜过敏。"])
async def test_a_plain_statement_taken_for_a_question_is_kept_in_the_persons_own_words(text: str) -> None:
    reads = FakeReads()
    told = reads.say(text)
    llm = ScriptedLLM(answers=[entries(([1], "general_question", ""))])
    (insert,) = inserts(await STEP.decide(JOB, desk(reads, llm=llm)))
    assert insert.text.endswith(text)
    assert (insert.author, insert.sources) == ("rules", (told.id,))


async def test_a_statement_that_an_llm_found_to_be_a_task_is_left() -> None:
    reads = FakeReads()
    reads.say("I need a poem about my cat, write it now.")
    llm = ScriptedLLM(answers=[entries(([1], "task_request", ""))])
    assert inserts(await STEP.decide(JOB, desk(reads, llm=llm))) == []


async def test_a_turn_that_takes_something_back_puts_the_job_that_revises_it() -> None:
    reads = FakeReads()
    reads.say("My brother Jonas lives in Oslo.")
    reads.say("Jonas actually moved to Bergen in spring.")
    llm = ScriptedLLM(answers=lambda *_: '{"entries": []}')
    plan = await STEP.decide(job(remember_job(SCOPE, "c")), desk(reads, llm=llm))
    assert [new.payload for new in plan.jobs if new.kind == "reconsolidate"] == [{"chat_id": "c", "turn_ids": ["c-1"]}]
    by_rules = await STEP.decide(job(remember_job(SCOPE, "c")), desk(reads))
    assert not [new for new in by_rules.jobs if new.kind == "reconsolidate"]
