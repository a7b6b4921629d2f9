"""`serve`, `worker`, `doctor`, `settings`."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import asdict
from importlib.util import find_spec

import typer

from afterword.commands.common import Flags, say, say_json, settings_of
from afterword.commands.exporting import traces_exported
from afterword.doctor import diagnose
from afterword.errors import SettingsError
from afterword.wiring import open_memory


def serve(flags: Flags, *, page: bool) -> None:
    if not find_spec("uvicorn") or not find_spec("fastapi"):
        raise SettingsError("the server is not installed: pip install 'afterword[page]'")
    from afterword.interfaces.server import loop_factory  # noqa: PLC0415 (an extra)
    from afterword.interfaces.server import serve as run  # noqa: PLC0415

    settings = settings_of(flags, quiet=False)
    with traces_exported(settings), asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(run(settings, page=page, announce=lambda address: say(f"Afterword is ready at {address}")))


def work(flags: Flags) -> None:
    settings = settings_of(flags, quiet=False)

    async def run() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        async with open_memory(settings, run_worker=True) as memory:
            say(f"Working as {memory.worker.name}. Ctrl-C ends.")
            await stop.wait()

    with traces_exported(settings):
        asyncio.run(run())


def doctor(flags: Flags, *, as_json: bool) -> None:
    settings = settings_of(flags)
    checks = asyncio.run(diagnose(settings))
    if as_json:
        say_json([asdict(check) for check in checks])
    else:
        for check in checks:
            say(f"{check.state:<4}  {check.name}: {check.text}")
            if check.fix:
                say(f"      → {check.fix}")
        show_settings(flags, only_set=True)
    if any(check.state == "bad" for check in checks):
        raise typer.Exit(1)


def show_settings(flags: Flags, *, only_set: bool = False) -> None:
    rows = [row for row in settings_of(flags).describe() if not only_set or (row.value and row.source != "default")]
    if only_set:
        say(
            "\nSettings that are not the default (all: afterword settings):" if rows else "\nAll settings are defaults."
        )
    for row in rows:
        say(f"{row.name:<22} {row.value or '-':<40} ({row.source})" + ("" if only_set else f"  {row.help}"))
