"""What the logs tell, and what they never tell: no message, memory, prompt, answer or key, wherever something breaks."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any

import anyio
import httpx
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from afterword import retries
from afterword.errors import AfterwordError, BadAnswer, InvalidInput, LedgerError, LLMUnavailable, NotRemembered
from afterword.interfaces.http import create_app
from afterword.ledger.dialect import explain
from afterword.logs import configure_logs, described
from afterword.memory import AsyncMemory
from afterword.settings import Settings
from afterword.testing import FakeOpenAI, ScriptedLLM
from tests.conftest import OpenMemory
from tests.serving import client_of
from tests.waiting import idle

pytestmark = pytest.mark.anyio

MARK = "Zanzibar-7311"
KEY = "sk-Quetzal-4408"
ANN = {"user_id": "ann"}


@pytest.fixture
def logged(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """All lines that were logged, by anybody, at the level that is set where none is named. Nothing else is written."""
    lines: list[dict[str, Any]] = []

    def read() -> list[dict[str, Any]]:
        lines.extend(json.loads(line) for line in capsys.readouterr().err.splitlines())
        return lines

    root = logging.getLogger()
    handlers, level, hook = root.handlers[:], root.level, threading.excepthook
    root.handlers.clear()
    configure_logs("info", as_json=True)
    try:
        yield read
    finally:
        structlog.reset_defaults()
        structlog.contextvars.clear_contextvars()
        root.handlers[:] = handlers
        root.setLevel(level)
        threading.excepthook = hook


Logged = Callable[[], list[dict[str, Any]]]


def told(logged: Logged, event: str) -> dict[str, Any]:
    return next(line for line in logged() if line["event"] == event)


def assert_silent(logged: Logged) -> None:
    text = json.dumps(logged(), ensure_ascii=False)
    assert MARK not in text
    assert KEY not in text


@pytest.fixture
def llm() -> ScriptedLLM:
    return ScriptedLLM()


@pytest.fixture
async def memory(opened: OpenMemory, llm: ScriptedLLM, logged: Logged) -> AsyncMemory:
    return await opened(llm=llm)


@pytest.fixture
async def client(memory: AsyncMemory, settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(create_app(memory, settings)) as client:
        yield client


# ── what they tell ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_lines_carry_the_ids_of_request_chat_and_job(
    client: httpx.AsyncClient, memory: AsyncMemory, logged: Logged
) -> None:
    body = {"message": f"My city is {MARK}.", "chat_id": "c-1", "turn_id": "t-1", **ANN}
    answer = await client.post("/api/chat", json=body, headers={"X-Request-Id": "proxy-17"})
    assert answer.headers["X-Request-Id"] == "proxy-17"
    await idle(memory)
    kept = told(logged, "reply.kept")
    assert (kept["request"], kept["chat"], kept["turn"], kept["outcome"]) == ("proxy-17", "c-1", "t-1", "whole")
    done = told(logged, "job.done")
    assert (done["kind"], done["chat"]) == ("remember", "c-1")
    assert isinstance(done["job"], int)
    assert_silent(logged)


@pytest.mark.parametrize("own", ["", "a b", "x" * 65, 'a"b', "é"])
async def test_a_callers_id_that_is_not_plain_is_replaced(client: httpx.AsyncClient, own: str) -> None:
    answer = await client.get("/healthz", headers={b"X-Request-Id": own.encode()})
    assert answer.headers["X-Request-Id"] != own
    assert answer.headers["X-Request-Id"].isalnum()


def test_an_id_can_not_forge_a_line_nor_colour_a_terminal(logged: Logged) -> None:
    structlog.get_logger().warning("seen", chat="a\n2026 [error] forged\x1b[31m\u2028\u202e")
    (line,) = logged()
    assert line["chat"] == "a\\n2026 [error] forged\\x1b[31m\\u2028\\u202e"


def test_content_is_told_where_a_person_asked_for_it(logged: Logged) -> None:
    configure_logs("info", as_json=True, content=True)
    structlog.get_logger().error("broke", error=ValueError(MARK), exc_info=ValueError(MARK))
    logging.getLogger("library").warning("about %s", MARK)
    broke, about = logged()
    assert broke["error"] == MARK
    assert f"ValueError: {MARK}" in broke["exception"]
    assert about["event"] == f"about {MARK}"


# ── what they never tell ───────────────────────────────────────────────────────────────────────────────────────────


@given(text=st.text(min_size=1), kind=st.sampled_from([ValueError, KeyError, OSError, UnicodeError]))
def test_an_exception_is_its_class_and_its_place_whatever_it_says(text: str, kind: type[Exception]) -> None:
    told = described(kind(f"{MARK}{text}"))
    assert told == kind.__name__


@given(said=st.text(min_size=1).map(lambda text: f"{MARK} {text}"))
def test_what_a_server_said_is_in_no_public_text(said: str) -> None:
    errors: list[AfterwordError] = [
        LLMUnavailable(f"http://llm failed with 500: {said}", said=said),
        BadAnswer(f"the input was refused: {said}", said=said),
        LedgerError(f"the database can't be read ({said})", said=said),
        InvalidInput(f"role is {said!r}: give 'user'"),
    ]
    for error in errors:
        assert MARK in str(error)
        assert MARK not in error.public


def test_a_database_error_that_quotes_a_row_is_not_public() -> None:
    error = explain(RuntimeError(f"DETAIL: Key (id)=({MARK}) exists"), "the database")
    assert MARK not in error.public


def test_other_libraries_lines_end_before_their_first_value(logged: Logged) -> None:
    logging.getLogger("library").warning("could not store %s at %s", MARK, KEY)
    logging.getLogger("library").warning(f"could not parse '{MARK}'")  # noqa: G004
    lost = f"Task exception was never retrieved\nfuture: <Task exception=ValueError('{MARK}')>"
    logging.getLogger("asyncio").error(lost, exc_info=ValueError(MARK))
    thread = threading.Thread(target=lambda: dict[str, str]()[MARK], name="a-thread")
    thread.start()
    thread.join()
    assert [line["event"] for line in logged()] == [
        "could not store",
        "could not parse",
        "Task exception was never retrieved",
        "thread.failed",
    ]
    assert logged()[-1]["exception"].startswith("KeyError at test_logs.py")
    assert_silent(logged)


class Broken(Exception):
    """Of no kind that is known."""


FAILURES = [
    LLMUnavailable(f"failed: {MARK}", said=MARK, retry_after=0.01),
    BadAnswer(f"not an answer: {MARK}", said=MARK),
    Broken(MARK),
    InvalidInput(f"text is {MARK!r}"),
]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
async def test_a_reply_and_its_job_that_break_say_nothing_of_what_was_said(
    client: httpx.AsyncClient,
    memory: AsyncMemory,
    llm: ScriptedLLM,
    logged: Logged,
    failure: Exception,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retries, "BACKOFF", (0.001, 0.001))
    llm.fail_with(failure, times=2)
    with anyio.fail_after(20):
        answer = await client.post("/api/chat", json={"message": f"My city is {MARK}.", "chat_id": "c", **ANN})
        await idle(memory)
    assert "cut" in answer.text
    failed = told(logged, "job.failed")
    assert failed["error"]
    assert_silent(logged)


async def test_an_answer_that_repeats_the_prompt_is_not_logged(
    memory: AsyncMemory, llm: ScriptedLLM, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "BACKOFF", (0.001, 0.001))
    llm.answers = lambda messages, schema: f"no JSON, only {MARK}: {messages[-1].content}"
    with pytest.raises(NotRemembered):
        await memory.add(f"My city is {MARK}.", "ann", timeout=20)
    assert told(logged, "job.failed")["dead"] in (True, False)
    assert_silent(logged)


async def test_a_route_that_breaks_names_itself_and_not_what_it_was_sent(
    client: httpx.AsyncClient, memory: AsyncMemory, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any, **__: Any) -> Any:
        raise Broken(MARK)

    monkeypatch.setattr(memory, "search", broken)
    monkeypatch.setattr(memory, "get", broken)
    with suppress(httpx.HTTPError):
        await client.post("/api/search", json={"query": MARK, **ANN})
    with suppress(httpx.HTTPError):
        await client.get(f"/api/memories/{MARK}", params=ANN)
    failed = [line for line in logged() if line["event"] == "http.failed"]
    assert [line["route"] for line in failed] == ["/api/search", "/api/memories/{memory_id}"]
    assert all(line["exception"].startswith("Broken at test_logs.py") and line["request"] for line in failed)
    assert_silent(logged)


async def test_a_real_protocol_error_tells_no_prompt_and_no_key(opened: OpenMemory, logged: Logged) -> None:
    async with FakeOpenAI() as server:
        settings = {"llm_base_url": server.base_url, "llm_model": "fake"}
        from afterword.llms.openai import OpenAILLM  # noqa: PLC0415 - imported when chosen, as the wiring does it

        llm = OpenAILLM(base_url=settings["llm_base_url"], api_key=KEY, model="fake")
        memory = await opened(llm=llm)
        for status in (400, 401, 404, 429, 500):
            server.next("chat", status=status, message=f"refused {MARK} with {KEY}")
            reply = await memory.chat(f"My city is {MARK}.", "ann", f"chat-{status}")
            with anyio.fail_after(20):
                await reply.done()
            assert reply.cut
            assert KEY not in reply.cut
        assert_silent(logged)
        assert MARK not in " ".join((await memory.status()).trouble)
        await llm.aclose()


async def test_what_one_users_words_made_a_server_say_no_other_user_reads(
    memory: AsyncMemory, llm: ScriptedLLM, client: httpx.AsyncClient
) -> None:
    said = f"could not tokenize: {MARK}"
    llm.fail_with(LLMUnavailable(f"http://llm failed with 500: {said}", said=said, retry_after=30), on="complete")
    await memory.submit(f"My city is {MARK}.", "ann")
    with anyio.fail_after(20):
        async for _ in memory.events("ann"):
            if (await memory.status()).trouble:
                break
    assert (await memory.status()).trouble == ("http://llm failed with 500",)
    for path in ("/api/status", "/readyz"):
        assert MARK not in (await client.get(path)).text
