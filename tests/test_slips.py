"""Slips of small models, told by the form of a record."""

from __future__ import annotations

import pytest

from afterword.language.slips import slip, tidied


@pytest.mark.parametrize(
    ("text", "said", "wrong"),
    [
        ("What did the children like?", "They liked the bones.", "a question"),
        ("The user teaches; since May I have a dog.", "I teach and have a dog.", "it says I"),
        ("Ida moved to our mother's house.", "Ida moved to our mother's house.", "it says I"),
        ("用户希望简短地回答我。", "以后回答短一点", "it says I"),
        ("Ann asked Bea about the class.", "How was the class? I like clay.", "about the talk itself"),
        ("用户想知道天气。", "我在想天气", "about the talk itself"),
        ("The user wants to be an editor.", "I work as an editor.", "a wish that nobody had"),
        ("用户希望在出版社做编辑。", "我在出版社做编辑。", "a wish that nobody had"),
        ("Bea builds a library.", "I build a library.", "told of somebody else"),
        ("Bea has a lovely boat.", "Wow, Bea! I have a lovely boat too.", "told of somebody else"),
        ("The boat is lovely.", "I have a lovely boat.", "told of somebody else"),
        ("Ann is proud of Bea.", "I am proud of you, Bea.", "about the talk itself"),
        ("Ann agrees that rest is important.", "I agree, rest is important.", "about the talk itself"),
    ],
)
def test_a_slip_is_told_by_its_form(text: str, said: str, wrong: str) -> None:
    assert slip(text, said, "Ann", ["Ann", "Bea"]) == wrong


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Ann wants short answers.", "Please keep it short."),
        ("Ann wants to learn the harp.", "I want to learn the harp."),
        ("Bea is Ann's sister.", "Bea is my sister."),
        ("Ann calls her boat “My Way”.", "My boat is called My Way."),
    ],
)
def test_what_is_well_told_has_none(text: str, said: str) -> None:
    assert slip(text, said, "Ann", ["Ann", "Bea"]) == ""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("用户希望回答短一点。", "以后回答短一点"),
        ("用户住在中国的宁波。", "我住在宁波"),
        ("小雯搬了家。", "小雯搬家了"),
    ],
)
def test_who_talks_alone_need_not_be_named(text: str, said: str) -> None:
    assert slip(text, said, "用户", ["用户"]) == ""


def test_dates_told_twice_are_told_once() -> None:
    assert tidied("She teaches since May 2026 [May 2026].") == "She teaches since May 2026."
    assert tidied("She moved in 2020 in 2020.") == "She moved in 2020."
    assert tidied("She goes to a fair in July 2026 on July 2026.") == "She goes to a fair in July 2026."
    assert tidied("She sang on 3 July 2026, on 3 July 2026.") == "She sang on 3 July 2026."
    assert tidied("They met on July 2026.") == "They met in July 2026."
    assert tidied("She painted it last year [2022].") == "She painted it last year [2022]."
