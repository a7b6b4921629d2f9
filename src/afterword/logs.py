"""Logs: structured, on standard error, without what people say."""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog


def configure_logs(level: str, *, as_json: bool = False) -> None:
    """Log from this level up. Tracebacks show no local variables: they hold people's words, and keys."""
    number = logging.getLevelNamesMapping()[level.upper()]
    logging.basicConfig(
        level=max(number, logging.WARNING), stream=sys.stderr, format="%(levelname)s %(name)s %(message)s"
    )
    renderer: Any = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
    )
    if as_json:
        renderer = structlog.processors.JSONRenderer(ensure_ascii=False)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([structlog.processors.format_exc_info] if as_json else []),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),  # where it is now: it may be put elsewhere
    )


def quiet_unless_configured() -> None:
    """For people who use the library and set up no logs: warnings only, and not on their standard output."""
    if not structlog.is_configured():
        configure_logs("warning")
