"""`consolidate`, `backfill`, `reindex`, `jobs`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, get_args

import typer

from afterword.commands.common import Flags, one_line, say, say_json, warn, when, with_memory
from afterword.errors import AfterwordError, InvalidInput
from afterword.ports import JobFilter
from afterword.records import Job, JobState, Run

if TYPE_CHECKING:
    from afterword.memory import AsyncMemory
    from afterword.records import Scope
    from afterword.settings import Settings

BAR = 30  # characters
PAGE = 500  # scopes read at once


class Bar:
    """A progress bar that is redrawn on a terminal, and one line a change elsewhere."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._last = ""

    def show(self, done: int, total: int, message: str) -> None:
        filled = BAR * min(done, total) // total if total else 0
        line = f"[{'#' * filled}{'-' * (BAR - filled)}] {done}/{total or '?'} {one_line(message, 60)}".rstrip()
        if line != self._last:
            typer.echo(f"\r\x1b[K{line}" if self._live else line, nl=not self._live, err=True)
        self._last = line

    def end(self) -> None:
        if self._live and self._last:
            typer.echo(err=True)


def follow_run(flags: Flags, kind: str) -> None:
    """Start a run (or join the one that runs) and follow it to its end; this process works on it too."""

    async def follow(memory: AsyncMemory, settings: Settings) -> Run:
        start = memory.consolidate if kind == "consolidate" else memory.backfill
        handle = await start(settings.user)
        bar = Bar()
        try:
            async for run in handle.progress():
                bar.show(run.done, run.total, run.message)
        finally:
            bar.end()
        return handle.run

    run = with_memory(flags, follow, run_worker=True)
    if run.state != "done":
        raise AfterwordError(f"the {kind} run ended as {run.state}: {run.message or 'see `afterword jobs`'}")
    say(run.message or f"Done: {run.done} of {run.total}.")


def reindex(flags: Flags, *, everyone: bool) -> None:
    async def rebuild(memory: AsyncMemory, settings: Settings) -> int:
        scopes = await _all_scopes(memory) if everyone else [memory.scope(settings.user)]
        bar = Bar()
        for number, scope in enumerate(scopes, 1):
            await memory.index.rebuild(scope)
            bar.show(number, len(scopes), scope.user)
        bar.end()
        return len(scopes)

    count = with_memory(flags, rebuild)
    say(f"Built the index of {count} {'user' if count == 1 else 'users'} again.")


async def _all_scopes(memory: AsyncMemory) -> list[Scope]:
    found: list[Scope] = []
    while page := await memory.ledger.scopes(found[-1] if found else None, PAGE):
        found += page
    return found


def list_jobs(flags: Flags, *, states: list[str], kinds: list[str], limit: int, everyone: bool, as_json: bool) -> None:
    wrong = [state for state in states if state not in get_args(JobState)]
    if wrong:
        raise InvalidInput(f"state is {wrong[0]!r}: give {', '.join(get_args(JobState))}")
    wanted = JobFilter(tuple(states), tuple(kinds), limit=limit)

    async def read(memory: AsyncMemory, settings: Settings) -> tuple[list[Job], dict[str, int]]:
        scope = None if everyone else memory.scope(settings.user)
        return await memory.ledger.jobs(scope, wanted), await memory.ledger.job_counts(scope)

    jobs, counts = with_memory(flags, read)
    if as_json:
        say_json({"jobs": [job_json(job) for job in jobs], "counts": counts})
        return
    for job in jobs:
        note = one_line(job.error or job.waiting, 100)
        whose = f"{one_line(job.scope.user, 24):<24}  " if everyone else ""
        say(f"{job.id:>6}  {job.kind:<16} {job.state:<9} {_local(job)}  {whose}{note}".rstrip())
    say(", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "There are no jobs.")


def show_job(flags: Flags, job_id: int) -> None:
    async def read(memory: AsyncMemory, settings: Settings) -> dict[str, Any]:
        found = await memory.jobs(settings.user, JobFilter(limit=1, before=job_id + 1))
        if not found or found[0].id != job_id:
            raise InvalidInput(f"there is no job {job_id} of {settings.user!r}: `afterword jobs` lists them")
        decisions = await memory.decisions(settings.user, job_id)
        return {**job_json(found[0]), "decisions": [{"by": each.by, **each.content} for each in decisions]}

    say_json(with_memory(flags, read))


def act_on_job(flags: Flags, job_id: int, action: str) -> None:
    async def act(memory: AsyncMemory, settings: Settings) -> Job:
        call = memory.retry_job if action == "retry" else memory.cancel_job
        return await call(job_id, settings.user)

    job = with_memory(flags, act)
    say(f"Job {job.id} is {job.state} now.")
    if action == "retry":
        warn("A running server, or `afterword worker`, takes it up.")


def _local(job: Job) -> str:
    offset = job.created_at.astimezone().utcoffset()
    return when(job.created_at, int(offset.total_seconds() // 60) if offset else 0)


def job_json(job: Job) -> dict[str, Any]:
    return {
        "id": job.id,
        "user": job.scope.user,
        "kind": job.kind,
        "state": job.state,
        "attempt": job.attempt,
        "waiting": job.waiting,
        "error": job.error,
        "created_at": job.created_at.isoformat(),
        "run_at": job.run_at.isoformat(),
        "finished_at": job.finished_at.isoformat() if job.finished_at else None,
        "window": dict(job.window) if job.window else None,
        "payload": dict(job.payload),
        "result": dict(job.result) if job.result else None,
    }
