"""An LLM's answer → a typed decision. Tolerant of how it is written, strict about what it may do; else `BadAnswer`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

import json_repair

from afterword.errors import BadAnswer
from afterword.language.dates import MONTHS, WEEKDAYS
from afterword.language.texts import content_words, language_of, share

EntryKind = Literal[
    "personal_fact", "preference_or_instruction", "plan_or_event", "general_question", "task_request", "small_talk"
]
VerdictKind = Literal["keep", "revise", "contradicted"]
FactAction = Literal["add", "revise", "supersede", "nothing"]

ENTRY_KINDS: tuple[EntryKind, ...] = get_args(EntryKind)
WRITTEN_KINDS: frozenset[str] = frozenset(ENTRY_KINDS[:3])
VERDICTS: tuple[VerdictKind, ...] = get_args(VerdictKind)
ACTIONS: tuple[FactAction, ...] = get_args(FactAction)

RECORD_LIMIT = 600
GROUNDED = 0.5
KEPT = 0.75  # of an old text's words that a new one, or what led to it, must have

_SYNONYMS = {
    "fact": "personal_fact", "personal": "personal_fact", "preference": "preference_or_instruction",
    "instruction": "preference_or_instruction", "plan": "plan_or_event", "event": "plan_or_event",
    "question": "general_question", "task": "task_request", "request": "task_request", "chat": "small_talk",
    "greeting": "small_talk", "none": "small_talk", "other": "small_talk",
    "contradict": "contradicted", "contradiction": "contradicted", "update": "revise", "correct": "revise",
    "unchanged": "keep", "insert": "add", "new": "add", "replace": "supersede", "skip": "nothing", "keep_it": "keep",
}  # fmt: skip

Name = TypeVar("Name", bound=str)


@dataclass(frozen=True, slots=True)
class Entry:
    """What a turn taught: `turn` is its number in the prompt. `write` follows from the kind."""

    turn: int
    kind: EntryKind
    text: str

    @property
    def write(self) -> bool:
        return self.kind in WRITTEN_KINDS


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a recalled episode, `number` as in the prompt."""

    number: int
    verdict: VerdictKind
    text: str
    why: str


@dataclass(frozen=True, slots=True)
class FactChange:
    """A change to what is known for good; `topic` is its number in the prompt."""

    action: FactAction
    topic: int
    text: str


# ── reading ────────────────────────────────────────────────────────────────────────────────────────────────────────


def read_entries(answer: str, turns: Collection[int]) -> list[Entry]:
    """The entries whose turns are among `turns`. Raises `BadAnswer` when the answer has none that can be read."""
    entries: list[Entry] = []
    items = _items(answer, "entries", ("kind", "record"))
    for item in items:
        kind = _near(item.get("kind"), ENTRY_KINDS)
        numbers = _numbers(item.get("turns", item.get("turn", item.get("number"))), turns)
        if not numbers and len(turns) == 1:
            numbers = tuple(turns)
        if kind and numbers:
            entries.append(Entry(numbers[0], kind, _text(item.get("record", item.get("text")))))
    if items and not entries:
        raise BadAnswer(f"no entry names a turn among {_listed(turns)} and a kind of {', '.join(ENTRY_KINDS)}")
    return entries


def read_verdicts(answer: str, numbers: Collection[int]) -> list[Verdict]:
    """One verdict a memory at most, the first that is given. Raises `BadAnswer`."""
    verdicts: dict[int, Verdict] = {}
    items = _items(answer, "verdicts", ("verdict",))
    for item in items:
        verdict = _near(item.get("verdict"), VERDICTS)
        chosen = _numbers(item.get("memory", item.get("number")), numbers)
        if not chosen and len(numbers) == 1:
            chosen = tuple(numbers)
        if verdict and chosen:
            found = Verdict(chosen[0], verdict, _text(item.get("text")), _text(item.get("why"), 200))
            verdicts.setdefault(chosen[0], found)
    if items and not verdicts:
        raise BadAnswer(f"no verdict names a memory among {_listed(numbers)} and one of {', '.join(VERDICTS)}")
    return list(verdicts.values())


def read_facts(answer: str, topics: Collection[int]) -> list[FactChange]:
    """One change a topic at most. Raises `BadAnswer`."""
    changes: dict[int, FactChange] = {}
    items = _items(answer, "changes", ("action",))
    readable = 0
    for item in items:
        action = _near(item.get("action"), ACTIONS)
        readable += action is not None
        topic = _numbers(item.get("number", item.get("topic")), topics)
        text = _text(item.get("fact", item.get("text")))
        if action is None or action == "nothing" or not topic or not text:
            continue
        changes.setdefault(topic[0], FactChange(action, topic[0], text))
    if items and not readable:
        raise BadAnswer(f"no change names an action of {', '.join(ACTIONS)}")
    return list(changes.values())


def _items(answer: str, key: str, marks: tuple[str, ...]) -> list[dict[str, Any]]:
    """The objects listed under `key`; a bare list, or one bare object, is taken for it."""
    body = re.sub(r"<think>.*?</think>", "", answer, flags=re.DOTALL)
    start = re.search(r"[\[{]", body)
    if start is None:
        raise BadAnswer(f'the answer is not JSON: give {{"{key}": […]}}')
    try:
        value: Any = json_repair.loads(body[start.start() :])
    except (ValueError, RecursionError) as error:
        raise BadAnswer(f"the answer is not JSON: {error}") from None
    if isinstance(value, dict) and key in value:
        value = value[key] or []
    elif isinstance(value, dict) and any(mark in value for mark in marks):
        value = [value]
    if isinstance(value, dict) and any(mark in value for mark in marks):
        value = [value]
    items = _listed_items(value)
    if items is None:
        raise BadAnswer(f'the answer lacks the list "{key}"')
    if value and not items:
        raise BadAnswer(f'"{key}" holds no objects')
    return items


def _listed_items(value: object) -> list[dict[str, Any]] | None:
    """The objects of a list, or those of an object that has a field for each, named after it: `#3 Ann: We got …`."""
    if isinstance(value, dict):
        named = [(name, item) for name, item in value.items() if isinstance(item, dict)]
        value = [{"number": _number_first(name), **item} for name, item in named] or None
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else None


def _number_first(name: object) -> str:
    """`3` out of `#3 Ann: We got 2 cats`."""
    found = re.match(r"\D{0,8}(\d{1,9})", str(name))
    return found[1] if found else ""


def _near(value: object, names: tuple[Name, ...]) -> Name | None:
    """The name that is meant, spelled nearly so."""
    if not isinstance(value, str):
        return None
    wanted = re.sub(r"[^a-z]+", "_", value.lower()).strip("_")
    wanted = _SYNONYMS.get(wanted, wanted)
    close = [wanted] if wanted in names else difflib.get_close_matches(wanted, names, n=1, cutoff=0.75)
    return next((name for name in names if close and name == close[0]), None)


def _numbers(value: object, allowed: Collection[int]) -> tuple[int, ...]:
    """Allowed numbers out of 3, "3", "#3", "E3", [3, "4"], each once."""
    values = value if isinstance(value, list) else [value]
    numbers = (int(n) for entry in values if not isinstance(entry, bool) for n in re.findall(r"\d{1,9}", str(entry)))
    return tuple(dict.fromkeys(number for number in numbers if number in allowed))


def _text(value: object, limit: int = RECORD_LIMIT) -> str:
    text = " ".join(value.split()) if isinstance(value, str) else ""
    if text.lower() in ("none", "null", "n/a", "-", "无"):
        return ""
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(numbers)))


# ── judging what was written ───────────────────────────────────────────────────────────────────────────────────────

_MONTH_NUMBER = {name.lower(): n for n, name in enumerate(MONTHS, 1)} | {
    name[:3].lower(): n for n, name in enumerate(MONTHS, 1)
}
_NAMED_MONTH = r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*"
_WHOLE_DATE = re.compile(
    rf"\b(?P<d1>\d{{1,2}})(?:st|nd|rd|th)? (?:of )?(?P<m1>{_NAMED_MONTH}),? (?P<y1>\d{{4}})|"
    rf"\b(?P<m2>{_NAMED_MONTH}) (?P<d2>\d{{1,2}})(?:st|nd|rd|th)?,? (?P<y2>\d{{4}})|"
    r"(?P<y3>\d{4})-(?P<m3>\d\d)-(?P<d3>\d\d)|(?P<y4>\d{4})年(?P<m4>\d{1,2})月(?P<d4>\d{1,2})[日号]",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_L = r"[^\W\d_\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"  # letters of scripts that have capitals, or none to speak of
_NAME = re.compile(rf"{_L}(?:{_L}|[0-9'’.-])*")
_MONTH_BEFORE_OR_AFTER = re.compile(
    rf"\b(?:\d{{1,2}}(?:st|nd|rd|th)?\s+(?:of\s+)?)?({'|'.join(MONTHS)}|{'|'.join(m[:3] for m in MONTHS)})\b"
    r"(?=\.?\s*(?:\d|,|$|\.))|\b(?:in|since|until|last|next|by|of)\s+"
    rf"({'|'.join(MONTHS)})\b"
)
_CALLED = re.compile(r"叫(?:做|作)?(?!什么|我|你|他|她|它)([\u4e00-\u9fff]{2,3})(?=[，。！？、；,.\s”」』）]|$)")
_QUOTED = re.compile(r"[「『《“\"]([^」』》”\"]{1,40})[」』》”\"]")
_NO_NAME_WORDS = """
    the a an i he she it they we you user his her its their our my your in on at since after before when while and but
    this that these those there said assistant mr mrs ms dr january february march april may june july august
    september october november december
"""
_NO_NAMES = frozenset(_NO_NAME_WORDS.split()) | {name.lower() for name in WEEKDAYS}


def numbers_in(text: str) -> frozenset[str]:
    """Numbers of a text, those of dates too, months in words as their number: `3 May 2026` and `2026-05-03` agree."""
    plain = {found.replace(",", "").lstrip("0") or "0" for found in _NUMBER.findall(text)}
    months = {name.lower() for pair in _MONTH_BEFORE_OR_AFTER.findall(text) for name in pair if name}
    return frozenset(plain | {str(_MONTH_NUMBER[name]) for name in months})


def undated(text: str) -> str:
    """The text without its whole dates: what it tells, but not when."""
    return _WHOLE_DATE.sub(" ", text)


def dates_in(text: str) -> frozenset[tuple[int, int, int]]:
    """Whole dates of a text as (year, month, day), in the ways that English and Chinese write them."""
    found = set()
    for match in _WHOLE_DATE.finditer(text):
        parts = match.groupdict()
        day, month = parts["d1"] or parts["d2"] or parts["d3"] or parts["d4"], parts["m1"] or parts["m2"]
        number = _MONTH_NUMBER[month.lower()[:3]] if month else int(parts["m3"] or parts["m4"])
        found.add((int(parts["y1"] or parts["y2"] or parts["y3"] or parts["y4"]), number, int(day)))
    return frozenset(found)


def names_in(text: str) -> frozenset[str]:
    """Capitalised words, lower-cased, that are not merely the first of a sentence; what stands in quotes, or after 叫.

    Chinese names have no mark of their own: there, Latin words, quoted ones and what is called so are all that can be told.
    """
    chinese = language_of(text) == "zh"
    found = {quoted.lower() for quoted in (*_QUOTED.findall(text), *_CALLED.findall(text))}
    for match in _NAME.finditer(text):
        if not chinese and not match.group()[0].isupper():
            continue
        word = re.sub(r"['’](?:s|m|ve|d|ll|re)$", "", match.group()).rstrip(".-'’")
        before = text[: match.start()].rstrip(" \"'“(")
        first = not before or before[-1] in ".!?:…\n"
        if word.lower() not in _NO_NAMES and (chinese or not first):
            found.add(word.lower())
    return frozenset(found)


def lost_details(old: str, new: str, evidence: str) -> tuple[str, ...]:
    """Names, numbers and dates of `old` that `new` dropped without the evidence saying so.

    A detail may go when the evidence names it ("not Oslo any more"), or when the evidence puts another of its kind in
    its place. When many of the words are gone, that itself is the loss.
    """
    lost: list[str] = []
    said = evidence.lower()
    for details in (names_in, numbers_in):
        before, after, told = details(old), details(new), details(evidence)
        gone = {detail for detail in before - after if detail not in new.lower()}
        silent = {detail for detail in gone - told if details is numbers_in or detail not in said}
        places = len((after - before) & told) - len(gone - silent)  # what was named as gone takes its place first
        lost += sorted(silent) if len(silent) > max(0, places) else []
    words = content_words(old)
    if not lost and share(words, content_words(new) | content_words(evidence)) < KEPT and len(words) > 2:
        lost.append("much of the old text")
    return tuple(lost)


def invented_details(text: str, evidence: str) -> tuple[str, ...]:
    """Names, numbers and whole dates of `text` that the evidence does not have.

    Small numbers may be words there: they pass.
    """
    said = evidence.lower()
    names = [name for name in sorted(names_in(text)) if name not in said]
    known = numbers_in(evidence)
    dates = sorted(f"{y}-{m:02}-{d:02}" for y, m, d in dates_in(text) - dates_in(evidence))
    return (*names, *dates, *(n for n in sorted(numbers_in(text)) if n not in known and len(n) > 2 and n not in said))


def grounded(text: str, evidence: str, *, least: float = GROUNDED, people: str = "") -> bool:
    """Whether `least` of what the text tells stands in the evidence, and in the same language.

    The names in `people` count neither way: a small model puts the right names to what nobody said.
    """
    words = content_words(text) - content_words(people)
    if not words:
        return False
    same_language = language_of(text) == language_of(evidence) or len(words) < 3
    return same_language and share(words, content_words(evidence)) >= least
