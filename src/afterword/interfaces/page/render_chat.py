"""The middle of the page and the list of chats, as HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from afterword.interfaces.page.markup import button, dated_tag, esc, time_tag
from afterword.interfaces.page.strings import counted, words
from afterword.interfaces.page.told import as_sentence, told

if TYPE_CHECKING:
    from afterword.interfaces.page.asked import Asked
    from afterword.records import Chat, Hit, Receipt, Turn

CLIP = 400  # characters of a recalled text that "why" shows
BIN = '<svg viewBox="0 0 16 16" aria-hidden="true"><path d="M3 4.5h10M6.5 4V2.8h3V4M4.4 4.5l.5 8.2h6.2l.5-8.2"/></svg>'


class WhySummary(NamedTuple):
    """What stands under a reply before "why" is opened."""

    used: int
    missed: bool


class Shown(NamedTuple):
    """A reply as it is shown: its text as HTML, and what stands under it."""

    html: str
    why: WhySummary | None


def chats_html(chats: Sequence[Chat], asked: Asked, current: str) -> str:
    """The list of chats, newest first."""
    table = words(asked.lang)
    if not chats:
        return f'<p class="aw-empty">{esc(table["no_chats"])}</p>'
    return f"<ul>{''.join(_chat(chat, asked, chat.id == current) for chat in chats)}</ul>"


def _chat(chat: Chat, asked: Asked, here: bool) -> str:
    table = words(asked.lang)
    about = f"{counted(asked.lang, 'turns', chat.turns)} · {time_tag(chat.last_at, asked.offset, asked.lang)}"
    inner = f'<span class="aw-chat-title">{esc(chat.title)}</span><small>{about}</small>'
    mark = ' class="here" aria-current="true"' if here else ""
    bin_ = button("delete-chat", BIN, "icon", table["delete_chat"], id=chat.id)
    return f"<li{mark}>{button('open-chat', inner, 'chat', id=chat.id)}{bin_}</li>"


def transcript_html(turns: Sequence[Turn], replies: Mapping[str, Shown], asked: Asked, live: str | None) -> str:
    """The turns of the chat that is open. `live` is the id of the turn that is being answered right now."""
    table = words(asked.lang)
    if not turns:
        return (
            f'<div class="aw-welcome"><h2>{esc(table["welcome"])}</h2><p>{esc(table["welcome_more"])}</p></div>'
            if live is None
            else ""
        )
    answered = {turn.reply_to for turn in turns if turn.reply_to}
    newest = max((turn.position for turn in turns if turn.role == "user"), default=-1)
    earlier = button("earlier", esc(table["earlier"])) if turns[0].position > 0 else ""
    parts = [f'<div class="aw-earlier">{earlier}</div>' if earlier else ""]
    for turn in turns:
        if turn.role == "assistant":
            being_replaced = turn.cut is not None and turn.reply_to == live
            parts.append("" if being_replaced else _reply(turn, replies[turn.id], asked))
        else:
            open_ = turn.asked and turn.id not in answered and turn.id != live
            parts.append(_said(turn, asked, open_, turn.position == newest))
    return "".join(parts)


def _said(turn: Turn, asked: Asked, unanswered: bool, newest: bool) -> str:
    table = words(asked.lang)
    who = esc(turn.speaker or table["you"])
    again = ""
    if unanswered:
        ask = button("ask-again", esc(table["ask_again"]), "small", id=turn.id)
        again = f'<div class="aw-mark" role="note"><span>{esc(table["unanswered"])}</span>{ask}</div>'
    last = " data-newest" if newest else ""
    head = f"<header><b>{who}</b>{time_tag(turn.said_at, asked.offset, asked.lang)}</header>"
    body = f'<div class="aw-body aw-plain">{esc(turn.text)}</div>'
    return f'<article class="aw-turn aw-user" data-turn="{esc(turn.id)}"{last}>{head}{body}{again}</article>'


def _reply(turn: Turn, shown: Shown, asked: Asked) -> str:
    table = words(asked.lang)
    who = esc(turn.speaker or table["assistant"])
    head = f"<header><b>{who}</b>{time_tag(turn.said_at, asked.offset, asked.lang)}</header>"
    body = f'<div class="aw-body aw-md">{shown.html}</div>' if turn.text.strip() else ""
    cut = _cut(turn, asked) if turn.cut is not None else ""
    under = why_details(turn.id, shown.why, asked) if shown.why is not None else ""
    identity = f'data-turn="{esc(turn.id)}" data-reply-to="{esc(turn.reply_to or "")}"'
    return f'<article class="aw-turn aw-reply" {identity}>{head}{body}{cut}{under}</article>'


def _cut(turn: Turn, asked: Asked) -> str:
    table = words(asked.lang)
    text = {"stopped": table["cut_stopped"], "shutdown": table["cut_shutdown"]}.get(turn.cut or "")
    text = text or table["cut_error"].format(why=told(turn.cut or "", asked.lang))
    fix = as_sentence(told(str(turn.metadata.get("fix") or ""), asked.lang))
    fix = f'<span class="aw-fix">{esc(fix)}</span>' if fix else ""
    again = button("ask-again", esc(table["ask_again"]), "small", id=turn.reply_to) if turn.reply_to else ""
    return f'<div class="aw-mark" role="note"><span>{esc(text)}</span>{fix}{again}</div>'


def why_details(reply_id: str, why: WhySummary, asked: Asked) -> str:
    """The line under a reply; what it opens is fetched when it is opened."""
    table = words(asked.lang)
    used = counted(asked.lang, "why", why.used) if why.used == 1 else ""
    used = used or (table["why_n"].format(n=why.used) if why.used else table["why_none"])
    missed = f'<span class="aw-badge warn">{esc(table["missed"])}</span>' if why.missed else ""
    summary = f"<summary><b>{esc(table['why'])}</b><span>{esc(used)}</span>{missed}</summary>"
    return f'<details class="aw-why" data-why="{esc(reply_id)}">{summary}<div></div></details>'


def why_html(receipt: Receipt, hits: Sequence[Hit], asked: Asked) -> str:
    """What a reply was given: each memory with its score, the parts of it, and where it comes from."""
    table = words(asked.lang)
    parts = []
    if receipt.missed:
        parts.append(
            f'<p class="aw-missed">{esc(table["why_missed"].format(why=told(receipt.missed, asked.lang)))}</p>'
        )
    if not receipt.items and not receipt.missed:
        parts.append(f"<p>{esc(table['why_empty'])}</p>")
    parts.append("".join(_hit(hit, asked) for hit in hits))
    gone = len(receipt.items) - len(hits)
    if gone > 0:
        parts.append(f"<p>{esc(table['why_gone'].format(n=gone))}</p>")
    parts.append(f"<footer>{esc(table['why_recall'].format(ms=f'{receipt.recall_ms:.0f}'))}</footer>")
    return "".join(parts)


def _hit(hit: Hit, asked: Asked) -> str:
    table = words(asked.lang)
    kind = table.get(f"kind_{hit.kind}", hit.kind)
    parts = [(table.get(f"part_{name}", name), value) for name, value in hit.parts.items() if abs(value) >= 0.005]
    legs = "".join(f"<span>{esc(name)} {value:.2f}</span>" for name, value in parts)
    text = hit.text if len(hit.text) <= CLIP else hit.text[:CLIP] + "…"
    turn = hit.id if hit.kind == "turn" else next(iter(hit.sources), "")
    source = ""
    if hit.chat_id and hit.kind != "semantic":
        source = button("open-source", esc(table["open_chat"]), chat=hit.chat_id, id=turn)
    elif hit.sources:
        source = f"<span>{esc(counted(asked.lang, 'rests_on', len(hit.sources)))}</span>"
    version = f"<span>{esc(table['version'].format(n=hit.ref.version))}</span>" if hit.ref.version > 1 else ""
    head = (
        f'<header><span class="aw-badge {hit.kind}">{esc(kind)}</span>'
        f"{dated_tag(hit.said_at, asked.offset, asked.lang)}{version}"
        f'<b title="{esc(table["score"])}">{hit.score:.2f}</b></header>'
    )
    foot = f"<footer>{legs}{source}</footer>"
    return f'<section class="aw-hit">{head}<p class="aw-plain">{esc(text)}</p>{foot}</section>'
