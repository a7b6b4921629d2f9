"""A memory as it is often written: blocking, one class, an LLM call inside `add`. For the designs we compare with.

Fair on purpose: one SQLite file in WAL mode with an index on the user, vectors searched with one matrix product,
a connection a thread, a pooled HTTP client.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from openai import OpenAI

Vector = npt.NDArray[np.float32]
Embed = Callable[[str], Vector]
SCHEMA = {
    "type": "object",
    "properties": {"memories": {"type": "array", "items": {"type": "string"}, "maxItems": 3}},
    "required": ["memories"],
}


class PlainMemory:
    """`search` reads, `add` asks the LLM what to keep and writes it. Both block."""

    def __init__(self, path: Path, base_url: str, embed: Embed) -> None:
        self._path = path
        self._local = threading.local()
        self._embed = embed
        self.client = OpenAI(base_url=base_url, api_key="none", max_retries=0, timeout=120)
        self.written = 0
        self._count = threading.Lock()
        with self._connection() as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("CREATE TABLE memory (user TEXT, text TEXT, vector BLOB)")
            connection.execute("CREATE INDEX memory_user ON memory (user)")

    def search(self, query: str, user: str, limit: int = 8) -> list[str]:
        """The texts nearest in meaning."""
        vector = self._embed(query)
        rows = self._connection().execute("SELECT text, vector FROM memory WHERE user = ?", (user,)).fetchall()
        if not rows:
            return []
        scores = np.stack([np.frombuffer(blob, np.float32) for _, blob in rows]) @ vector
        return [rows[place][0] for place in np.argsort(-scores)[:limit]]

    def add(self, text: str, user: str) -> None:
        """Ask the LLM what is worth keeping, and keep the text."""
        format_: Any = {"type": "json_schema", "json_schema": {"name": "memories", "schema": SCHEMA}}
        self.client.chat.completions.create(
            model="fake",
            messages=[{"role": "user", "content": f"What of this is worth keeping? {text}"}],
            response_format=format_,
        )
        with self._connection() as connection:
            connection.execute("INSERT INTO memory VALUES (?, ?, ?)", (user, text, self._embed(text).tobytes()))
        with self._count:
            self.written += 1

    def stream(self, message: str, hits: list[str]) -> Iterator[str]:
        """The pieces of a reply."""
        known = "\n".join(hits)
        answer = self.client.chat.completions.create(
            model="fake",
            stream=True,
            messages=[{"role": "system", "content": f"You know:\n{known}"}, {"role": "user", "content": message}],
        )
        for chunk in answer:
            if chunk.choices and chunk.choices[0].delta.content:
                yield chunk.choices[0].delta.content

    def _connection(self) -> sqlite3.Connection:
        if not hasattr(self._local, "connection"):
            self._local.connection = sqlite3.connect(self._path, timeout=30)
        connection: sqlite3.Connection = self._local.connection
        return connection
