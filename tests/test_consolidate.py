"""Episodes become facts chunk by chunk; what rules decided is decided again by an LLM."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from afterword import backfill
from afterword.consolidate import STEP, first_job, nearest
from afterword.lanes import backfill_job
from afterword.plan import Plan, Progress
from afterword.ports import Decision, Policy
from afterword.records import Job
from afterword.testing import ScriptedLLM
from tests.fake_reads import NOW, SCOPE, FakeReads, apply, decided, desk, inserts, job, retired, revisions

RUN = {"run_id": "r1"}


def start() -> Job:
    new = first_job(SCOPE)
    return job(type(new)(new.kind, new.lane, new.stream, new.key, {**new.payload, **RUN}))


def changes(*items: tuple[int, str, str]) -> str:
    return json.dumps({"changes": {f"#{topic} …": {"action": action, "fact": text} for topic, action, text in items}})


def progress(plan: Plan) -> Progress:
    (found,) = (change for change in plan.changes if isinstance(change, Progress))
    return found


async def test_episodes_become_a_fact_that_names_them() -> None:
    reads = FakeReads()
    first = reads.remember("Ann ordered oat milk on 1 May 2026.", said_at=NOW - timedelta(days=2))
    second = reads.remember("Ann takes oat milk in her coffee at work.")
    llm = ScriptedLLM(answers=[changes((1, "add", "Ann takes oat milk in her coffee."))])
    plan = await STEP.decide(start(), desk(reads, llm=llm))
    (fact,) = inserts(plan)
    assert (fact.kind, fact.sources, fact.author) == ("semantic", (first.id, second.id), "llm")
    assert (fact.valid_from, fact.said_at) == (first.said_at, second.said_at)
    assert progress(plan) == Progress("r1", 2, 2, "", finished=True, cursor=2)


async def test_a_fact_that_no_longer_holds_is_retired_with_its_end_and_replaced() -> None:
    reads = FakeReads()
    old = reads.remember("Ann works as a nurse in Ghent.", kind="semantic", said_at=NOW - timedelta(days=90))
    episode = reads.remember("Ann started work as a midwife in Ghent.")
    llm = ScriptedLLM(answers=[changes((1, "supersede", "Ann works as a midwife in Ghent."))])
    plan = await STEP.decide(start(), desk(reads, llm=llm))
    (gone,) = retired(plan)
    (fact,) = inserts(plan)
    assert (gone.ref, gone.valid_to) == (old.ref, episode.said_at)
    assert (fact.valid_from, fact.metadata) == (episode.said_at, {"supersedes": old.id})


async def test_a_fact_that_gets_more_exact_is_revised() -> None:
    reads = FakeReads()
    old = reads.remember("Ann has a dog called Rex.", kind="semantic")
    episode = reads.remember("Ann's dog Rex is a collie.")
    llm = ScriptedLLM(answers=[changes((1, "revise", "Ann has a dog called Rex, a collie."))])
    (revision,) = revisions(await STEP.decide(start(), desk(reads, llm=llm)))
    assert (revision.ref, revision.text, revision.sources) == (
        old.ref,
        "Ann has a dog called Rex, a collie.",
        (episode.id,),
    )


@pytest.mark.parametrize(
    ("action", "text", "why"),
    [
        ("add", "Ann owns helicopters in the desert.", "do not say so"),
        ("add", "Ann's dog Bella is a collie.", "bella"),
        ("revise", "Ann has a dog, a collie.", "lose"),  # the name is lost
        ("add", "Ann has a dog called Rex.", "known already"),
        ("add", "I have a collie.", "it says I"),
    ],
)
async def test_what_the_episodes_do_not_say_is_not_made_a_fact(action: str, text: str, why: str) -> None:
    reads = FakeReads()
    reads.remember("Ann has a dog called Rex.", kind="semantic")
    reads.remember("Ann's dog is a collie.")
    plan = await STEP.decide(start(), desk(reads, llm=ScriptedLLM(answers=[changes((1, action, text))])))
    assert (inserts(plan), revisions(plan), retired(plan)) == ([], [], [])
    assert why in plan.decision["changes"][0]["note"]


async def test_a_fact_that_a_person_wrote_is_not_replaced() -> None:
    reads = FakeReads()
    reads.remember("Ann lives by the sea in Oostende.", kind="semantic", author="person")
    reads.remember("Ann lives by the sea in Knokke.")
    llm = ScriptedLLM(answers=[changes((1, "supersede", "Ann lives by the sea in Knokke."))])
    plan = await STEP.decide(start(), desk(reads, llm=llm))
    assert (inserts(plan), retired(plan)) == ([], [])
    assert "a person wrote it" in plan.decision["changes"][0]["note"]


async def test_an_llm_is_asked_about_topics_that_may_last_and_about_nothing_else() -> None:
    reads = FakeReads()
    reads.remember("The user has a brother called Nuno.", kind="semantic")
    told = [
        "The user takes oat milk in her coffee.",
        "The user has a headache after the party on 6 March 2026.",
        "The user's brother Nuno is a pilot in Porto.",
        "The user said on 8 March 2026: I drink coffee with oat milk only.",
        "The user is thrilled about the match.",
    ]
    for text in told:
        reads.remember(text, metadata={"kind": "personal_fact"})
    llm = ScriptedLLM(answers=[changes()])
    await STEP.decide(start(), desk(reads, llm=llm))
    (call,) = llm.completed
    entries = call.schema["properties"]["changes"]["properties"]
    assert list(entries) == ["#1 The user takes oat milk", "#2 The user's brother Nuno is"]
    actions = [entry["properties"]["action"]["enum"] for entry in entries.values()]
    assert actions == [["add", "nothing"], ["add", "revise", "supersede", "nothing"]]
    assert "#2 known: The user has a brother called Nuno.\n- Sunday 3 May 2026: " in call.messages[-1].content


async def test_what_happened_once_costs_no_call() -> None:
    reads, llm = FakeReads(), ScriptedLLM()
    reads.remember("The user bought a kettle on 2 May 2026.", metadata={"kind": "plan_or_event"})
    reads.remember("用户2026年5月2日买了一个水壶。", metadata={"kind": "plan_or_event"})
    plan = await STEP.decide(start(), desk(reads, llm=llm))
    assert (llm.completed, inserts(plan), progress(plan).finished) == ([], [], True)


async def test_one_persons_episodes_do_not_become_the_others_fact() -> None:
    reads = FakeReads()
    for who in ("Mira", "Jo"):
        reads.remember(f"{who} plays the violin in the town band.", metadata={"kind": "personal_fact"})
        reads.remember(f"{who} practises the violin with the band.", metadata={"kind": "personal_fact"})
    facts = changes(
        (1, "add", "Jo plays the violin in the town band."), (2, "add", "Jo plays the violin with the band.")
    )
    plan = await STEP.decide(start(), desk(reads, llm=ScriptedLLM(answers=[facts])))
    (fact,) = inserts(plan)
    assert (fact.text, fact.sources) == ("Jo plays the violin with the band.", ("m2", "m3"))
    assert "somebody else" in plan.decision["changes"][0]["note"]


async def test_a_run_goes_on_chunk_by_chunk_from_where_the_last_one_ended() -> None:
    reads = FakeReads(reached=2)
    for n in range(7):
        reads.remember(f"Thing {n} happened.")
    tools = desk(reads, llm=ScriptedLLM(answers=lambda *_: changes()), policy=Policy(consolidate_chunk=2))
    plans, work = [], start()
    while True:
        plan = await STEP.decide(work, tools)
        plans.append(plan)
        follow = [new for new in plan.jobs if new.kind == "consolidate"]
        if not follow:
            break
        work = job(follow[0])
    told = [progress(plan) for plan in plans]
    assert [(one.done, one.total, one.cursor, one.finished) for one in told] == [
        (2, 5, 4, False),
        (4, 5, 6, False),
        (5, 5, 7, True),
    ]


async def test_an_episode_that_comes_during_a_run_waits_for_the_next() -> None:
    reads = FakeReads()
    reads.remember("One thing happened.")
    reads.remember("Another thing happened.")
    tools = desk(reads, llm=ScriptedLLM(answers=lambda *_: changes()), policy=Policy(consolidate_chunk=1))
    plan = await STEP.decide(start(), tools)
    reads.remember("Something new happened.")
    plan = await STEP.decide(job(plan.jobs[0]), tools)
    assert progress(plan).finished
    assert progress(plan).cursor == 2


async def test_a_run_without_new_episodes_ends_at_once() -> None:
    llm = ScriptedLLM()
    plan = await STEP.decide(start(), desk(FakeReads(), llm=llm))
    assert progress(plan) == Progress("r1", 0, 0, "no new episodes", finished=True, cursor=0)
    assert llm.completed == []


async def test_only_facts_that_share_words_are_shown() -> None:
    reads = FakeReads()
    near = reads.remember("Ann has a dog.", kind="semantic")
    far = reads.remember("Ted paints fences.", kind="semantic")
    episode = reads.remember("The dog barked at Ann.")
    assert nearest([far, near], [episode]) == [near]


async def test_without_an_llm_a_run_merges_what_was_said_twice_or_says_why_not() -> None:
    reads = FakeReads()
    reads.remember("Ann said on 1 May 2026: I live in the old mill by the river.", metadata={"kind": "personal_fact"})
    plan = await STEP.decide(start(), desk(reads))
    assert (inserts(plan), progress(plan).message) == ([], "no LLM is set: nothing to merge")
    reads.remember("Ann said on 2 May 2026: I live in that old mill by the river.", metadata={"kind": "personal_fact"})
    plan = await STEP.decide(start(), desk(reads))
    (fact,) = inserts(plan)
    assert (fact.author, fact.sources) == ("rules", ("m0", "m1"))
    apply(reads, plan)
    assert inserts(await STEP.decide(start(), desk(reads))) == []


# ── backfill ───────────────────────────────────────────────────────────────────────────────────────────────────────


def by_rules(number: int, first: int, last: int) -> Decision:
    return Decision(number, number, "remember", "c", first, last, "rules", {}, NOW)


async def test_what_rules_decided_is_decided_again_at_a_set_rate() -> None:
    reads = FakeReads(rules_decided=[by_rules(9, 1, 1), by_rules(8, 0, 0)])
    reads.say("I live in Oslo.")
    reads.say("I have a parrot called Coco.")
    record = "The user has a parrot called Coco."
    llm = ScriptedLLM(answers=[json.dumps({"entries": [{"turns": [1], "kind": "personal_fact", "record": record}]})])
    work = job(backfill_job(SCOPE, RUN))
    plan = await backfill.STEP.decide(work, desk(reads, llm=llm, policy=Policy(backfill_per_minute=12)))
    assert [insert.text for insert in inserts(plan)] == [record]
    assert (decided(plan).by, decided(plan).redo_of, decided(plan).first) == ("llm", 9, 1)
    assert progress(plan) == Progress("r1", 1, 2)
    (follow,) = plan.jobs
    assert (follow.kind, follow.delay, follow.payload["done"]) == ("backfill", 5.0, 1)


async def test_a_backfill_ends_when_nothing_is_left_or_no_llm_is_set() -> None:
    work = job(backfill_job(SCOPE, RUN))
    assert progress(await backfill.STEP.decide(work, desk(FakeReads(), llm=ScriptedLLM()))).finished
    plan = await backfill.STEP.decide(work, desk(FakeReads(rules_decided=[by_rules(9, 0, 0)])))
    assert progress(plan).finished
    assert plan.jobs == ()
