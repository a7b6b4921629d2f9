"""Writes docs/cli.md: the help of `afterword` and of each of its commands, at a fixed width."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from afterword.cli import app

WIDTH = 100
HEAD = """# The command line

`afterword` is in the environment that `./scripts/start` makes (`.venv/bin/afterword`), or where you installed it. Every
setting is an option of every command too: [settings.md](settings.md). Exit codes: 0, 1 (an error, said in one sentence
that names the fix), 2 (wrong usage), 130 (interrupted).

Commands work on the same data folder as a running server and may be used beside it; what they put, the server's worker
does. Where no server runs, a command that waits for background work does that work itself.

This page is made from the help texts: `python -m docs.code.embed` writes it anew.
"""


def helps(command: Any, context: Any) -> Iterator[tuple[str, str]]:
    """Each command's whole name with its help text, depth first."""
    yield context.command_path, "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
    for name, inner in getattr(command, "commands", {}).items():
        yield from helps(inner, _context(inner, name, context))


def _context(command: Any, name: str, parent: Any = None) -> Any:
    return command.context_class(command, info_name=name, parent=parent, terminal_width=WIDTH)


def cli_page() -> str:
    """The page as it should be."""
    command = typer.main.get_command(app)
    parts = [HEAD]
    for path, text in helps(command, _context(command, "afterword")):
        parts.append(f"## `{path}`\n\n```text\n{text}\n```\n")
    return "\n".join(parts)
