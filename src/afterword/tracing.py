"""Traces, for whoever has set up OpenTelemetry: nothing is loaded and nothing is done where nobody has.

Spans follow the GenAI conventions (open-telemetry/semantic-conventions-genai, v0.1, in development): `invoke_agent` for
a reply, `invoke_workflow` for a job, `chat` and `embeddings` for models, `search_memory`, `create_memory`,
`update_memory`, `upsert_memory`, `delete_memory` and `delete_memory_store` for memory. `gen_ai.memory.store.id` is the
tenant. No span holds a text, a user or the words of an error.

A job is no child of the reply that caused it, which is over by then: its trace is its own and links to the reply's.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from afterword.records import Job, NewJob

NAME = "afterword"
CAUSES = "traces"  # in a job's payload: where it comes from, as W3C trace contexts
FLUSH = 3.0  # seconds for the last spans at the end of a process
Attributes = Mapping[str, Any]


def _tracer() -> Any | None:
    """The tracer, if somebody has loaded OpenTelemetry and set a provider."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    provider = trace.get_tracer_provider()
    return None if isinstance(provider, trace.ProxyTracerProvider) else provider.get_tracer(NAME)


def begin(name: str, attributes: Attributes, *, client: bool = False, causes: Sequence[str] = ()) -> Any | None:
    """A span that has begun and is nobody's surroundings yet; None where nothing is traced. `end` it."""
    tracer = _tracer()
    if tracer is None:
        return None
    from opentelemetry import trace  # noqa: PLC0415 - loaded already, or we would not be here

    kind = trace.SpanKind.CLIENT if client else trace.SpanKind.INTERNAL
    links = [trace.Link(context) for context in map(_context, causes) if context is not None]
    return tracer.start_span(name, kind=kind, attributes=dict(attributes), links=links)


def end(span: Any | None, error: BaseException | str | None = None, **attributes: Any) -> None:
    """End it. Of an error only its class is told: its text may hold what people said."""
    if span is None:
        return
    for name, value in attributes.items():
        span.set_attribute(name.replace("__", "."), value)
    if error is not None:
        from opentelemetry.trace import StatusCode  # noqa: PLC0415

        span.set_attribute("error.type", error if isinstance(error, str) else type(error).__qualname__)
        span.set_status(StatusCode.ERROR)
    span.end()


def within(span: Any | None) -> AbstractContextManager[Any]:
    """What begins inside belongs to this span. It does not end with it."""
    if span is None:
        return nullcontext()
    from opentelemetry import trace  # noqa: PLC0415

    return trace.use_span(span, end_on_exit=False, record_exception=False, set_status_on_exception=False)


@contextmanager
def spanned(
    name: str, attributes: Attributes, *, client: bool = False, causes: Sequence[str] = ()
) -> Iterator[Any | None]:
    """A span around what is inside; its value takes more attributes."""
    span = begin(name, attributes, client=client, causes=causes)
    if span is None:
        yield None
        return
    error: BaseException | None = None
    try:
        with within(span):
            yield span
    except BaseException as raised:
        error = raised
        raise
    finally:
        end(span, error)


def memory_span(operation: str, tenant: str, **attributes: Any) -> AbstractContextManager[Any | None]:
    """A span of one memory operation."""
    named = {name.replace("__", "."): value for name, value in attributes.items()}
    return spanned(operation, {"gen_ai.operation.name": operation, "gen_ai.memory.store.id": tenant, **named})


# ── from a reply to the jobs that it causes ────────────────────────────────────────────────────────────────────────


def caused(jobs: Sequence[NewJob]) -> Sequence[NewJob]:
    """The jobs, with a note of the span that puts them."""
    if _tracer() is None or not jobs:
        return jobs
    from opentelemetry import trace  # noqa: PLC0415

    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return jobs
    here = f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"
    return [replace(job, payload={**job.payload, CAUSES: [here]}) for job in jobs]


def causes_of(job: Job) -> Sequence[str]:
    """What is noted on a job."""
    noted = job.payload.get(CAUSES, ())
    return [each for each in noted if isinstance(each, str)] if isinstance(noted, list) else ()


def _context(noted: str) -> Any | None:
    """A W3C trace context (`00-trace-span-flags`) as a span's context; None for anything else."""
    from opentelemetry import trace  # noqa: PLC0415

    parts = noted.split("-")
    try:
        trace_id, span_id, flags = (int(part, 16) for part in parts[1:4])
    except ValueError:
        return None
    context = trace.SpanContext(trace_id, span_id, is_remote=True, trace_flags=trace.TraceFlags(flags & 1))
    return context if context.is_valid else None


@contextmanager
def taken_up(traceparent: str | None) -> Iterator[None]:
    """What begins inside belongs to the trace of a caller that names it in its request."""
    context = _context(traceparent) if traceparent and _tracer() is not None else None
    if context is None:
        yield
        return
    from opentelemetry import trace  # noqa: PLC0415

    with trace.use_span(trace.NonRecordingSpan(context), record_exception=False, set_status_on_exception=False):
        yield
