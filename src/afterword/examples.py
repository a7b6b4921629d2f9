"""One worked example for each question to an LLM, in the language of what it reads. Made up; no one's talk."""

from __future__ import annotations

from afterword.language.texts import Language

Example = tuple[str, str]  # what is asked, what is answered

_USER_EN = (
    """CONTEXT
Saturday 14 March 2026
assistant: Hello! How can I help?
NEW
Saturday 14 March 2026
#1 the user: We got the keys yesterday [13 March 2026], so Porto is home now. The cat hates it.
#2 assistant: Cats need time. Do you like Porto?
#3 the user: how long does paint take to dry? it's for my son Nuno's room
#4 assistant: About two hours.
#5 the user: keep it short from now on please
#6 assistant: Sure.
#7 the user: write me a note for the landlord about the lock
ENTRIES
#1 the user: We got the keys yesterday,
#3 the user: how long does paint take
#5 the user: keep it short from now
#7 the user: write me a note for""",
    """{"entries": {"#1 the user: We got the keys yesterday,": {"kind": "plan_or_event", "record": "The user got the keys on \
13 March 2026 and now lives in Porto, which the user's cat hates."}, "#3 the user: how long does paint take": {"kind": \
"personal_fact", "record": "The user has a son called Nuno and is painting his room."}, "#5 the user: keep it short from \
now": {"kind": "preference_or_instruction", "record": "The user wants short answers."}, "#7 the user: write me a note for": \
{"kind": "task_request", "record": ""}}}""",
)

_PAIR_EN = (
    """CONTEXT
Saturday 14 March 2026
Marc: Hi Ines, any news?
NEW
Saturday 14 March 2026
#1 Ines: We got the keys yesterday [13 March 2026], so Porto is home now. My cat hates it!
#2 Marc: Wow, congrats Ines, you deserve it! Is it big?
#3 Ines: Three rooms. How's your knee?
#4 Marc: Better, thanks. I was in hospital for a week and start at the library in May.
ENTRIES
#1 Ines: We got the keys yesterday,
#2 Marc: Wow, congrats Ines, you deserve
#3 Ines: Three rooms. How's your knee?
#4 Marc: Better, thanks. I was in""",
    """{"entries": {"#1 Ines: We got the keys yesterday,": {"kind": "plan_or_event", "record": "Ines got the keys on 13 March \
2026 and now lives in Porto, which her cat hates."}, "#2 Marc: Wow, congrats Ines, you deserve": {"kind": "small_talk", \
"record": ""}, "#3 Ines: Three rooms. How's your knee?": {"kind": "personal_fact", "record": "Ines's new home has three \
rooms."}, "#4 Marc: Better, thanks. I was in": {"kind": "plan_or_event", "record": "Marc was in hospital for a week because \
of his knee, is better, and starts at the library in May 2026."}}}""",
)

_USER_ZH = (
    """CONTEXT
2026年3月14日 星期六
助手: 您好，有什么可以帮您？
NEW
2026年3月14日 星期六
#1 用户: 昨天 [2026年3月13日] 拿到钥匙了，以后就住青岛。我家的猫很不习惯。
#2 助手: 猫需要时间适应。
#3 用户: 油漆多久能干？是刷我儿子小宇的房间
#4 助手: 大约两个小时。
#5 用户: 以后回答短一点
#6 助手: 好的。
#7 用户: 帮我给房东写张换锁的便条
ENTRIES
#1 用户: 昨天拿到钥匙了，以后就住
#3 用户: 油漆多久能干？是刷我儿子
#5 用户: 以后回答短一点
#7 用户: 帮我给房东写张换锁的便条""",
    """{"entries": {"#1 用户: 昨天拿到钥匙了，以后就住": {"kind": "plan_or_event", "record": "用户2026年3月13日拿到钥匙，以后住在\
青岛，家里的猫很不习惯。"}, "#3 用户: 油漆多久能干？是刷我儿子": {"kind": "personal_fact", "record": "用户有个儿子叫小宇，用户在\
给他刷房间。"}, "#5 用户: 以后回答短一点": {"kind": "preference_or_instruction", "record": "用户希望回答短一点。"}, "#7 用户: \
帮我给房东写张换锁的便条": {"kind": "task_request", "record": ""}}}""",
)

_PAIR_ZH = (
    """CONTEXT
2026年3月14日 星期六
阿明: 小青，最近有什么新鲜事？
NEW
2026年3月14日 星期六
#1 小青: 昨天 [2026年3月13日] 拿到钥匙了，以后就住青岛。我家的猫很不习惯。
#2 阿明: 哇，恭喜你！房子大吗？
#3 小青: 三间房。你的膝盖好了吗？
#4 阿明: 好多了，谢谢。我住了一周的院，五月去图书馆上班。
ENTRIES
#1 小青: 昨天拿到钥匙了，以后就住
#2 阿明: 哇，恭喜你！房子大吗？
#3 小青: 三间房。你的膝盖好了吗？
#4 阿明: 好多了，谢谢。我住了一周""",
    """{"entries": {"#1 小青: 昨天拿到钥匙了，以后就住": {"kind": "plan_or_event", "record": "小青2026年3月13日拿到钥匙，以后住在\
青岛，家里的猫很不习惯。"}, "#2 阿明: 哇，恭喜你！房子大吗？": {"kind": "small_talk", "record": ""}, "#3 小青: 三间房。你的膝盖\
好了吗？": {"kind": "personal_fact", "record": "小青的新家有三间房。"}, "#4 阿明: 好多了，谢谢。我住了一周": {"kind": \
"plan_or_event", "record": "阿明因为膝盖住了一周的院，已经好多了，2026年5月去图书馆上班。"}}}""",
)

REMEMBERED: dict[tuple[Language, bool], Example] = {  # by language, and whether people talk with each other
    ("en", False): _USER_EN,
    ("en", True): _PAIR_EN,
    ("zh", False): _USER_ZH,
    ("zh", True): _PAIR_ZH,
}

_REVISED_EN = (
    """MEMORIES
#1 Monday 2 March 2026: The user's sister Lena is learning the cello with a teacher in Bonn.
#2 Friday 6 March 2026: The user drives to work in a blue van.
#3 Sunday 8 March 2026: The user and Lena have a concert on 20 March 2026.
SAID
Saturday 14 March 2026 · the user: Lena stopped the lessons in Bonn by the way, she has a teacher in Mainz now. And the \
concert is off.""",
    """{"verdicts": {"#1 The user's sister Lena is": {"verdict": "revise", "text": "The user's sister Lena is learning the \
cello; she had a teacher in Bonn and, as of 14 March 2026, has one in Mainz."}, "#2 The user drives to work": {"verdict": \
"keep", "text": ""}, "#3 The user and Lena have": {"verdict": "contradicted", "text": ""}}}""",
)

_REVISED_ZH = (
    """MEMORIES
#1 2026年3月2日 星期一: 用户的妹妹小雯在苏州跟一位老师学大提琴。
#2 2026年3月6日 星期五: 用户开一辆蓝色面包车上班。
#3 2026年3月8日 星期日: 用户和小雯2026年3月20日有音乐会。
SAID
2026年3月14日 星期六 · 用户: 对了，小雯不在苏州学了，现在换成无锡的老师。音乐会也取消了。""",
    """{"verdicts": {"#1 用户的妹妹小雯在苏州跟一": {"verdict": "revise", "text": "用户的妹妹小雯在学大提琴；原来的老师在苏州，\
2026年3月14日得知已换成无锡的老师。"}, "#2 用户开一辆蓝色面包车上班": {"verdict": "keep", "text": ""}, "#3 用户和小雯2026年3月": \
{"verdict": "contradicted", "text": ""}}}""",
)

_MERGED_EN = (
    """TOPICS
#1 known: The user works as a nurse in Ghent.
- Monday 2 March 2026: The user has started a job as a midwife in Ghent after leaving nursing.
#2
- Tuesday 3 March 2026: The user ordered a pizza without cheese because milk makes the user ill.
- Sunday 8 March 2026: The user said on 8 March 2026: I take my coffee with oat milk only, milk makes me ill.
#3
- Friday 6 March 2026: The user has a headache after the party.
#4 known: The user has a brother called Nuno.
- Monday 9 March 2026: The user's brother Nuno is a pilot in Porto.""",
    """{"changes": {"#1 The user has started a": {"action": "supersede", "fact": "The user works as a midwife in Ghent."}, \
"#2 The user ordered a pizza": {"action": "add", "fact": "The user gets ill from milk: no cheese, and oat milk in coffee."}, \
"#3 The user has a headache": {"action": "nothing", "fact": ""}, "#4 The user's brother Nuno is": {"action": "revise", \
"fact": "The user has a brother called Nuno, who is a pilot in Porto."}}}""",
)

_MERGED_ZH = (
    """TOPICS
#1 known: 用户在烟台当护士。
- 2026年3月2日 星期一: 用户不再当护士，开始在烟台做助产士。
#2
- 2026年3月3日 星期二: 用户点了不加奶酪的比萨，因为喝牛奶会不舒服。
- 2026年3月8日 星期日: 用户在2026年3月8日说：我喝咖啡只加燕麦奶，喝牛奶不舒服。
#3
- 2026年3月6日 星期五: 用户参加聚会后头疼。
#4 known: 用户有个哥哥叫大军。
- 2026年3月9日 星期一: 用户的哥哥大军在厦门当飞行员。""",
    """{"changes": {"#1 用户不再当护士，开始在烟": {"action": "supersede", "fact": "用户在烟台做助产士。"}, "#2 用户点了不加奶酪的比萨": \
{"action": "add", "fact": "用户喝牛奶会不舒服：不吃奶酪，咖啡只加燕麦奶。"}, "#3 用户参加聚会后头疼。": {"action": "nothing", \
"fact": ""}, "#4 用户的哥哥大军在厦门当飞": {"action": "revise", "fact": "用户有个哥哥叫大军，在厦门当飞行员。"}}}""",
)

REVISED: dict[Language, Example] = {"en": _REVISED_EN, "zh": _REVISED_ZH}
MERGED: dict[Language, Example] = {"en": _MERGED_EN, "zh": _MERGED_ZH}
