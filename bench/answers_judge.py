"""How well a text or an answer holds the gold answer, and what two arms differ by."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean

from afterword.language.texts import content_words, cut
from afterword.language.tokens import tokens

ENOUGH = 0.6  # of the gold answer's content words
ANSWER_TOKENS = 60  # of an answer that are judged: a long one would hold anything
RESAMPLES = 2000


def coverage(answer: str, text: str) -> float | None:
    """The share of the gold answer's content words that stand in the text; None where the answer has none."""
    wanted = content_words(answer)
    return len(wanted & frozenset(tokens(text))) / len(wanted) if wanted else None


def token_f1(answer: str, given: str) -> float:
    """F1 over tokens, as for SQuAD (Rajpurkar et al., 2016)."""
    gold, said = Counter(tokens(answer)), Counter(tokens(given))
    same = sum((gold & said).values())
    if not same:
        return 0.0
    precision, recall = same / sum(said.values()), same / sum(gold.values())
    return 2 * precision * recall / (precision + recall)


def chosen(given: str, choices: Mapping[str, str]) -> str | None:
    """The letter that an answer names first, or the one choice whose text it repeats."""
    letters = "".join(map(re.escape, choices))
    found = re.search(rf"(?<![A-Za-z])([{letters}])(?![A-Za-z])", given.strip())
    if found:
        return found[1]
    told = [letter for letter, text in choices.items() if text.strip("。. ") in given]
    return told[0] if len(told) == 1 else None


def right(answer: str, given: str, choices: Mapping[str, str]) -> bool:
    """By choice where there are choices, else by the content words of the gold answer."""
    if choices:
        letter = chosen(given, choices)
        return letter is not None and choices[letter].strip() == answer.strip()
    return (coverage(answer, cut(given, ANSWER_TOKENS)) or 0.0) >= ENOUGH


def interval(differences: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """The mean of paired differences and its 95 % interval (percentile bootstrap)."""
    if not differences:
        return 0.0, 0.0, 0.0
    rng = random.Random(seed)
    means = sorted(fmean(rng.choices(differences, k=len(differences))) for _ in range(RESAMPLES))
    return fmean(differences), means[int(0.025 * RESAMPLES)], means[int(0.975 * RESAMPLES)]
