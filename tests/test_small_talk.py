"""Small talk brings no memories, and questions about what was told do: 40 lines each, in two languages."""

from __future__ import annotations

import pytest

from afterword.language.smalltalk import is_small_talk
from bench.small_talk import embedder_of, measure

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("name", "most_added", "most_omitted"),
    [("none", 1, 7), ("hashing", 3, 8), ("local", 1, 4)],
)
async def test_of_80_lines_few_are_given_too_much_or_nothing(name: str, most_added: int, most_omitted: int) -> None:
    embedder = embedder_of(name)
    measured = (await measure(embedder, ("both",)))["both"]
    if embedder is not None:
        await embedder.aclose()
    assert measured["n"] == 40
    assert len(measured["false_additions"]) <= most_added, measured["false_additions"]
    assert len(measured["false_omissions"]) <= most_omitted, measured["false_omissions"]


@pytest.mark.parametrize(
    "line",
    [
        "hey there, how's it going?",
        "lol ok",
        "Good night! Talk to you tomorrow.",
        "哈哈，好的，明天见",
        "吃了吗？",
        "你是谁？",
        "👍",
    ],
)
def test_greetings_thanks_and_laughter_say_nothing_to_remember(line: str) -> None:
    assert is_small_talk(line)


@pytest.mark.parametrize(
    "line",
    [
        "What do I like?",
        "我喜欢吃什么？",
        "Do you remember me?",
        "我是谁？",
        "I sold the boat.",
        "上次我们聊了什么？",
        "When is my birthday?",
    ],
)
def test_what_is_about_the_person_or_about_something_is_not_small_talk(line: str) -> None:
    assert not is_small_talk(line)
