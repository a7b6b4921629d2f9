"""An LLM's answer is read tolerantly, and what it may change is checked strictly."""

from __future__ import annotations

import pytest

from afterword import backfill, consolidate, reconsolidate, remember
from afterword.asking import ask, with_time_to_ask
from afterword.decisions import (
    Entry,
    FactChange,
    dates_in,
    grounded,
    invented_details,
    lost_details,
    names_in,
    numbers_in,
    read_entries,
    read_facts,
    read_verdicts,
)
from afterword.errors import BadAnswer, LLMUnavailable
from afterword.prompts import Part, Question
from afterword.testing import ScriptedLLM

GOOD = '{"entries": [{"turns": [1], "kind": "personal_fact", "record": "Ann has a dog."}]}'
READ = [Entry(1, "personal_fact", "Ann has a dog.")]
ASKED = Question((Part("user", "?"),), {"type": "object"}, 100)


@pytest.mark.parametrize(
    "answer",
    [
        GOOD,
        f"```json\n{GOOD}\n```",
        f"<think>the dog, {{}} hm</think>Sure! {GOOD} I hope this helps.",
        GOOD[:-3],  # cut off
        GOOD.replace('"', "'"),
        GOOD.replace("[1]", '"1"'),
        GOOD.replace("[1]", '["#1"]'),
        GOOD.replace("personal_fact", "Personal fact"),
        GOOD.replace("personal_fact", "personal_facts"),
        GOOD.replace("personal_fact", "fact"),
        GOOD.replace('"turns"', '"turn"').replace("[1]", "1"),
        '[{"turns": [1], "kind": "personal_fact", "record": "Ann has a dog."}]',
        '{"entries": {"#1 Ann: I have 2 dogs": {"kind": "personal_fact", "record": "Ann has a dog."}}}',
        '{"#1 Ann: I have 2 dogs": {"kind": "personal_fact", "record": "Ann has a dog."}}',
        '{"entries": [{"turn": "#1 Ann: I have", "kind": "personal_fact", "record": "Ann has a dog."}]}',
        '{"turns": [1], "kind": "personal_fact", "record": " Ann has\\n a dog. "}',
    ],
)
def test_an_answer_is_read_however_it_is_written(answer: str) -> None:
    assert read_entries(answer, [1, 2]) == READ


def test_whether_to_write_follows_from_the_kind() -> None:
    kinds = ["personal_fact", "preference_or_instruction", "plan_or_event", "general_question", "task_request"]
    entries = [Entry(1, kind, "x") for kind in [*kinds, "small_talk"]]  # type: ignore[arg-type]
    assert [entry.write for entry in entries] == [True, True, True, False, False, False]


def test_an_empty_list_is_an_answer() -> None:
    assert read_entries('{"entries": []}', [1]) == []


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "I can't do that.",
        "{}",
        '{"entries": {"#9 Ann: I": {"kind": "personal_fact", "record": "x"}}}',
        '{"entries": ["a dog"]}',
        '{"entries": [{"turns": [9], "kind": "personal_fact", "record": "x"}]}',
        '{"entries": [{"turns": [1], "kind": "xyz", "record": "x"}]}',
    ],
)
def test_what_can_not_be_read_is_a_bad_answer(answer: str) -> None:
    with pytest.raises(BadAnswer):
        read_entries(answer, [1, 2])


def test_an_entry_that_can_not_be_read_does_not_spoil_the_others() -> None:
    answer = GOOD.replace("]}", ', {"turns": [7], "kind": "nonsense"}]}')
    assert read_entries(answer, [1, 2]) == READ


def test_an_endless_record_is_cut() -> None:
    (entry,) = read_entries(GOOD.replace("Ann has a dog.", "Ann " * 1000), [1])
    assert len(entry.text) <= 600


def test_a_memory_gets_one_verdict() -> None:
    answer = '{"verdicts": [{"memory": "1", "verdict": "Revised", "text": "a"}, {"memory": 1, "verdict": "keep"}]}'
    (verdict,) = read_verdicts(answer, [1])
    assert (verdict.number, verdict.verdict, verdict.text, verdict.why) == (1, "revise", "a", "")


def test_a_fact_is_read_by_the_topic_that_its_entry_is_named_after() -> None:
    answer = """{"changes": {
        "#1 Ann has": {"action": "add", "fact": "A."},
        "#2 Ann had 3": {"action": "superseded", "fact": "C."},
        "#3 Ann is": {"action": "nothing", "fact": "D."},
        "#4 Ann was": {"action": "revise", "fact": ""},
        "#9 Ann went": {"action": "add", "fact": "E."}}}"""
    assert read_facts(answer, [1, 2, 3, 4]) == [FactChange("add", 1, "A."), FactChange("supersede", 2, "C.")]
    listed = '{"changes": [{"topic": 2, "action": "add", "fact": "A."}, {"topic": 2, "action": "add", "fact": "B."}]}'
    assert read_facts(listed, [1, 2]) == [FactChange("add", 2, "A.")]


async def test_an_answer_that_can_not_be_read_is_asked_for_once_more_with_the_error() -> None:
    llm = ScriptedLLM(answers=["sorry", GOOD])
    answered = await ask(llm, ASKED, lambda text: read_entries(text, [1]))
    assert (answered.value, answered.calls) == (READ, 2)
    again = llm.completed[1].messages
    assert again[-2].content == "sorry"
    assert "not JSON" in again[-1].content


async def test_a_second_bad_answer_is_given_up() -> None:
    llm = ScriptedLLM(answers=["sorry", "sorry again", GOOD])
    with pytest.raises(BadAnswer):
        await ask(llm, ASKED, lambda text: read_entries(text, [1]))
    assert len(llm.completed) == 2


async def test_an_outage_passes_through() -> None:
    llm = ScriptedLLM(answers=[LLMUnavailable("away")])
    with pytest.raises(LLMUnavailable):
        await ask(llm, ASKED, lambda text: read_entries(text, [1]))
    assert len(llm.completed) == 1


# ── what a revision may not do ─────────────────────────────────────────────────────────────────────────────────────

OLD = "The user lives in Oslo with Nina since 3 May 2019."


@pytest.mark.parametrize(
    ("new", "evidence"),
    [
        ("The user lives in Bergen with Nina since 3 May 2019.", "I moved to Bergen"),  # put in its place
        ("The user lives with Nina since 3 May 2019.", "I don't live in Oslo any more"),  # named as gone
        ("The user lives in Oslo with Nina since 2019-05-03 and owns a boat.", "we bought a boat"),  # other spelling
        ("The user lives in Oslo with Nina since 5 May 2019.", "it was the 5th of May, not the 3rd: 5 May"),
    ],
)
def test_a_detail_may_go_when_the_evidence_says_so(new: str, evidence: str) -> None:
    assert lost_details(OLD, new, evidence) == ()


@pytest.mark.parametrize(
    ("new", "lost"),
    [
        ("The user lives in Bergen since 3 May 2019.", "nina"),
        ("The user lives in Bergen with Nina.", "2019"),
        ("The user lives in Bergen with Nina since 3 May 2018.", "2019"),
        ("The user moved.", "nina"),
    ],
)
def test_a_detail_that_is_silently_lost_is_named(new: str, lost: str) -> None:
    assert lost in lost_details(OLD, new, "I moved to Bergen")


def test_chinese_dates_and_words_are_kept_too() -> None:
    old = "用户2026年5月3日搬到杭州，养了一只猫叫豆豆。"
    assert lost_details(old, "用户2026年5月3日搬到杭州，养了一只猫叫豆豆，还有一只狗。", "我又养了只狗") == ()
    assert "2026" in lost_details(old, "用户搬到杭州，养了一只猫叫豆豆，还有一只狗。", "我又养了只狗")
    assert lost_details("用户喜欢在西湖边跑步和游泳。", "用户有一只狗。", "我又养了只狗") == ("much of the old text",)


def test_names_and_numbers_are_told_from_other_words() -> None:
    text = "Ann met Bob's uncle in New York on 3 May 2026. The bill was 1,200 dollars."
    assert names_in(text) == {"bob", "new", "york"}
    assert numbers_in(text) == {"3", "5", "2026", "1200"}
    assert numbers_in("2026年5月3日") == {"2026", "5", "3"}
    assert names_in("用户在 Google 工作，狗叫“豆豆”") == {"google", "豆豆"}


def test_invented_names_and_years_are_found() -> None:
    assert invented_details("Ann met Bob in 2025.", "Ann: I met Bob [2 May 2026]") == ("2025",)
    assert invented_details("She met Carl in 2026.", "Ann: I met Bob [2 May 2026]") == ("carl",)
    assert invented_details("Ann has 2 dogs called Rex and Max.", "I have two dogs, Rex and Max") == ()


def test_a_record_must_stand_in_what_was_said_and_in_its_language() -> None:
    said = "The user said on 3 May 2026: I adopted a grey parrot called Coco."
    assert grounded("The user adopted a parrot called Coco.", said)
    assert not grounded("The user drives a red truck to Texas.", said)
    assert not grounded("用户收养了一只灰色鹦鹉。", said)


def test_a_step_lasts_longer_than_an_llm_may_take_twice_so_that_slowness_is_an_outage() -> None:
    steps = [remember.STEP, reconsolidate.STEP, consolidate.STEP, backfill.STEP]
    assert all(step.timeout > 2 * 240.0 for step in with_time_to_ask(steps, 240.0))
    assert [step.timeout for step in with_time_to_ask(steps, 1.0)] == [step.timeout for step in steps]
    assert [step.kind for step in with_time_to_ask(steps, 1.0)] == [step.kind for step in steps]


@pytest.mark.parametrize(
    "text", ["She left on 20 May 2023.", "She left on May 20th, 2023.", "She left 2023-05-20.", "她2023年5月20日走了。"]
)
def test_a_whole_date_that_nobody_named_is_invented(text: str) -> None:
    assert dates_in(text) == {(2023, 5, 20)}
    assert "2023-05-20" in invented_details(text, "on 8 May 2023 she said: she left, it took 20 minutes. 她走了 5月")
    assert invented_details(text, "she left last Saturday [Saturday 20 May 2023]. 她走了") == ()
