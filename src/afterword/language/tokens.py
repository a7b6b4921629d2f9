"""Text to the tokens of lexical search. Pure: made once, when a record is written, and kept beside it.

Words of space-separated scripts are lower-cased (after NFKC) and stemmed with Snowball's English stemmer; runs of
Chinese characters are cut by jieba's search mode, which gives a long word and the words within it. Stop words are
kept: BM25 weighs them down by itself.
"""

from __future__ import annotations

import re
import threading
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence

import rjieba
import Stemmer

TOKENIZER_VERSION = 1
TOKEN_LIMIT = 64  # characters; what is longer is no word, and its start still finds it

LOOKED_AT = 64  # words that tell a text's script
_SCRIPTS = "\u0370\u0590\u0900\u2e80\ud7b0"  # where each next script begins

_HAN = "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
# Vowel signs and accents that follow a letter belong to the word, but `\w` leaves them out.
_MARKS = "\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0900-\u0dff\u0e30-\u0ebc"
_LETTER = rf"[^\W_{_HAN}]"
_HAN_WORD = re.compile(rf"[{_HAN}]")
_RUN = re.compile(rf"(?P<han>[{_HAN}]+)|{_LETTER}(?:{_LETTER}|[{_MARKS}]|'(?={_LETTER}))*")


class _Own(threading.local):
    """Each thread's own stemmer: the C object keeps a cache and is not safe to share."""

    def __init__(self) -> None:
        self.stemmer = Stemmer.Stemmer("english")


_own = _Own()


def tokens(text: str) -> tuple[str, ...]:
    """The tokens of `text` in order, repeats included; empty when there is no word in it.

    Takes time linear in the text's length. Each token has 1 to 64 characters and no white space.
    """
    clean = unicodedata.normalize("NFKC", text).replace("\u2019", "'").lower()
    found: list[str] = []
    words: list[str] = []
    for match in _RUN.finditer(clean):
        if match["han"] is None:
            words.append(match[0][:TOKEN_LIMIT])
            continue
        found += _own.stemmer.stemWords(words)
        words = []
        found += [word[:TOKEN_LIMIT] for word in rjieba.cut_for_search(match[0])]
    found += _own.stemmer.stemWords(words)
    return tuple(found)


def script_of(words: Sequence[str]) -> int:
    """A number for the script that most of the first words are written in: Latin, Greek and Cyrillic, those of the Near
    East, of East Asia, any other."""
    looked_at = words[:LOOKED_AT]
    if "".join(looked_at).isascii():  # most are, and of a large memory every record is asked
        return 0
    seen = [0] * (len(_SCRIPTS) + 1)
    for word in looked_at:
        seen[bisect_right(_SCRIPTS, word[0])] += 1
    return max(range(len(seen)), key=seen.__getitem__)


def with_characters(words: Iterable[str]) -> Iterator[str]:
    """The tokens, and behind each Chinese one of several characters these: 演讲 and 讲座 have one in common, and where
    jieba cuts a word does not matter so much."""
    for word in words:
        yield word
        if len(word) > 1 and _HAN_WORD.match(word):
            yield from word


def joined_tokens(texts: list[str]) -> list[str]:
    """The tokens of each text, joined by a space: how they are stored. A plain function, so a process can run it."""
    return [" ".join(tokens(text)) for text in texts]
