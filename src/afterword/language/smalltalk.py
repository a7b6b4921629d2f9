"""The words of small talk, in English and Chinese: what says nothing that a memory could be about."""

from __future__ import annotations

import re
from functools import lru_cache

from afterword.language.questions import asks
from afterword.language.texts import content_words
from afterword.language.tokens import tokens

_WORDS = """
hey hello hi yo hiya howdy greetings welcome morning afternoon evening night goodnight bye goodbye cheers ciao later
soon tomorrow tonight today yesterday weekend monday tuesday wednesday thursday friday saturday sunday day week
week's time moment minute thank thanks thx ty appreciate appreciated grateful helpful help helped useful ok okay k
kk cool nice great good well fine awesome amazing wonderful fantastic excellent perfect lovely brilliant super sweet
sure right exactly indeed agree agreed true absolutely definitely course sounds sound makes make sense fair enough
interesting funny fun hilarious joke haha hahaha hehe lol lmao rofl wow oh ah hmm hm mm um uh huh oops ouch yay yeah
yep yup nope nah alright sorry apologies apologize mistake mistaken wrong worry worries problem bad matter mind
please excuse pardon bless congrats congratulations happy merry new year years christmas birthday holiday holidays
best luck lucky care safe sleep sleepy slept tired exhausted bored boring busy lazy feel feeling feels felt mood
glad sad meh up going doing done been life things thing stuff everything something anything nothing else little bit
lot lots much really actually probably maybe guess suppose hope wonder mean wait hold brb afk back here there ready
start again see seen meet chat chatting talk talking speak say saying word words listen hear heard ask question
questions answer tell told story robot bot human machine ai person real name called understand understood know think
thought believe opinion remember forget forgot anyway weather rain raining rainy sunny sun snow snowing cold hot
warm outside beautiful pretty love like dear buddy mate friend dude man bro sir madam pal kind sweetheart smart
clever stupid silly crazy able random whatever another more long far way never always ever kidding joking seriously
serious test testing hungry enjoy rest relax relaxing
你好 您好 哈喽 嗨 喂 早 早上好 上午好 中午好 下午好 晚上好 早安 午安 晚安 再见 拜拜 回头 回见 待会 待会儿 一会 一会儿 明天 见 今天 昨天 今晚 周末 周一 周五 早上 下午
晚上 谢谢 谢 谢啦 多谢 感谢 太 帮 帮忙 大忙 辛苦 辛苦了 麻烦 客气 好 好的 好吧 好呀 行 可以 嗯 嗯嗯 哦 噢 喔 啊 呀 哇 哎 唉 哈 哈哈 哈哈哈 呵呵 嘿 嘿嘿 嘻嘻 对
对的 对啊 是的 是 没错 当然 确实 真的 真 同意 明白 明白了 懂 懂了 了解 知道 知道了 收到 没事 没关系 没什么 没 算了 不好意思 抱歉 对不起 说错 错 有趣 有意思 好玩 好笑
搞笑 笑 笑话 笑死 厉害 棒 真棒 不错 赞 牛 优秀 完美 漂亮 可爱 聪明 开心 高兴 快乐 愉快 幸福 新年 节日 生日 生日快乐 圣诞 恭喜 祝 祝福 加油 晚点 好运 累 困 无聊 忙 懒
心情 感觉 觉得 难过 烦 睡 睡觉 睡着 起床 休息 吃 吃饭 吃了 饭 喝 饿 天气 下雨 下雪 雨 晴 冷 热 暖和 太阳 外面 最近 近来 过 过得 怎样 怎么样 怎么 如何 还 在 在吗 聊
聊天 聊聊 聊会 聊会儿 随便 说 说话 讲 讲个 讲讲 故事 听 听起来 看 看看 想 想想 想法 看待 人生 生活 事 事情 东西 问 问题 问你 回答 回来 回来了 等 等等 等一下 稍等 一下
开始 继续 打招呼 招呼 来 去 走 到 了 给 机器人 机器 人类 人 人工智能 智能 名字 叫 你 我 咱 咱们 朋友 亲 亲爱 宝贝 兄弟 老板 大家 道理 有道理 能 会 做 干 干嘛 干什么
什么 为什么 哪里 谁 记得 几 几个 多少 哪 哪个 哪些 哪一项 一项 啥 以上 以下 下列 符合 描述 平时 请问 那个 这个 其中 忘 忘了 喜欢 爱 下次 以后 再 又 先 就 只 只是
其实 可能 也许 大概 希望 认真 开玩笑 玩笑 测试 试试 试 有点 有点儿 一点 一点儿 好好 多 少 大 小 点 够 啦 嘛 吧 呢 吗 哟 呗 咯
"""
_ABOUT_ME = re.compile(
    r"\b(?:know|remember|recall|learn(?:ed|t)?|told you|forget|forgot(?:ten)?)\b.{0,20}\b(?:about )?(?:me|us|my|myself)\b|"
    r"\bwho am I\b|\bmy name\b|\bremind me\b|"
    r"\b(?:last time|previously|yesterday|earlier|before)\b.{0,40}\b(?:talk|discuss|said|say|tell|told|chat|spoke|mention)\w*|"
    r"\b(?:talk|discuss|chat|speak|spoke|mention)\w*\b.{0,30}\b(?:last time|previously|yesterday|before|earlier)\b|"
    r"(?:记得|了解|知道|认识|忘了?).{0,6}(?:我|咱)(?!说什么|知道)|我是谁|我叫什么|我的名字|(?:上次|上回|之前|以前|昨天|刚才).{0,8}"
    r"(?:聊|说|谈|讨论|提)|提醒我",
    re.IGNORECASE,
)


_OF_ONESELF = re.compile(
    r"\b(?:my|mine|our|ours)\b|(?<!how )\b(?:do|did|does|am|was|have|had) (?:I|we)\b|"
    r"我(?!(?:该|要|应该|可以|能|想)?(?:怎么|如何|怎样|问|知道))",
    re.IGNORECASE,
)
_JOINTS = "的了是就个一不真天们么得着过打这那样子么"  # characters that only join the others


@lru_cache(maxsize=1)
def _small() -> frozenset[str]:
    return frozenset(token for word in _WORDS.split() for token in tokens(word)) | frozenset(_WORDS.split())


@lru_cache(maxsize=1)
def _made_of_small() -> re.Pattern[str]:
    """Words of Chinese that are put together from small ones."""
    chinese = sorted((word for word in _small() if not word.isascii()), key=len, reverse=True)
    return re.compile(f"(?:{'|'.join(chinese)}|[{_JOINTS}])+")


def telling_words(text: str) -> frozenset[str]:
    """The content words that something could be remembered about."""
    words = content_words(text) - _small()
    return frozenset(word for word in words if not _made_of_small().fullmatch(word))


def asks_for_memory(text: str) -> bool:
    """Whether it asks what is remembered, without saying about what ("do you know me?")."""
    return _ABOUT_ME.search(text) is not None


def asks_of_oneself(text: str) -> bool:
    """Whether it is a question about the one who asks, or theirs."""
    return asks(text) and _OF_ONESELF.search(text) is not None


def is_small_talk(text: str) -> bool:
    """Whether it says nothing that a memory could be about, and asks nothing about the person or what is remembered."""
    return not (telling_words(text) or asks_for_memory(text) or asks_of_oneself(text))
