"""Text to HTML: escaping, dates, and the Markdown of replies. Whatever a person or a model wrote passes through here."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from html import escape
from typing import Any

from markdown_it import MarkdownIt

from afterword.interfaces.page.strings import words
from afterword.records import local_time

MARKDOWN_LIMIT = 20_000  # characters; longer replies are shown as they are, so that no rendering holds the loop up


def esc(text: object) -> str:
    """Safe as HTML text and as a quoted attribute."""
    return escape(str(text), quote=True)


def _markdown() -> MarkdownIt:
    made = MarkdownIt("commonmark", {"html": False, "breaks": True}).enable(["table", "strikethrough"])
    made.disable(["image"])  # showing a picture calls its host: a reply must not be able to do that
    made.add_render_rule("link_open", _link)
    return made


def _link(self: Any, tokens: Any, index: int, options: Any, env: Any) -> str:
    tokens[index].attrSet("target", "_blank")
    tokens[index].attrSet("rel", "noopener noreferrer nofollow")
    return str(self.renderToken(tokens, index, options, env))


_MARKDOWN = _markdown()


@lru_cache(maxsize=1024)
def markdown(text: str) -> str:
    """Sanitised HTML of a reply: raw HTML stays text, links lose dangerous schemes, pictures become links."""
    if len(text) > MARKDOWN_LIMIT:
        return f'<p class="aw-plain">{esc(text)}</p>'
    return str(_MARKDOWN.render(text))


def when(moment: datetime, offset: int, lang: str, now: datetime | None = None) -> str:
    """A date as short as it can be said today, in the reader's time zone (`offset` in minutes east of UTC)."""
    there = local_time(moment, offset)
    today = local_time(now or datetime.now(UTC), offset)
    clock = f"{there:%H:%M}"
    days = (today.date() - there.date()).days
    if days == 0:
        return clock
    if days == 1:
        return f"{words(lang)['yesterday']} {clock}"
    return day(there, lang, today.year) + (f" {clock}" if 0 < days < 7 else "")


def day(there: datetime, lang: str, this_year: int | None = None) -> str:
    """`there` is a local time already; the year is left out where it is this one."""
    year = there.year != this_year
    if lang == "zh":
        return (f"{there.year}年" if year else "") + f"{there.month}月{there.day}日"
    month = words("en")["months"].split()[there.month - 1]
    return f"{there.day} {month}" + (f" {there.year}" if year else "")


def full(moment: datetime, offset: int) -> str:
    """The whole date, for a tooltip."""
    return f"{local_time(moment, offset):%Y-%m-%d %H:%M}"


def time_tag(moment: datetime, offset: int, lang: str) -> str:
    return f'<time title="{full(moment, offset)}">{esc(when(moment, offset, lang))}</time>'


def dated_tag(moment: datetime, offset: int, lang: str) -> str:
    """The day and the time of day, however recent."""
    there = local_time(moment, offset)
    year = local_time(datetime.now(UTC), offset).year
    return f'<time title="{full(moment, offset)}">{esc(day(there, lang, year))} {there:%H:%M}</time>'


def button(do: str, label: str, kind: str = "link", title: str = "", **data: object) -> str:
    """A button that live.js hands to the server function named `do`."""
    extra = "".join(f' data-{name}="{esc(value)}"' for name, value in data.items())
    hint = f' title="{esc(title)}" aria-label="{esc(title)}"' if title else ""
    return f'<button type="button" class="aw-{kind}" data-do="{do}"{extra}{hint}>{label}</button>'
