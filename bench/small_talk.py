"""How often small talk brings memories, and real questions bring none: 40 lines each, in English and Chinese.

    scripts/bench small_talk [--embedder local|hashing|none]

The lines and the memory they are asked of were written for this measurement; the rule was fitted to neither. A false
addition is a line of small talk that was given a memory (standing facts aside), a false omission a question that was
given none, `misses` are questions whose answer was not among what they were given. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from afterword.embedders.local import LocalEmbedder
from afterword.llms.quoting import QuotingLLM
from afterword.records import NewTurn
from afterword.settings import Settings
from afterword.testing import HashingEmbedder
from afterword.wiring import open_memory

if TYPE_CHECKING:
    from afterword.memory import AsyncMemory
    from afterword.ports import Embedder

TALK = {
    "en": """Good evening! Hope you're doing alright.
What's new with you?
Ha, that cracked me up
Phew, what a Monday
Thanks, you've been a great help today
Alright, I'm off to bed
I'm starving, be right back
It's freezing out there today
Ugh, my head hurts a bit
Any fun plans for tonight?
You're so kind, thank you!
Okay, got it, makes sense
Can you hear me?
Sorry, typo
Wow, no way!
Let's just chat for a while
How old are you, by the way?
I feel a little down right now
Happy holidays to you and yours
Tell me a fun fact""",
    "zh": """晚上好，忙完了吗？
哎呀，笑死我了
今天周一，真不想上班
谢谢你一直陪我聊天
我先去洗澡啦，等会儿再聊
外面好冷啊
头有点疼
你今晚有什么安排吗？
原来如此，学到了
好吧，那就这样
能听到我说话吗？
打错字了，不好意思
真的假的？
我们随便聊聊吧
对了，你多大了？
心情不太好
祝你节日快乐
说个冷知识来听听
嗯，你说得对
好困，先睡了，拜拜""",
}
TOLD = {
    "en": """I'm a locksmith and I have my own shop in Utrecht.
My sister Marit is getting married on the 12th of September.
We adopted a greyhound last autumn, she's called Pepper.
I can't eat shellfish, my throat swells up.
My landlord is raising the rent to 1,350 euros from January.
I finally passed my motorbike licence on the third try.
Dad had his hip replaced in March and walks with a cane now.
I play bass in a band called The Wet Socks, we rehearse on Thursdays.
We spent two weeks camping in Slovenia, near Lake Bohinj.
I'm reading The Magic Mountain and I'm stuck on page 200.
My car is a green Saab 900 from 1991.
I quit smoking on New Year's Day.
My daughter Lotte started school, her teacher is Mr Vos.
I'm learning Portuguese because my wife Inês is from Braga.
The dentist says I need a crown on a lower molar.
I ordered a new lathe from a firm in Solingen, it comes in six weeks.
I grew up on a barge on the Rhine.
My neighbour Theo borrowed my ladder and never brought it back.
I vote in every election but I have never been in a party.
My blood pressure pills make me cough.""",
    "zh": """我在成都开了一家小面馆，叫“老巷子”。
我女儿悠悠今年上二年级，数学特别好。
上个月我把脚踝扭了，医生让我休息六周。
我对花粉过敏，春天总是打喷嚏。
我们家养了一只橘猫，名字叫馒头。
我老公在地铁公司当调度员。
我妈下个月要来成都住一阵子。
我去年秋天去了敦煌，看了莫高窟。
我在学古筝，老师姓白。
我的车是一辆白色的比亚迪，开了五年了。
我最怕坐飞机，所以出门都坐高铁。
我大学学的是园林设计。
房东说明年房租涨到四千二。
我每天早上五点去菜市场进货。
我弟弟在深圳做程序员，准备回老家创业。
我想给面馆加一个外卖窗口。
我爷爷是退伍军人，参加过抗美援朝。
我不喝咖啡，喝了会心慌。
我上周在二手网站卖了一台旧冰箱，卖了三百块。
我正在攒钱，想换一套三居室。""",
}
ASKED = {
    "en": """What do I do for a living?|locksmith
When is Marit's wedding?|12th
What kind of dog do we have?|greyhound
Is there any food I should avoid?|shellfish
How much will my rent be next year?|1,350
Did I get my motorbike licence in the end?|licence
How is my father's hip?|hip
Which instrument do I play?|bass
Where did we go camping?|Bohinj
What book am I reading?|Magic Mountain
What car do I drive?|Saab
When did I stop smoking?|New Year
Who is Lotte's teacher?|Vos
Why am I learning Portuguese?|Braga
What did the dentist tell me?|crown
When will the lathe arrive?|six weeks
Where did I spend my childhood?|barge
Who has my ladder?|Theo
What do you think I should cook for the band tonight?|Wet Socks
I have been coughing a lot, any idea why?|pills""",
    "zh": """我的面馆叫什么名字？|老巷子
悠悠上几年级了？|二年级
我的脚踝要休息多久？|六周
为什么我春天老打喷嚏？|花粉
我家的猫叫什么？|馒头
我老公做什么工作？|调度员
我妈什么时候来？|下个月
我去敦煌看了什么？|莫高窟
古筝老师姓什么？|白
我开的什么车？|比亚迪
出远门我一般坐什么交通工具？|高铁
我大学是什么专业？|园林
明年房租多少钱？|四千二
我几点去进货？|五点
我弟弟在哪个城市工作？|深圳
我打算给店里加什么？|外卖窗口
我爷爷以前是做什么的？|军人
我能喝咖啡吗？|心慌
旧冰箱卖了多少钱？|三百
我攒钱想买什么？|三居室""",
}
BEGAN = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


def told(language: str) -> list[NewTurn]:
    """The memory: one line a day, each in a chat of its own week."""
    lines = TOLD[language].split("\n")
    return [
        NewTurn(f"{language}-{number // 5}", "user", line, said_at=BEGAN + timedelta(days=number))
        for number, line in enumerate(lines)
    ]


def embedder_of(name: str) -> Embedder | None:
    if name == "none":
        return None
    return LocalEmbedder() if name == "local" else HashingEmbedder()


async def measure(embedder: Embedder | None, users: Sequence[str] = ("en", "zh", "both")) -> dict[str, Any]:
    """For users of each language, and for one who speaks both."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder), embedder="none", recall_deadline=60.0, consolidate_cron="")
        async with open_memory(settings, llm=QuotingLLM(), embedder=embedder) as memory:
            for user in users:
                for language in USERS[user]:
                    await memory.add_turns(told(language), user)
            await memory.worker.idle()
            return {user: await _asked(memory, user, USERS[user]) for user in users}


USERS = {"en": ("en",), "zh": ("zh",), "both": ("en", "zh")}


async def _asked(memory: AsyncMemory, user: str, languages: tuple[str, ...]) -> dict[str, Any]:
    lines = [line for language in languages for line in TALK[language].split("\n")]
    added = [line for line in lines if _memories(await memory.context(line, user, 1000))]
    omitted, missed = [], []
    for language in languages:
        for asked in ASKED[language].split("\n"):
            question, answer = asked.split("|")
            given = _memories(await memory.context(question, user, 1000))
            if not given:
                omitted.append(question)
            elif answer not in given:
                missed.append(question)
    n = 20 * len(languages)
    return {"n": n, "false_additions": added, "false_omissions": omitted, "misses": missed}


def _memories(text: str) -> str:
    """What stands under the headings of facts and of what was said."""
    return "\n".join(part for part in text.split("\n## ")[1:] if part.startswith(("Facts", "From", "事实", "以前")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--embedder", choices=["local", "hashing", "none"], default="local")
    options = parser.parse_args()
    result = asyncio.run(measure(embedder_of(options.embedder)))
    for user, row in result.items():
        for name in ("false_additions", "false_omissions", "misses"):
            print(f"{user}: {name} {len(row[name])} of {row['n']}: {row[name]}")
    print(json.dumps({"embedder": options.embedder, **result}, ensure_ascii=False))


if __name__ == "__main__":
    main()
