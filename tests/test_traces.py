"""Traces: a reply's spans, the jobs that link to it, the conventions' names, and no word of what was said."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
import httpx
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from afterword import tracing
from afterword.errors import LLMUnavailable
from afterword.interfaces.http import create_app
from afterword.lanes import remember_job
from afterword.memory import AsyncMemory
from afterword.records import Scope
from afterword.settings import Settings
from afterword.testing import FakeOpenAI, HashingEmbedder, ScriptedLLM
from tests.conftest import OpenMemory
from tests.serving import client_of
from tests.waiting import idle

pytestmark = pytest.mark.anyio

MARK = "Zanzibar-7311"
ANN = {"user_id": "ann"}
Spans = Callable[[], list[ReadableSpan]]


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spans]:
    """All spans that have ended. The provider is the test's own: OpenTelemetry's global one is set once a process."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    yield lambda: list(exporter.get_finished_spans())
    provider.shutdown()


def named(spans: Spans, name: str) -> ReadableSpan:
    return next(span for span in spans() if span.name == name)


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def context(span: ReadableSpan) -> trace.SpanContext:
    found = span.get_span_context()
    assert found is not None
    return found


@pytest.fixture
def llm() -> ScriptedLLM:
    return ScriptedLLM()


@pytest.fixture
async def memory(opened: OpenMemory, llm: ScriptedLLM, spans: Spans) -> AsyncMemory:
    return await opened(llm=llm, embedder=HashingEmbedder())


@pytest.fixture
async def client(memory: AsyncMemory, settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(create_app(memory, settings)) as client:
        yield client


async def chat(memory: AsyncMemory, message: str, chat_id: str = "c-1") -> None:
    with anyio.fail_after(20):
        await (await memory.chat(message, "ann", chat_id)).done()
        await idle(memory)


async def test_a_reply_holds_its_search_and_its_model_call(memory: AsyncMemory, spans: Spans) -> None:
    await chat(memory, f"My city is {MARK}.")
    reply, search, model = (named(spans, name) for name in ("invoke_agent afterword", "search_memory", "chat scripted"))
    for child in (search, model):
        assert child.parent is not None
        assert child.parent.span_id == context(reply).span_id
    assert attributes(reply) == {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": "afterword",
        "gen_ai.conversation.id": "c-1",
        "afterword.reply": "whole",
    }
    assert attributes(search)["gen_ai.operation.name"] == "search_memory"
    assert attributes(search)["gen_ai.memory.store.id"] == "default"
    assert attributes(search)["gen_ai.memory.record.count"] == 0
    assert model.kind is trace.SpanKind.CLIENT
    assert attributes(model)["gen_ai.request.model"] == "scripted"
    assert attributes(model)["gen_ai.provider.name"] == "openai"
    assert attributes(model)["gen_ai.response.time_to_first_chunk"] > 0


async def test_the_jobs_of_a_reply_are_traces_of_their_own_that_link_to_it(memory: AsyncMemory, spans: Spans) -> None:
    await chat(memory, "I moved to Oslo.")
    reply, job = named(spans, "invoke_agent afterword"), named(spans, "invoke_workflow remember")
    assert job.parent is None
    assert context(job).trace_id != context(reply).trace_id
    assert [link.context.span_id for link in job.links] == [context(reply).span_id]
    assert attributes(job)["afterword.outcome"] == "done"
    written = named(spans, "create_memory")
    assert written.parent is not None
    assert written.parent.span_id == context(job).span_id
    assert attributes(written)["gen_ai.memory.record.count"] >= 1
    embedding = next(span for span in spans() if span.name == "invoke_workflow embed" and span.links)
    assert embedding.links[0].context.trace_id in {context(reply).trace_id, context(job).trace_id}


async def test_a_job_that_stands_for_several_turns_links_to_all_of_their_replies(
    opened: OpenMemory, spans: Spans
) -> None:
    memory = await opened(run_worker=False, debounce=5.0, debounce_most=60.0)
    with anyio.fail_after(20):
        for message in ("I moved to Oslo.", "I have a dog.", "I like tea."):
            await (await memory.chat(message, "ann", "c")).done()
    (job,) = [job for job in await memory.jobs("ann") if job.kind == "remember"]
    replies = [context(span).span_id for span in spans() if span.name == "invoke_agent afterword"]
    noted = [int(each.split("-")[2], 16) for each in tracing.causes_of(job)]
    assert noted == replies
    assert len(noted) == 3


async def test_editing_deleting_and_resetting_are_named_after_what_they_do(memory: AsyncMemory, spans: Spans) -> None:
    (memory_id,) = await memory.add("I moved to Oslo.", "ann", timeout=20)
    await memory.update(memory_id, "They moved to Oslo.", "ann")
    await memory.delete(memory_id, "ann")
    await memory.reset("ann")
    names = [span.name for span in spans()]
    for operation in ("create_memory", "update_memory", "delete_memory", "delete_memory_store"):
        assert operation in names
        assert attributes(named(spans, operation))["gen_ai.operation.name"] == operation


async def test_no_span_holds_a_text_a_user_or_the_words_of_an_error(
    memory: AsyncMemory, llm: ScriptedLLM, spans: Spans
) -> None:
    llm.fail_with(LLMUnavailable(f"refused: {MARK}", said=MARK, retry_after=0.01))
    with anyio.fail_after(20):
        reply = await memory.chat(f"My city is {MARK}.", f"user-{MARK}", "c-1")
        await reply.done()
        await idle(memory)
    told = " ".join(span.to_json() for span in spans())
    assert MARK not in told
    failed = named(spans, "chat scripted")
    assert attributes(failed)["error.type"] == "LLMUnavailable"
    assert failed.status.status_code is trace.StatusCode.ERROR
    assert not failed.status.description
    assert not failed.events
    assert attributes(named(spans, "invoke_agent afterword"))["afterword.reply"] == "failed"


async def test_a_callers_trace_is_taken_up(client: httpx.AsyncClient, spans: Spans) -> None:
    trace_id, span_id = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    body = {"message": "Hello.", **ANN}
    await client.post("/api/chat", json=body, headers={"traceparent": f"00-{trace_id}-{span_id}-01"})
    reply = named(spans, "invoke_agent afterword")
    assert f"{context(reply).trace_id:032x}" == trace_id
    for wrong in ("", "00-zz-1-1", "00-1", f"00-{'0' * 32}-{span_id}-01", "x" * 5000, "00--1--1-01"):
        answer = await client.post("/api/chat", json=body, headers={"traceparent": wrong})
        assert answer.status_code == 200


async def test_the_servers_count_of_tokens_is_taken(opened: OpenMemory, spans: Spans) -> None:
    from afterword.llms.openai import OpenAILLM  # noqa: PLC0415 - imported when chosen, as the wiring does it

    async with FakeOpenAI() as server:
        llm = OpenAILLM(base_url=server.base_url, api_key="", model="fake")
        memory = await opened(llm=llm)
        await memory.add("I moved to Oslo.", "ann", timeout=20)
        tokens = memory.watch.meter.tokens
        assert tokens.of("decide", "input", "server") > 0
        assert tokens.of("decide", "output", "server") > 0
        model = named(spans, "chat fake")
        assert attributes(model)["gen_ai.usage.input_tokens"] == tokens.of("decide", "input", "server")
        assert attributes(model)["gen_ai.output.type"] == "json"
        await llm.aclose()


async def test_what_is_noted_on_a_job_may_be_anything(memory: AsyncMemory, spans: Spans) -> None:
    scope = Scope("default", "ann")
    job = remember_job(scope, "c", 0.0, 0.0)
    for noted in (["rubbish", 7, None, "00-1-2"], "no list", {"a": 1}):
        await memory.ledger.put(scope, [job.__class__(**{**_fields(job), "payload": {**job.payload, "traces": noted}})])
        await idle(memory)
    assert all(not span.links for span in spans() if span.name == "invoke_workflow remember")


def _fields(job: Any) -> dict[str, Any]:
    return {name: getattr(job, name) for name in job.__dataclass_fields__}


async def test_without_a_provider_nothing_is_noted_and_no_span_begins(opened: OpenMemory) -> None:
    assert tracing.begin("x", {}) is None
    memory = await opened(run_worker=False)
    await memory.submit("I moved to Oslo.", "ann")
    assert all(tracing.CAUSES not in job.payload for job in await memory.jobs("ann"))


def test_a_process_that_traces_nothing_does_not_load_opentelemetry() -> None:
    script = """
import asyncio, json, sys, tempfile
from afterword import open_memory
from afterword.settings import Settings
async def main():
    settings = Settings(data_dir=tempfile.mkdtemp(), embedder="none", debounce=0, debounce_most=0)
    async with open_memory(settings) as memory:
        await memory.add("I moved to Oslo.", "ann", timeout=20)
        await (await memory.chat("Where?", "ann")).done()
asyncio.run(main())
print(json.dumps(sorted(name for name in sys.modules if name.startswith(("opentelemetry", "prometheus_client")))))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(done.stdout.splitlines()[-1]) == []
