"""Asks a chat model each question once and keeps the answer by its prompt, so that a run goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import httpx

from afterword.language.texts import language_of

MAX_TOKENS = 64
_EN = (
    "You answer questions about people from notes of earlier chats. Answer from the notes alone, as short as you can: a "
    "name, a date, a few words, no full sentence. If the notes do not say it, answer: I don't know."
)
_ZH = "你根据以前聊天的记录回答问题。只依据记录，尽量简短：一个名字、一个日期或几个词，不写整句。记录里没有的，就回答：不知道。"
_LETTER_EN = "Answer with the letter of the right choice and nothing else."
_LETTER_ZH = "只回答正确选项的字母，不写别的。"


def messages(context: str, question: str, choices: Mapping[str, str]) -> list[dict[str, str]]:
    """The same for every arm but for `context`."""
    chinese = language_of(question) == "zh"
    system = _ZH if chinese else _EN
    if choices:
        system = f"{system}\n{_LETTER_ZH if chinese else _LETTER_EN}"
    notes = context or ("（没有记录）" if chinese else "(no notes)")
    asked = "\n".join([question, *(f"{letter}. {text}" for letter, text in choices.items())])
    return [{"role": "system", "content": f"{system}\n\n{notes}"}, {"role": "user", "content": asked}]


class Asker:
    """A model at an OpenAI-compatible address; `folder` keeps what it answered."""

    def __init__(self, base_url: str, model: str, folder: Path, timeout: float = 900.0) -> None:
        self._client = httpx.Client(base_url=base_url.rstrip("/"), timeout=timeout)
        self._model = model
        self._folder = folder.expanduser()
        self._folder.mkdir(parents=True, exist_ok=True)
        self.asked = 0

    def answer(self, context: str, question: str, choices: Mapping[str, str]) -> str:
        """Raises `httpx.HTTPError`."""
        body = {
            "model": self._model,
            "messages": messages(context, question, choices),
            "max_tokens": MAX_TOKENS,
            "temperature": 0,
            "seed": 0,
        }
        key = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        kept = self._folder / f"{key}.json"
        if kept.exists():
            return str(json.loads(kept.read_text(encoding="utf-8"))["answer"])
        response = self._client.post("/chat/completions", json=body)
        response.raise_for_status()
        answer = str(response.json()["choices"][0]["message"]["content"] or "")
        part = kept.with_suffix(".part")
        part.write_text(json.dumps({"answer": answer}), encoding="utf-8")
        part.rename(kept)
        self.asked += 1
        return answer

    def close(self) -> None:
        self._client.close()
