"""A fake LLM that answers by chance: another answer each time, so that a decision made twice shows.

Every background answer is told in a manner of its own ("The user said calmly: …"), which a ledger's records keep: a plan
that was put together from two answers has two manners.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Mapping
from typing import Any

from afterword.testing import FakeOpenAI
from afterword.testing.openai_answers import answer_json
from afterword.testing.openai_sending import Received

MANNERS = [
    "calmly",
    "gladly",
    "proudly",
    "softly",
    "slowly",
    "quickly",
    "loudly",
    "kindly",
    "plainly",
    "warmly",
    "briefly",
    "openly",
    "boldly",
    "firmly",
    "gently",
    "freely",
    "fondly",
    "keenly",
    "lightly",
    "merrily",
    "neatly",
    "politely",
    "promptly",
    "quietly",
    "readily",
    "shyly",
    "simply",
    "sternly",
    "tenderly",
    "truly",
]
CURSED = "cursed"  # no answer about a turn with this word can be read
_LINE = re.compile(r"#(?P<number>\d+) (?:[^:：]*\d{4}[^:：]*)[:：] ?(?P<text>.+)")
_SAID = re.compile(r"(?:the user|用户)[:：] ?(?P<text>.+)")


class RandomLLM:
    """What a `FakeOpenAI` says. `bad`: the share of answers that can't be read."""

    def __init__(self, rng: random.Random, *, bad: float = 0.03) -> None:
        self._rng = rng
        self._bad = bad
        self.answers = 0

    def speak_for(self, server: FakeOpenAI) -> None:
        server.reply = self.reply
        server.answer = self.answer

    def reply(self, received: Received) -> str:
        """A few words about the message, and a number that no other reply has."""
        self.answers += 1
        words = " ".join(received.asked.split()[:12])
        return f"I hear you {self._rng.choice(MANNERS)}: {words} (reply {self._rng.getrandbits(48):012x})"

    def answer(self, received: Received, schema: Mapping[str, Any]) -> str:
        """JSON of the schema, mostly."""
        self.answers += 1
        if CURSED in received.asked or self._rng.random() < self._bad:
            return "I would rather talk about the weather."
        wanted = next(iter(schema.get("properties", {})), "")
        made: dict[str, dict[str, dict[str, Any]]] = json.loads(answer_json(schema, received.asked))
        if wanted == "entries":
            kept = {name: entry for name, entry in made["entries"].items() if self._rng.random() < 0.9}
            made["entries"] = {name: self._entry(entry) for name, entry in kept.items()}
            self._tell(made["entries"].values(), self._rng.choice(MANNERS))
        elif wanted == "verdicts":
            made["verdicts"] = self._verdicts(made["verdicts"], received.asked)
        elif wanted == "changes":
            made["changes"] = {name: one for name, one in made["changes"].items() if self._rng.random() < 0.8}
        return json.dumps(made, ensure_ascii=False)

    def _entry(self, entry: dict[str, Any]) -> dict[str, Any]:
        if self._rng.random() < 0.1:
            return {**entry, "kind": "small_talk", "record": ""}
        return {**entry, "kind": self._rng.choice(("personal_fact", "preference_or_instruction", "plan_or_event"))}

    def _tell(self, entries: Iterable[dict[str, Any]], manner: str) -> None:
        for entry in entries:
            entry["record"] = entry["record"].replace("The user said:", f"The user said {manner}:")

    def _verdicts(self, names: Iterable[str], asked: str) -> dict[str, dict[str, Any]]:
        memories, _, said = asked.rpartition("\nSAID\n")
        words = (_SAID.search(said) or {"text": said})["text"]
        told = {f"#{line['number']}": line["text"] for line in filter(None, map(_LINE.match, memories.splitlines()))}
        verdicts = {}
        for name in names:
            verdict = self._rng.choice(("keep", "revise", "revise", "contradicted"))
            text = f"{told.get(name.split()[0], name)} Later: “{words}”" if verdict == "revise" else ""
            verdicts[name] = {"verdict": verdict, "text": text[:470]}
        return verdicts


def manners_of(text: str) -> set[str]:
    """The manners in which a record is told."""
    found = re.findall(r"The user said (\w+):", text)
    return {word for word in found if word in MANNERS}
