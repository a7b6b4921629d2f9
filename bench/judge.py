"""The reckoning: when all work is done, does a search find what the ledger holds, and nothing else?"""

from __future__ import annotations

import asyncio
import random
import sqlite3
from pathlib import Path
from typing import Any

import httpx

from bench.house import Life, drained
from bench.ledger_check import Findings, opened, text_left
from bench.told import Told
from bench.traffic import Client

SEARCHES = 150  # records of a folder that are looked for
LIMIT = 50
LOOKS = 50  # 0.1 s apart, in which an idle server has emptied its write-ahead log
_LIVING = """
    SELECT s.user_id, 'turn' AS kind, t.id, 1 AS version, t.text FROM turn t JOIN scope s ON s.id = t.scope_id
    WHERE t.searchable = 1 AND t.role = 'user'
    UNION ALL SELECT s.user_id, m.kind, m.id, m.version, v.text FROM memory m JOIN version v USING (scope_id, id, version)
    JOIN scope s ON s.id = m.scope_id WHERE m.retired IS NULL
"""
_ALL = "SELECT s.user_id, e.record, e.version FROM entry e JOIN scope s ON s.id = e.scope_id"


class Judge:
    """Works on a server that is left to live."""

    def __init__(self, life: Life, http: httpx.AsyncClient, told: Told, folder: Path, rng: random.Random) -> None:
        self._life = life
        self._http = http
        self._told = told
        self._folder = folder
        self._rng = rng
        self.given_up = 0
        self.searched = 0

    async def finish(self) -> None:
        """Ask again for what was cut off, let every job be done, and those that were given up be tried again."""
        clients = [Client(self._http, self._told, person, self._rng) for person in self._told.people.values()]
        for client in clients:
            await client.resume()
        await drained(self._life, self._http)
        for _ in range(3):
            again = [await client.retry_given_up() for client in clients]
            await drained(self._life, self._http)
            if not any(again):
                return
            self.given_up += sum(again)

    async def compare_searches(self, found: Findings, most: int = SEARCHES) -> None:
        """Each record that lives is found by a word of its own; every hit is a record that lives."""
        with opened(self._folder / "ledger.db", live=True) as book:
            living = book.rows(_LIVING)
            there = {(row["user_id"], row["record"], row["version"]) for row in book.rows(_ALL)}
        words = {said.word for person in self._told.people.values() for said in person.said.values()}
        sought = [(row, word) for row in living if (word := _word_in(row["text"], words))]
        self._rng.shuffle(sought)
        for row, word in sought[:most]:
            wanted = (row["id"], row["version"])
            hits = await self._search(row, word)
            if wanted not in hits:  # a search that was late says less than it knows, for once
                hits = await self._search(row, word)
            self.searched += 1
            if wanted not in hits:
                found.add("differs", f"{row['kind']} {row['id']} of {row['user_id']} is not found by {word!r}")
            for record, version in hits:
                if (row["user_id"], record, version) not in there:
                    found.add("orphan", f"a search of {row['user_id']} for {word!r} finds {record}, which is not there")

    async def _search(self, row: sqlite3.Row, word: str) -> set[tuple[str, int]]:
        body: dict[str, Any] = {"user_id": row["user_id"], "query": word, "limit": LIMIT, "kinds": [row["kind"]]}
        answer = await self._http.post("/api/search", json=body)
        return {(hit["id"], hit["version"]) for hit in answer.raise_for_status().json()["hits"]}

    async def look_for_text(self, found: Findings) -> None:
        """What resets erased stands in no file, once the server has had a moment's peace."""
        for _ in range(LOOKS):
            now = Findings()
            text_left(self._folder, self._told, now)
            if not now.found:
                return
            await asyncio.sleep(0.1)
        found.found |= now.found


def _word_in(text: str, words: set[str]) -> str | None:
    return next((word for word in _letters(text) if word in words), None)


def _letters(text: str) -> list[str]:
    return "".join(c if c.isascii() and c.isalpha() else " " for c in text).split()
