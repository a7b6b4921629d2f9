"""The command line. This file only declares: what a command does stands in `commands/` and is imported when it runs.

Every setting is an option of every command too (`--llm-model NAME`, `--log-json`, `--no-open-browser`): they are taken
out of the arguments before the commands are parsed, so that they need not be declared again here.
"""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from afterword.errors import AfterwordError

EPILOG = (
    "Every setting is an option of every command: --data-dir DIR, --user NAME, --config FILE, --llm-base-url URL, "
    "--llm-model NAME, --host, --port … `afterword settings` lists them all with their values."
)
SHORT = {"no_browser": ("open_browser", False), "browser": ("open_browser", True)}

app = typer.Typer(
    name="afterword",
    help="Long-term memory for LLM chat that replies first and remembers after.",
    epilog=EPILOG,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
memories = typer.Typer(help="List, show and mend memories.", epilog=EPILOG, rich_markup_mode=None)
jobs = typer.Typer(help="Look at background work, retry and cancel it.", epilog=EPILOG, rich_markup_mode=None)
app.add_typer(memories, name="memories", invoke_without_command=True)
app.add_typer(jobs, name="jobs", invoke_without_command=True)

Context = typer.Context
JsonOut = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Limit = Annotated[int, typer.Option(min=1, max=1000)]
ChatId = Annotated[str | None, typer.Option(help="Only this chat.")]


def main(args: list[str] | None = None) -> None:
    """The entry point. Exits 0, 1 (an error, said in one sentence), 2 (wrong usage) or 130 (interrupted)."""
    given = sys.argv[1:] if args is None else args
    for stream in (sys.stdout, sys.stderr):
        cast(Any, stream).reconfigure(errors="replace")  # a terminal that lacks a character shows "?", no traceback
    try:
        rest, flags = split_settings(given)
        app(args=rest, prog_name="afterword", obj=flags)
    except AfterwordError as error:
        fix = getattr(error, "fix", "")
        typer.echo(f"afterword: {error}" + (f". {fix}" if fix and fix not in str(error) else ""), err=True)
        sys.exit(1)


def split_settings(args: list[str]) -> tuple[list[str], dict[str, Any]]:
    """Take the options that are settings out of the arguments. Raises `SettingsError` where a value is lacking."""
    if not any(arg.startswith("--") for arg in args) or "--help" in args:
        return args, {}
    from afterword.errors import SettingsError
    from afterword.settings import Settings

    rest: list[str] = []
    flags: dict[str, Any] = {}
    left = iter(args)
    for arg in left:
        if arg == "--":
            rest += [arg, *left]
            break
        name, equals, _ = arg.removeprefix("--").replace("-", "_").partition("=")
        switch = _switch(name, Settings) if arg.startswith("--") and not equals else None
        if switch is not None:
            flags[switch[0]] = switch[1]
        elif arg.startswith("--") and (name in Settings.model_fields or name == "config"):
            found = arg.partition("=")[2] if equals else next(left, None)
            if found is None:
                raise SettingsError(f"{arg} needs a value")
            flags[name] = found
        else:
            rest.append(arg)
    return rest, flags


def _switch(name: str, settings: Any) -> tuple[str, bool] | None:
    """The setting and value that an option without a value stands for."""
    if name in SHORT:
        return SHORT[name]
    wanted, value = (name[3:], False) if name.startswith("no_") else (name, True)
    field = settings.model_fields.get(wanted)
    return (wanted, value) if field is not None and field.annotation is bool else None


# ── serving ────────────────────────────────────────────────────────────────────────────────────────────────────────


@app.command()
def serve(
    ctx: Context,
    page: Annotated[bool, typer.Option("--page/--no-page", help="With the chat page, or the HTTP routes only.")] = True,
) -> None:
    """Start the server and the chat page. --no-browser opens no browser, --port 0 takes any free port."""
    from afterword.commands.serving import serve

    serve(ctx.obj, page=page)


@app.command()
def worker(ctx: Context) -> None:
    """Do background work only, until interrupted."""
    from afterword.commands.serving import work

    work(ctx.obj)


@app.command()
def doctor(ctx: Context, json: JsonOut = False) -> None:
    """Check settings, ledger, LLM, embedder and index; say what to fix. Exit code 1 if something is bad."""
    from afterword.commands.serving import doctor

    doctor(ctx.obj, as_json=json)


@app.command()
def settings(ctx: Context) -> None:
    """Every setting: its value, where it came from, and what it takes."""
    from afterword.commands.serving import show_settings

    show_settings(ctx.obj)


# ── chatting, telling, finding ─────────────────────────────────────────────────────────────────────────────────────


@app.command()
def chat(
    ctx: Context,
    message: Annotated[str | None, typer.Argument(help="One message; without it, a conversation.")] = None,
    chat_id: Annotated[str, typer.Option(help="Which chat to go on with.")] = "terminal",
) -> None:
    """Chat in the terminal. Ctrl-C stops a reply; /why shows what it was given, /quit ends."""
    from afterword.commands.talk import chat

    chat(ctx.obj, message, chat_id)


@app.command()
def add(
    ctx: Context,
    text: Annotated[str, typer.Argument(help="What was said; - reads it from standard input.")],
    chat_id: Annotated[str, typer.Option(help="The chat it belongs to.")] = "default",
    role: Annotated[str, typer.Option(help="user or assistant")] = "user",
    speaker: Annotated[str | None, typer.Option(help="Who said it.")] = None,
    said_at: Annotated[datetime | None, typer.Option(help="When it was said, in your time zone.")] = None,
    turn_id: Annotated[str | None, typer.Option(help="Given twice, it is one turn.")] = None,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for its memories; 0: only keep it.")] = 120.0,
) -> None:
    """Keep one turn, and wait for the memories it becomes."""
    from afterword.commands.talk import add

    add(ctx.obj, text, chat_id=chat_id, role=role, speaker=speaker, said_at=said_at, turn_id=turn_id, wait=wait)


@app.command()
def search(
    ctx: Context,
    query: str,
    limit: Annotated[int, typer.Option(min=1, max=200)] = 10,
    kind: Annotated[list[str] | None, typer.Option(help="turn, episodic or semantic; may be repeated.")] = None,
    chat_id: ChatId = None,
    json: JsonOut = False,
    explain: Annotated[bool, typer.Option("--explain", help="Show score parts and sources.")] = False,
) -> None:
    """Find turns and memories. Changes nothing."""
    from afterword.commands.talk import search

    search(ctx.obj, query, limit=limit, kinds=kind or [], chat_id=chat_id, as_json=json, explain=explain)


@app.command()
def context(
    ctx: Context,
    query: str,
    budget: Annotated[int, typer.Option(min=0, max=1_000_000, help="Tokens, at most.")] = 2000,
) -> None:
    """Print what an LLM would be given about a query. Changes nothing."""
    from afterword.commands.talk import context

    context(ctx.obj, query, budget=budget)


@app.command("import")
def import_(
    ctx: Context,
    file: Annotated[Path, typer.Argument(help="JSON Lines: chat_id, role, speaker, text, said_at, turn_id.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and check the file, keep nothing.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Work until all of it is decided.")] = False,
) -> None:
    """Keep a transcript. Importing it twice adds nothing; bad lines are named and left out."""
    from afterword.commands.transcript import import_file

    import_file(ctx.obj, file, dry_run=dry_run, wait=wait)


# ── memories ───────────────────────────────────────────────────────────────────────────────────────────────────────


@memories.callback()
def memories_default(ctx: Context) -> None:
    if ctx.invoked_subcommand is None:
        memories_list(ctx)


@memories.command("list")
def memories_list(
    ctx: Context,
    kind: Annotated[str | None, typer.Option(help="episodic or semantic")] = None,
    chat_id: ChatId = None,
    limit: Limit = 50,
    json: JsonOut = False,
) -> None:
    """Current memories, newest first."""
    from afterword.commands.memories import list_memories

    list_memories(ctx.obj, kind=kind, chat_id=chat_id, limit=limit, as_json=json)


@memories.command("show")
def memories_show(ctx: Context, memory_id: str, json: JsonOut = False) -> None:
    """One memory with its sources and all its versions."""
    from afterword.commands.memories import show_memory

    show_memory(ctx.obj, memory_id, as_json=json)


@memories.command("history")
def memories_history(ctx: Context, memory_id: str, json: JsonOut = False) -> None:
    """All versions of a memory, oldest first."""
    from afterword.commands.memories import show_memory

    show_memory(ctx.obj, memory_id, as_json=json, only_history=True)


@memories.command("edit")
def memories_edit(ctx: Context, memory_id: str, text: str) -> None:
    """Put a memory right. Background work does not overwrite your version."""
    from afterword.commands.memories import edit_memory

    edit_memory(ctx.obj, memory_id, text)


@memories.command("delete")
def memories_delete(ctx: Context, memory_id: str) -> None:
    """Erase a memory (or a turn) with all its versions."""
    from afterword.commands.memories import delete_memory

    delete_memory(ctx.obj, memory_id)


@app.command()
def reset(ctx: Context, yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False) -> None:
    """Erase everything of this user, for good."""
    from afterword.commands.memories import reset

    reset(ctx.obj, yes=yes)


# ── background work ────────────────────────────────────────────────────────────────────────────────────────────────


@app.command()
def consolidate(ctx: Context) -> None:
    """Merge new episodes into facts, and show how far it is."""
    from afterword.commands.work import follow_run

    follow_run(ctx.obj, "consolidate")


@app.command()
def backfill(ctx: Context) -> None:
    """Let the LLM read again what only rules have decided so far."""
    from afterword.commands.work import follow_run

    follow_run(ctx.obj, "backfill")


@app.command()
def reindex(
    ctx: Context, everyone: Annotated[bool, typer.Option("--everyone", help="All users, not only --user.")] = False
) -> None:
    """Build the index again from the ledger; a server goes on serving meanwhile."""
    from afterword.commands.work import reindex

    reindex(ctx.obj, everyone=everyone)


@jobs.callback()
def jobs_default(ctx: Context) -> None:
    if ctx.invoked_subcommand is None:
        jobs_list(ctx)


@jobs.command("list")
def jobs_list(
    ctx: Context,
    state: Annotated[list[str] | None, typer.Option(help="queued, running, done, dead or cancelled.")] = None,
    kind: Annotated[list[str] | None, typer.Option(help="remember, reconsolidate, consolidate …")] = None,
    limit: Limit = 30,
    everyone: Annotated[bool, typer.Option("--everyone", help="Of all users, not only of --user.")] = False,
    json: JsonOut = False,
) -> None:
    """The newest jobs, and how many there are in each state."""
    from afterword.commands.work import list_jobs

    list_jobs(ctx.obj, states=state or [], kinds=kind or [], limit=limit, everyone=everyone, as_json=json)


@jobs.command("show")
def jobs_show(ctx: Context, job_id: int) -> None:
    """One job: its window, what it decided, why it waits or failed."""
    from afterword.commands.work import show_job

    show_job(ctx.obj, job_id)


@jobs.command("retry")
def jobs_retry(ctx: Context, job_id: int) -> None:
    """Let a dead or cancelled job wait again."""
    from afterword.commands.work import act_on_job

    act_on_job(ctx.obj, job_id, "retry")


@jobs.command("cancel")
def jobs_cancel(ctx: Context, job_id: int) -> None:
    """End a waiting or running job."""
    from afterword.commands.work import act_on_job

    act_on_job(ctx.obj, job_id, "cancel")


if __name__ == "__main__":
    main()
