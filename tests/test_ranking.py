"""Ranking: the sum over legs, and the rules of talk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afterword.interfaces.page.strings import words
from afterword.language.questions import asks, content_words, only_asks, read_question
from afterword.language.tokens import tokens
from afterword.ranking import (
    PART_NAMES,
    Candidates,
    Item,
    Scored,
    Weights,
    fuse,
    leaders,
    rank,
    strength_at,
    without_repeaters,
    without_twins,
)
from afterword.records import Kind, MemoryRecord, Ref, Role

NOW = datetime(2026, 5, 3, 9, 0, tzinfo=UTC)
WEIGHTS = Weights()


def item(
    name: str,
    text: str = "something",
    *,
    kind: Kind = "turn",
    role: Role | None = "user",
    speaker: str | None = None,
    position: int = 0,
    sources: tuple[str, ...] = (),
    strength: float = 1.0,
) -> Item:
    shown = role if kind == "turn" else None
    return Item(Ref(name, 1), kind, text, NOW, shown, speaker, "c", position, sources, strength)


def order(items: list[Item], scores: Mapping[str, float], query: str) -> list[str]:
    """Ids in the order that ranking gives them, their legs worth `scores`."""
    fused = {one.ref: {"words": scores.get(one.ref.record, 0.0)} for one in items}
    speakers = {one.speaker for one in items if one.speaker}
    ranked = rank(items, fused, read_question(query, tokens, speakers), tokens, WEIGHTS)
    return [one.id for one in ranked]


def parts(legs: Mapping[Ref, Mapping[str, float]]) -> dict[Ref, dict[str, float]]:
    """The parts of all candidates of these legs, best first."""
    candidates = Candidates.of(legs)
    return leaders(candidates.refs, fuse(candidates, WEIGHTS), len(candidates))


def test_a_leg_counts_as_share_of_the_ideal_and_as_place_among_candidates() -> None:
    legs = {
        Ref("good", 1): {"bm25": 4.0, "ideal": 8.0, "session": 1.0},
        Ref("poor", 1): {"bm25": 2.0, "ideal": 8.0, "session": 2.0},
    }
    fused = parts(legs)
    assert fused[Ref("good", 1)]["words"] == pytest.approx(WEIGHTS.words * 0.5 + WEIGHTS.words_rank)
    assert fused[Ref("poor", 1)]["words"] == pytest.approx(WEIGHTS.words * 0.25)
    assert list(fused) == [Ref("good", 1), Ref("poor", 1)], "best first"


def test_a_record_without_a_vector_is_neither_first_nor_last_by_meaning() -> None:
    legs = {
        Ref("near", 1): {"dense": 0.9},
        Ref("far", 1): {"dense": 0.7},
        Ref("new", 1): {"bm25": 0.0},
    }
    fused = parts(legs)
    meaning = [fused[Ref(name, 1)]["meaning"] for name in ("far", "new", "near")]
    assert meaning == sorted(meaning)
    assert meaning[0] < meaning[1] < meaning[2]


def test_candidates_alike_in_a_leg_get_nothing_from_it() -> None:
    fused = parts({Ref("a", 1): {"dense": 0.8}, Ref("b", 1): {"dense": 0.8}})
    assert fused[Ref("a", 1)]["meaning"] == 0.0


def test_the_best_of_a_session_lifts_the_others_in_it() -> None:
    legs = {
        Ref("best", 1): {"bm25": 4.0, "ideal": 4.0, "session": 1.0},
        Ref("beside", 1): {"bm25": 1.0, "ideal": 4.0, "session": 1.0},
        Ref("elsewhere", 1): {"bm25": 1.0, "ideal": 4.0, "session": 2.0},
    }
    assert list(parts(legs)) == [Ref("best", 1), Ref("beside", 1), Ref("elsewhere", 1)]


@given(st.lists(st.dictionaries(st.sampled_from(["bm25", "dense", "ideal", "session"]), st.floats(0, 100)), max_size=8))
def test_fusion_is_finite_for_whatever_legs_there_are(legs: list[dict[str, float]]) -> None:
    fused = parts({Ref(str(number), 1): leg for number, leg in enumerate(legs)})
    assert len(fused) == len(legs)
    assert all(abs(value) < 1e6 for one in fused.values() for value in one.values())


@pytest.mark.parametrize(
    "text",
    [
        "What is my dog called?",
        "where did I put it",
        "我的狗叫什么名字？",
        "你还记得我的狗吗",
        "他什么时候来呢。",
        "我很好，你呢",
        "So — any idea?",
        "“Really?”",
    ],
)
def test_a_question_is_known_by_its_form(text: str) -> None:
    assert asks(text)


@pytest.mark.parametrize(
    "text",
    [
        "My dog is called Rex.",
        "我的狗叫旺财。",
        "我舅舅在青岛工作呢。",
        "外面正下雨呢",
        "Is it? I think so. He said yes.",
        "",
    ],
)
def test_a_statement_is_no_question(text: str) -> None:
    assert not asks(text)


def test_a_question_that_tells_something_first_is_more_than_a_question() -> None:
    assert only_asks("What is my dog called?")
    assert only_asks("我的狗叫什么？")
    assert not only_asks("My dog Rex is ill. What should I do?")
    assert not only_asks("我的狗病了。怎么办？")


@pytest.mark.parametrize(
    ("text", "about"),
    [
        ("What is my dog called?", "user"),
        ("What did you recommend for my knee?", "assistant"),
        ("What did the assistant suggest about Python?", "assistant"),
        ("你上次建议我吃什么？", "assistant"),
        ("你推荐了哪家餐厅？", "assistant"),
        ("Can you list the places where I have worked?", "user"),
        ("Could you please tell me when my lease ends?", "user"),
        ("你能告诉我我的租约什么时候到期吗？", "user"),
        ("你可以列出我去过的城市吗？", "user"),
        ("能不能请你告诉我我住在哪？", "user"),
        ("我的狗叫什么？", "user"),
        ("What did I tell you about my dog?", "user"),
        ("Where did Ann go?", "Ann"),
        ("Where did Ann and Ben go?", ""),
        ("小明去了哪里？", "小明"),
    ],
)
def test_who_a_question_is_about(text: str, about: str) -> None:
    assert read_question(text, tokens, ["Ann", "Ben", "小明"]).about == about


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("When did I go?", True),
        ("What date was it?", True),
        ("什么时候去的？", True),
        ("Where did I go?", False),
        ("去了哪里？", False),
    ],
)
def test_whether_a_question_asks_for_a_time(text: str, expected: bool) -> None:
    assert read_question(text, tokens).asks_when is expected


def test_function_words_carry_no_meaning() -> None:
    assert content_words("What is the name of my dog?", tokens) == set(tokens("name dog"))
    assert content_words("what is it", tokens), "a text of function words keeps them"


def test_an_earlier_question_that_says_nothing_new_is_left_out() -> None:
    items = [item("asked", "What is my dog's name?"), item("told", "My dog's name is Rex")]
    assert order(items, {"asked": 2.0, "told": 1.0}, "What's the name of my dog?") == ["told"]


def test_a_chinese_question_asked_again_is_left_out() -> None:
    items = [item("asked", "我的狗叫什么名字？"), item("told", "我的狗名字叫旺财")]
    assert order(items, {"asked": 2.0, "told": 1.0}, "我的狗叫什么名字？") == ["told"]


def test_a_statement_that_answers_yes_or_no_stays() -> None:
    assert order([item("told", "I like tea.")], {"told": 1.0}, "Do I like tea?") == ["told"]


def test_what_says_the_querys_very_words_comes_late_but_comes() -> None:
    items = [item("same", "My dog's name"), item("told", "My dog's name is Rex", position=4)]
    assert order(items, {"same": 1.5, "told": 1.0}, "my dog's name") == ["told", "same"]
    assert order(items[:1], {"same": 1.5}, "my dog's name") == ["same"]


def test_an_earlier_question_stands_behind_a_statement_that_scores_the_same() -> None:
    items = [item("asked", "Did my dog Rex eat?"), item("told", "My dog Rex ate")]
    assert order(items, {"asked": 1.0, "told": 1.0}, "dog food")[0] == "told"


def test_a_question_lifts_the_turn_that_answers_it() -> None:
    items = [
        item("asked", "And what is the puppy called, Ann?", speaker="Ben", position=4),
        item("answer", "Rex", speaker="Ann", position=5),
        item("other", "Nice", speaker="Ann", position=9),
    ]
    ranked = order(items, {"asked": 1.5, "answer": 0.1, "other": 0.1}, "the name of the puppy")
    assert ranked.index("answer") < ranked.index("other")


def test_what_the_one_asked_about_said_goes_first() -> None:
    items = [item("hers", speaker="Ann"), item("his", speaker="Ben", position=3)]
    assert order(items, {"hers": 1.0, "his": 1.1}, "Where does Ann work?") == ["hers", "his"]
    assert order(items, {"hers": 1.0, "his": 1.5}, "Where does Ann work?") == ["his", "hers"], "a prior, not a filter"


def test_a_question_about_advice_turns_to_the_assistant() -> None:
    items = [item("mine", "knee pain", role="user"), item("advice", "try swimming", role="assistant", position=9)]
    scores = {"mine": 1.0, "advice": 1.0}
    assert order(items, scores, "What did you suggest for it?")[0] == "advice"
    assert order(items, scores, "What is wrong with me?")[0] == "mine"


def test_a_turn_that_names_a_time_goes_first_when_the_question_asks_for_one() -> None:
    items = [item("plain", "I saw a film"), item("dated", "I saw a film yesterday", position=5)]
    assert order(items, {"plain": 1.0, "dated": 1.0}, "When did I see that film, please")[0] == "dated"


def test_a_memory_and_its_source_lift_each_other() -> None:
    items = [
        item("turn", "Rex it is"),
        item("memory", "The dog is called Rex", kind="episodic", sources=("turn",)),
        item("other", "Rex again", position=7),
    ]
    ranked = order(items, {"turn": 1.0, "memory": 1.0, "other": 1.0}, "dog")
    assert set(ranked[:2]) == {"turn", "memory"}


def test_strength_halves_with_each_half_life_and_never_buries_a_good_match() -> None:
    memory = MemoryRecord("m", 1, "episodic", "text", NOW, 0, NOW - timedelta(days=60), "llm", strength=2.0)
    assert strength_at(memory, NOW, 60.0) == pytest.approx(1.0)
    assert strength_at(memory, NOW - timedelta(days=90), 60.0) == pytest.approx(2.0), "not yet written: not decayed"
    weak = item("weak", kind="episodic", strength=0.0)
    strong = item("strong", kind="episodic", strength=50.0)
    assert order([weak, strong], {"weak": 1.0, "strong": 1.0}, "dog") == ["strong", "weak"]
    assert order([weak, strong], {"weak": 1.1, "strong": 1.0}, "dog") == ["weak", "strong"]


def scored(name: str, score: float, role: Role = "user") -> Scored:
    return Scored(item(name, role=role), {"words": score})


def test_the_memory_that_a_reply_was_given_takes_its_place() -> None:
    ranked = [scored("reply", 3.0, "assistant"), scored("other", 2.0), scored("memory", 1.0)]
    kept = without_repeaters(ranked, {"reply": frozenset({"memory", "unknown"})})
    assert [one.id for one in kept] == ["memory", "other"]
    assert kept[0].score == pytest.approx(3.0), "the score still is the sum of its parts"


def test_a_reply_below_what_it_was_given_is_left_out() -> None:
    ranked = [scored("memory", 3.0), scored("other", 2.0), scored("reply", 1.0, "assistant")]
    kept = without_repeaters(ranked, {"reply": frozenset({"memory"})})
    assert [one.id for one in kept] == ["memory", "other"]


def test_a_reply_whose_memories_are_not_found_stays() -> None:
    ranked = [scored("reply", 3.0, "assistant"), scored("other", 2.0)]
    assert without_repeaters(ranked, {"reply": frozenset({"gone"})}) == ranked
    assert without_repeaters(ranked, {}) == ranked


def test_replies_that_were_given_earlier_replies_all_give_way_to_the_memory() -> None:
    ranked = [scored("reply2", 3.0, "assistant"), scored("reply1", 2.0, "assistant"), scored("memory", 1.0)]
    given = {"reply2": frozenset({"reply1", "memory"}), "reply1": frozenset({"memory"})}
    assert [one.id for one in without_repeaters(ranked, given)] == ["memory"]


def test_equal_scores_are_ordered_alike_every_time() -> None:
    items = [item(name, position=number * 3) for number, name in enumerate("dbca")]
    assert order(items, {}, "x y z") == order(items[::-1], {}, "x y z") == ["a", "b", "c", "d"]


def test_of_a_memory_and_the_turn_that_says_the_same_only_the_better_placed_is_kept() -> None:
    turn, memory = item("t1", "My dog is called Bruno."), item("m1", "My dog is called Bruno.", sources=("t1",))
    other = item("t2", "My dog is called Bruno.")
    ranked = [Scored(one, {"words": 1.0}) for one in (memory, turn, other)]
    assert [one.id for one in without_twins(ranked, tokens)] == ["m1", "t2"]


def test_a_turn_that_says_more_than_the_memory_made_of_it_stays() -> None:
    turn, memory = (
        item("t1", "My dog Bruno, a beagle, bit the mailman."),
        item("m1", "Bruno is a dog.", sources=("t1",)),
    )
    ranked = [Scored(one, {"words": 1.0}) for one in (memory, turn)]
    assert [one.id for one in without_twins(ranked, tokens)] == ["m1", "t1"]


def test_every_part_of_a_score_has_a_name_for_people_in_each_language() -> None:
    parts = {name for name in (one.name for one in fields(Weights)) if not name.endswith("_rank")}
    assert parts | {"of_reply"} <= PART_NAMES.keys()
    for lang in ("en", "zh"):
        assert {f"part_{name}" for name in PART_NAMES} <= words(lang).keys()
