"""What went wrong is told in the reader's language: the core's errors are English, the page knows them in Chinese."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import pytest

from afterword.chat import ChatLimits, _too_slow
from afterword.embedders.checks import Checked
from afterword.errors import (
    AfterwordError,
    BadAnswer,
    EmbedderUnavailable,
    IndexUnavailable,
    InvalidInput,
    LLMUnavailable,
    Outage,
    QueueFull,
)
from afterword.interfaces.page.told import _KNOWN, told
from afterword.ledger.dialect import _FIXES, explain
from afterword.limits import Gate, Limits
from afterword.llms.openai import OpenAILLM
from afterword.llms.outages import Service, too_slow
from afterword.meter import Meter
from afterword.records import NewTurn, Scope, checked_id, checked_text
from afterword.retries import NoUse
from afterword.retries import told as in_one_line
from afterword.testing import FakeOpenAI, FrozenClock
from tests.test_llms import REFUSALS, answer, failure, whole

if TYPE_CHECKING:
    from afterword.ports import Ledger

pytestmark = pytest.mark.anyio
CHINESE = re.compile(r"[\u4e00-\u9fff]")
ENGLISH = re.compile(r"[a-z]+ [a-z]+ [a-z]+")  # three plain words: a sentence that was left as it came


def assert_chinese(text: str, *quoted: str) -> None:
    shown = told(text, "zh")
    for part in quoted:
        shown = shown.replace(part, "")
    assert CHINESE.search(shown), text
    assert not ENGLISH.search(shown), (text, shown)


def assert_known(error: AfterwordError, *quoted: str) -> None:
    assert_chinese(str(error), *quoted)
    assert_chinese(in_one_line(error), *quoted)
    if isinstance(error, Outage) and error.fix:
        assert_chinese(error.fix, *quoted)


def test_english_stays_as_it_came_and_so_does_what_nobody_knows() -> None:
    assert told("nothing answers at http://x/v1", "en") == "nothing answers at http://x/v1"
    assert told("the moon is out", "zh") == "the moon is out"


def test_names_numbers_and_addresses_are_kept() -> None:
    text = "http://x:1/v1 has no model 'small': set AFTERWORD_LLM_MODEL to one that it has: large, tiny"
    assert told(text, "zh") == "http://x:1/v1 没有模型 'small'。请把 AFTERWORD_LLM_MODEL 设为它有的模型：large, tiny"
    assert told("searched by words only: nothing answers at http://x/v1", "zh") == "只按用词检索：http://x/v1 没有响应"
    late = "not reranked: the reranker did not answer within 0.4 s"
    assert told(late, "zh") == "没有重新排序：重排序服务在 0.4 秒内没有回答"


KEY = "sk-very-secret-0123456789"
SPOILT = [{"fault": fault} for fault in ("garbage", "cut")]
BAD = [{"status": 400}, {"status": 413}, {"status": 404, "message": "no such model"}, *(row[0] for row in REFUSALS)]


async def llm_failure(url: str, key: str = KEY, *, streamed: bool = True) -> AfterwordError:
    llm = OpenAILLM(base_url=url, api_key=key, model="fake-chat")
    try:
        return await failure(whole(llm) if streamed else answer(llm))
    finally:
        await llm.aclose()


@pytest.mark.parametrize("behaviour", [*BAD, *SPOILT, {"fault": "short"}, {"fault": "error_event"}])
async def test_each_failure_of_a_reply_is_known(behaviour: dict[str, Any]) -> None:
    async with FakeOpenAI() as server:
        server.always("chat", **behaviour)
        error = await llm_failure(server.base_url)
    assert_known(error, str(behaviour.get("message", "fake error")), "the engine died")


@pytest.mark.parametrize("behaviour", [*BAD, *SPOILT, {"fault": "huge"}])
async def test_each_failure_of_a_background_answer_is_known(behaviour: dict[str, Any]) -> None:
    async with FakeOpenAI() as server:
        server.always("complete", **behaviour)
        error = await llm_failure(server.base_url, streamed=False)
    assert_known(error, str(behaviour.get("message", "fake error")))


@pytest.mark.parametrize(("url", "key"), [("http://127.0.0.1:9/v1", ""), ("nowhere", ""), ("http://x/v1", "two words")])
async def test_an_llm_that_can_not_be_asked_is_known(url: str, key: str) -> None:
    assert_known(await llm_failure(url, key))


SQLITE = (
    "database or disk is full",
    "attempt to write a readonly database",
    "file system is read-only",
    "database is locked",
    "unable to open database file",
    "disk I/O error",
    "canceling statement due to lock timeout",
)


def test_each_cause_that_is_explained_is_tried_here() -> None:
    assert all(any(sign in cause.lower() for cause in SQLITE) for sign, _ in _FIXES)


def made() -> Iterator[AfterwordError]:
    limits = ChatLimits()
    yield from (_too_slow(limits, began=began, whole=whole) for began in (True, False) for whole in (True, False))
    for kind in (LLMUnavailable, EmbedderUnavailable):
        yield too_slow(Service(kind, "http://x/v1", "m", "AFTERWORD_LLM"), 3.0, "AFTERWORD_DECIDER_DEADLINE")
    where = "the ledger /data/ledger.db"
    yield from (explain(sqlite3.OperationalError(cause), where) for cause in SQLITE)
    yield explain(sqlite3.DatabaseError("file is not a database"), where)
    yield explain(sqlite3.DatabaseError("out of luck"), where)
    yield NoUse(
        "nothing that the LLM answers can be used (the answer is not JSON: give {…})",
        fix="set AFTERWORD_LLM_MODEL (or AFTERWORD_DECIDER_MODEL) to another model; it is asked again by itself",
    )
    yield BadAnswer('the answer lacks the list "entries"')


@pytest.mark.parametrize("error", list(made()), ids=lambda error: str(error)[:60])
def test_each_deadline_and_each_failure_of_the_ledger_is_known(error: AfterwordError) -> None:
    assert_known(error, "out of luck", "file is not a database")


@pytest.mark.parametrize(
    "made", [[[1.0], [1.0, 2.0]], [], [[1.0]] * 3, [[1.0]] * 2, [[float("nan"), 1]] * 2, [[0, 0]] * 2]
)
def test_each_vector_that_is_none_is_known(made: list[list[float]]) -> None:
    checked = Checked("bge-m3", "set AFTERWORD_EMBED_MODEL to an embedding model that is sound")
    checked.dimensions = 2
    with pytest.raises(EmbedderUnavailable) as caught:
        checked.rows(made, 2)
    assert_known(caught.value)


MILVUS = [
    IndexUnavailable("Milvus could not insert: no", fix="Look at /log; if rows are damaged, run `afterword reindex`."),
    IndexUnavailable("Milvus does not hold what was written to it", fix="Is its disk full? Look at its log."),
    IndexUnavailable("Milvus did not answer within 5 s", fix="Look at its log and its load."),
]


@pytest.mark.parametrize("error", MILVUS, ids=str)
def test_an_index_that_is_away_is_known(error: IndexUnavailable) -> None:
    assert_known(error)
    assert_chinese(f"searched by words only: {error}")


def test_what_a_person_does_wrong_is_known() -> None:
    for check, value in ((checked_id, ""), (checked_id, "x" * 300), (checked_text, " "), (checked_text, "x" * 200_000)):
        with pytest.raises(InvalidInput) as caught:
            check(value, "text")
        assert_chinese(str(caught.value))


class Waiting:
    """A ledger in which so much waits for everybody."""

    def __init__(self, turns: int, size: int) -> None:
        self._measure = turns, size

    async def waiting(self, _: Scope | None) -> tuple[int, int]:
        return self._measure


FULL = [
    (Limits(waiting_turns_per_user=1), 1, 0),
    (Limits(waiting_turns=1), 1, 0),
    (Limits(waiting_bytes_per_user=10), 0, 10),
    (Limits(waiting_bytes=10), 0, 10),
]


@pytest.mark.parametrize(("limits", "turns", "size"), FULL)
async def test_each_limit_of_what_waits_is_known(limits: Limits, turns: int, size: int) -> None:
    gate = Gate(limits, cast("Ledger", Waiting(turns, size)), FrozenClock(), Meter())
    with pytest.raises(QueueFull) as caught:
        await gate.admit(Scope("t", "u"), [NewTurn("c", "user", "one more")])
    assert_chinese(str(caught.value))


def test_each_limit_of_replies_is_known() -> None:
    gate = Gate(Limits(replies=1, replies_per_user=1), cast("Ledger", Waiting(0, 0)), FrozenClock(), Meter())
    for of_user, of_all in ((1, 1), (0, 1)):
        with pytest.raises(QueueFull) as caught:
            gate.check_replies(of_user, of_all)
        assert_chinese(str(caught.value))


def test_each_translation_names_what_its_original_names() -> None:
    for pattern, chinese in _KNOWN:
        used = set(re.findall(r"\{(\w+)\}", chinese))
        assert used <= set(pattern.groupindex), chinese
