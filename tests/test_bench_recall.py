"""The recall bench: what it counts, and that it takes any file in the neutral form."""

from __future__ import annotations

import argparse
import asyncio
import json
import math
from pathlib import Path
from typing import Any

import pytest

from bench.recall import measure
from bench.recall_data import conversations
from bench.recall_metrics import figures

TURNS = [
    {"id": "t1", "session": "s1", "said_at": "2026-01-05T09:00:00", "speaker": "Ann", "text": "My dog is called Rex."},
    {"id": "t2", "session": "s1", "said_at": "2026-01-05T09:01:00", "speaker": "Ben", "text": "I play the cello."},
    {"id": "t3", "session": "s2", "said_at": "2026-02-05T09:00:00", "speaker": "Ann", "text": "Rex ate the carpet."},
    {"id": "t4", "session": "s2", "said_at": "2026-02-05T09:01:00", "speaker": "Ben", "text": "Poor carpet."},
]


def question(text: str, evidence: list[str] | None = None, **more: Any) -> dict[str, Any]:
    return {"id": text, "text": text, "category": "plain", "evidence": evidence or [], **more}


def written(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "set.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8", newline="\n")
    return path


def result(path: Path, facts: str = "none") -> dict[str, Any]:
    options = argparse.Namespace(
        data=path, index="exact", facts=facts, embedder="none", limit=50, quick=False, quiet=True, cache=path.parent
    )
    return asyncio.run(measure(list(conversations(path)), options))


def test_a_ranking_is_measured_as_the_names_say() -> None:
    measured = figures(["x", "a", "y", "z", "w", "b"], {"a", "b", "c"})
    assert measured["any@1"] == 0.0
    assert (measured["any@5"], measured["all@5"]) == (1.0, 0.0)
    assert measured["frac@10"] == pytest.approx(2 / 3)
    assert measured["all@10"] == 0.0
    assert measured["mrr"] == 0.5
    gain, ideal = 1 / math.log2(3) + 1 / math.log2(7), 1 + 1 / math.log2(3) + 1 / math.log2(4)
    assert measured["ndcg@10"] == pytest.approx(gain / ideal)


def test_turns_and_sessions_are_found_and_adversarial_questions_stand_apart(tmp_path: Path) -> None:
    trap = {**question("What is Ben's dog called?", ["t1"]), "category": "adversarial"}
    asked = [question("What is the dog called?", ["t1"]), question("Who plays the cello?", ["t2"]), trap]
    measured = result(written(tmp_path, {"id": "c", "language": "en", "turns": TURNS, "questions": asked}))
    assert measured["turn"]["n"] == 2
    assert measured["turn"]["any@1"] == 1.0
    assert measured["session"]["any@1"] == 1.0
    assert measured["adversarial"]["turn"]["n"] == 1
    assert measured["search_ms"]["p50"] > 0
    assert measured["ingest"]["turns"] == 4
    assert measured["index_mb"] > 0


def test_a_question_sees_only_the_sessions_that_there_were(tmp_path: Path) -> None:
    early = question("What about the carpet?", ["t3"], visible_sessions=1)
    late = question("What did happen to the carpet?", ["t3"], visible_sessions=None)
    path = written(tmp_path, {"id": "c", "turns": TURNS, "questions": [late, early]})
    assert result(path)["turn"]["frac@10"] == 0.5


def test_a_memory_counts_as_the_turn_it_rests_on(tmp_path: Path) -> None:
    asked = [question("Which pet is destructive?", ["t3"], sessions=["s2"])]
    facts = [
        {"turn": "t3", "session": "s2", "text": "Ann has a destructive pet"},
        {"turn": None, "session": "s2", "text": "Somebody has a destructive animal"},
    ]
    row = {"id": "c", "turns": TURNS, "questions": asked, "extracted_facts": facts}
    assert result(written(tmp_path, row))["turn"]["any@1"] == 0.0
    measured = result(written(tmp_path, row), "extracted")
    assert measured["turn"]["any@1"] == 1.0
    assert measured["records"] == 6


def test_whatever_a_file_lacks_or_repeats_is_no_error(tmp_path: Path) -> None:
    odd = [
        {"text": "我家的狗叫旺财。"},
        {"text": "我家的狗叫旺财。", "session": None, "speaker": None, "said_at": None},
        {"id": "empty", "text": " "},
        {"id": "long", "text": "carpet " * 20_000, "speaker": "A\nB"},
        {"id": "later", "text": "line\u2028end", "said_at": "not a date"},
    ]
    asked = [
        {"text": "狗叫什么", "evidence": ["0", "1"]},
        {"text": "", "evidence": ["long"]},
        {"text": "carpet", "evidence": ["long", "nowhere"], "category": None},
        {"text": "nothing to find"},
    ]
    measured = result(written(tmp_path, {"turns": odd, "questions": asked}, {"id": "no turns"}, {"questions": asked}))
    assert measured["turn"]["n"] == 3
    assert measured["turn"]["frac@10"] == pytest.approx(2 / 3, abs=1e-3)
    assert measured["no_query"] == 2
    assert measured["unknown_evidence"] == 6
