"""Sends traces to a collector (OTLP over HTTP), where the setting `otlp_endpoint` names one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING

from afterword.errors import SettingsError
from afterword.tracing import FLUSH, NAME

if TYPE_CHECKING:
    from afterword.settings import Settings

SENDING = 2.0  # seconds for one batch; a collector that is away costs its spans, nothing else


@contextmanager
def traces_exported(settings: Settings) -> Iterator[None]:
    """While inside, spans go to the collector, if there is one. Raises `SettingsError` where the extra is lacking."""
    if not settings.otlp_endpoint:
        yield
        return
    if not find_spec("opentelemetry.sdk") or not find_spec("opentelemetry.exporter"):
        raise SettingsError("AFTERWORD_OTLP_ENDPOINT is set, but the exporter is not: pip install 'afterword[traces]'")
    # imported when chosen: half a second of CPU
    from opentelemetry import trace  # noqa: PLC0415
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    resource = Resource.create({"service.name": NAME, "service.version": version(NAME)})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    exporter = OTLPSpanExporter(endpoint=f"{settings.otlp_endpoint}/v1/traces", timeout=SENDING)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        last = threading.Thread(target=provider.shutdown, daemon=True)
        last.start()
        last.join(FLUSH)
