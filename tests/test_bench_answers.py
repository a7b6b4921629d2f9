"""The answers bench: what the arms hold, how answers are judged, and that a run goes on where it stopped."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from afterword.language.texts import prompt_tokens
from bench.answers import measure
from bench.answers_arms import Lines
from bench.answers_judge import chosen, coverage, interval, right, token_f1
from bench.answers_llm import Asker, messages
from bench.recall_data import conversations

TURNS = [
    {"id": "t1", "session": "s1", "said_at": "2026-01-05T09:00:00", "speaker": "Ann", "text": "My dog is called Rex."},
    {"id": "t2", "session": "s1", "said_at": "2026-01-05T09:01:00", "speaker": "Ben", "text": "I play the cello."},
    {
        "id": "t3",
        "session": "s2",
        "said_at": "2026-02-05T09:00:00",
        "speaker": "Ann",
        "text": "Rex ate a carpet yesterday.",
    },
    {"id": "t4", "session": "s2", "said_at": "2026-02-05T09:01:00", "speaker": "Ben", "text": "Poor carpet."},
]
ASKED: list[dict[str, Any]] = [
    {"text": "What is Ann's dog called?", "evidence": ["t1"], "answer": "Rex"},
    {"text": "When did Rex eat the carpet?", "evidence": ["t3"], "answer": "4 February 2026"},
    {"text": "Who plays the cello?", "evidence": ["t2"], "answer": "Ben", "choices": {"A": "Ann", "B": "Ben"}},
    {"text": "What is Ben's dog called?", "evidence": ["t1"], "answer": "Rex", "category": "adversarial"},
    {"text": "Is it so?", "evidence": ["t1"], "answer": ""},
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    questions = [{"id": str(number), "category": "plain", **one} for number, one in enumerate(ASKED)]
    path = tmp_path / "set.jsonl"
    path.write_text(json.dumps({"id": "c", "language": "en", "turns": TURNS, "questions": questions}) + "\n")
    return path


def options(data: Path, **more: Any) -> argparse.Namespace:
    chosen = {
        "data": data,
        "index": "exact",
        "facts": "none",
        "embedder": "none",
        "quiet": True,
        "cache": data.parent,
        "llm_base_url": "",
        "llm_model": "test",
        "budget": 300,
        "ask": 10,
        "minutes": 1.0,
        "arms": "bm25,afterword,gold,none,last",
        "answers": data.parent / "answers",
        **more,
    }
    return argparse.Namespace(**chosen)


def test_coverage_is_told_for_each_arm_and_questions_without_an_answer_are_left_out(data: Path) -> None:
    result = measure(list(conversations(data)), options(data))
    assert result["n"] == 3
    at_1000 = result["coverage"]["1000"]
    assert at_1000["gold"] == at_1000["afterword"] == 1.0
    assert at_1000["bm25"] < 1.0, "a plain history does not work out what yesterday was"
    assert at_1000["gap_closed"] == 1.0
    assert result["by_category"]["plain"]["500"]["n"] == 3


def test_every_text_keeps_to_its_budget(data: Path) -> None:
    said = next(iter(conversations(data))).said
    lines = Lines(said)
    for budget in range(0, 120, 7):
        assert prompt_tokens(lines.last(budget)) <= budget
        assert prompt_tokens(lines.best("Rex carpet dog", budget)) <= budget
    assert lines.best("cello", 100).startswith("[5 January 2026] Ben: I play the cello.")
    assert lines.last(30).endswith("Ben: Poor carpet.")


def test_answers_are_judged_by_choice_or_by_the_words_of_the_gold_answer() -> None:
    assert right("4 February 2026", "It was on 4 February 2026, I think.", {})
    assert not right("4 February 2026", "In March.", {})
    assert not right("blue harbour cat", "filler words " * 200 + "blue harbour cat", {}), "its length is capped"
    choices = {"A": "Ann", "B": "Ben"}
    assert right("Ben", "B", choices)
    assert right("Ben", "B. Ben", choices)
    assert not right("Ben", "A", choices)
    assert chosen("The answer is Ben", {"A": "Ann", "B": "Ben"}) == "B"
    assert chosen("neither", choices) is None
    assert coverage("the", "anything") is None
    assert token_f1("Ben", "Ben") == 1.0
    assert token_f1("Ben", "Ann") == 0.0


def test_the_interval_of_paired_differences_holds_their_mean_and_is_the_same_each_time() -> None:
    differences = [1.0, 0.0, 0.0, -1.0, 1.0, 1.0, 0.0, 1.0]
    mean, low, high = interval(differences)
    assert low < mean == 0.375 < high
    assert interval(differences) == (mean, low, high)
    assert interval([]) == (0.0, 0.0, 0.0)


def test_an_answer_is_asked_for_once_and_kept_by_its_prompt(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        asked.append(body)
        return httpx.Response(200, json={"choices": [{"message": {"content": "Rex"}}]})

    transport = httpx.MockTransport(answer)
    client = httpx.Client
    monkeypatch.setattr(httpx, "Client", lambda **settings: client(**settings, transport=transport))
    chosen = options(data, llm_base_url="http://model.invalid/v1")
    first = measure(list(conversations(data)), chosen)["answers"]
    assert len(asked) == 3 * 5
    assert {arm: row["n"] for arm, row in first["arms"].items()} == dict.fromkeys(chosen.arms.split(","), 3)
    assert first["arms"]["gold"]["right"] == pytest.approx(1 / 3, abs=1e-3)
    assert first["arms"]["gold"]["wrong_though_there"], "the evidence was there and the answer wrong"
    assert first["paired"]["afterword-none"][0] == 0.0

    again = measure(list(conversations(data)), chosen)["answers"]
    assert len(asked) == 3 * 5
    assert again["arms"]["bm25"] == first["arms"]["bm25"]


def test_the_prompts_of_two_arms_differ_by_what_is_remembered_alone(tmp_path: Path) -> None:
    one, other = messages("notes one", "Who?", {"A": "x"}), messages("notes two", "Who?", {"A": "x"})
    assert one[1] == other[1]
    assert one[0]["content"].replace("notes one", "notes two") == other[0]["content"]
    asker = Asker("http://model.invalid/v1", "test", tmp_path / "kept")
    assert (tmp_path / "kept").is_dir()
    asker.close()
