"""Fills a memory for `bench.scale`: texts with the word frequencies of talk, vectors in loose clusters, no model."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from afterword.lanes import embed_job
from afterword.plan import Plan, ServeModel, StoreVectors
from afterword.records import NewTurn, Turn

if TYPE_CHECKING:
    from afterword.memory import AsyncMemory
    from afterword.ports import Vector, Vectors

START = datetime(2024, 1, 1, tzinfo=UTC)
WORDS = 20_000  # of the made language, with frequencies as Zipf counted them
LENGTH = 20  # words of a turn
SESSION = 20  # turns of a chat
CLUSTERS = 200
CHUNK = 2_000
COPIED = ("turn", "entry", "vector", "change", "chat")


class Talk:
    """Turns and vectors of one made-up person."""

    def __init__(self, seed: int, dimensions: int) -> None:
        self._random = np.random.default_rng(seed)
        shares = 1 / np.arange(1, WORDS + 1)
        self._shares = shares / shares.sum()
        self._names = np.array([_word(number) for number in range(WORDS)])
        self._centres = self._random.standard_normal((CLUSTERS, dimensions)).astype(np.float32)

    def text(self, words: int = LENGTH) -> str:
        return " ".join(self._random.choice(self._names, words, p=self._shares))

    def vectors(self, count: int) -> npt.NDArray[np.float32]:
        centres = self._centres[self._random.integers(CLUSTERS, size=count)]
        rows = centres + self._random.standard_normal(centres.shape).astype(np.float32)
        unit: npt.NDArray[np.float32] = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
        return unit

    def turns(self, first: int, count: int) -> list[NewTurn]:
        return [
            NewTurn(
                f"chat-{number // SESSION}",
                "user" if number % 2 == 0 else "assistant",
                self.text(),
                said_at=START + timedelta(minutes=5 * number),
                utc_offset=0,
            )
            for number in range(first, first + count)
        ]


def _word(number: int) -> str:
    """A word of syllables, another for each number."""
    syllables = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]
    word = ""
    while True:
        number, place = divmod(number, len(syllables))
        word += syllables[place]
        if not number:
            return word


class GivenEmbedder:
    """An `Embedder` whose vectors are made, not computed: a query's cost is no part of what is measured."""

    max_tokens = 512

    def __init__(self, talk: Talk, dimensions: int) -> None:
        self.model = f"given-{dimensions}"
        self._talk = talk

    async def query(self, text: str) -> Vector:
        row: Vector = self._talk.vectors(1)[0]
        return row

    async def passages(self, texts: Sequence[str]) -> Vectors:
        return self._talk.vectors(len(texts))

    async def aclose(self) -> None:
        return


async def fill(memory: AsyncMemory, user: str, talk: Talk, model: str, have: int, wanted: int) -> None:
    """Bring a user's turns from `have` to `wanted`, each with its vector, as the worker would have written them."""
    scope = memory.scope(user)
    for first in range(have, wanted, CHUNK):
        count = min(CHUNK, wanted - first)
        stored = await memory.ledger.accept(scope, talk.turns(first, count), [embed_job(scope)])
        (job,) = await memory.ledger.claim("bench", ["embed"], 1, 600.0)
        await memory.ledger.apply(job, Plan(tuple(_vectors(stored, talk, model, first == 0))))


def _vectors(stored: Sequence[Turn], talk: Talk, model: str, begins: bool) -> Iterator[ServeModel | StoreVectors]:
    if begins:
        yield ServeModel(model)
    for turn, row in zip(stored, talk.vectors(len(stored)), strict=True):
        yield StoreVectors(turn.ref, model, row.reshape(1, -1))


def copy_users(path: Path, user: str, users: int) -> None:
    """Give `users` others what one user has, straight in the SQLite file: a million turns in a minute."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA synchronous=OFF")
        source, *_ = connection.execute("SELECT id FROM scope WHERE user_id = ?", (user,)).fetchone()
        for number in range(users):
            _copy_scope(connection, source, f"other-{number}")


def _copy_scope(connection: sqlite3.Connection, source: int, user: str) -> None:
    def columns(table: str) -> list[str]:
        return [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]

    others = [name for name in columns("scope") if name not in ("id", "user_id")]
    made = connection.execute(
        f"INSERT INTO scope (user_id, {', '.join(others)}) SELECT ?, {', '.join(others)} FROM scope WHERE id = ?",
        (user, source),
    )
    for table in COPIED:
        kept = [f'"{name}"' for name in columns(table) if name != "scope_id"]
        connection.execute(
            f"INSERT INTO {table} (scope_id, {', '.join(kept)}) SELECT ?, {', '.join(kept)} FROM {table}"
            " WHERE scope_id = ?",
            (made.lastrowid, source),
        )
