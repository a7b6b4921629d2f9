"""Which episodes belong together, and which have the form of something that lasts."""

from __future__ import annotations

import pytest

from afterword.records import MemoryRecord
from afterword.topics import lasting, subject, topics
from tests.fake_reads import FakeReads


@pytest.mark.parametrize(
    "text",
    [
        "The user is allergic to penicillin.",
        "The user said on 6 May 2026: I've got two dogs.",
        "Tom's wife Grace teaches salsa on Thursdays.",
        "Nadia wants short answers.",
        "The user moved to Oslo on 2 May 2026.",
        "林悦对猫毛过敏。",
        "用户2026年5月2日结婚了。",
        "用户在2026年5月6日说：我不吃香菜。",
        "用户的弟弟在广州读大学。",
    ],
)
def test_what_is_has_likes_or_wants_lasts(text: str) -> None:
    assert lasting(text)


@pytest.mark.parametrize(
    "text",
    [
        "Nadia opened her bakery on 22 April 2026.",
        "The user is thrilled about the match.",
        "Tom is off to the clinic.",
        "The user said on 6 May 2026: I feel a bit down today [6 May 2026].",
        "用户2026年5月5日膝盖摔伤了。",
        "用户打算去青海湖。",
    ],
)
def test_a_day_a_mood_or_a_plan_does_not(text: str) -> None:
    assert not lasting(text)


def test_a_record_begins_with_who_it_is_about() -> None:
    texts = ["Tom's wife teaches salsa.", "The user has a dog.", "The user's dog barks.", "林悦对猫毛过敏。", ""]
    assert [subject(text) for text in texts] == ["Tom", "The user", "The user's", "林悦", ""]


def remembered(*texts: str, kind: str = "personal_fact") -> list[MemoryRecord]:
    reads = FakeReads()
    return [reads.remember(text, metadata={"kind": kind}) for text in texts]


def test_episodes_about_one_thing_are_one_topic_and_one_days_are_not() -> None:
    found = topics(
        remembered(
            "The user restores old station clocks.",
            "The user has been to Rome on 6 May 2026 and loves it.",
            "The user fixed a station clock from 1911 on 6 May 2026.",
        ),
        [],
    )
    assert [topic.episodes for topic in found] == [(1, 3)]


def test_a_topic_names_the_fact_that_it_is_about() -> None:
    reads = FakeReads()
    facts = [reads.remember(t, kind="semantic") for t in ("Ann bakes bread.", "Ann has a dog called Rex.")]
    (topic,) = topics(remembered("Ann's dog Rex hurt his paw on 3 May 2026.", kind="plan_or_event"), facts)
    assert (topic.episodes, topic.fact) == ((1,), 2)


def test_a_long_run_of_alike_episodes_is_told_in_topics_of_a_few() -> None:
    found = topics(remembered(*(f"The user trains on the river with boat {n}." for n in range(7))), [])
    assert [len(topic.episodes) for topic in found] == [5, 2]
