"""The write decider without an LLM: by the forms in which English and Chinese tell something about oneself.

It keeps the person's own sentence, with who said it and when, and adds nothing to it.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from afterword.decisions import EntryKind, undated
from afterword.language.dates import annotated, day
from afterword.language.questions import ASKING_NE
from afterword.language.texts import content_words, cut, joined, language_of, own_words, sentences, share
from afterword.prompts import is_person, said_by
from afterword.records import Turn, local_time

MOST = 5  # sentences of one turn
SENTENCE_TOKENS = 120
QUESTION_TOKENS = 30
TOUCHED = 0.2  # of a memory's words in what was said
_INNER_QUOTES = re.compile(r"[“”\"]")


@dataclass(frozen=True, slots=True)
class Told:
    """A sentence worth a memory: `sentence` as it was said, `text` with speaker and date."""

    kind: EntryKind
    sentence: str
    text: str


def _any(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns), re.IGNORECASE)


_QUESTION = _any(
    r"[?？]\s*$",
    r"^(?:(?:so|and|but|then|ok|okay|well|hey),?\s+)?(?:what|which|who|whom|whose|when|where|why|how|is|are|am|was|were|"
    r"do|does|did|can|could|would|should|shall|will|may|might|have|has)\b(?!.*[.!]\s*$)",
    r"[吗么]\s*[。！]?$",
    ASKING_NE,
    r"^(?:请问|什么|怎么|为什么|哪|谁|几点|多少|能不能|可不可以|是不是|有没有)",
    r"(?:是什么|怎么办|怎么样|在哪里?|多少钱?|是谁|为什么)[。！]?$",
)
_NO_TELLING = _any(
    r"^(?:thanks|thank you|sorry|hello|hi|hey|ok|okay|great|cool|sure|bye|good (?:morning|evening|night))\b[\s\w,!.]{0,20}$",
    r"\bI(?:'m|’m| am) (?:sorry|fine|ok|okay|good|not sure|wondering|asking|curious|just|afraid|back|here|confused|done)\b",
    r"\bI (?:think|guess|mean|see|hope|wonder|understand|agree|don['’]t know|was wondering|just want(?:ed)?)\b",
    r"\bI (?:have|had|'ve got) (?:a|one|another|some) (?:question|problem|idea|request)",
    r"\bI(?:'d| would) like (?:to know|to ask|you to|some help)|\bI (?:want|need) (?:to know|to ask|you to (?:write|make))",
    r"\bI need (?:help|you)\b",
    r"\bI(?:'m|’m| am) (?:(?:so|truly|really|super|very|forever) )*(?:grateful|thankful)\b",
    r"我(?:就是|只是)?(?:想问|想知道|想请教|想了解|在想|觉得|认为|猜|不知道|不懂|不明白|明白|懂了|知道了|同意|的意思是|是说)",
    r"我有(?:个|一个|些|几个)?(?:问题|疑问|想法)",
    r"^(?:谢谢|你好|您好|好的|嗯|哈+|再见|早上好|晚安|没事|对不起|不好意思)",
)
_INSTRUCTION = _any(
    r"^(?:and |also |so |oh,? )?(?:please )?(?:remember|note|keep in mind|don['’]t forget)\b",
    r"\b(?:call me|from now on|in (?:the )?future,? (?:please|always|never))\b",
    r"^(?:and |also )?(?:please )?(?:always|never) (?:answer|reply|respond|write|use|call|give|tell|explain|ask|mention|speak|"
    r"talk|say|include|format|provide|confirm|maintain|show|list|add|start|begin|end|keep|put|cite|check|remind|suggest|"
    r"recommend|assume|round|translate|summari[sz]e|address|double-check)\b",
    r"^(?:please )?(?:stop|do not|don['’]t) (?:calling|using|writing|mentioning|suggesting|use|call|mention|suggest|ask)\b",
    r"\bI(?:'d| would) (?:rather|prefer)\b|\bI prefer\b|\bI want you to (?:always|never|call|answer|use|speak|be)\b",
    r"(?:请)?(?:帮我)?(?:记住|记得|记一下|别忘了)|以后|从现在起|从今以后|从今天起|叫我|称呼我|不要再|别再|"
    r"^(?:请)?(?:总是|一直|始终)(?:用|以)|我(?:更|比较)?(?:希望你|想让你|要你)|我更喜欢你",
)
_PLAN = _any(
    r"\b(?:I|we)(?:'m|’m|'re|’re| am| are) (?:going|planning|about|hoping|flying|moving|travell?ing|leaving|starting|meeting|"
    r"visiting|getting)\b",
    r"\b(?:I|we)(?:'ll|’ll| will| plan| intend| hope| want| need| have) to (?!know\b|ask\b|say\b|see\b)",
    r"\b(?:I|we)(?:'ll|’ll| will) (?!be back|try|see\b)",
    r"\bI have an? (?:[\w-]+ ){0,3}(?:appointment|meeting|interview|exam|flight|trip|deadline|date|operation|surgery)\b",
    r"(?:我|我们)(?:[^，。,]{0,10})?(?:打算|计划|准备|要去|将要|会去|想去|约了|要参加|要考|预约)",
    r"(?:我|我们)?(?:明天|后天|下周|下个?月|明年|周末)(?:我|我们)?(?:[^，。,]{0,6})?(?:要|去|会|有)",
)
_FACT = _any(
    r"\bmy (?:[\w'’-]+ ){1,4}(?:is|are|was|were|has|have|had|lives?|lived|works?|worked|likes?|loves?|hates?|died|moved|"
    r"turned|turns|attends|owns|speaks|teaches|taught|sells|runs|drives|plans|left|bought|got|just|started|studies|plays?|comes?|goes|needs?|can|can['’]t|doesn['’]t|called)\b",
    r"\b(?:I|we)(?:'m|’m|'ve|’ve|'re|’re)? (?:(?:just|also|really|now|still|recently|always|never|already|actually|finally|"
    r"both|only|don['’]t|do not|didn['’]t|no longer|used to|currently|have|had|was|am|can['’]t|cannot) ){0,3}"
    r"(?:live|lived|move|moved|work|worked|study|studied|teach|taught|speak|like|liked|love|loved|hate|hated|dislike|enjoy|"
    r"adore|prefer|eat|drink|play|played|own|owned|bought|sold|adopted|got|have|had|was born|born|grew up|started|quit|left|"
    r"lost|found|met|married|divorced|broke|finished|graduated|retired|run|ride|drive|cook|collect|read|watch|watched|went|"
    r"visited|saw|made|built|learned|learnt|began|stopped|joined|won|take|took|need|use|wear|weigh|smoke|travel|travelled|"
    r"traveled|come from|came from|suffer|remember|signed|booked|passed|failed|baked|painted|wrote|planted|ran|feel|felt|"
    r"restore|restored|fix|fixed|repair|repaired|open|opened|teach|raise|raised|grow|grew|earn|spent|celebrated|attended|"
    r"hurt|fell|twisted|volunteer|volunteered|sing|sang|dance|practi[sc]ed?|train|trained|swim|swam|hike|hiked|camped|"
    r"switched|changed|cancelled|canceled|ordered|named|moved|flew|explored|talked|gave|shared|wrote|created?|chose)\b",
    r"\bI(?:'m|’m| am| was) (?:an?|the|from|in|at|on|called|named|allergic|married|single|divorced|engaged|pregnant|vegan|"
    r"vegetarian|\d+|turning|learning|studying|working|living|training|based|lactose|left-handed|colou?r|\w+ years old|"
    r"not an?|no longer|scared|afraid of|interested|into|proud|worried|excited|tired|sick|ill)\b",
    r"\b(?:name['’]s|my name is|our (?:[\w'’-]+ ){1,3}(?:is|are|was|has))\b",
    r"我(?:们)?(?:叫|是|姓|住|在|来自|出生|生于|搬|毕业|今年|养|有|喜欢|爱|最爱|讨厌|不喜欢|不爱|不吃|不喝|不能|不会|不再|对|过敏|"
    r"会|买|卖|换|辞|结婚|离婚|怀孕|从事|学|读|去了|去过|刚|已经|昨天|前天|今天|上周|上个?月|去年|开始|每天|每周|经常|平时|从小|"
    r"不是|没有|怕|害怕|当|做|生日|家)",
    r"我(?:的|家|妈|爸|妈妈|爸爸|妹妹|姐姐|哥哥|弟弟|女儿|儿子|老婆|老公|妻子|丈夫|孩子|朋友|男朋友|女朋友|奶奶|爷爷|同事|老板)"
    r"[^，。,？?]{0,12}(?:是|叫|在|有|住|喜欢|不|会|要|生|了|去|学|做|过敏|岁)",
)
_CORRECTS = re.compile(
    r"\b(?:actually|no longer|not any ?more|any ?more|instead|changed|correction|wrong|mistake|not true|turns out|switched|"
    r"used to|stopped|quit|moved|cancell?ed|postponed|sold|ended|broke up|split up|died|given up|gave up|meanwhile|since then|update)\b|"
    r"其实|不再|改成|改为|改到|换成|换了|搬|不对|错了|更正|取消|推迟|卖了|卖掉|分手|结束了|已经不|现在不|不是.{1,12}(?:是|而是)|原来|后来",
    re.IGNORECASE,
)
_ASIDE = re.compile(
    r"^(?:oh|well|so|and|but|also|by the way|btw|actually|anyway|yes|no|yeah)[,!]?\s+|^(?:你好|您好|大家好|嗨|对了|哦)[，,！!～\s]+",
    re.IGNORECASE,
)
_FILLER = re.compile(
    r"^(?:(?:thanks?|thank you|thx|ok|okay|cool|great|nice|perfect|sure|yes|no|yeah|yep|nope|hi|hello|hey|bye|good|morning|"
    r"evening|night|lol|haha+|wow|please|so much|very much|a lot|got it|i see|that helps?|sounds good|well done|alright|"
    r"that was|very|really|helpful|useful|interesting|"
    r"好的?|谢谢你?|多谢|感谢|嗯+|哦+|哈+|你好|您好|早上好|晚上好|晚安|再见|拜拜|对|是的?|不是|行|可以|明白了?|知道了?|"
    r"没事|不客气|太好了|真棒|厉害)[\s,.!~，。！～、…👍🙏😊😀😂❤️]*)+$",
    re.IGNORECASE,
)
_OWN = re.compile(r"\b(?:I|my|me|mine|we|our|us)\b|[我咱]", re.IGNORECASE)
_POLITE = _any(
    r"\bI(?:['’]m| am) (?:so |really |very )*(?:proud of|happy for|glad (?:you|to)|sorry (?:to|about|for)|stoked for|excited for) "
    r"?(?:you|that|hear)?\b",
    r"\b(?:I|we) (?:[\w%]+ )?(?:agree|appreciate|hear (?:you|ya))\b|\bmeans? (?:a lot|so much|the world)\b|\bgood to see you\b|"
    r"\bhappy for you\b|\bproud of you\b|\bcouldn['’]t agree more\b|\bI(?:['’]ll| will) keep (?:you|ya) posted\b",
    r"^(?!.*\b(?:I|my|me)\b).*\bwe (?:can|could|should|must|all|got this)\b|^(?:yeah,? |yes,? |so )?(?:\w+,? )?let['’]s\b",
    r"\b(?:a lot|lots|so much|big things|(?:a lot of|many) things)(?:['’]s| has| have)? (?:been )?(?:going on|happening|happened)\b"
    r".{0,30}$|^(?:so,? )?(?:take a |have a )?look at (?:this|these|that)\b|^I wanted to tell you\b.{0,60}$|"
    r"\bI(?:['’]m| am) off to (?:go|do|bed|sleep|grab|get)\b|^here['’]s (?:a|the|one|some) (?:pic|photo|picture)",
    r"^(?:long time|ages)\b.{0,30}$|^(?:\w+ ){0,5}since (?:we|our) (?:last )?(?:talked|spoke|chatted|met|saw|chat|talk)\b.{0,25}$",
    r"好久不见|我(?:很|好|真)?(?:为你|替你)|我(?:也)?(?:同意|理解|支持你|相信你)",
)
_BEGINS_WITH_ONESELF = re.compile(
    r"^(?:I|we|my|our)\b(?!.{0,12}\b(?:need|want|would like|like you)\b|['’]d like)|^[我咱](?!.{0,4}(?:想|要|需要|希望))",
    re.IGNORECASE,
)
_YOURS = re.compile(r"\b(?:you|your|yours|you['’](?:re|ve|ll|d)|ya|y['’]all)\b|[你您]", re.IGNORECASE)
_SHOWN = re.compile(r"\[[^\]]*\]")  # a picture that was sent along
_FOLLOWS = re.compile(r"^(?:it|they|he|she|this|that|these|those|both)\b|^[它他她这那]", re.IGNORECASE)
_REFERS = re.compile(
    r"\b(?:it|its|they|them|their|he|him|his|she|her|hers|this|that|these|those|there|one|ones|too|also)\b|[它他她这那]|也",
    re.IGNORECASE,
)
_TO_YOU = re.compile(
    r"^(?:you|your|you['’](?:re|ve|ll|d))\b(?! know,? (?:that )?(?:I|my|we|our)\b)(?!.*[,;–-] ?(?:and |but |so )?(?:I|my|we)\b)|"
    r"^[你您][^我咱]*$",
    re.IGNORECASE,
)
_REACTS = _any(
    r"^(?:wow|whoa|woah|oh|aw+|ha+|yay|congrat\w*|thanks?|thank you|nice|great|good (?:on|for|luck|job)|cool|awesome|amazing|"
    r"lovely|perfect|wonderful|fantastic|glad|happy for|proud of|so (?:cool|happy|proud|glad|sweet|nice|sorry)|sounds?|"
    r"(?:that|this|it|what|how)(?:['’]s| is| was| sounds| looks| must)? (?:so |really |a |an |very )*(?:great|good|cool|nice|"
    r"awesome|amazing|lovely|wonderful|sweet|gorgeous|fantastic|beautiful|delicious|fun|inspiring|fabulous|super|smart|kind)|"
    r"(?:love|like|loving) (?:that|this|the|it)|keep (?:it )?up|can['’]t wait to hear|have (?:fun|a)|absolutely|totally|"
    r"definitely|exactly|agreed|same here|no (?:way|doubts?)|take care|talk soon|see you|miss(?:ed)? you)\b",
    r"^(?:that|this|these|those) (?:[\w'’-]+ ){1,3}(?:is|are|looks?|sounds?) (?:so |really |a |an |very )*(?:great|good|cool|nice|"
    r"awesome|amazing|lovely|wonderful|sweet|gorgeous|fantastic|beautiful|delicious|fun|inspiring|fancy)\b",
    r"^(?:哇|哈+|哎呀|太.{1,6}了|恭喜|真(?:的)?(?:好|棒|厉害|羡慕|可爱)|好(?:棒|厉害|可爱|羡慕)|加油|祝|谢谢|多谢|理解|一言为定|羡慕|辛苦了|"
    r"没错|同意|是啊|对啊|一定)",
)
_RECALLS = re.compile(
    r"^(?:(?:and|so|hey|ok),? )?(?:(?:do you|can you) (?:still )?(?:remember|know|recall|tell me)|"
    r"what|where|when|who|which|how (?:old|many|much|long|often)|(?:do|did|am|was|were|have|had) (?:I|we))\b[^.!?]{0,60}\?$|"
    r"^(?=.{1,25}$)(?:你?还?(?:记得|知道)|.*(?:什么|哪|谁|几|多少)|我.{1,12}(?:还|是不是|有没有))[^。！？]*[？?]$",
    re.IGNORECASE,
)


def told(turn: Turn, own: str | None = None) -> list[Told]:
    """The sentences of a person's turn that tell something about them, at most five; none for an assistant's.

    A sentence that goes on about the same thing ("It is …") stays with the one before it. `own` is the part of the turn
    that counts, all of it by default.
    """
    if not is_person(turn):
        return []
    found: list[Told] = []
    goes_on = False
    for sentence in sentences(turn.text if own is None else own):
        kind = kind_of(sentence)
        if kind is not None:
            found.append(Told(kind, sentence, record_text(turn, sentence)))
        elif goes_on and _FOLLOWS.match(sentence) and not _QUESTION.search(sentence):
            whole = joined([found[-1].sentence, sentence])
            found[-1] = Told(found[-1].kind, whole, record_text(turn, whole))
            continue
        goes_on = kind is not None
    return found[:MOST]


def kind_of(sentence: str) -> EntryKind | None:
    """The kind of a sentence that should be written; None for questions, small talk and all else."""
    plain = _ASIDE.sub("", sentence.strip())
    if _QUESTION.search(plain) or _NO_TELLING.search(plain) or not content_words(plain):
        return None
    if _INSTRUCTION.search(plain):
        return "preference_or_instruction"
    if _PLAN.search(plain):
        return "plan_or_event"
    return "personal_fact" if _FACT.search(plain) else None


def about_speaker(text: str, names: Collection[str] = (), *, answers: bool = True) -> str:
    """The sentences of a talk between people that can tell something about the speaker; `names` are all of theirs.

    What is left out speaks of the other one: questions, praise, good wishes, what "you" did; and what says nothing. A
    sentence without "I" or "my" counts where the turn `answers` a question, or where it goes on from one that counts.
    """
    called = {name.lower() for name in names}
    kept: list[str] = []
    goes_on = answers
    for sentence in sentences(text):
        plain = _ASIDE.sub("", sentence)
        own = bool(_OWN.search(plain))
        goes_on = _of_speaker(plain, called) and (own or goes_on)
        if goes_on:
            kept.append(sentence)
        goes_on = goes_on or answers
    return joined(kept) if any(not _SHOWN.fullmatch(sentence) for sentence in kept) else ""


def _of_speaker(sentence: str, called: Collection[str]) -> bool:
    words = [word for word in re.findall(r"\w+", sentence) if not _calls(word.lower(), called)]
    if is_filler(" ".join(words)) or _POLITE.search(sentence) or _TO_YOU.search(sentence):
        return False
    of_other = _QUESTION.search(sentence) or _YOURS.search(sentence) or _REACTS.search(sentence)
    return bool(_OWN.search(sentence)) or not of_other


def _calls(word: str, called: Collection[str]) -> bool:
    """A name, or the short form of one: Mel, Melanie."""
    return any(word == name or (len(word) > 2 and name.startswith(word)) for name in called)


def record_text(turn: Turn, sentence: str, *, whole: bool = False, asked: str = "") -> str:
    """`Ann said on 3 May 2026: I moved to Oslo.` in the language of the sentence, relative dates worked out.

    A long one is cut, unless it should be `whole`. What was `asked` is told where the sentence begins without "I" or
    "my": it may be unclear alone.
    """
    language = language_of(sentence)
    local = local_time(turn.said_at, turn.utc_offset)
    plain = " ".join(sentence.split())
    words = annotated(plain if whole else cut(plain, SENTENCE_TOKENS), local)
    who, date = said_by(turn, language), day(local, language, weekday=False)
    unclear = asked and not clear_alone(plain)
    question = _INNER_QUOTES.sub("", cut(asked, QUESTION_TOKENS)) if unclear else ""
    if language == "zh":
        return f"{who}在{date}{f'被问“{question}”时' if question else ''}说：{words}"
    return f"{who[:1].upper()}{who[1:]} said on {date}{f', asked “{question}”' if question else ''}: {words}"


def clear_alone(text: str) -> bool:
    """Whether its first sentence names the speaker, so that it needs no question before it to be understood."""
    return _OWN.search((sentences(text) or [""])[0]) is not None


def forbidden(text: str, never: str) -> bool:
    """Whether the text touches a word of what the person never wants written. Crude on purpose: it errs to silence."""
    return bool(never.strip()) and bool(content_words(never) & content_words(text))


def leans(sentence: str) -> bool:
    """Whether it goes on about what was said before it ("It is …"), and says little alone."""
    return bool(_FOLLOWS.match(sentence))


def of_oneself(text: str) -> bool:
    """Whether it begins with the one who speaks, as what asks for a task rarely does."""
    return _BEGINS_WITH_ONESELF.match(_ASIDE.sub("", text.strip())) is not None


def refers(text: str) -> bool:
    """Whether it holds a word that stands for something said elsewhere: "her", "there", "too"."""
    return _REFERS.search(text) is not None


def corrects(text: str) -> bool:
    """Whether it has a form in which people correct what was said, or tell that it has changed."""
    return bool(_CORRECTS.search(text))


def may_change(said: str, memory: str) -> bool:
    """Whether what was said could add to this memory or correct it: it tells something new about the same thing."""
    if is_question(said) or is_filler(said):
        return False
    words, told = content_words(memory), content_words(said)
    common = words & told
    if not common or not told - words:
        return False
    return corrects(said) or (len(common) >= 2 and share(words, told) >= TOUCHED)


def may_correct(said: str, memory: str, apart: frozenset[str] = frozenset()) -> bool:
    """Whether a sentence of what was said has the form of a correction, and speaks of what this memory tells. Content words
    that stand `apart` tell nothing: the speaker's name, and what many memories have."""
    told = content_words(undated(own_words(memory))) - apart
    taking_back = (sentence for sentence in sentences(said) if corrects(sentence) and may_change(sentence, memory))
    return any(share(told, content_words(sentence)) >= TOUCHED for sentence in taking_back)


def is_question(text: str) -> bool:
    """Whether all it does is ask: every sentence is a question or filler, and one is a question."""
    parts = sentences(text)
    asks = [bool(_QUESTION.search(_ASIDE.sub("", part))) for part in parts]
    return any(asks) and all(ask or is_filler(part) for ask, part in zip(asks, parts, strict=True))


def is_filler(text: str) -> bool:
    """Greetings, thanks and signs of agreement, and nothing else."""
    return not content_words(text) or bool(_FILLER.match(text.strip()))


def teaches_nothing(text: str) -> bool:
    """Plain enough for no LLM to be asked: filler, or a short question of the world or of what is remembered."""
    if is_filler(text):
        return True
    if not is_question(text) or len(text) > 120 or re.search(r"\d", text):
        return False
    return not _OWN.search(text) or bool(_RECALLS.search(text.strip()))
