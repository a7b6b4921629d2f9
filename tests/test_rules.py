"""Without an LLM, rules keep what people say about themselves, in English and Chinese."""

from __future__ import annotations

import pytest

from afterword import rules
from afterword.language.texts import own_words
from tests.fake_reads import FakeReads

TELLING = {
    "personal_fact": [
        "I live in Oslo.",
        "I moved to Bergen last week",
        "my sister's name is Mia",
        "I am allergic to peanuts",
        "I don't eat meat",
        "We adopted a cat",
        "Oh, and I work as a nurse",
        "My dog Rex is 4 years old",
        "My daughter Ines turns seven next Saturday",
        "我叫小明",
        "我对花生过敏",
        "我女儿今年六岁",
        "我上周搬到了成都",
        "我养了一只猫，叫豆豆",
        "我不吃辣",
        "我在青岛工作呢。",
    ],
    "preference_or_instruction": [
        "Remember that I hate mushrooms",
        "Please call me Sam",
        "Always answer in French please.",
        "From now on keep it short",
        "I prefer tea",
        "记住我不吃香菜",
        "以后叫我老王",
        "以后请用中文回答",
    ],
    "plan_or_event": [
        "I'm going to Paris in June",
        "I have a dentist appointment on Friday",
        "We will visit Rome",
        "我打算学钢琴",
        "我明天要去上海",
    ],
}
NOT_TELLING = [
    "Can you help me?",
    "what is my name",
    "How do I cook rice?",
    "Is it raining",
    "I think you are right",
    "thanks!",
    "ok",
    "I have a question",
    "I need help with this",
    "Please write a poem about rain",
    "The weather is nice",
    "我想问一下怎么做饭",
    "今天天气不错",
    "你好",
    "谢谢",
    "怎么做红烧肉？",
    "我觉得你说得对",
    "我叫什么名字？",
    "你是谁",
    "我叫什么呢",
]


@pytest.mark.parametrize(("kind", "sentence"), [(kind, said) for kind, those in TELLING.items() for said in those])
def test_what_a_person_tells_about_themselves_is_kept(kind: str, sentence: str) -> None:
    assert rules.kind_of(sentence) == kind


@pytest.mark.parametrize("sentence", NOT_TELLING)
def test_questions_small_talk_and_tasks_are_not_kept(sentence: str) -> None:
    assert rules.kind_of(sentence) is None


def test_a_record_is_the_persons_own_sentence_with_name_and_date() -> None:
    turn = FakeReads().say("Hi! I moved to Oslo yesterday. Do you like it?", speaker="Ann")
    (told,) = rules.told(turn)
    assert told.text == "Ann said on 3 May 2026: I moved to Oslo yesterday [2 May 2026]."


def test_a_chinese_record_stays_chinese() -> None:
    (told,) = rules.told(FakeReads().say("你好。我昨天搬到了杭州。"))
    assert told.text == "用户在2026年5月3日说：我昨天 [2026年5月2日]搬到了杭州。"


def test_the_date_is_that_of_the_speakers_own_clock() -> None:
    (told,) = rules.told(FakeReads().say("I live in Auckland", utc_offset=16 * 60))
    assert told.text.startswith("The user said on 4 May 2026")


def test_the_assistant_tells_nothing_about_the_user() -> None:
    reads = FakeReads()
    assert rules.told(reads.say("I live in the cloud.", role="assistant")) == []
    assert rules.told(reads.say("I live in the cloud.", role="assistant", speaker="Assistant")) == []
    assert rules.told(reads.say("I live in Rome.", role="assistant", speaker="Carla"))


def test_what_must_never_be_written_is_not() -> None:
    assert rules.forbidden("My salary is 3000", "salary, health")
    assert rules.forbidden("我的工资是三千", "工资")
    assert not rules.forbidden("I have a dog", "anything about my salary")
    assert not rules.forbidden("I have a dog", "")


@pytest.mark.parametrize(
    "said", ["ok thanks!", "好的谢谢", "What is the capital of Peru?", "油漆多久能干？", "👍", "Where do I live?"]
)
def test_plain_questions_and_thanks_teach_nothing(said: str) -> None:
    assert rules.teaches_nothing(said)


@pytest.mark.parametrize(
    "said",
    [
        "What should I get my daughter Mia for her 6th birthday?",
        "I live in Oslo",
        "我对花生过敏，能吃这个吗？",
        "ok. I quit my job",
        "My knee hurts, why?",
    ],
)
def test_a_question_that_tells_something_is_read(said: str) -> None:
    assert not rules.teaches_nothing(said)


def test_a_record_without_speaker_and_date_is_what_was_said() -> None:
    assert own_words("Ann said on 3 May 2026: I like tea.") == "I like tea."
    assert own_words("用户在2026年5月3日说：我喜欢茶。") == "我喜欢茶。"
    assert own_words("Ann likes tea.") == "Ann likes tea."
    assert own_words("Ann said on 3 May 2026, asked “How many?”: Three.") == "Three."
    assert own_words("用户在2026年5月3日被问“多大了？”时说：才四个月。") == "才四个月。"


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("Wow Bea, that's great! You'd be a good vet.", ""),
        ("Thanks, Bea! I painted it last year. Do you like it?", "I painted it last year."),
        ("You've got this, and you know where I live!", ""),
        ("That boat is gorgeous! Is it yours?", ""),
        ("I'm so proud of you, Bea! I couldn't agree more.", ""),
        ("Let's keep going! We can do it.", ""),
        ("A lot's been going on in my life! Take a look at this.", ""),
        ("I'm off to go shopping with my kids, bye!", ""),
        (
            "You should have seen it, I fell off the bike.",
            "You should have seen it, I fell off the bike.",
        ),
        ("You know I moved to Rome.", "You know I moved to Rome."),
        ("你知道吗，我搬家了。你真厉害！", "你知道吗，我搬家了。"),
        ("I'm off to Rome on Friday.", "I'm off to Rome on Friday."),
        ("Good to see you, Bea! My twins started school.", "My twins started school."),
        ("哇，恭喜你！我上个月搬到了厦门。你呢？", "我上个月搬到了厦门。"),
        ("你太厉害了！加油！", ""),
    ],
)
def test_between_people_only_what_tells_of_the_speaker_counts(said: str, kept: str) -> None:
    assert rules.about_speaker(said, ["Ann", "Bea"]) == kept


def test_a_sentence_without_i_counts_only_as_an_answer_or_where_it_goes_on() -> None:
    assert rules.about_speaker("Three rooms.", ["Ann"]) == "Three rooms."
    assert rules.about_speaker("Three rooms.", ["Ann"], answers=False) == ""
    assert rules.about_speaker("Rest is vital. I rest. It helps.", ["Ann"], answers=False) == "I rest. It helps."


def test_a_picture_alone_tells_nothing() -> None:
    assert rules.about_speaker("Nice, Bea! [image: two bowls]", ["Bea"]) == ""
    assert rules.about_speaker("I made these. [image: two bowls]", ["Bea"]) == "I made these. [image: two bowls]"


def test_a_sentence_that_goes_on_about_the_same_thing_stays_with_it() -> None:
    told = rules.told(FakeReads().say("I opened a bakery. It's in the old mill. What do you think?"))
    assert [one.sentence for one in told] == ["I opened a bakery. It's in the old mill."]
