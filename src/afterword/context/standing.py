"""Standing facts: what an LLM should know in every reply. Who the person is called, which language they want, how they
want to be answered, and what they must not eat or drink, since no advice asks for that by name.

By rules, so that they come along without an LLM too; in English and Chinese, in the person's own words and in those of
a record that an LLM wrote. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

from afterword.language.texts import alike, content_words, own_words
from afterword.records import MemoryRecord

Slot = Literal["name", "called", "language", "manner", "avoids"]

MOST_WISHES = 8
MOST_AVOIDED = 4
SAME_WISH = 0.75  # of the words of two wishes: the newer one replaces the older

_ONE_EACH: tuple[Slot, ...] = ("called", "name", "language")
_LANGUAGES = (
    "english|chinese|mandarin|cantonese|french|german|spanish|italian|portuguese|dutch|russian|ukrainian|polish|japanese|"
    "korean|arabic|hebrew|hindi|turkish|vietnamese|thai|greek|swedish|norwegian|danish|finnish|czech|indonesian"
)
_ZH_LANGUAGES = "中文|汉语|普通话|国语|粤语|英文|英语|法语|德语|日语|日文|韩语|西班牙语|俄语|葡萄牙语|意大利语|阿拉伯语"
_VERBS = (
    "answer|reply|respond|write|use|call|give|tell|explain|ask|speak|talk|say|include|format|provide|confirm|maintain|show|"
    "list|add|start|begin|end|keep|put|cite|mention|check|remind|suggest|recommend|assume|round|translate|summari[sz]e|"
    "address|double-check|be"
)
_ANSWERS = r"(?:answers?|repl(?:y|ies)|responses?|explanations?|messages?|tone|style|summar(?:y|ies))"
_QUALITY = (
    r"(?:short(?:er)?|brief(?:er)?|concise|long(?:er)?|detailed|simple|simpler|plain|direct|formal|informal|casual|polite|"
    r"blunt|friendly|structured|step[- ]by[- ]step|bullet(?:ed)?[- ]points?|in bullets?)"
)


def _any(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns), re.IGNORECASE)


_CALLED = _any(
    r"\bcall me (?!back\b|when\b|if\b|at\b|on\b|in\b|tomorrow\b|tonight\b|later\b|again\b|an?\b|the\b|old\b|crazy\b|any\b|"
    r"every\b|as\b|for\b|this\b|next\b|before\b|after\b|by phone\b|please\b)[\"“']?\w",
    r"\bI go by\b|\bmy nickname is\b|\bmy pronouns are\b",
    r"(?:请|就|可以|以后|都)?(?:叫我|称呼我)(?!们|去|来|起床|一声|做|帮|回|吃|买|干|别|不)",
    r"\buser (?:goes by|(?:wants|prefers|likes|asked|would like) to be (?:called|addressed))\b",
    r"用户(?:希望|想|要求|喜欢|更喜欢)?.{0,6}(?:被?称呼|被叫)|(?:称呼|叫)用户",
)
_NAME = _any(
    r"\bmy (?:full |first |last |real |preferred )?name(?:['’]s| is)\b|\bI(?:['’]m| am) (?:called|named)\b",
    r"(?<![\w])我叫(?!了|你|他|她|它|上|醒|来|不|车|外卖|的|过|到|住|做|人|个|什么)|我姓(?!什么)",
    r"我的(?:名字|姓名|小名|英文名|昵称)(?:是|叫)(?!什么)",
    r"\buser(?:['’]s)? (?:(?:full |first |last |real )?name is|is (?:called|named))\b",
    r"用户(?:的)?(?:名字|姓名|小名|英文名|昵称)(?:是|叫|为)|用户(?:叫|名叫|姓)(?!了|外卖|车)",
)
_LANGUAGE = _any(
    rf"\b(?:answer|reply|respond|write|speak|talk|explain|chat)(?:ing|s)?\b(?: \w+){{0,4}} in (?:simple |plain |british |american "
    rf"|formal )*(?:{_LANGUAGES})\b",
    rf"\b(?:answers|replies|responses) (?:to be )?in (?:simple |plain )?(?:{_LANGUAGES})\b",
    rf"\b(?:use|in) (?:{_LANGUAGES})(?:,)? (?:please|from now on|only|with me)\b",
    rf"\bI (?:only|mostly) speak (?:{_LANGUAGES})\b",
    r"\b(?:native|first|mother) (?:language|tongue)\b",
    rf"用(?:{_ZH_LANGUAGES})(?:来|跟我|和我|给我)?(?:回答|回复|答复|说|写|交流|聊|讲|沟通|解释)",
    rf"(?:说|讲)(?:{_ZH_LANGUAGES})(?:吧|就好|就行|好吗)",
    rf"我只(?:会|懂|说)(?:{_ZH_LANGUAGES})|母语是",
)
_MANNER = _any(
    rf"^(?:(?:and|also|so|please|but|oh|ok|okay|remember:?|remember to),? ){{0,2}}(?:always|never) (?:{_VERBS})\b",
    rf"\b(?:from now on|in (?:the )?future|whenever I|every time I|each time I)\b.*\b(?:{_VERBS}|{_ANSWERS})\b",
    rf"\b{_QUALITY}\b.{{0,20}}\b{_ANSWERS}\b|\b{_ANSWERS}\b.{{0,20}}\b{_QUALITY}\b",
    r"\b(?:keep|make) (?:it|them|things|your \w+) (?:short|brief|concise|simple|formal|casual)\b",
    r"^(?:please )?(?:stop|do not|don['’]t) (?:use|using|call|calling|add|adding|include|including|suggest|suggesting|"
    r"mention|mentioning|apologi[sz]|ask|asking|write|writing|answer|answering)",
    r"\b(?:no|without|use|with|avoid|hates?|dislikes?) (?:any |more )?"
    r"(?:emojis?|markdown|bullet points|tables|jargon|exclamation marks)\b",
    r"\b(?:use|prefer|prefers|in) (?:metric|imperial|celsius|fahrenheit|24[- ]hour)\b",
    rf"\buser (?:wants|prefers|likes|asks|asked|would like|expects)\b.{{0,60}}\b{_ANSWERS}\b",
    rf"\buser (?:wants|asks|asked|would like) (?:you|the assistant|me|it) to (?:always |never )?(?:{_VERBS})\b",
    r"(?:以后|从现在起|从今以后|从今天起|今后|每次|总是|始终|一直|一律|永远|不要再|别再|请不要|请别|不要|别).{0,15}"
    r"(?:回答|回复|答复|说话|解释|用|写|列|加|提|推荐|建议|称呼)",
    r"(?:回答|回复|答复|说话|解释|语气).{0,6}(?:简短|简洁|短一?[点些]|详细|直接|口语|正式|分点|分条|一步一步|通俗|简单)",
    r"(?:简短|简洁|详细|通俗|直接|正式)(?:地|一?[点些])?.{0,4}(?:回答|回复|答复|解释)",
    r"用户(?:希望|要求|想要|喜欢|偏好|让).{0,20}(?:回答|回复|解释|语气|风格|表情|格式|简短|简洁)",
)
_NOT_EATEN = (
    r"coffee|caffeine|alcohol|sugar|salt|gluten|wheat|dairy|milk|lactose|meat|pork|beef|fish|seafood|shellfish|nuts|peanuts|"
    r"eggs|soy"
)
_AVOIDS = _any(
    r"\b(?:I|user)\b(?: \w+| ?['’]m){0,4} (?:allergic|intolerant)\b|\b(?:my|user has|user['’]s)\b(?: [\w-]+){0,3} (?:allergy|intolerance)\b",
    r"\b(?:I|user)(?:['’]m| am| is)? (?:an? |now |strictly )*(?:vegan|vegetarian|pescatarian|teetotal|coeliac|celiac|diabetic)\b",
    r"\b(?:I|user) (?:(?:really|just|absolutely|simply) )?(?:don['’]t|do not|doesn['’]t|does not|can['’]t|cannot|never|no longer|"
    r"must not|should not|shouldn['’]t) (?:ever )?(?:eats?|drinks?) (?!out|up|breakfast|lunch|dinner|much|enough|anything|the)\w",
    rf"\b(?:I|user)(?: should| must| (?:need|ha)s? to| have to)? avoids? (?:eating|drinking|{_NOT_EATEN})\b",
    r"(?:我|用户)[^，。,]{0,6}不(?:能|可以|敢)?[吃喝碰沾](?!饭|[早午晚]饭|[了得完下到惯亏苦力醋])[^，。,？?]",
    r"(?:我|用户)[^。？?]{0,12}(?:过敏|不耐受|吃素|素食|忌口|清真|(?:少|别|避免)[吃喝]\w)",
)


def slot_of(memory: MemoryRecord) -> Slot | None:
    """What standing fact a memory holds, if any. How to answer counts only where it was told as a wish."""
    own = own_words(memory.text)
    if _CALLED.search(own):
        return "called"
    if _NAME.search(own):
        return "name"
    kind = memory.metadata.get("kind")
    if kind == "plan_or_event":
        return None
    if _LANGUAGE.search(own):
        return "language"
    if _AVOIDS.search(own):
        return "avoids"
    wish = kind == "preference_or_instruction" or memory.kind == "semantic" or memory.author == "person"
    return "manner" if wish and _MANNER.search(own) else None


def standing(memories: Iterable[MemoryRecord]) -> list[MemoryRecord]:
    """The standing facts among current memories: what to call them, their name, their language, what they avoid, then
    their wishes.

    The newest of each holds; of wishes the newest `MOST_WISHES`, of what they avoid `MOST_AVOIDED`, and of two that say
    nearly the same the newer.
    """
    newest = sorted(memories, key=lambda memory: (memory.said_at, memory.id), reverse=True)
    by_slot: dict[Slot, list[MemoryRecord]] = {"called": [], "name": [], "language": [], "avoids": [], "manner": []}
    for memory in newest:
        slot = slot_of(memory)
        if slot is not None and not any(_same(memory, other) for other in by_slot[slot]):
            by_slot[slot].append(memory)
    ones = [memory for slot in _ONE_EACH for memory in by_slot[slot][:1]]
    return [*ones, *by_slot["avoids"][:MOST_AVOIDED], *by_slot["manner"][:MOST_WISHES]]


def _same(one: MemoryRecord, other: MemoryRecord) -> bool:
    words = content_words(own_words(one.text)), content_words(own_words(other.text))
    return alike(*words) >= SAME_WISH
