"""Dates in words: what "last Friday" or "上个月" meant on the day it was said, and how a date is printed."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple

from afterword.language.texts import Language

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
_ZH_DAYS = "一二三四五六日"
_NUMBERS = {
    "a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "eleven": 11, "twelve": 12, "一": 1, "两": 2, "二": 2, "三": 3, "四": 4, "五": 5, "六": 6, "七": 7,
    "八": 8, "九": 9, "十": 10,
}  # fmt: skip
_HAS_PREPOSITION = re.compile(
    r"\b(?:since|from|until|till|by|for|of|before|after|in|on|than|during|between|the|around|about)\s+$", re.IGNORECASE
)


class Found(NamedTuple):
    """A time told relative to now: where it stands, the date it means, and the English word that goes before it."""

    start: int
    end: int
    label: str
    preposition: str


def day(moment: date, language: Language = "en", *, weekday: bool = True) -> str:
    """`Sunday 3 May 2026` or `2026年5月3日 星期日`."""
    if language == "zh":
        text = f"{moment.year}年{moment.month}月{moment.day}日"
        return f"{text} 星期{_ZH_DAYS[moment.weekday()]}" if weekday else text
    text = f"{moment.day} {MONTHS[moment.month - 1]} {moment.year}"
    return f"{WEEKDAYS[moment.weekday()]} {text}" if weekday else text


def ago(then: date, now: date, language: Language = "en") -> str:
    """How long before `now` it was, in one unit, e.g. `yesterday`, `3 weeks ago`, `2个月前`."""
    days = (now - then).days
    if abs(days) <= 1:
        near = {0: ("today", "今天"), 1: ("yesterday", "昨天"), -1: ("tomorrow", "明天")}[days]
        return near[language == "zh"]
    count, unit, wide = _unit(abs(days))
    if language == "zh":
        return f"{count}{wide}{'前' if days > 0 else '后'}"
    text = f"{count} {unit}{'s' if count > 1 else ''}"
    return f"{text} ago" if days > 0 else f"in {text}"


def _unit(days: int) -> tuple[int, str, str]:
    if days < 14:
        return days, "day", "天"
    if days < 60:
        return days // 7, "week", "周"
    if days < 730:
        return round(days / 30.44), "month", "个月"
    return days // 365, "year", "年"


def annotated(text: str, local: datetime) -> str:
    """The text with each relative date worked out behind it: `I left yesterday [2 May 2026]`."""
    out: list[str] = []
    at = 0
    for found in relative(text, local):
        out += [text[at : found.end], f" [{found.label}]"]
        at = found.end
    return "".join([*out, text[at:]])


def absolute(text: str, local: datetime) -> str:
    """The text with each relative date replaced by the date it meant: `I left on 2 May 2026`."""
    out: list[str] = []
    at = 0
    for found in relative(text, local):
        before = text[at : found.start]
        bare = not found.preposition or text[found.end :].startswith(("'s", "’s"))
        phrase = found.label if bare or _HAS_PREPOSITION.search(before) else f"{found.preposition} {found.label}"
        if not "".join([*out, before]).strip():
            phrase = phrase[0].upper() + phrase[1:]
        out += [before, phrase]
        at = found.end
    return "".join([*out, text[at:]])


@lru_cache(maxsize=64)  # a turn is shown to the LLM, and then what came of it is held against it
def relative(text: str, local: datetime) -> tuple[Found, ...]:
    """Times told relative to `local` that can be worked out for certain; in order, without overlaps."""
    found: list[Found] = []
    said = text.lower()
    for hints, pattern, meaning in _PATTERNS:
        if not any(hint in said for hint in hints):  # most texts tell no time, and two dozen patterns take theirs
            continue
        for match in pattern.finditer(text):
            if any(match.start() < other.end and other.start < match.end() for other in found):
                continue
            try:
                label, preposition = meaning(match, local.date())
            except (OverflowError, ValueError):
                continue  # "in 100000 years": no date can say it
            found.append(Found(match.start(), match.end(), label, preposition))
    return tuple(sorted(found))


Meaning = Callable[[re.Match[str], date], tuple[str, str]]


def _days(count: int, language: Language = "en") -> Meaning:
    return lambda _, said: (
        day(said + timedelta(days=count), language, weekday=False),
        "on" if language == "en" else "",
    )


def _month(said: date, months: int, language: Language) -> tuple[str, str]:
    year, month = divmod(said.year * 12 + said.month - 1 + months, 12)
    return (f"{year}年{month + 1}月", "") if language == "zh" else (f"{MONTHS[month]} {year}", "in")


def _counted(match: re.Match[str], said: date) -> tuple[str, str]:
    """N days, weeks, months or years ago, or from now."""
    groups = match.groupdict()
    language: Language = "zh" if _CJK_UNIT.search(match.group()) else "en"
    count = _NUMBERS.get(groups["n"].lower()) or int(groups["n"])
    back = match.group().lower().endswith("ago") or "前" in match.group()
    count = -count if back else count
    unit = groups["unit"].lower()
    if unit in ("day", "天"):
        return _days(count, language)(match, said)
    if unit in ("week", "周", "星期", "个星期", "礼拜", "个礼拜"):
        label, _ = _days(7 * count, language)(match, said)
        return (f"{label}前后", "") if language == "zh" else (label, "around")
    if unit in ("month", "个月"):
        return _month(said, count, language)
    return (f"{said.year + count}年", "") if language == "zh" else (str(said.year + count), "in")


_CJK_UNIT = re.compile(r"[\u4e00-\u9fff]")


def _span(match: re.Match[str], said: date) -> tuple[str, str]:
    """Last, this or next week, weekend, month or year."""
    step = {"last": -1, "this": 0, "next": 1}[match["which"].lower()]
    unit = match["unit"].lower()
    if unit == "year":
        return str(said.year + step), "in"
    if unit == "month":
        return _month(said, step, "en")
    monday = said + timedelta(days=7 * step - said.weekday())
    if unit == "weekend":
        return f"the weekend of {day(monday + timedelta(days=5), weekday=False)}", "on"
    return f"the week of {day(monday, weekday=False)}", "in"


def _weekday(match: re.Match[str], said: date) -> tuple[str, str]:
    """Last Friday: the latest one before. This Friday: the next from today on. Next Friday: that of next week."""
    wanted = next(n for n, name in enumerate(WEEKDAYS) if name.lower() == match["day"].lower())
    which = match["which"].lower()
    if which == "last":
        back = (said.weekday() - wanted - 1) % 7 + 1
        return day(said - timedelta(days=back)), "on"
    if which == "this":
        return day(said + timedelta(days=(wanted - said.weekday()) % 7)), "on"
    return day(said + timedelta(days=7 - said.weekday() + wanted)), "on"


def _zh_week(match: re.Match[str], said: date) -> tuple[str, str]:
    step = match["which"].count("下") - match["which"].count("上")
    monday = said + timedelta(days=7 * step - said.weekday())
    wanted = match["day"]
    if wanted:
        place = 6 if wanted == "天" else _ZH_DAYS.index(wanted)
        return day(monday + timedelta(days=place), "zh"), ""
    if match["end"]:
        return f"{day(monday + timedelta(days=5), 'zh', weekday=False)}那个周末", ""
    return f"{day(monday, 'zh', weekday=False)}那一周", ""


def _zh_month(match: re.Match[str], said: date) -> tuple[str, str]:
    return _month(said, match.group().count("下") - match.group().count("上"), "zh")


def _zh_year(step: int) -> Meaning:
    return lambda _, said: (f"{said.year + step}年", "")


def _en(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{pattern})\b", re.IGNORECASE)


_N = r"(?<![-,.\d])(?<!half )(?P<n>\d{1,3}|a|an|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve)"
_ZH_N = r"(?<![\d一二三四五六七八九十百千几])(?P<n>\d{1,3}|[一两二三四五六七八九十])"
_WHICH = r"(?P<which>last|this|next)"
_WHICH_HINTS = ("last ", "this ", "next ")
_WEEK = r"(?P<which>上上|下下|上|这|本|下)(?:个)?(?:周|星期|礼拜)"

# in order; the first of each are words that its text has at least one of
_PATTERNS: tuple[tuple[tuple[str, ...], re.Pattern[str], Meaning], ...] = (
    (("day before",), _en(r"(?:the )?day before yesterday"), _days(-2)),
    (("day after",), _en(r"(?:the )?day after tomorrow"), _days(2)),
    (("yesterday", "last night"), _en(r"yesterday(?: (?:morning|afternoon|evening))?|last night"), _days(-1)),
    (("today", "tonight", "this "), _en(r"today|tonight|this (?:morning|afternoon|evening)"), _days(0)),
    (("tomorrow",), _en(r"tomorrow(?: (?:morning|afternoon|evening|night))?"), _days(1)),
    ((" ago",), _en(rf"{_N} (?P<unit>day|week|month|year)s? ago"), _counted),
    (
        ("in ",),
        _en(rf"in {_N} (?P<unit>day|week|month|year)s?(?= ?(?:[,.;!?]|$|and |we |I ))"),
        _counted,
    ),
    (_WHICH_HINTS, _en(rf"{_WHICH} (?P<unit>weekend|week|month|year)"), _span),
    (_WHICH_HINTS, _en(rf"{_WHICH} (?P<day>{'|'.join(WEEKDAYS)})"), _weekday),
    (("大前天",), re.compile("大前天"), _days(-3, "zh")),
    (("大后天",), re.compile("大后天"), _days(3, "zh")),
    (("前天", "前晚"), re.compile("前天|前晚"), _days(-2, "zh")),
    (("后天",), re.compile("后天"), _days(2, "zh")),
    (("昨",), re.compile("昨天|昨日|昨晚"), _days(-1, "zh")),
    (("今",), re.compile("今天|今日|今晚|今早"), _days(0, "zh")),
    (("明",), re.compile("明天|明日|明晚|明早"), _days(1, "zh")),
    (
        ("前", "后"),
        re.compile(rf"{_ZH_N}(?P<unit>天|周|个星期|星期|个礼拜|个月|年)(?:以前|之前|前|以后|之后|后)"),
        _counted,
    ),
    (("周", "星期", "礼拜"), re.compile(rf"{_WEEK}(?P<day>[一二三四五六日天])?(?P<end>末)?"), _zh_week),
    (("月",), re.compile("上上个月|下下个月|上个?月|下个?月|这个月|本月"), _zh_month),
    (("前年",), re.compile("前年"), _zh_year(-2)),
    (("去年",), re.compile("去年"), _zh_year(-1)),
    (("今年",), re.compile("今年"), _zh_year(0)),
    (("明年",), re.compile("明年"), _zh_year(1)),
    (("后年",), re.compile("后年"), _zh_year(2)),
)
