"""What counts as a standing fact, and which of several holds."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from afterword.context.standing import MOST_WISHES, slot_of, standing
from afterword.records import MemoryKind, MemoryRecord
from afterword.rules import kind_of
from tests.fake_reads import NOW, FakeReads

WISH = {"kind": "preference_or_instruction"}
FACT = {"kind": "personal_fact"}
FRUIT = ["apples", "pears", "plums", "figs", "dates", "limes", "kiwis", "melons", "grapes", "cherries"]


def memory(text: str, *, kind: MemoryKind = "episodic", metadata: dict[str, Any] | None = None) -> MemoryRecord:
    return FakeReads().remember(text, kind=kind, metadata=metadata or {})


@pytest.mark.parametrize(
    ("text", "slot"),
    [
        ("Call me Bee.", "called"),
        ("The user wants to be called Bee.", "called"),
        ("叫我小林就好", "called"),
        ("用户希望被称呼为小林。", "called"),
        ("My name is Beatrice Ode.", "name"),
        ("The user's name is Beatrice.", "name"),
        ("我叫林小满。", "name"),
        ("用户名叫林小满。", "name"),
        ("Please answer me in French from now on.", "language"),
        ("The user wants replies in Chinese.", "language"),
        ("以后请用中文回答", "language"),
        ("我的母语是德语", "language"),
        ("Always include version numbers when I ask about libraries.", "manner"),
        ("Keep your answers short, please.", "manner"),
        ("Never use emojis.", "manner"),
        ("From now on, explain things step by step.", "manner"),
        ("The user prefers short answers.", "manner"),
        ("以后回答简短一点", "manner"),
        ("别再用表情符号了", "manner"),
        ("用户希望回答直接一些。", "manner"),
        ("I don't eat fish, never have.", "avoids"),
        ("I'm allergic to peanuts.", "avoids"),
        ("My doctor says I should avoid coffee.", "avoids"),
        ("The user is vegan.", "avoids"),
        ("我不吃香菜，一点都不行。", "avoids"),
        ("用户对花生过敏。", "avoids"),
        ("医生说我胃不好，要少喝咖啡。", "avoids"),
    ],
)
def test_how_a_person_wants_to_be_called_and_answered_is_standing(text: str, slot: str) -> None:
    assert slot_of(memory(text, metadata=WISH)) == slot
    assert slot_of(memory(f"The user said on 3 May 2026: {text}", metadata=WISH)) == slot


@pytest.mark.parametrize(
    "text",
    [
        "Remember that the car is in garage B.",
        "Call me tomorrow about the tickets.",
        "Call me back when you can.",
        "I called my sister in Lyon.",
        "I always walk to work.",
        "I never liked French food.",
        "My dog's name tag fell off.",
        "我叫了外卖",
        "我叫他明天来",
        "别忘了明天买牛奶",
        "我一直住在成都",
        "My sister is allergic to cats.",
        "I never eat out.",
        "I avoid my neighbour.",
        "他不吃鱼",
        "我还没吃饭",
    ],
)
def test_other_facts_and_errands_are_not(text: str) -> None:
    assert slot_of(memory(text, metadata=WISH)) is None


def test_how_to_answer_must_have_been_told_as_a_wish() -> None:
    assert slot_of(memory("I gave short answers at the hearing.", metadata=FACT)) is None
    assert slot_of(memory("I gave short answers at the hearing.", metadata={"kind": "plan_or_event"})) is None


def test_the_newest_name_and_language_hold_and_wishes_follow_newest_first() -> None:
    reads = FakeReads()
    for days, text in enumerate(
        ["Call me Bee.", "Always use metric units.", "Answer me in French.", "Never use emojis."]
    ):
        reads.remember(text, metadata=WISH, said_at=NOW + timedelta(days=-days))
    reads.remember("Call me Bea from now on.", metadata=WISH, said_at=NOW + timedelta(days=5))
    reads.remember("Please answer me in Dutch.", metadata=WISH, said_at=NOW + timedelta(days=6))
    texts = [found.text for found in standing(reads.held)]
    assert texts == [
        "Call me Bea from now on.",
        "Please answer me in Dutch.",
        "Always use metric units.",
        "Never use emojis.",
    ]


def test_of_two_wishes_that_say_nearly_the_same_the_newer_stands_and_there_are_not_too_many() -> None:
    reads = FakeReads()
    reads.remember("Always keep answers short.", metadata=WISH, said_at=NOW + timedelta(days=0))
    reads.remember("Always keep your answers short please.", metadata=WISH, said_at=NOW + timedelta(days=1))
    assert [found.text for found in standing(reads.held)] == ["Always keep your answers short please."]
    for number, thing in enumerate(FRUIT):
        reads.remember(f"Never mention {thing}.", metadata=WISH, said_at=NOW + timedelta(days=2 + number))
    assert len(standing(reads.held)) == MOST_WISHES


@pytest.mark.parametrize("text", ["Always include version numbers when I ask about libraries.", "Never suggest pork."])
def test_the_rules_write_such_wishes_without_an_llm(text: str) -> None:
    assert kind_of(text) == "preference_or_instruction"
