"""Tokens of lexical search."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afterword.language.tokens import TOKEN_LIMIT, joined_tokens, tokens


def test_words_are_lower_cased_and_stemmed_and_numbers_kept() -> None:
    assert tokens("Ann's cats were RUNNING in 2024") == ("ann", "cat", "were", "run", "in", "2024")


def test_stop_words_are_kept() -> None:
    assert tokens("to be or not") == ("to", "be", "or", "not")


def test_full_width_and_ligatures_are_folded() -> None:
    assert tokens("ＡＢＣ１２ ﬁne") == tokens("abc12 fine")


def test_chinese_is_cut_into_words_and_the_words_within_them() -> None:
    assert tokens("我昨天去了北京大学") == ("我", "昨天", "去", "了", "北京", "大学", "北京大学")


def test_mixed_text_keeps_both_in_order() -> None:
    assert tokens("我在Oslo住了3年") == ("我", "在", "oslo", "住", "了", "3", "年")


def test_vowel_signs_stay_in_their_word() -> None:
    assert tokens("हिन्दी भाषा") == ("हिन्दी", "भाषा")


def test_a_typographic_apostrophe_is_one() -> None:
    assert tokens("don\u2019t") == tokens("don't")
    assert tokens("'quoted'") == tokens("quoted")


@pytest.mark.parametrize("text", ["", " \n", "...!?", "😀" * 1000, "'''", "——", "\u0301"])
def test_text_without_words_has_no_tokens(text: str) -> None:
    assert tokens(text) == ()


@pytest.mark.parametrize("text", ["a" * 100_000, "我" * 100_000, "a'" * 50_000, "a\u0301" * 50_000, "1,2." * 25_000])
def test_hostile_text_is_cut_short_and_done(text: str) -> None:
    found = tokens(text)
    assert found
    assert max(map(len, found)) <= TOKEN_LIMIT


@given(st.text(max_size=300))
@settings(max_examples=200, deadline=None, database=None)
def test_any_text_gives_tokens_that_can_be_kept_joined(text: str) -> None:
    found = tokens(text)
    assert all(0 < len(token) <= TOKEN_LIMIT for token in found)
    assert tuple(joined_tokens([text])[0].split()) == found
    assert tokens(text) == found


def test_threads_do_not_disturb_each_other() -> None:
    words = "running jumping generously nationality connections " * 200
    expected = tokens(words)
    wrong: list[int] = []

    def work() -> None:
        wrong.extend(number for number in range(20) if tokens(words) != expected)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_it_loads_nothing_heavy() -> None:
    code = "import sys, afterword.language.tokens, afterword.lanes; print({'numpy', 'sqlalchemy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
