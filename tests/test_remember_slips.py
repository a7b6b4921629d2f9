"""What small models get wrong about a window of turns, and what is kept instead."""

from __future__ import annotations

import pytest

from afterword.plan import Insert
from afterword.remember import STEP, Span, decide_span
from afterword.testing import ScriptedLLM
from tests.fake_reads import SCOPE, FakeReads, desk, inserts
from tests.test_remember import JOB, entries, window


async def test_an_llm_is_asked_for_few_entries_at_a_time_and_rules_are_not() -> None:
    reads = FakeReads()
    for number in range(20):
        reads.say(f"I have {number} cats.")
        reads.say("Good.", role="assistant")
    assert STEP.window is not None
    asked = await STEP.window(JOB, desk(reads, llm=ScriptedLLM()))
    assert (asked["first"], asked["last"]) == (0, 11)
    assert (await window(reads))["last"] == 23


async def test_what_rules_decided_together_is_asked_about_in_parts() -> None:
    reads = FakeReads()
    for number in range(9):
        reads.say(f"I have {number} cats.")
    llm = ScriptedLLM(
        answers=[entries(([6], "personal_fact", "The user has 5 cats.")), entries(([3], "small_talk", ""))]
    )
    changes, decision = await decide_span(SCOPE, Span("c", 0, 8, 7), desk(reads, llm=llm))
    sizes = [len(call.schema["properties"]["entries"]["properties"]) for call in llm.completed]
    assert (sizes, decision["calls"]) == ([6, 3], 2)
    assert "CONTEXT\nSunday 3 May 2026\nthe user: I have 2 cats." in llm.completed[1].messages[-1].content
    assert [c.sources for c in changes if isinstance(c, Insert) and c.author == "llm"] == [("c-5",)]


TALK = [
    ("Mira", "I opened a tea shop in the old mill two weeks ago! It has a garden."),
    ("Jo", "Wow Mira, congratulations! You must be so proud. I'm happy for you!"),
    ("Mira", "Thanks, Jo! You're a good friend. And your boat?"),
    ("Jo", "Sold it. By the way, my wife Sanna teaches salsa on Thursdays, you should come!"),
]


def people_talk(talk: list[tuple[str, str]] = TALK) -> FakeReads:
    reads = FakeReads()
    for who, text in talk:
        reads.say(text, role="user" if who == talk[0][0] else "assistant", speaker=who)
    return reads


async def test_between_people_praise_thanks_and_questions_are_not_asked_about() -> None:
    llm = ScriptedLLM(answers=[entries(([4], "small_talk", ""))])
    plan = await STEP.decide(JOB, desk(people_talk(), llm=llm))
    names = list(llm.completed[0].schema["properties"]["entries"]["properties"])
    assert names == ["#1 Mira: I opened a tea shop", "#4 Jo: Sold it. By the way,"]
    kinds = llm.completed[0].schema["properties"]["entries"]["properties"][names[0]]["properties"]["kind"]["enum"]
    assert "task_request" not in kinds
    assert "general_question" not in kinds
    assert all("proud" not in insert.text for insert in inserts(plan))


@pytest.mark.parametrize(
    ("number", "record"),
    [
        (1, "Jo opened a tea shop in the old mill on 19 April 2026."),  # the other's name
        (1, "The tea shop in the old mill has a garden."),  # whose?
        (4, "Jo plans to take salsa classes with his wife Sanna."),  # a plan that nobody had; Thursdays are gone
        (4, "Mira's wife Sanna teaches salsa on Thursdays."),
    ],
)
async def test_what_is_told_of_the_wrong_person_gives_way_to_the_speakers_own_words(number: int, record: str) -> None:
    llm = ScriptedLLM(answers=[entries(([number], "personal_fact", record))])
    found = inserts(await STEP.decide(JOB, desk(people_talk(), llm=llm)))
    (insert,) = [insert for insert in found if insert.sources == (f"c-{number - 1}",)]
    assert insert.author == "rules"
    assert insert.text.startswith(f"{TALK[number - 1][0]} said on 3 May 2026")
    assert record not in [one.text for one in found]


async def test_own_words_are_kept_without_what_was_said_to_the_other() -> None:
    talk = [
        ("Mira", "How is the knee, Jo?"),
        ("Jo", "Thanks for asking, you're kind! Better, the brace helps. And yours?"),
    ]
    llm = ScriptedLLM(answers=[entries(([2], "personal_fact", "Jo has a brace made of gold."))])
    (insert,) = inserts(await STEP.decide(JOB, desk(people_talk(talk), llm=llm)))
    assert insert.text == "Jo said on 3 May 2026, asked “How is the knee, Jo?”: Better, the brace helps."


async def test_an_answer_may_be_told_with_the_words_of_its_question() -> None:
    talk = [("Mira", "How long have you been married?"), ("Jo", "5 years already! Time flies.")]
    record = "Jo has been married for 5 years."
    llm = ScriptedLLM(answers=[entries(([2], "personal_fact", record))])
    assert [one.text for one in inserts(await STEP.decide(JOB, desk(people_talk(talk), llm=llm)))] == [record]


async def test_an_answer_to_the_assistant_may_be_told_with_the_words_of_its_question() -> None:
    reads = FakeReads()
    reads.say("I adopted a parrot called Coco")
    reads.say("How lovely! Where do you live?", role="assistant")
    reads.say("In Oslo")
    record = "The user lives in Oslo."
    answer = entries(([1], "personal_fact", "The user adopted a parrot called Coco."), ([3], "personal_fact", record))
    found = inserts(await STEP.decide(JOB, desk(reads, llm=ScriptedLLM(answers=[answer]))))
    assert [one.text for one in found if one.sources == ("c-2",)] == [record]


async def test_what_the_other_one_told_before_is_not_taken_for_the_speakers() -> None:
    talk = [("Jo", "I cherish time with my family, then I feel alive."), ("Mira", "Same! My family is everything.")]
    record = "Mira's family makes her feel alive."
    llm = ScriptedLLM(answers=[entries(([2], "personal_fact", record))])
    texts = [one.text for one in inserts(await STEP.decide(JOB, desk(people_talk(talk), llm=llm)))]
    assert "Mira said on 3 May 2026: My family is everything." in texts
    assert record not in texts


async def test_a_record_does_not_tell_what_only_a_later_turn_says() -> None:
    reads = FakeReads()
    reads.say("I'm allergic to penicillin by the way.")
    reads.say("I've started learning Portuguese with an app.")
    llm = ScriptedLLM(answers=[entries(([1], "preference_or_instruction", "The user wants to learn Portuguese."))])
    texts = [insert.text for insert in inserts(await STEP.decide(JOB, desk(reads, llm=llm)))]
    assert "The user wants to learn Portuguese." not in texts
    assert "The user said on 3 May 2026: I'm allergic to penicillin by the way." in texts


@pytest.mark.parametrize(
    ("said", "record"),
    [
        ("I restore clocks - I fixed a station clock from 1911.", "The user restores old clocks and fixed a clock."),
        ("I opened my bakery on Mill Street.", "The user opened a bakery."),
        ("Actually Rex isn't a greyhound, he's a whippet.", "The user's dog Rex is not a greyhound."),
    ],
)
async def test_a_record_that_leaves_out_the_point_gives_way_to_the_persons_own_words(said: str, record: str) -> None:
    reads = FakeReads()
    reads.say(said)
    llm = ScriptedLLM(answers=[entries(([1], "personal_fact", record))])
    (insert,) = inserts(await STEP.decide(JOB, desk(reads, llm=llm)))
    assert insert.text == f"The user said on 3 May 2026: {said}"


async def test_a_chinese_name_is_not_left_out() -> None:
    reads = FakeReads()
    said = "你好，我叫苏晴，在成都的一家出版社做编辑。"
    reads.say(said)
    llm = ScriptedLLM(answers=[entries(([1], "personal_fact", "用户是成都的一家出版社的编辑。"))])
    (insert,) = inserts(await STEP.decide(JOB, desk(reads, llm=llm)))
    assert insert.text == f"用户在2026年5月3日说：{said}"


async def test_without_an_llm_people_are_kept_apart_too() -> None:
    texts = [insert.text for insert in inserts(await STEP.decide(JOB, desk(people_talk())))]
    assert texts == [
        "Mira said on 3 May 2026: I opened a tea shop in the old mill two weeks ago [19 April 2026]! It has a garden.",
        "Jo said on 3 May 2026: By the way, my wife Sanna teaches salsa on Thursdays, you should come!",
    ]


async def test_a_sentence_that_leans_on_the_one_before_is_not_kept_alone() -> None:
    talk = [
        ("Jo", "And you?"),
        ("Mira", "I cherish the garden with my aunt. It was when my heart felt alive and free."),
    ]
    record = "Mira cherishes the garden with her aunt."
    llm = ScriptedLLM(answers=[entries(([2], "personal_fact", record))])
    assert [one.text for one in inserts(await STEP.decide(JOB, desk(people_talk(talk), llm=llm)))] == [record]


async def test_an_answer_that_is_found_to_be_small_talk_is_left_even_with_a_record() -> None:
    talk = [("Jo", "Shall we start?"), ("Mira", "Whenever the kettle boils.")]
    llm = ScriptedLLM(answers=[entries(([2], "small_talk", "Mira boils the kettle."))])
    plan = await STEP.decide(JOB, desk(people_talk(talk), llm=llm))
    assert inserts(plan) == []
    assert plan.decision["entries"][0]["note"] == "not kept"


async def test_a_date_that_was_said_of_something_else_is_not_borrowed() -> None:
    talk = [
        ("Mira", "I signed up for a pottery class yesterday."),
        ("Jo", "What did you make there?"),
        ("Mira", "I made this bowl in my class."),
    ]
    record = "Mira made this bowl in her pottery class on 2 May 2026."
    llm = ScriptedLLM(answers=[entries(([3], "personal_fact", record))])
    texts = [one.text for one in inserts(await STEP.decide(JOB, desk(people_talk(talk), llm=llm)))]
    assert "Mira said on 3 May 2026: I made this bowl in my class." in texts
    assert record not in texts


async def test_what_was_said_of_another_thing_before_is_not_put_into_a_record() -> None:
    reads = FakeReads()
    reads.say("你好，我叫苏晴，在成都的一家出版社做编辑。")
    said = "我弟弟苏阳在深圳读大学，学的是机械。"
    reads.say(said)
    mixed = "用户弟弟苏阳是成都的一家出版社的编辑，苏阳在深圳读大学，学的是机械。"
    llm = ScriptedLLM(answers=[entries(([2], "personal_fact", mixed))])
    changes, _ = await decide_span(SCOPE, Span("c", 1, 1), desk(reads, llm=llm))
    assert [change.text for change in changes if isinstance(change, Insert)] == [f"用户在2026年5月3日说：{said}"]


@pytest.mark.parametrize("asked", ["Do I still have the kayak?", "Did I sell the red kayak?", "我的自行车还在吗？"])
async def test_a_question_about_what_is_remembered_is_no_memory_and_costs_no_call(asked: str) -> None:
    reads, llm = FakeReads(), ScriptedLLM()
    reads.say(asked)
    changes, _ = await decide_span(SCOPE, Span("c", 0, 0), desk(reads, llm=llm))
    assert not [change for change in changes if isinstance(change, Insert)]
    assert llm.completed == []


@pytest.mark.parametrize(
    ("said", "kept"),
    [("I sold the kayak again, it leaked.", True), ("Translate this: I bought a house in Ghent.", False)],
)
async def test_what_is_told_of_oneself_is_kept_though_it_was_taken_for_a_task(said: str, kept: bool) -> None:
    reads, llm = FakeReads(), ScriptedLLM(answers=[entries(([1], "task_request", ""))])
    reads.say(said)
    changes, _ = await decide_span(SCOPE, Span("c", 0, 0), desk(reads, llm=llm))
    assert bool([change for change in changes if isinstance(change, Insert)]) is kept
