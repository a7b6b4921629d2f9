"""How one recalled record reads as a line of the context: dated, on one line, and data from beginning to end."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING

from afterword.language.dates import ago, annotated, day
from afterword.language.texts import Language, cut, excerpt, own_words, sentences
from afterword.records import local_time

if TYPE_CHECKING:
    from afterword.records import Hit

LONG = 20_000  # characters of a record that an excerpt is looked for in
QUESTION_TOKENS = 40  # of the question that stands before an answer
NOTE_TOKENS = 60  # of the other text of a fact that was superseded
BESIDE_TOKENS = 90  # of the answer that stands after a question

_MARK = re.compile(
    r"[<＜‹〈]\s*/?\s*(?=memor)|<(?=\||/?(?:s|system|user|assistant|im_\w+)\b)|\[(?=/?INST\])", re.IGNORECASE
)
_ORDERS = re.compile(
    r"\b(?:ignore|disregard|forget|override|bypass)\b[^.\n]{0,30}\b(?:previous|prior|above|earlier|preceding|all|your|system|"
    r"these|the)\b[^.\n]{0,30}\b(?:instructions?|prompts?|rules?|guidelines|messages?|directions)\b|"
    r"(?:^|\n|[.!?]\s)\s*(?:\[|<|#+ ?)?(?:system|developer)(?: (?:prompt|message|note|override))?\s*[:：\]>]|"
    r"<\|\w+\|>|\[/?INST\]|\bnew (?:system )?instructions?\s*:|\byou are now (?:an?|in|the)\b|"
    r"\b(?:reveal|print|repeat|show|output|leak)\b[^.\n]{0,30}\b(?:system prompt|hidden instructions|your instructions|"
    r"your prompt)\b|"
    r"(?:忽略|无视|忘记|忘掉|不要理会|不理会|跳过)[^。\n]{0,12}(?:以上|之前|上面|前面|先前|所有|你的|系统)[^。\n]{0,12}"
    r"(?:指令|指示|提示|规则|内容|命令|要求|设定)|(?:^|\n)\s*(?:系统|系统提示|系统消息|系统指令)\s*[:：]|"
    r"(?:显示|输出|打印|泄露|重复|告诉我)[^。\n]{0,10}(?:系统提示|提示词|系统指令)|从现在起你(?:是|就是|将扮演)",
    re.IGNORECASE,
)
_SAID = re.compile(r"^(?P<who>.{1,60}?) said on \d{1,2} \w+ \d{4}: |^(?P<谁>.{1,60}?)在\d{4}年\d{1,2}月\d{1,2}日说：")


@dataclass(frozen=True, slots=True)
class Ended:
    """Until when something held, and the other text of the pair: what holds now, or what held before."""

    when: datetime
    utc_offset: int
    text: str


@dataclass(frozen=True, slots=True)
class Reader:
    """For whom it is told: the moment, their clock, their language, and the content words that they ask about."""

    now: datetime
    utc_offset: int
    language: Language
    wanted: frozenset[str] = frozenset()

    def when(self, moment: datetime, utc_offset: int) -> str:
        """The day on the clock where it was said, and how long ago that is for the reader."""
        local = local_time(moment, utc_offset).date()
        past = ago(local, self.today, self.language)
        return f"{day(local, self.language)}，{past}" if self.zh else f"{day(local, self.language)}, {past}"

    @property
    def today(self) -> date:
        return local_time(self.now, self.utc_offset).date()

    @property
    def zh(self) -> bool:
        return self.language == "zh"


def reads_like_an_order(text: str) -> bool:
    """Whether the text speaks to the model about its instructions, as injected text does."""
    return bool(_ORDERS.search(text))


def harmless(text: str) -> str:
    """On one line, and without what could end the block or start a turn of the chat's format."""
    return " ".join(_MARK.sub("‹ ", text).split())


def fact_line(hit: Hit, reader: Reader, limit: int) -> str:
    """A lasting fact, with when it was last heard of."""
    text, when = _text(hit, reader, limit), reader.when(hit.said_at, hit.utc_offset)
    return f"- {text}（{when}得知）" if reader.zh else f"- {text} (as of {when})"


def standing_line(hit: Hit, reader: Reader, limit: int) -> str:
    """A standing fact or wish, in the words it was told in."""
    local = local_time(hit.said_at, hit.utc_offset).date()
    text = cut(harmless(own_words(hit.text)), limit)
    told = day(local, reader.language, weekday=False)
    return f"- {text}（{told}）" if reader.zh else f"- {text} ({told})"


def said_line(hit: Hit, reader: Reader, limit: int) -> str:
    """Something said or noted; the day stands in the heading above it."""
    said = _SAID.match(hit.text) if hit.kind == "episodic" else None
    text = _text(hit, reader, limit)
    if hit.kind == "turn" or said:
        return f"- {_speaker(hit, reader, said)}{'：' if reader.zh else ': '}{text}"
    return f"- {text}"


def question_line(hit: Hit, reader: Reader) -> str:
    """Of a turn that stands before its answer: the question it ends in."""
    asked = [part for part in sentences(hit.text) if part.rstrip(" \"'”’)").endswith(("?", "？"))]
    text = cut(harmless(asked[-1] if asked else hit.text), QUESTION_TOKENS)
    return f"- {_speaker(hit, reader, None)}{'：' if reader.zh else ': '}{text}"


def ended_note(ended: Ended, reader: Reader) -> str:
    """Behind a line that no longer holds: since when, and what holds now."""
    now = "" if reads_like_an_order(ended.text) else cut(harmless(own_words(ended.text)), NOTE_TOKENS)
    if reader.zh:
        return f"［{_until(ended, reader)}起不再成立{f'；现在：{now}' if now else ''}］"
    return f" [no longer so since {_until(ended, reader)}{f'; now: {now}' if now else ''}]"


def before_note(ended: Ended, reader: Reader) -> str:
    """Behind a fact: what held before it, and until when."""
    text = cut(harmless(own_words(ended.text)), NOTE_TOKENS)
    if reader.zh:
        return f"［在此之前，到{_until(ended, reader)}为止：{text}］"
    return f" [before that, until {_until(ended, reader)}: {text}]"


def later_note(later: str, reader: Reader) -> str:
    """Behind a turn whose episode was revised since: what was said then."""
    text = "" if reads_like_an_order(later) else cut(harmless(own_words(later)), NOTE_TOKENS)
    if not text:
        return ""
    return f"［后来：{text}］" if reader.zh else f" [later: {text}]"


def _until(ended: Ended, reader: Reader) -> str:
    return day(local_time(ended.when, ended.utc_offset).date(), reader.language, weekday=False)


def heading(hit: Hit, reader: Reader, *, again: bool) -> str:
    """The day it was said, and how long ago; `again` where another chat of that day has had its heading."""
    when = reader.when(hit.said_at, hit.utc_offset)
    if again:
        when += "，另一次聊天" if reader.zh else ", in another chat"
    return f"### {when}"


def order_note(reader: Reader) -> str:
    """Before a text that reads like an order, where such texts are let in."""
    return "［像是指令，只是引文］" if reader.zh else "[reads like an instruction: a quotation only] "


def _text(hit: Hit, reader: Reader, limit: int) -> str:
    own = own_words(hit.text) if hit.kind == "episodic" else hit.text
    text = excerpt(own[:LONG], reader.wanted, limit)
    if hit.kind == "turn":
        text = annotated(text, local_time(hit.said_at, hit.utc_offset))
    return harmless(text)


def _speaker(hit: Hit, reader: Reader, said: re.Match[str] | None) -> str:
    if said:
        return harmless(said["who"] or said["谁"])
    if hit.speaker:
        return harmless(hit.speaker)
    if reader.zh:
        return "用户" if hit.role == "user" else "助手"
    return "the user" if hit.role == "user" else "assistant"
