"""The memory panel, as HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from afterword.interfaces.page.markup import button, dated_tag, day, esc, time_tag
from afterword.interfaces.page.strings import counted, words
from afterword.ranking import strength_at
from afterword.records import MemoryKind, MemoryRecord, Turn, local_time

if TYPE_CHECKING:
    from datetime import datetime

    from afterword.interfaces.page.asked import Asked

PEN = '<svg viewBox="0 0 16 16" aria-hidden="true"><path d="M3 13l.6-2.8L10.9 3l2.1 2.1-7.2 7.3L3 13z"/></svg>'
BIN = '<svg viewBox="0 0 16 16" aria-hidden="true"><path d="M3 4.5h10M6.5 4V2.8h3V4M4.4 4.5l.5 8.2h6.2l.5-8.2"/></svg>'


def tabs_html(counts: Mapping[MemoryKind, int], asked: Asked) -> str:
    """The two kinds with how many there are ("100+" beyond what is shown)."""
    table = words(asked.lang)
    tabs = []
    for kind, n in counts.items():
        number = f"{asked.memories}+" if n > asked.memories else str(n)
        on = ' aria-selected="true"' if kind == asked.tab else ' aria-selected="false"'
        label = f"{esc(table[kind])} <small>{number}</small>"
        tabs.append(f'<button type="button" role="tab" data-do="tab" data-id="{kind}"{on}>{label}</button>')
    return "".join(tabs)


def memories_html(records: Sequence[MemoryRecord], asked: Asked, now: datetime, half_life_days: float) -> str:
    """The cards of one kind, newest first; one more record than `asked.memories` means that there are more."""
    table = words(asked.lang)
    if not records:
        return f'<p class="aw-empty">{esc(table[f"{asked.tab}_empty"])}</p>'
    cards = "".join(_card(record, asked, now, half_life_days) for record in records[: asked.memories])
    more = button("more-memories", esc(table["more_memories"])) if len(records) > asked.memories else ""
    return cards + (f'<div class="aw-earlier">{more}</div>' if more else "")


def _card(record: MemoryRecord, asked: Asked, now: datetime, half_life_days: float) -> str:
    table = words(asked.lang)
    marks = [dated_tag(record.said_at, asked.offset, asked.lang), _bar(strength_at(record, now, half_life_days), asked)]
    if record.version > 1:
        marks.append(f'<span class="aw-badge" title="{esc(table["versions"])}">v{record.version}</span>')
    if record.author != "llm":
        marks.append(f'<span class="aw-by">{esc(table["by_" + record.author])}</span>')
    if record.kind == "semantic" and record.sources:
        marks.append(f'<span class="aw-by">{esc(counted(asked.lang, "rests_on", len(record.sources)))}</span>')
    pen = button("edit", PEN, "icon", table["edit"], id=record.id)
    bin_ = button("delete", BIN, "icon", table["delete"], id=record.id)
    head = f"<header>{''.join(marks)}<span></span>{pen}{bin_}</header>"
    valid = _validity(record, asked)
    valid = f'<p class="aw-valid">{esc(valid)}</p>' if valid else ""
    more = f'<details data-memory="{esc(record.id)}"><summary>{esc(table["details"])}</summary><div></div></details>'
    key = esc(f"{record.id}:{record.version}")
    text = f'<p class="aw-text aw-plain">{esc(record.text)}</p>'
    return f'<article class="aw-card" data-key="{key}" data-id="{esc(record.id)}">{head}{text}{valid}{more}</article>'


def _bar(strength: float, asked: Asked) -> str:
    percent = round(100 * max(0.0, min(1.0, strength)))
    title = esc(words(asked.lang)["strength"].format(n=percent))
    return (
        f'<span class="aw-bar" role="img" title="{title}" aria-label="{title}"><i style="width:{percent}%"></i></span>'
    )


def _validity(record: MemoryRecord, asked: Asked) -> str:
    table = words(asked.lang)
    if record.valid_from is None:
        return ""
    begin = day(local_time(record.valid_from, asked.offset), asked.lang)
    if record.valid_to is None:
        return table["valid_from"].format(a=begin)
    return table["valid"].format(a=begin, b=day(local_time(record.valid_to, asked.offset), asked.lang))


def details_html(
    versions: Sequence[MemoryRecord], turns: Sequence[Turn], episodes: Sequence[MemoryRecord], asked: Asked
) -> str:
    """What a card opens: its versions, newest first, and what it rests on."""
    table = words(asked.lang)
    parts = []
    if len(versions) > 1:
        rows = "".join(_version(record, asked) for record in reversed(versions))
        parts.append(f"<h4>{esc(table['versions'])}</h4><ol>{rows}</ol>")
    parts.append(f"<h4>{esc(table['sources'])}</h4>")
    rests = "".join(_episode(episode, asked) for episode in episodes) + "".join(_source(turn, asked) for turn in turns)
    parts.append(f"<ul>{rests}</ul>" if rests else f"<p>{esc(table['source_gone'])}</p>")
    return "".join(parts)


def _version(record: MemoryRecord, asked: Asked) -> str:
    table = words(asked.lang)
    by = esc(table["by_" + record.author])
    why = f" · {esc(record.why)}" if record.why else ""
    about = f"v{record.version} · {time_tag(record.written_at, asked.offset, asked.lang)} · {by}{why}"
    return f'<li><p class="aw-plain">{esc(record.text)}</p><small>{about}</small></li>'


def _source(turn: Turn, asked: Asked) -> str:
    table = words(asked.lang)
    show = button("open-source", esc(table["open_chat"]), chat=turn.chat_id, id=turn.id)
    who = esc(turn.speaker or (table["you"] if turn.role == "user" else table["assistant"]))
    about = f"{who} · {time_tag(turn.said_at, asked.offset, asked.lang)} · {show}"
    return f'<li><p class="aw-plain">{esc(turn.text)}</p><small>{about}</small></li>'


def _episode(record: MemoryRecord, asked: Asked) -> str:
    about = dated_tag(record.said_at, asked.offset, asked.lang)
    return f'<li><p class="aw-plain">{esc(record.text)}</p><small>{about}</small></li>'
