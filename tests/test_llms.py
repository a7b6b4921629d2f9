"""Chat models: the real protocol on loopback, and each way it fails."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

import anyio
import pytest

from afterword.errors import AfterwordError, BadAnswer, LLMUnavailable
from afterword.llms.openai import OpenAILLM, find_ollama
from afterword.llms.outages import retry_after
from afterword.ports import LLM, Message, Prompt
from afterword.testing import FakeOpenAI

QUICK = 10.0
KEY = "sk-very-secret-0123456789"
NOW = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
SCHEMA = {"type": "object", "properties": {"kind": {"enum": ["small_talk", "personal_fact"]}}, "required": ["kind"]}

Make = Callable[..., OpenAILLM]


def prompt(question: str = "Where do I live?") -> Prompt:
    return Prompt((Message("system", "Be kind."), Message("user", question)), question, (), NOW, 0)


@pytest.fixture
async def server() -> AsyncIterator[FakeOpenAI]:
    async with FakeOpenAI() as server:
        yield server


@pytest.fixture
async def make(server: FakeOpenAI) -> AsyncIterator[Make]:
    made: list[OpenAILLM] = []

    def making(**changes: Any) -> OpenAILLM:
        given = {"base_url": server.base_url, "api_key": KEY, "model": "fake-chat", **changes}
        made.append(OpenAILLM(**given))
        return made[-1]

    yield making
    for llm in made:
        await llm.aclose()


async def whole(llm: LLM, asked: Prompt | None = None) -> str:
    return "".join([piece async for piece in llm.stream(asked or prompt())])


async def answer(llm: LLM, max_tokens: int = 100) -> str:
    return await llm.complete([Message("user", "I moved to Oslo.")], schema=SCHEMA, max_tokens=max_tokens)


async def failure(work: Any) -> AfterwordError:
    with anyio.fail_after(QUICK):
        with pytest.raises(AfterwordError) as caught:
            await work
    assert KEY not in f"{caught.value} {getattr(caught.value, 'fix', '')}"
    assert caught.value.__cause__ is None  # what the client's own error holds stays out of logs
    return caught.value


# ── replies ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_reply_comes_in_pieces_while_it_is_made(server: FakeOpenAI, make: Make) -> None:
    pieces = [piece async for piece in make().stream(prompt())]
    assert "".join(pieces) == "You said: “Where do I live?”. I have taken note."
    assert len(pieces) > 5
    sent = server.received[0]
    assert sent.body["messages"] == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Where do I live?"},
    ]
    assert sent.headers["authorization"] == f"Bearer {KEY}"


async def test_closing_a_reply_ends_the_call_at_the_server(server: FakeOpenAI, make: Make) -> None:
    server.always("chat", fault="endless")
    async with aclosing(make().stream(prompt())) as pieces:
        async for piece in pieces:
            assert piece
            break
    with anyio.fail_after(QUICK):
        await server.until(lambda: server.counts["cancelled"] == 1)


async def test_cancelling_a_reply_that_has_not_begun_ends_the_call_at_the_server(
    server: FakeOpenAI, make: Make
) -> None:
    gate = server.hold("chat")
    task = asyncio.create_task(whole(make()))
    with anyio.fail_after(QUICK):
        await gate.reached()
        task.cancel()
        await server.until(lambda: server.counts["cancelled"] == 1)
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_twenty_replies_run_side_by_side(server: FakeOpenAI, make: Make) -> None:
    gate = server.hold("chat")
    llm = make()
    tasks = [asyncio.create_task(whole(llm, prompt(f"question {n}"))) for n in range(20)]
    with anyio.fail_after(QUICK):
        await gate.reached(20)
        gate.release()
        replies = await asyncio.gather(*tasks)
    assert all(f"question {n}”" in reply for n, reply in enumerate(replies))


async def test_what_a_model_thinks_aloud_is_left_out(server: FakeOpenAI, make: Make) -> None:
    server.next("chat", reasoning="Let me see.", text="<think>\nIt is Oslo?\n</think>\n\nYou live in Oslo.")
    assert await whole(make()) == "You live in Oslo."
    server.next("complete", text='<think>hm</think>{"kind": "small_talk"}')
    assert await answer(make()) == '{"kind": "small_talk"}'


async def test_a_thinking_model_gives_signs_of_life(server: FakeOpenAI, make: Make) -> None:
    server.next("chat", reasoning="Let me see.", text="Oslo.")
    pieces = [piece async for piece in make().stream(prompt())]
    assert pieces == ["", "Oslo."]


# ── outages, each with its cause and its fix ───────────────────────────────────────────────────────────────────────


async def test_a_server_that_is_not_there_is_named_with_the_setting(make: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
    llm = make(base_url=url)
    for work in (whole(llm), answer(llm)):
        error = await failure(work)
        assert isinstance(error, LLMUnavailable)
        assert str(error) == f"nothing answers at {url}"
        assert error.fix == "start the server or set AFTERWORD_LLM_BASE_URL"


@pytest.mark.parametrize("address", ["", "localhost:1234", "ftp://x/v1", "http://", "http://x:99999999/v1"])
async def test_an_address_that_is_none_is_refused_before_any_call(make: Make, address: str) -> None:
    error = await failure(whole(make(base_url=address)))
    assert isinstance(error, LLMUnavailable)
    assert "no web address" in str(error)
    assert "AFTERWORD_LLM_BASE_URL" in error.fix


REFUSALS = [
    ({"status": 401}, "the key was refused", "AFTERWORD_LLM_API_KEY", None),
    ({"status": 403}, "the key was refused", "AFTERWORD_LLM_API_KEY", None),
    ({"status": 400, "message": f"API key not valid: {KEY}"}, "the key was refused", "AFTERWORD_LLM_API_KEY", None),
    ({"status": 429, "retry_after": "7"}, "too many requests", "raise the account's limits", 7.0),
    ({"status": 429, "message": "You exceeded your current quota"}, "no credit left", "top it up", None),
    ({"status": 402, "message": "Insufficient Balance"}, "no credit left", "top it up", None),
    ({"status": 500, "message": f"died with {KEY}"}, "failed with 500: died with …", "server's log", None),
    ({"status": 503, "retry_after": "1.5"}, "failed with 503", "server's log", 1.5),
    ({"status": 404, "message": "no route"}, "not the address of an API", "ends in /v1", None),
]


@pytest.mark.parametrize(("behaviour", "cause", "fix", "wait"), REFUSALS)
async def test_each_refusal_has_its_cause_and_fix(
    server: FakeOpenAI, make: Make, behaviour: dict[str, Any], cause: str, fix: str, wait: float | None
) -> None:
    server.always("chat", **behaviour)
    server.always("complete", **behaviour)
    for work in (whole(make()), answer(make())):
        error = await failure(work)
        assert isinstance(error, LLMUnavailable)
        assert cause in str(error)
        assert fix in error.fix
        assert error.retry_after == wait
    assert server.counts["received"] <= 4  # nothing is retried here, only a 400 is asked in other forms


async def test_a_missing_key_is_asked_for(server: FakeOpenAI, make: Make) -> None:
    server.api_key = "another"
    error = await failure(whole(make(api_key=" ")))
    assert "a key is needed" in str(error)


async def test_a_key_with_a_stray_character_is_named_before_any_call(make: Make) -> None:
    error = await failure(whole(make(api_key="sk–dash")))
    assert "the key holds characters" in str(error)


async def test_an_unknown_model_is_answered_with_the_names_of_known_ones(server: FakeOpenAI, make: Make) -> None:
    server.strict_models = True
    error = await failure(whole(make(model="gpt-99")))
    assert isinstance(error, LLMUnavailable)
    assert "has no model 'gpt-99'" in str(error)
    assert error.fix == "set AFTERWORD_LLM_MODEL to one that it has: fake-chat, fake-embed"


async def test_the_settings_of_the_decider_are_named_where_it_is_one(server: FakeOpenAI, make: Make) -> None:
    server.always("complete", status=401)
    error = await failure(answer(make(setting="AFTERWORD_DECIDER")))
    assert isinstance(error, LLMUnavailable)
    assert "AFTERWORD_DECIDER_API_KEY" in error.fix


SLOW = [
    ("hang", "AFTERWORD_FIRST_TOKEN_DEADLINE"),
    ("silent", "AFTERWORD_FIRST_TOKEN_DEADLINE"),
    ("drip", "AFTERWORD_FIRST_TOKEN_DEADLINE"),  # bytes that mean nothing are no sign of life
    ("endless", "AFTERWORD_REPLY_DEADLINE"),
]


@pytest.mark.parametrize(("fault", "setting"), SLOW)
async def test_a_slow_reply_ends_at_its_deadline(server: FakeOpenAI, make: Make, fault: str, setting: str) -> None:
    server.always("chat", fault=fault)
    llm = make(first_token_timeout=QUICK if fault == "endless" else 0.2, total_timeout=0.5)
    began = time.monotonic()
    error = await failure(whole(llm))
    assert time.monotonic() - began < 5
    assert isinstance(error, LLMUnavailable)
    assert "gave no answer within 0." in str(error)
    assert setting in error.fix
    with anyio.fail_after(QUICK):
        await server.until(lambda: server.counts["running"] == 0)


async def test_a_reply_that_stops_between_two_pieces_ends_at_the_gap_deadline(server: FakeOpenAI, make: Make) -> None:
    server.always("chat", gap=60.0)
    error = await failure(whole(make(gap_timeout=0.2)))
    assert isinstance(error, LLMUnavailable)
    assert "AFTERWORD_REPLY_GAP_DEADLINE" in error.fix


@pytest.mark.parametrize("fault", ["hang", "silent", "drip"])
async def test_a_slow_background_answer_ends_at_its_deadline(server: FakeOpenAI, make: Make, fault: str) -> None:
    server.always("complete", fault=fault)
    error = await failure(answer(make(complete_timeout=0.2)))
    assert isinstance(error, LLMUnavailable)
    assert "AFTERWORD_DECIDER_DEADLINE" in error.fix


async def test_a_listener_that_is_slow_costs_no_reply(server: FakeOpenAI, make: Make) -> None:
    seen: list[str] = []
    async for piece in make(gap_timeout=0.5).stream(prompt()):
        if not seen:
            await asyncio.sleep(0.7)  # longer than the gap: the deadline is the server's, not the listener's
        seen.append(piece)
    assert "".join(seen).startswith("You said")


@pytest.mark.parametrize("fault", ["cut", "short"])
async def test_a_reply_that_is_cut_keeps_what_came_and_says_so(server: FakeOpenAI, make: Make, fault: str) -> None:
    server.always("chat", fault=fault)
    seen: list[str] = []

    async def read() -> None:
        async for piece in make().stream(prompt()):
            seen.append(piece)  # noqa: PERF401 (what came before the error is looked at)

    error = await failure(read())
    assert "broke off" in str(error)
    assert "".join(seen).startswith("You said")
    server.always("complete", fault="cut")
    assert "broke off" in str(await failure(answer(make())))


async def test_an_error_inside_a_stream_is_an_outage(server: FakeOpenAI, make: Make) -> None:
    server.next("chat", fault="error_event", message="out of memory")
    error = await failure(whole(make()))
    assert isinstance(error, LLMUnavailable)
    assert "failed in the middle of its answer: out of memory" in str(error)
    server.next("chat", fault="error_event", message="prompt is longer than the context length")
    assert isinstance(await failure(whole(make())), BadAnswer)


async def test_something_that_is_not_the_protocol_is_named_so(server: FakeOpenAI, make: Make) -> None:
    server.always("complete", fault="garbage")
    server.always("chat", fault="garbage")
    for work in (answer(make()), whole(make())):
        error = await failure(work)
        assert isinstance(error, LLMUnavailable)
        assert "not the OpenAI protocol" in str(error)
        assert "ends in /v1" in error.fix
    wrong = make(base_url=server.base_url.removesuffix("/v1") + "/elsewhere")
    assert "not the address of an API" in str(await failure(whole(wrong)))


async def test_a_prompt_that_is_too_long_is_no_outage(server: FakeOpenAI, make: Make) -> None:
    behaviour = {"status": 400, "code": "context_length_exceeded", "message": "maximum context length is 4096 tokens"}
    server.always("chat", **behaviour)
    server.always("complete", **behaviour)
    for work in (whole(make()), answer(make())):
        error = await failure(work)
        assert isinstance(error, BadAnswer)
        assert "too long" in str(error)
    assert server.counts["received"] == 2


async def test_an_outage_heals_by_itself(server: FakeOpenAI, make: Make) -> None:
    llm = make()
    server.next("chat", status=503)
    await failure(whole(llm))
    assert await whole(llm)


def test_retry_after_is_read_as_seconds_and_as_a_date() -> None:
    assert retry_after({"retry-after": "12"}) == 12.0
    assert retry_after({"retry-after": "-3"}) == 0.0
    date, later = "Sun, 03 May 2026 09:00:00 GMT", "Sun, 03 May 2026 09:02:00 GMT"
    assert retry_after({"retry-after": later, "date": date}) == 120.0
    assert retry_after({"retry-after": date}) is not None
    assert retry_after({"retry-after": "soon"}) is None
    assert retry_after({}) is None


# ── background answers ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_background_answer_is_asked_for_by_schema_and_without_chance(server: FakeOpenAI, make: Make) -> None:
    assert json.loads(await answer(make())) == {"kind": "personal_fact"}
    sent = server.received[0].body
    assert sent["response_format"]["json_schema"]["schema"] == SCHEMA
    assert (sent["temperature"], sent["max_tokens"]) == (0, 100)


@pytest.mark.parametrize(
    ("formats", "tries"),
    [(("json_object",), ["json_schema", "json_object"]), ((), ["json_schema", "json_object", None])],
)
async def test_a_server_without_schemas_is_told_the_schema_in_words(
    server: FakeOpenAI, make: Make, formats: tuple[str, ...], tries: list[str | None]
) -> None:
    server.formats = formats
    llm = make()
    await answer(llm)
    await answer(llm)  # what was learnt is kept
    asked = [(received.body.get("response_format") or {}).get("type") for received in server.received]
    assert asked == [*tries, tries[-1]]
    assert '"small_talk"' in server.received[-1].body["messages"][0]["content"]


async def test_a_server_with_other_names_is_asked_in_its_own(server: FakeOpenAI, make: Make) -> None:
    message = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
    server.next("complete", status=400, message=message)
    server.next("complete", status=400, message="'temperature' does not support 0 with this model")
    await answer(make())
    sent = server.received[-1].body
    assert sent["max_completion_tokens"] == 100
    assert "max_tokens" not in sent
    assert "temperature" not in sent
    assert sent["response_format"]["type"] == "json_schema"


async def test_a_refusal_that_no_other_form_mends_is_a_bad_answer(server: FakeOpenAI, make: Make) -> None:
    server.always("complete", status=422, message="this text is not allowed")
    llm = make()
    error = await failure(answer(llm))
    assert isinstance(error, BadAnswer)
    assert "this text is not allowed" in str(error)
    server.script.reset()
    await answer(llm)
    assert server.received[-1].body["response_format"]["type"] == "json_schema"


async def test_odd_answers_are_handed_on_as_they_came(server: FakeOpenAI, make: Make) -> None:
    for fault, expected in (("empty", ""), ("prose", "Sure!"), ("truncated", '{"kind": ')):
        server.next("complete", fault=fault)
        assert (await answer(make())).startswith(expected)


async def test_an_answer_of_a_megabyte_is_no_answer(server: FakeOpenAI, make: Make) -> None:
    server.next("complete", fault="huge")
    error = await failure(answer(make()))
    assert isinstance(error, BadAnswer)
    server.next("chat", fault="huge", text="x" * 1000)
    assert len(await whole(make())) > 1_000_000


# ── what is there ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_models_are_listed_and_an_ollama_is_found(server: FakeOpenAI, make: Make) -> None:
    server.models = ("nomic-embed-text", "qwen2.5:7b", "llama3")
    assert await make().list_models() == list(server.models)
    assert await find_ollama(server.base_url, QUICK) == (server.base_url, "qwen2.5:7b")
    server.models = ("bge-m3",)
    assert await find_ollama(server.base_url, QUICK) is None
    server.always("models", fault="hang")
    began = time.monotonic()
    assert await find_ollama(server.base_url) is None
    assert time.monotonic() - began < 2
    await server.aclose()
    assert await find_ollama(server.base_url) is None
