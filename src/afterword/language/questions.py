"""What a text asks for, by its form: when, about whom, whether it is a question at all. Pure. English and Chinese."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

Tokens = Callable[[str], tuple[str, ...]]

_STOP = (
    "a an the and or but if of in on at to for from by with about as is are was were be been being am do does did doing"
    " have has had having will would can could shall should may might must i me my mine we us our you your yours he him"
    " his she her it its they them their this that these those there here what which who whom whose when where why how"
    " not no so than then too very just also please tell remember again ever any some s t re ve ll d m"
    " 的 了 吗 呢 吧 啊 是 在 有 和 与 就 都 也 还 我 我们 我的 你 你们 你的 他 她 它 他们 这 那 这个 那个 什么 怎么 怎样"
    " 哪 哪里 哪个 哪些 谁 多少 几 为什么 请 请问 记得 告诉 过 着 把 被 给 吗 呀 嘛 么"
)
# 呢 alone asks nothing: 他在上班呢。 tells
ASKING_NE = (
    r"(?:谁|什么|怎|哪|几|多少|何时|为何|是不是|有没有|能不能|要不要|会不会)[^。.!！?？,，]*呢\s*[。.!！~～]*\s*$"
    r"|(?:^|[。.!！?？,，\s])(?:那|你|您|那么)[^。.!！?？,，]{0,5}呢\s*[。.!！~～]*\s*$"
)
_ENDS_ASKING = re.compile(rf"[?？]\s*[\"'”’)）]*\s*$|吗\s*[。.!！~～]*\s*$|{ASKING_NE}")
_ASKING_MARKS = re.compile(r"[?？吗呢]")  # none of these ends is without one, and looking for it is far quicker
_BEGINS_ASKING = re.compile(
    r"\W*(what|who|whom|whose|when|where|why|which|how|do|does|did|is|are|was|were|am|can|could|will|would|should"
    r"|have|has|had)\b(?!.*[.!]\s*\w)"
    r"|\W*(请问|为什么|什么|怎么|谁|哪|几|多少|何时|是不是|有没有|能不能|可不可以|你还记得|还记得)",
    re.IGNORECASE,
)
_TELLS = re.compile(r"[.!。！;；](?=\s*\w{2})(?!\w+\.)")
_ASKS_WHEN = re.compile(
    r"\bwhen\b|\bhow (long|old|recently|many (days|weeks|months|years))\b"
    r"|\b(what|which)( \w+)? (date|day|time|year|month|week|weekend)\b"
    r"|什么时候|何时|哪[一]?[天年月]|几[点号月]|多久|多长时间|什么(日子|日期|时间)",
    re.IGNORECASE,
)
_NAMES_A_TIME = re.compile(
    r"\b(yesterday|today|tonight|tomorrow|ago|since|last|next|recently|weekend|week|month|year|summer|winter|spring"
    r"|autumn|january|february|march|april|june|july|august|september|october|november|december|monday|tuesday"
    r"|wednesday|thursday|friday|saturday|sunday|(19|20)\d\d)\b"
    r"|昨[天晚日]|前[天年]|今[天年晚]|明[天年]|上个?[周月]|下个?[周月]|去年|周[一二三四五六日末]|星期|[\d一二三四五六七八九十]+[年月日号点]",
    re.IGNORECASE,
)
_SAY = (
    r"(say|said|tell|told|suggest\w*|recommend\w*|advi[sc]e\w*|mention\w*|propos\w+|list\w*|g[ai]ve|given|explain\w*"
    r"|answer\w*|provide\w*|show\w*|describ\w+|wr[io]te|call\w*|help\w*|refer\w*)"
)
_OF_ASSISTANT = re.compile(  # "can you tell me" only asks
    rf"(?<!\bcan )(?<!\bcould )(?<!\bwould )(?<!\bwill )(?<!\bdo )\byou('d|'ve)? (had |have |just |also |previously |earlier )?{_SAY}\b"
    rf"|\byour (\w+ )?(advice|suggestion|recommendation|answer|explanation|reply|response|list|tip|proposal)s?\b"
    rf"|\b(assistant|chatbot|bot|ai)('s)?\b.{{0,40}}\b{_SAY}\b"
    r"|((?<!请)你(?!能|可|会|是否能|愿)|助手|助理|机器人).{0,8}(说|建议|推荐|告诉|提到|提过|讲|回答|解释|列|写|给)",
    re.IGNORECASE,
)
_FROM_USER = re.compile(
    r"\b(did|have|had) i\b.{0,30}\b(tell|told|say|said|mention\w*)\b|我.{0,6}(告诉|跟你|对你|和你)", re.I
)


@dataclass(frozen=True, slots=True)
class Question:
    """What a query asks for. `about` is who it is about: a role, a speaker's name, or "" where it can't be told."""

    bare: str  # its letters and digits
    words: frozenset[str]
    asks_when: bool
    about: str


@lru_cache(maxsize=4)
def stop_words(tokens: Tokens) -> frozenset[str]:
    """Tokens of words that nearly every text has."""
    return frozenset(tokens(_STOP)) | frozenset(_STOP.split())


def content_words(text: str, tokens: Tokens) -> frozenset[str]:
    """The tokens that carry meaning; all of them where none does."""
    found = frozenset(tokens(text))
    return found - stop_words(tokens) or found


def asks(text: str) -> bool:
    """Whether a text is, as far as its form tells, a question."""
    end = text.strip()[-400:]
    if _BEGINS_ASKING.match(end):
        return True
    return _ASKING_MARKS.search(end) is not None and _ENDS_ASKING.search(end) is not None


def only_asks(text: str) -> bool:
    """Whether a text is a question and tells nothing beside it."""
    return asks(text) and _TELLS.search(text) is None


def names_a_time(text: str) -> bool:
    """Whether a text says when something was or will be."""
    return _NAMES_A_TIME.search(text) is not None


def read_question(text: str, tokens: Tokens, speakers: Iterable[str] = ()) -> Question:
    """What the query asks for; `speakers` are the names of those who spoke in what was found."""
    named = {name for name in speakers if names(name, text)}
    if len(named) == 1:
        about = named.pop()
    elif _OF_ASSISTANT.search(text) and not _FROM_USER.search(text):
        about = "assistant"
    else:
        about = "" if named else "user"
    return Question(bare(text), content_words(text, tokens), _ASKS_WHEN.search(text) is not None, about)


def names(name: str, text: str) -> bool:
    """Whether the text says this name."""
    if re.fullmatch(r"[\w .'-]+", name, re.ASCII):
        return re.search(rf"\b{re.escape(name)}\b", text, re.IGNORECASE) is not None
    return name in text


def bare(text: str) -> str:
    """Its letters and digits."""
    return re.sub(r"[\W_]+", "", text).casefold()
