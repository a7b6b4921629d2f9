"""The stand-in that quotes, and what a reasoning model thinks aloud."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from afterword.errors import LLMUnavailable
from afterword.llms.quoting import QuotingLLM
from afterword.llms.thinking import ThinkFilter, without_thoughts
from afterword.ports import Message, Prompt
from afterword.records import Hit, Ref

NOW = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)


async def reply_to(question: str, *recalled: Hit) -> str:
    prompt = Prompt((Message("user", question),), question, recalled, NOW, 0)
    return "".join([piece async for piece in QuotingLLM().stream(prompt)])


def hit(text: str, **changes: Any) -> Hit:
    given: dict[str, Any] = {
        "ref": Ref(changes.pop("id", text), 1),
        "kind": "turn",
        "score": 1.0,
        "parts": {},
        "said_at": datetime(2026, 5, 2, 22, 30, tzinfo=UTC),
        "utc_offset": 120,
        "role": "user",
        **changes,
    }
    return Hit(text=text, **given)


QUOTES = [
    ("Where do I live?", hit("I live in Oslo."), "On 3 May you told me: “I live in Oslo.”"),
    ("我住在哪里？", hit("我住在奥斯陆。"), "5月3日你告诉过我：“我住在奥斯陆。”"),
    ("What did you advise?", hit("Take a coat.", role="assistant"), "On 3 May I said: “Take a coat.”"),
    ("你建议了什么？", hit("带件外套。", role="assistant"), "5月3日我说过：“带件外套。”"),
    ("Where does Ann live?", hit("In Oslo.", speaker="Ann"), "On 3 May Ann said: “In Oslo.”"),
    (
        "Who am I?",
        hit("The user is a nurse.", kind="semantic", role=None),
        "I remember (3 May): “The user is a nurse.”",
    ),
    ("我是谁？", hit("用户是护士。", kind="episodic", role=None), "我记得（5月3日）：“用户是护士。”"),
    (
        "Where did I live?",
        hit("In Rome.", said_at=NOW - timedelta(days=400)),
        "On 27 April 2025 you told me: “In Rome.”",
    ),
]


@pytest.mark.parametrize(("question", "found", "reply"), QUOTES)
async def test_without_an_llm_what_is_remembered_is_quoted(question: str, found: Hit, reply: str) -> None:
    assert await reply_to(question, found) == reply


async def test_only_the_best_are_quoted_and_nothing_twice() -> None:
    turn = hit("I live in Oslo.", id="t1")
    memory = hit("The user lives in Oslo.", kind="episodic", score=0.9, sources=("t1",))
    near, far = hit("Oslo is cold.", score=0.8), hit("I like tea.", score=0.3)
    reply = await reply_to("Where do I live?", turn, memory, near, far)
    assert re.findall("“(.*?)”", reply) == ["I live in Oslo.", "Oslo is cold."]


@pytest.mark.parametrize(
    ("question", "recalled", "reply"),
    [
        ("I moved to Oslo.", (hit("I live in Rome."),), "Noted."),
        ("我搬到了奥斯陆。", (), "记下了。"),
        ("Where do I live?", (), "I don't know that yet."),
        ("我住在哪里？", (), "这个我还不知道。"),
    ],
)
async def test_statements_are_taken_note_of(question: str, recalled: tuple[Hit, ...], reply: str) -> None:
    assert await reply_to(question, *recalled) == reply


async def test_the_stand_in_can_decide_nothing() -> None:
    assert QuotingLLM().quotes
    with pytest.raises(LLMUnavailable) as caught:
        await QuotingLLM().complete([], schema={}, max_tokens=1)
    assert "AFTERWORD_LLM_BASE_URL" in caught.value.fix


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("<think>a < b</think> \n Yes", "Yes"),
        ("  <think></think>Yes <think>no</think>", "Yes <think>no</think>"),
        ("<thin ice", "<thin ice"),
        ("Plain <think>", "Plain <think>"),
        ("<think>never ends", ""),
        ("<think>x</think>", ""),
        ("<th", "<th"),
        ("", ""),
    ],
)
def test_thoughts_are_found_however_the_text_is_cut(text: str, left: str, size: int) -> None:
    thoughts = ThinkFilter()
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    assert "".join([*map(thoughts.feed, pieces), thoughts.rest()]) == left
    assert without_thoughts(text) == left


async def test_a_sentence_that_rules_kept_is_quoted_as_the_users_own() -> None:
    told = hit("The user said on 3 May 2026: My sister moved to Oslo.", kind="episodic")
    assert await reply_to("Where does my sister live?", told) == "On 3 May you told me: “My sister moved to Oslo.”"
    told = hit("用户在2026年5月3日说：我姐姐搬到了奥斯陆。", kind="episodic")
    assert await reply_to("我姐姐住在哪里？", told) == "5月3日你告诉过我：“我姐姐搬到了奥斯陆。”"
