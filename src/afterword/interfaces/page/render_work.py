"""The work behind the reply, runs with their progress, and what a person should know, as HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from afterword.interfaces.page.markup import button, esc, when
from afterword.interfaces.page.strings import words
from afterword.interfaces.page.told import as_sentence, told

if TYPE_CHECKING:
    from datetime import datetime

    from afterword.interfaces.page.asked import Asked
    from afterword.records import Job, Run

SHOWN = 5  # lines of work
RECENT = timedelta(seconds=90)  # how long a finished job stays in the strip
HOUSEKEEPING = frozenset({"embed", "project", "forget"})  # not worth a word once it is done
ORDER = {"dead": 0, "running": 1, "queued": 2, "done": 3}


class _Line(NamedTuple):
    state: str
    kind: str
    note: str
    retry: int | None


def strip_html(jobs: Sequence[Job], counts: Mapping[str, int], asked: Asked, now: datetime) -> str:
    """One line a kind of work and state: failed first, then running, waiting, and what was done just now."""
    table = words(asked.lang)
    lines: dict[_Line, int] = {}
    for job in jobs:
        if job.state in ORDER and (job.state != "done" or _worth_a_word(job, now)):
            line = _Line(job.state, job.kind, _note(job, asked), job.id if job.state == "dead" else None)
            lines[line] = lines.get(line, 0) + 1
    ordered = sorted(lines.items(), key=lambda item: ORDER[item[0].state])
    if not ordered:
        return f'<span class="aw-job idle"><i></i>{esc(table["work_idle"])}</span>'
    chips = "".join(_chip(line, n, asked) for line, n in ordered[:SHOWN])
    listed = sum(n for line, n in ordered[:SHOWN] if line.state != "done")
    hidden = sum(counts.get(state, 0) for state in ("queued", "running", "dead")) - listed
    more = f'<span class="aw-job">{esc(table["more_jobs"].format(n=hidden))}</span>' if hidden > 0 else ""
    return chips + more


def _worth_a_word(done: Job, now: datetime) -> bool:
    recent = done.finished_at is not None and now - done.finished_at < RECENT
    return recent and done.kind not in HOUSEKEEPING


def _note(job: Job, asked: Asked) -> str:
    table = words(asked.lang)
    if job.state == "dead":
        return told(job.error, asked.lang)
    if job.state != "queued":
        return ""
    if job.waiting == "debounce":
        return table["wait_debounce"]
    if job.waiting:
        return table["wait_for"].format(why=told(job.waiting, asked.lang))
    if job.error:
        return table["wait_again"].format(
            when=when(job.run_at, asked.offset, asked.lang), why=told(job.error, asked.lang)
        )
    return table["wait_turn"]


def _chip(line: _Line, n: int, asked: Asked) -> str:
    table = words(asked.lang)
    name = table.get(f"job_{line.kind}", line.kind) + (f" ×{n}" if n > 1 else "")
    note = f'<span class="aw-note" title="{esc(line.note)}">{esc(line.note)}</span>' if line.note else ""
    again = button("retry", esc(table["retry"]), "small", id=line.retry) if line.retry is not None else ""
    state = esc(table[f"state_{line.state}"])
    return f'<span class="aw-job {line.state}"><i></i><b>{esc(name)}</b><em>{state}</em>{note}{again}</span>'


def runs_html(runs: Sequence[Run], asked: Asked) -> str:
    """Long work that is under way, with its progress; else how the last consolidation ended."""
    table = words(asked.lang)
    under_way = [run for run in runs if run.state == "running"]
    if under_way:
        return "".join(_progress(run, asked) for run in under_way)
    last = next((run for run in runs if run.kind == "consolidate"), None)
    if last is None or last.finished_at is None:
        return ""
    if last.state == "failed":
        return f'<p class="aw-run failed">{esc(table["run_failed"].format(why=told(last.message, asked.lang)))}</p>'
    ended = table["run_done"].format(when=when(last.finished_at, asked.offset, asked.lang))
    said = f" · {last.message}" if last.message else ""
    return f'<p class="aw-run">{esc(ended + said)}</p>'


def _progress(run: Run, asked: Asked) -> str:
    name = words(asked.lang).get(f"run_{run.kind}", run.kind)
    of = f"{run.done} / {run.total}" if run.total else ""
    value = f' value="{run.done}" max="{run.total}"' if run.total else ""
    label = f"<span>{esc(name)}</span><span>{esc(of)}</span>"
    said = f"<small>{esc(run.message)}</small>" if run.message else ""
    return (
        f'<div class="aw-run" data-run="{esc(run.kind)}">'
        f'<div>{label}</div><progress aria-label="{esc(name)}"{value}></progress>{said}</div>'
    )


def banner_html(llm: str | None, backlog: int, troubles: Sequence[str], asked: Asked) -> str:
    """What is lacking or away, each with what mends it. `backlog`: turns that the LLM has not read."""
    table = words(asked.lang)
    notes = []
    if llm is None:
        line = f"<code>{esc(table['no_llm_line'])}</code>"
        notes.append(f'<div class="aw-banner"><span>{esc(table["no_llm"])}</span>{line}</div>')
    elif backlog:
        text = esc(table["backlog"].format(n=backlog))
        go = button("backfill", esc(table["backfill"]), "small")
        notes.append(f'<div class="aw-banner"><span>{text}</span>{go}</div>')
    head = f'<div class="aw-banner warn" role="alert"><b>{esc(table["trouble"])}</b>'
    notes.extend(f"{head}<span>{esc(as_sentence(told(trouble, asked.lang)))}</span></div>" for trouble in troubles)
    return "".join(notes)
