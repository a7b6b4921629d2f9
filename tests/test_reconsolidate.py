"""A recalled episode that a reply used is strengthened, and revised where the turn says more about it."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest

from afterword.errors import LLMUnavailable
from afterword.lanes import correction_job, reconsolidate_job
from afterword.plan import Plan, Reconsolidated, Strengthen
from afterword.reconsolidate import STEP, strengthened, used
from afterword.records import MemoryRecord, NewJob
from afterword.rules import may_change
from afterword.testing import HashingEmbedder, ScriptedLLM
from tests.fake_reads import NOW, SCOPE, FakeReads, apply, desk, job, revisions

EPISODE = "The user's sister Lena lives in Bonn and plays the cello."
MOVED = "Lena moved from Bonn to Mainz, by the way"
REVISED = "The user's sister Lena lived in Bonn, moved to Mainz by 3 May 2026, and plays the cello."


def verdicts(*items: tuple[int, str, str]) -> str:
    return json.dumps(
        {"verdicts": [{"memory": n, "verdict": verdict, "text": text, "why": "because"} for n, verdict, text in items]}
    )


async def turn(
    reads: FakeReads, said: str, reply: str, memories: list[MemoryRecord], llm: ScriptedLLM | None = None
) -> Plan:
    """A user's turn, its reply that had these memories, and the plan of the job behind it."""
    asked = reads.say(said)
    answer = reads.say(reply, role="assistant", reply_to=asked.id)
    reads.recalled(answer, memories)
    work = job(reconsolidate_job(SCOPE, "c", answer.id))
    return await STEP.decide(work, desk(reads, llm=llm, embedder=HashingEmbedder(), later=timedelta(minutes=1)))


def strong(plan: Plan) -> list[str]:
    return [change.record for change in plan.changes if isinstance(change, Strengthen)]


def worked_through(plan: Plan) -> bool:
    return any(isinstance(change, Reconsolidated) for change in plan.changes)


# ── what was used, what may change ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("question", "reply", "was_used"),
    [
        ("Where does my sister live?", "Lena lives in Bonn.", True),
        ("What is the weather like?", "It is sunny today.", False),
        (MOVED, "How nice for her!", True),
        ("I live alone", "Good to know.", False),
    ],
)
def test_use_is_judged_by_the_words_that_are_shared(question: str, reply: str, was_used: bool) -> None:
    assert used(EPISODE, question, reply) is was_used


@pytest.mark.parametrize(
    ("said", "may"),
    [
        (MOVED, True),
        ("Lena no longer plays", True),
        ("Where does Lena live?", False),
        ("thanks", False),
        ("Lena lives in Bonn.", False),  # nothing new
        ("I bought a kettle", False),
    ],
)
def test_only_a_turn_that_tells_something_new_about_it_may_change_a_memory(said: str, may: bool) -> None:
    assert may_change(said, EPISODE) is may


def test_chinese_turns_are_judged_alike() -> None:
    episode = "用户的妹妹小雯住在苏州，在学大提琴。"
    assert used(episode, "小雯住在哪里？", "小雯住在苏州。")
    assert may_change("小雯其实已经搬到无锡了", episode)
    assert not may_change("小雯住在哪里？", episode)
    plans = "用户的女朋友林悦在广州读研，专业是建筑，打算明年和用户结婚。"
    assert used(plans, "林悦毕业了，我们改到后年结婚", "恭喜林悦毕业！")
    assert may_change("林悦毕业了，我们改到后年结婚", plans)


def test_strength_rises_with_use_and_stays_below_its_top() -> None:
    memory = FakeReads().remember(EPISODE)
    assert strengthened(memory, NOW, 60.0) == pytest.approx(1.8)
    late = strengthened(replace(memory, strength=4.0, used_at=NOW), NOW + timedelta(days=60), 60.0)
    assert late == pytest.approx(2.6)
    assert strengthened(replace(memory, strength=5.0, used_at=NOW), NOW, 60.0) == 5.0


# ── the step ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_turn_that_used_no_memory_costs_no_call_and_changes_nothing() -> None:
    reads, llm = FakeReads(), ScriptedLLM()
    plan = await turn(reads, "I bought a kettle", "A fine kettle.", [reads.remember(EPISODE)], llm)
    assert plan.changes == (Reconsolidated("c-1"),)
    assert llm.completed == []


async def test_a_question_strengthens_what_its_answer_used_and_costs_no_call() -> None:
    reads, llm = FakeReads(), ScriptedLLM()
    memory = reads.remember(EPISODE)
    plan = await turn(reads, "Where does my sister live?", "Lena lives in Bonn.", [memory], llm)
    assert (strong(plan), revisions(plan), worked_through(plan)) == ([memory.id], [], True)
    assert llm.completed == []


async def test_a_correction_becomes_a_new_version_that_names_the_turn() -> None:
    reads = FakeReads()
    memory = reads.remember(EPISODE)
    llm = ScriptedLLM(answers=[verdicts((1, "revise", REVISED))])
    plan = await turn(reads, MOVED, "Mainz is lovely.", [memory], llm)
    (revision,) = revisions(plan)
    assert (revision.ref, revision.text, revision.author) == (memory.ref, REVISED, "llm")
    assert (revision.sources, revision.why) == (("c-0",), "because")
    assert [new.kind for new in plan.jobs] == ["embed"]
    assert len(llm.completed) == 1


async def test_where_a_revision_would_lose_a_detail_what_was_said_stands_beside_the_old_text() -> None:
    reads = FakeReads()
    text = "The user's sister moved to Mainz."  # Lena's name is gone, and nobody said so
    llm = ScriptedLLM(answers=[verdicts((1, "revise", text))])
    plan = await turn(
        reads, "My sister no longer lives in Bonn, she moved to Mainz", "Oh!", [reads.remember(EPISODE)], llm
    )
    (revision,) = revisions(plan)
    said = "My sister no longer lives in Bonn, she moved to Mainz"
    assert revision.text == f"{EPISODE} (Corrected by the user on 3 May 2026: {said})"
    assert "lena" in plan.decision["verdicts"][0]["note"]


async def test_where_a_revision_invents_a_detail_what_was_said_stands_beside_the_old_text() -> None:
    reads = FakeReads()
    llm = ScriptedLLM(answers=[verdicts((1, "revise", REVISED.replace("2026", "2027")))])
    plan = await turn(reads, MOVED, "Oh!", [reads.remember(EPISODE)], llm)
    (revision,) = revisions(plan)
    assert (revision.text.startswith(EPISODE), "2027" in revision.text) == (True, False)
    assert "2027" in plan.decision["verdicts"][0]["note"]


async def test_a_revision_that_tells_of_another_memory_is_not_taken() -> None:
    reads = FakeReads()
    memories = [reads.remember(EPISODE), reads.remember("The user plans a boat trip to Denmark in August.")]
    mixed = "The user's sister Lena lives in Mainz and plays the cello; a boat trip in August was planned before."
    llm = ScriptedLLM(answers=[verdicts((1, "revise", mixed), (2, "keep", ""))])
    (revision,) = revisions(await turn(reads, MOVED, "Oh!", memories, llm))
    assert "boat" not in revision.text
    assert revision.text.startswith(EPISODE)


async def test_a_correction_that_the_llm_only_repeats_the_memory_for_is_noted_beside_it() -> None:
    reads = FakeReads()
    llm = ScriptedLLM(answers=[verdicts((1, "revise", EPISODE))])
    (revision,) = revisions(await turn(reads, MOVED, "Oh!", [reads.remember(EPISODE)], llm))
    assert revision.text.startswith(f"{EPISODE} (Corrected by the user on 3 May 2026: ")


async def test_a_revision_gives_what_was_said_as_its_reason() -> None:
    reads = FakeReads()
    answer = json.dumps({"verdicts": {"#1 The user's sister": {"verdict": "revise", "text": REVISED}}})
    (revision,) = revisions(await turn(reads, MOVED, "Oh!", [reads.remember(EPISODE)], ScriptedLLM(answers=[answer])))
    assert (revision.text, revision.why) == (REVISED, MOVED)


async def test_an_llm_judges_the_memories_that_share_most_with_what_was_said() -> None:
    reads = FakeReads()
    memories = [reads.remember(f"The user's sister Lena lives in Bonn, house {n}.") for n in range(5)]
    near = reads.remember("Lena moved to Bonn from Mainz once.")
    llm = ScriptedLLM(answers=[verdicts((1, "keep", ""))])
    await turn(reads, MOVED, "Lena moved from Bonn to Mainz.", [*memories, near], llm)
    shown = llm.completed[0].messages[-1].content
    assert f"#1 Sunday 3 May 2026: {near.text}" in shown
    assert shown.count("\n#") == 3


async def test_a_contradicted_memory_keeps_its_words_with_the_correction_beside_them() -> None:
    reads = FakeReads()
    llm = ScriptedLLM(answers=[verdicts((1, "contradicted", ""))])
    plan = await turn(reads, "Lena never lived in Bonn, I was wrong", "I see.", [reads.remember(EPISODE)], llm)
    (revision,) = revisions(plan)
    assert revision.text == f"{EPISODE} (Corrected by the user on 3 May 2026: Lena never lived in Bonn, I was wrong)"


async def test_several_memories_are_judged_in_one_call() -> None:
    reads = FakeReads()
    memories = [reads.remember(EPISODE), reads.remember("Lena plays the cello in Bonn on Mondays.")]
    llm = ScriptedLLM(answers=[verdicts((1, "revise", REVISED), (2, "keep", ""))])
    plan = await turn(reads, MOVED, "Oh!", memories, llm)
    assert len(llm.completed) == 1
    assert [revision.ref.record for revision in revisions(plan)] == [memories[0].id]


async def test_a_memory_that_a_person_edited_is_not_rewritten() -> None:
    reads, llm = FakeReads(), ScriptedLLM()
    memory = reads.remember(EPISODE, author="person")
    plan = await turn(reads, MOVED, "Oh!", [memory], llm)
    assert (strong(plan), revisions(plan), llm.completed) == ([memory.id], [], [])


async def test_a_semantic_fact_is_strengthened_but_left_to_consolidation() -> None:
    reads, llm = FakeReads(), ScriptedLLM()
    memory = reads.remember(EPISODE, kind="semantic")
    plan = await turn(reads, MOVED, "Oh!", [memory], llm)
    assert (strong(plan), llm.completed) == ([memory.id], [])


async def test_without_an_llm_memories_are_only_strengthened() -> None:
    reads = FakeReads()
    memory = reads.remember(EPISODE)
    plan = await turn(reads, MOVED, "Oh!", [memory])
    assert (strong(plan), revisions(plan)) == ([memory.id], [])


async def test_the_newest_version_is_judged_even_if_the_receipt_names_an_older_one() -> None:
    reads = FakeReads()
    memory = reads.remember(EPISODE)
    first = await turn(reads, MOVED, "Oh!", [memory], ScriptedLLM(answers=[verdicts((1, "revise", REVISED))]))
    apply(reads, first)
    text = REVISED.replace("cello.", "cello and the viola.")
    llm = ScriptedLLM(answers=[verdicts((1, "revise", text))])
    plan = await turn(reads, "Lena plays the viola too, besides the cello", "Oh!", [memory], llm)
    assert [revision.ref.version for revision in revisions(plan)] == [2]


async def test_erased_turns_and_retired_memories_are_passed_over() -> None:
    reads = FakeReads()
    memory = reads.remember(EPISODE)
    reads.held[0] = replace(memory, retired="merged")
    plan = await turn(reads, MOVED, "Lena moved to Mainz", [memory])
    assert plan.changes == (Reconsolidated("c-1"),)
    gone = await STEP.decide(job(reconsolidate_job(SCOPE, "c", "gone")), desk(reads))
    assert gone.changes == (Reconsolidated("gone"),)


async def test_with_no_reply_the_query_is_the_evidence() -> None:
    reads = FakeReads()
    memory = reads.remember(EPISODE)
    payload = {"query": MOVED, "refs": [[memory.id, 1]], "said_at": NOW.isoformat(), "utc_offset": 0}
    work = job(NewJob("reconsolidate", "lane", payload=payload))
    llm = ScriptedLLM(answers=[verdicts((1, "revise", REVISED))])
    plan = await STEP.decide(work, desk(reads, llm=llm))
    (revision,) = revisions(plan)
    assert (revision.text, revision.sources) == (REVISED, ())
    assert not worked_through(plan)


async def test_an_outage_is_left_to_the_worker() -> None:
    reads = FakeReads()
    llm = ScriptedLLM(answers=[LLMUnavailable("away")])
    with pytest.raises(LLMUnavailable):
        await turn(reads, MOVED, "Oh!", [reads.remember(EPISODE)], llm)


# ── what is taken back, recalled or not ────────────────────────────────────────────────────────────────────────────


async def taken_back(reads: FakeReads, said: str, llm: ScriptedLLM, *, speaker: str | None = None) -> Plan:
    """The plan of the job behind a turn that has the form of a correction."""
    told = reads.say(said, speaker=speaker)
    return await STEP.decide(
        job(correction_job(SCOPE, "c", [told.id])), desk(reads, llm=llm, embedder=HashingEmbedder())
    )


async def test_what_is_taken_back_is_revised_though_no_reply_was_given_it() -> None:
    reads = FakeReads()
    memory = reads.remember(EPISODE)
    reads.remember("The user keeps bees in Essen.")
    plan = await taken_back(reads, MOVED, ScriptedLLM(answers=[verdicts((1, "revise", REVISED))]))
    (revision,) = revisions(plan)
    assert (revision.ref, revision.text, revision.sources) == (memory.ref, REVISED, ("c-0",))
    assert [new.kind for new in plan.jobs] == ["embed"]


async def test_a_correction_that_touches_no_memory_costs_no_call() -> None:
    reads, llm = FakeReads(), ScriptedLLM()
    reads.remember("The user keeps bees in Essen.")
    plan = await taken_back(reads, MOVED, llm)
    assert (plan.changes, llm.completed) == ((), [])


async def test_what_the_reply_was_given_is_left_to_the_job_of_that_reply() -> None:
    reads, llm = FakeReads(), ScriptedLLM()
    memory = reads.remember(EPISODE)
    told = reads.say(MOVED)
    reads.recalled(reads.say("Oh!", role="assistant", reply_to=told.id), [memory])
    plan = await STEP.decide(job(correction_job(SCOPE, "c", [told.id])), desk(reads, llm=llm))
    assert (plan.changes, llm.completed) == ((), [])


async def test_nobody_takes_back_what_another_one_said() -> None:
    reads, llm = FakeReads(), ScriptedLLM()
    reads.remember("Mira's sister Lena lives in Bonn.")
    assert (await taken_back(reads, MOVED, llm, speaker="Tom")).changes == ()
    assert llm.completed == []


async def test_a_turn_that_was_erased_before_its_correction_ran_changes_nothing() -> None:
    plan = await STEP.decide(job(correction_job(SCOPE, "c", ["gone"])), desk(FakeReads(), llm=ScriptedLLM()))
    assert plan.changes == ()


async def test_of_several_turns_that_take_something_back_each_has_its_job() -> None:
    reads, llm = FakeReads(), ScriptedLLM(answers=[verdicts((1, "revise", REVISED))])
    reads.remember(EPISODE)
    turns = [reads.say(MOVED).id, reads.say("Lena stopped playing the cello").id]
    plan = await STEP.decide(job(correction_job(SCOPE, "c", turns)), desk(reads, llm=llm))
    assert [revision.text for revision in revisions(plan)] == [REVISED]
    assert [new.payload["turn_ids"] for new in plan.jobs] == [turns[1:]]


async def test_a_revision_that_drops_what_nobody_took_back_is_not_taken() -> None:
    reads = FakeReads()
    memory = reads.remember("Petra's brother Jonas lives in Oslo and works on a ferry.")
    said = "Oh wait, I said Jonas lives in Oslo - he actually moved to Bergen in spring."
    shorter = "Petra's brother Jonas lives in Oslo; he moved to Bergen in spring."
    plan = await taken_back(reads, said, ScriptedLLM(answers=[verdicts((1, "revise", shorter))]))
    (revision,) = revisions(plan)
    assert revision.text == f"{memory.text} (Corrected by the user on 3 May 2026: {said})"


async def test_the_date_of_a_memory_does_not_hide_that_it_is_taken_back() -> None:
    reads, llm = FakeReads(), ScriptedLLM(answers=[verdicts((1, "contradicted", ""))])
    memory = reads.remember("The user bought a red kayak for 300 euros on 21 November 2026.")
    (revision,) = revisions(await taken_back(reads, "I sold the kayak again, it leaked.", llm))
    assert revision.text.startswith(memory.text)
    assert "sold the kayak" in revision.text


@pytest.mark.parametrize(
    "said",
    [
        "That sounds great, Tom! It's awesome to have good things around. Actually, I took my dog to the lake last week.",
        "Sharing such a journey helps. I've known my friends for years, since I moved to Bonn.",
    ],
)
async def test_what_a_turn_says_beside_what_it_takes_back_touches_no_memory(said: str) -> None:
    reads, llm = FakeReads(), ScriptedLLM()
    reads.remember("Mira said on 3 May 2026: Sharing our journey is great, it helps to have good friends around, Tom.")
    assert (await taken_back(reads, said, llm, speaker="Mira")).changes == ()
    assert llm.completed == []


async def test_a_word_that_many_memories_have_does_not_make_a_correction_touch_them() -> None:
    reads, llm = FakeReads(), ScriptedLLM(answers=[verdicts((1, "contradicted", ""))])
    for place in ("garden", "kitchen", "cellar", "attic"):
        reads.remember(f"The user paints the {place} at home.")
    memory = reads.remember("The user owns a kayak.")
    (revision,) = revisions(await taken_back(reads, "Since I moved from home I no longer own the kayak.", llm))
    assert revision.ref == memory.ref
    assert llm.completed[0].messages[-1].content.count("\n#") == 1
