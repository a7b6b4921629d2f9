"""Logs: structured, on standard error, with the ids of request, chat and job, and without what people say.

No line holds a message, a memory, a prompt, an answer or a key, also where something breaks: of an exception its class and
where it was raised are told, of our own errors the part that nobody said (`AfterwordError.public`); other libraries'
lines end where their first value begins. `content=True` (setting `log_content`) tells everything, to look for a fault.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
import traceback
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import structlog

from afterword.errors import AfterwordError

Event = MutableMapping[str, Any]

OURS = "afterword"
FOREIGN = 120  # characters of another library's line
_VALUE = re.compile(r"[\n<{('\"=]|: ")


def configure_logs(level: str, *, as_json: bool = False, content: bool = False) -> None:
    """Log from this level up; other libraries from `warning` up at least. `content` lets people's words in."""
    number = logging.getLevelNamesMapping()[level.upper()]
    renderer: Any = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
    )
    if as_json:
        renderer = structlog.processors.JSONRenderer(ensure_ascii=False)
    frames = [structlog.processors.format_exc_info] if as_json else []
    told: list[Any] = [*frames, _in_full] if content else [_without_content]
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        *told,
        _on_one_line,
    ]
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),  # where it is now: it may be put elsewhere
    )
    _configure_others(max(number, logging.WARNING), shared, renderer, content=content)


class _ToStandardError(logging.StreamHandler[Any]):
    """Where it is now: it may be put elsewhere after this was made."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        return sys.stderr


def _configure_others(number: int, shared: list[Any], renderer: Any, *, content: bool) -> None:
    """What other libraries log, through the same processors."""
    first: list[Any] = [structlog.stdlib.add_logger_name, *([] if content else [_until_a_value]), *shared]
    handler = _ToStandardError()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=first,
            use_get_message=content,  # else the text before its values are put in
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    for older in [each for each in root.handlers if isinstance(each, _ToStandardError)]:
        root.removeHandler(older)
    root.addHandler(handler)
    root.setLevel(number)
    threading.excepthook = _thread_failed


def quiet_unless_configured() -> None:
    """For people who use the library and set up no logs: warnings only, and not on their standard output.

    Only our own lines: what other libraries log, and how threads end, is the application's affair.
    """
    if not structlog.is_configured():
        structlog.configure(
            processors=[
                structlog.contextvars.merge_contextvars,
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                _without_content,
                _on_one_line,
                structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
            ],
            wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
            logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        )


def described(error: BaseException) -> str:
    """An exception without what anybody said: our own words, or its class and where it was raised."""
    if isinstance(error, AfterwordError):
        return error.public
    return f"{type(error).__name__}{_way(error)}"


def _way(error: BaseException) -> str:
    """` at chat.py:210, from worker.py:290 < remember.py:80`: our own frames, and the last one."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return ""
    places = [
        f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames if OURS in Path(frame.filename).parts[:-1]
    ]
    last = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}"
    ours = [place for place in places if place != last]
    return f" at {last}" + (f", from {' < '.join(reversed(ours))}" if ours else "")


# ── processors ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _without_content(_logger: Any, _method: str, event: Event) -> Event:
    found = _raised(event.pop("exc_info", None))
    if found is not None:
        own = f": {found.public}" if isinstance(found, AfterwordError) else ""
        event["exception"] = f"{type(found).__name__}{_way(found)}{own}"
        cause = found.__cause__
        if cause is not None:
            event["cause"] = f"{type(cause).__name__}{_way(cause)}"
    for name, value in event.items():
        if isinstance(value, BaseException):
            event[name] = described(value)
    return event


def _in_full(_logger: Any, _method: str, event: Event) -> Event:
    for name, value in event.items():
        if isinstance(value, BaseException):
            event[name] = str(value) or type(value).__name__
    return event


def _raised(told: Any) -> BaseException | None:
    """The exception that `exc_info` stands for, in any of the forms that logging takes."""
    if isinstance(told, BaseException):
        return told
    if isinstance(told, tuple):
        return told[1] if len(told) == 3 else None
    return sys.exception() if told else None


def _on_one_line(_logger: Any, _method: str, event: Event) -> Event:
    """No value can end a line or colour a terminal: ids are other people's texts."""
    for name, value in event.items():
        if isinstance(value, str) and not value.isprintable() and name != "exception":
            event[name] = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in value)
    return event


def _until_a_value(_logger: Any, _method: str, event: Event) -> Event:
    """Another library's line as far as it is the library's own words: up to the first value in it."""
    text = str(event.get("event", "")).partition("%")[0]
    event["event"] = _VALUE.split(text, maxsplit=1)[0].strip()[:FOREIGN]
    return event


def _thread_failed(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
        name = args.thread.name if args.thread is not None else ""
        structlog.get_logger(__name__).error("thread.failed", thread=name, exc_info=args.exc_value)
