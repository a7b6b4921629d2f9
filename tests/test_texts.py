"""Tokens are estimated, texts are cut and split, words are compared."""

from __future__ import annotations

import pytest

from afterword.language.texts import (
    alike,
    content_words,
    cut,
    estimate_tokens,
    excerpt,
    language_of,
    opening,
    prompt_tokens,
    sentences,
    share,
    windows,
)


def test_a_chinese_character_counts_one_and_three_bytes_of_the_rest_count_one() -> None:
    assert [estimate_tokens(text) for text in ("", "a", "abcd", "你好", "你好abc", "！？")] == [0, 1, 2, 2, 3, 2]


@pytest.mark.parametrize("text", ["word " * 500, "这是一句话。" * 300, "x" * 9000, "😀" * 700])
def test_a_cut_text_fits_and_says_that_it_was_cut(text: str) -> None:
    short = cut(text, 50)
    assert estimate_tokens(short) <= 50
    assert short.endswith("[…]")


def test_a_text_that_fits_is_not_cut() -> None:
    assert cut("as it is", 50) == "as it is"


@pytest.mark.parametrize("text", ["Ann: " + "One more thing was said here. " * 90, "又说了一件事。" * 200, "y" * 3000])
def test_windows_fit_the_model_and_leave_nothing_out(text: str) -> None:
    pieces = windows(text, 80)
    assert 1 < len(pieces) <= 16
    assert all(estimate_tokens(piece) <= 80 for piece in pieces)
    assert set(content_words(text)) <= set().union(*map(content_words, pieces)) or text.startswith("y")


def test_each_window_names_the_speaker() -> None:
    pieces = windows("Ann: " + "One more thing was said here. " * 90, 80)
    assert all(piece.startswith("Ann: ") for piece in pieces)


def test_of_too_many_windows_the_ends_and_an_even_spread_are_taken() -> None:
    pieces = windows(" ".join(f"Sentence number {n} stands here." for n in range(2000)), 60)
    assert len(pieces) == 16
    assert "number 0 " in pieces[0]
    assert "number 1999 " in pieces[-1]


def test_the_language_is_that_of_a_fifth_of_the_letters() -> None:
    assert [language_of(text) for text in ("hello", "你好", "我在 Python 公司", "I said 你好 once or twice", "")] == [
        "en",
        "zh",
        "zh",
        "en",
        "en",
    ]


def test_sentences_of_both_languages_end_where_they_end() -> None:
    assert sentences("I came. I saw! 我来了。我看见了！ok") == ["I came.", "I saw!", "我来了。", "我看见了！", "ok"]


def test_words_that_every_text_has_do_not_count_as_shared() -> None:
    assert content_words("Yes, I am here") == frozenset()
    assert share(content_words("The cat is here"), content_words("My cats are there")) == 1.0
    assert alike(content_words("cat dog"), content_words("cat dog bird fish")) == 0.5
    assert share(frozenset(), content_words("cat")) == 0.0


def test_the_count_for_prompts_never_lies_below_the_other_and_counts_each_digit() -> None:
    assert prompt_tokens("1234567890") >= 10
    assert prompt_tokens("你好") == 2
    for text in ("", "plain words", "2026-05-03 09:30", "你好 42", "😀"):
        assert prompt_tokens(text) >= estimate_tokens(text)


def test_an_excerpt_holds_the_sentences_about_what_is_wanted_and_fits() -> None:
    filler = "The tram was late again. " * 40
    long = f"{filler}Ida breeds ponies near Bergen. They are small. {filler}Ponies eat hay. {filler}"
    for limit in (20, 40, 80, 160):
        short = excerpt(long, content_words("Who breeds ponies?"), limit)
        assert "Ida breeds ponies near Bergen." in short
        assert "[…]" in short
        assert estimate_tokens(short) <= limit
    assert "Ponies eat hay." in excerpt(long, content_words("Who breeds ponies?"), 80)
    assert excerpt("short", frozenset(), 10) == "short"
    assert excerpt(long, content_words("zebra"), 40) == cut(long, 40)


def test_the_opening_of_a_text_is_its_first_window() -> None:
    long = "A first sentence. " + "More and more words follow here. " * 400
    start = opening(long, 50)
    assert long.startswith(start)
    assert 0 < estimate_tokens(start) <= 50
    assert opening("short", 50) == "short"
