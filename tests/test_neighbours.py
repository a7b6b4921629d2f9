"""Which neighbours a turn needs to be understood, and which replies only echo what is remembered."""

from __future__ import annotations

import pytest

from afterword.context.neighbours import is_echo, needed
from afterword.context.text import Beside
from afterword.records import Hit, Turn, hit_of
from tests.fake_reads import FakeReads


def talk(*lines: str, partner: str | None = None) -> list[Turn]:
    """The turns of one chat; those that begin with `>` are the assistant's, or a partner's of that name."""
    reads = FakeReads()
    for line in lines:
        if line.startswith(">"):
            reads.say(line[1:], role="assistant", speaker=partner)
        else:
            reads.say(line)
    return reads.talk["c"]


def found(turn: Turn) -> Hit:
    return hit_of(turn, 1.0, {})


@pytest.mark.parametrize(
    ("asked", "answered", "is_told"),
    [
        (">Anything else you want to share?", "I built a kite out of silk.", False),
        (">Which colour is it?", "Teal, with a long tail", True),
        (">Do you fly it often?", "I do.", True),
        (">还有什么想聊的吗？", "我用丝绸做了一只风筝。", False),
        (">是什么颜色的？", "青色的，尾巴很长", True),
    ],
)
def test_what_an_assistant_asked_is_told_with_what_is_unclear_alone(asked: str, answered: str, is_told: bool) -> None:
    question, answer = talk(asked, answered)
    beside = needed(found(answer), question, None, ())
    assert (beside is not None) is is_told


def test_what_a_person_asked_is_told_with_its_answer() -> None:
    question, answer = talk(">What keeps you going?", "I have my friends, they are my rocks.", partner="Mira")
    beside = needed(found(answer), question, None, ("Mira",))
    assert isinstance(beside, Beside)
    assert beside.question is not None
    assert beside.question.text == question.text


@pytest.mark.parametrize(
    ("asked", "replied", "echoes"),
    [
        ("What is my dog called?", ">Your dog is called Waffle.", True),
        ("我的猫叫什么？", ">你的猫叫团团。", True),
        ("Where does Mira live?", ">Mira lives in Lisbon.", True),
        ("I sold the kayak, it leaked.", ">You sold the kayak since it leaked.", True),
        ("What's a good stretch after running?", ">Try a calf stretch at a wall.", False),
        ("Can you recommend a filter for my Sony camera?", ">A polarising one, for a start.", False),
        ("I'm training for a half marathon.", ">Then build up your longest run week by week.", False),
    ],
)
def test_a_reply_that_gives_back_what_is_remembered_is_an_echo(asked: str, replied: str, echoes: bool) -> None:
    question, reply = talk(asked, replied)
    assert is_echo(found(reply), question, {"Mira"}) is echoes


def test_an_echo_is_not_brought_along_with_its_question() -> None:
    question, reply = talk("What is my dog called?", ">Your dog is called Waffle.")
    assert needed(found(question), None, reply, ()) is None


def test_what_another_person_says_is_no_echo() -> None:
    question, answer = talk("What is my dog called?", ">Waffle, of course.", partner="Mira")
    assert not is_echo(found(answer), question, {"Mira"})
