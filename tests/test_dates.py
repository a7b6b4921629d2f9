"""Relative dates are worked out in code, before an LLM reads them and after it has written."""

from __future__ import annotations

from datetime import date, datetime

import pytest

from afterword.language.dates import absolute, ago, annotated, day

SUNDAY = datetime(2026, 5, 3, 9, 0)  # noqa: DTZ001  a clock on the wall


@pytest.mark.parametrize(
    ("said", "written"),
    [
        ("I left yesterday.", "I left on 2 May 2026."),
        ("Tomorrow I fly.", "On 4 May 2026 I fly."),
        ("We met last Friday", "We met on Friday 1 May 2026"),
        ("See you next Monday", "See you on Monday 4 May 2026"),
        ("Two years ago I moved", "In 2024 I moved"),
        ("I quit two months ago", "I quit in March 2026"),
        ("since last year", "since 2025"),
        ("tomorrow's exam", "4 May 2026's exam"),
        ("我昨天到的", "我2026年5月2日到的"),
        ("上周三开会", "2026年4月22日 星期三开会"),
        ("三年前搬来，下个月走", "2023年搬来，2026年6月走"),
        ("去年五月", "2025年五月"),
    ],
)
def test_a_relative_date_becomes_the_date_it_meant(said: str, written: str) -> None:
    assert absolute(said, SUNDAY) == written


@pytest.mark.parametrize("said", ["half a year ago", "twenty-two years ago", "二十年前", "几年前", "the other day"])
def test_what_can_not_be_worked_out_for_certain_is_left_alone(said: str) -> None:
    assert absolute(said, SUNDAY) == said


def test_replacing_twice_changes_nothing_more() -> None:
    once = absolute("last week I ran, today I rest, 明天也休息", SUNDAY)
    assert absolute(once, SUNDAY) == once


def test_an_annotation_leaves_the_words_as_they_were_said() -> None:
    assert annotated("I left yesterday, ok?", SUNDAY) == "I left yesterday [2 May 2026], ok?"


def test_a_number_too_large_for_a_date_is_no_date() -> None:
    assert absolute("in 999 years, 999 months ago", datetime(100, 1, 1)).startswith("In 1099")  # noqa: DTZ001


@pytest.mark.parametrize(
    ("then", "en", "zh"),
    [
        (date(2026, 5, 3), "today", "今天"),
        (date(2026, 5, 2), "yesterday", "昨天"),
        (date(2026, 5, 4), "tomorrow", "明天"),
        (date(2026, 4, 25), "8 days ago", "8天前"),
        (date(2026, 4, 3), "4 weeks ago", "4周前"),
        (date(2025, 11, 3), "6 months ago", "6个月前"),
        (date(2022, 5, 1), "4 years ago", "4年前"),
        (date(2026, 5, 10), "in 7 days", "7天后"),
    ],
)
def test_how_long_ago_is_told_in_one_unit(then: date, en: str, zh: str) -> None:
    assert (ago(then, date(2026, 5, 3)), ago(then, date(2026, 5, 3), "zh")) == (en, zh)


def test_a_date_is_printed_with_its_weekday_in_both_languages() -> None:
    assert (day(SUNDAY), day(SUNDAY, "zh")) == ("Sunday 3 May 2026", "2026年5月3日 星期日")
