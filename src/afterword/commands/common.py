"""What the commands share: settings, logs, an open memory, plain text."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from afterword.logs import configure_logs
from afterword.records import local_time
from afterword.settings import load_settings
from afterword.wiring import open_memory

if TYPE_CHECKING:
    from afterword.memory import AsyncMemory
    from afterword.settings import Settings

T = TypeVar("T")
Flags = Mapping[str, Any]


def settings_of(flags: Flags | None, *, quiet: bool = True) -> Settings:
    """Read the settings and set up the logs, on standard error. `quiet`: warnings only, unless a level was set."""
    settings = load_settings(**(flags or {}))
    level = "warning" if quiet and settings.source("log_level") == "default" else settings.log_level
    configure_logs(level, as_json=settings.log_json, content=settings.log_content)
    return settings


def with_memory(
    flags: Flags | None, action: Callable[[AsyncMemory, Settings], Awaitable[T]], *, run_worker: bool = False
) -> T:
    """Open the memory, do one thing, close it. With `run_worker`, this process does background work meanwhile."""
    settings = settings_of(flags)

    async def run() -> T:
        async with open_memory(settings, run_worker=run_worker) as memory:
            return await action(memory, settings)

    return asyncio.run(run())


def say(text: str = "") -> None:
    typer.echo(text)


def say_json(value: Any) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2))


def warn(text: str) -> None:
    typer.echo(text, err=True)


def when(moment: datetime, utc_offset: int) -> str:
    """As a clock on the wall showed it."""
    return local_time(moment, utc_offset).strftime("%Y-%m-%d %H:%M")


def one_line(text: str, width: int = 200) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= width else flat[: width - 1] + "…"
