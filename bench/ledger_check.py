"""Is a ledger whole? Read with nothing but `sqlite3`, so that no code of the product judges itself.

`Book` holds a ledger open; `examine` asks it what must hold at any moment, `at_rest` what must hold when no work is
left, and `compare` whether it holds what a client was told (`told.py`). Each finding is of one kind:

lost        something acknowledged or decided is not there
duplicated  it is there more than once
orphan      it is there, and what it belongs to is not
half        a decision is applied in part
disorder    a chat's turns or decisions are out of order
stuck       work is left that nothing would do
differs     what an index is told is not what the ledger holds
back        something erased is there
damaged     SQLite itself complains
"""

from __future__ import annotations

import re
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.ledger_rules import AT_REST, RULES, Rule
from bench.random_llm import manners_of
from bench.told import Person, Said, Told

KINDS = ("lost", "duplicated", "orphan", "half", "disorder", "stuck", "differs", "back", "damaged")
SHOWN = 10


@dataclass
class Findings:
    """What is wrong, by kind."""

    found: dict[tuple[str, str], None] = field(default_factory=dict)  # each once, however often it was looked at

    def add(self, kind: str, text: str) -> None:
        assert kind in KINDS
        self.found[kind, text] = None

    def counts(self) -> dict[str, int]:
        counted = Counter(kind for kind, _ in self.found)
        return {kind: counted[kind] for kind in KINDS}

    def shown(self) -> list[str]:
        """A few of each kind."""
        lines = [[f"{kind}: {text}" for one, text in self.found if one == kind][:SHOWN] for kind in KINDS]
        return [line for some in lines for line in some]


class Book:
    """A ledger's tables, on one snapshot."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        connection.row_factory = sqlite3.Row
        connection.execute("BEGIN")

    def rows(self, sql: str, **values: Any) -> list[sqlite3.Row]:
        return self._connection.execute(sql, values).fetchall()

    def trouble(self) -> str:
        """What SQLite itself says is wrong with the file, "" if nothing."""
        try:
            (first, *_) = self.rows("PRAGMA integrity_check")
        except sqlite3.DatabaseError as error:
            return str(error)
        return "" if first[0] == "ok" else str(first[0])

    def people(self) -> dict[str, int]:
        """Scope ids by user."""
        return {row["user_id"]: row["id"] for row in self.rows("SELECT id, user_id FROM scope")}


@contextmanager
def opened(ledger: Path, *, live: bool = False) -> Iterator[Book]:
    """The ledger at this path; a copy of its files unless a server is `live` on them.

    The copy leaves it to the product to recover what a crash left: reading the files themselves would do it for it.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = ledger if live else _copied(ledger, Path(folder))
        connection = sqlite3.connect(f"file:{path}?mode=ro" if live else path, uri=live, isolation_level=None)
        try:
            yield Book(connection)
        finally:
            connection.close()


def _copied(ledger: Path, folder: Path) -> Path:
    for name in (ledger.name, f"{ledger.name}-wal"):
        if (ledger.parent / name).exists():
            shutil.copy(ledger.parent / name, folder / name)
    return folder / ledger.name


# ── what must hold, whatever was said ──────────────────────────────────────────────────────────────────────────────


def examine(book: Book, found: Findings, *, rest: bool = False) -> None:
    """Ask every rule; with `rest` those too that hold only when no work is left."""
    trouble = book.trouble()
    if trouble:
        found.add("damaged", trouble)
        return
    if not book.rows("SELECT 1 FROM sqlite_master WHERE name = 'afterword_version'"):
        return  # it died before its first migration was through
    for rule in (*RULES, *(AT_REST if rest else ())):
        _ask(book, rule, found)
    _one_answer(book, found)


def _ask(book: Book, rule: Rule, found: Findings) -> None:
    for row in book.rows(rule.sql):
        found.add(rule.kind, f"{rule.says}: {' '.join(str(value) for value in tuple(row))[:200]}")


def _one_answer(book: Book, found: Findings) -> None:
    """What one job wrote is told in one manner (`random_llm`): the plan is of one answer."""
    manners: dict[int, set[str]] = {}
    written = "SELECT v.job_id, v.text FROM version v WHERE v.version = 1 AND v.author = 'llm' AND v.job_id IN (%s)"
    for row in book.rows(written % "SELECT id FROM job WHERE kind IN ('remember', 'backfill')"):
        manners.setdefault(row["job_id"], set()).update(manners_of(row["text"]))
    for job, told in manners.items():
        if len(told) > 1:
            found.add("half", f"job {job} wrote from several answers: {', '.join(sorted(told))}")


# ── what a client was told ─────────────────────────────────────────────────────────────────────────────────────────


def compare(book: Book, told: Told, found: Findings) -> None:
    """Everything acknowledged is there, once, as it was said, in its order; what was erased is not."""
    scopes = book.people() if book.rows("SELECT 1 FROM sqlite_master WHERE name = 'scope'") else {}
    for person in told.people.values():
        scope = scopes.get(person.user)
        if person.resetting:
            continue  # it may have come through or not; it is asked for again
        _turns(book, scope, person, found)
        _edits(book, scope, person, found)
        _erased(book, scope, person, found)


def _turns(book: Book, scope: int | None, person: Person, found: Findings) -> None:
    rows = {row["id"]: row for row in book.rows("SELECT * FROM turn WHERE scope_id = :scope", scope=scope)}
    for said in person.said.values():
        row = rows.get(said.id)
        if said.chat in person.leaving or said.id in person.erasing:
            continue
        if row is None:
            if said.kept:
                found.add("lost", f"turn {said.id} of {person.user} was acknowledged")
        elif (row["text"], row["chat_id"]) != (said.text, said.chat):
            found.add("lost", f"turn {said.id} of {person.user} is there with another text")
    _replies(rows, person, found)
    _order(rows, person, found)


def _replies(rows: dict[str, sqlite3.Row], person: Person, found: Findings) -> None:
    answers = Counter(row["reply_to"] for row in rows.values() if row["reply_to"])
    for turn_id, count in answers.items():
        if count > 1:
            found.add("duplicated", f"turn {turn_id} of {person.user} has {count} replies")
    for reply in person.replies.values():
        if reply.chat in person.leaving or reply.id in person.erasing:
            continue
        row = rows.get(reply.id)
        if row is None or row["text"] != reply.text:
            found.add("lost", f"reply {reply.id} of {person.user} was given to the end")


def _order(rows: dict[str, sqlite3.Row], person: Person, found: Findings) -> None:
    chats: dict[str, list[Said]] = {}
    for said in person.said.values():
        if said.id in rows:
            chats.setdefault(said.chat, []).append(said)
    for chat, turns in chats.items():
        places = [rows[said.id]["position"] for said in turns]
        if places != sorted(places):
            found.add("disorder", f"chat {chat} of {person.user} stands as {places}")


def _edits(book: Book, scope: int | None, person: Person, found: Findings) -> None:
    for memory, texts in person.edits.items():
        if memory in person.erasing:
            continue
        rows = book.rows("SELECT text FROM version WHERE scope_id = :scope AND id = :id", scope=scope, id=memory)
        there = {row["text"] for row in rows}
        if not there and person.left:
            continue  # it rested on a chat that was deleted
        for text in texts:
            if text not in there:
                found.add("lost", f"a person's version of memory {memory} of {person.user}")


def _erased(book: Book, scope: int | None, person: Person, found: Findings) -> None:
    for table in ("turn", "memory", "version", "entry", "vector"):
        name = "record" if table in ("entry", "vector") else "id"
        for row in book.rows(f"SELECT {name} AS id FROM {table} WHERE scope_id = :scope", scope=scope):
            if row["id"] in person.erased:
                found.add("back", f"{row['id']} of {person.user} in {table}")


def text_left(folder: Path, told: Told, found: Findings) -> None:
    """Words that only resets took away stand in no file of the ledger any more."""
    files = [path for path in folder.glob("ledger.db*") if not path.name.endswith("-shm")]
    gone = [(person.user, word) for person in told.people.values() for word in sorted(person.gone)]
    for path in files:
        # each run of letters once: a ledger repeats itself, and thousands of words are looked for in all of it
        runs = b" ".join(set(re.findall(rb"[A-Za-z]{4,}", path.read_bytes())))
        for user, word in gone:
            if word.encode() in runs:
                found.add("back", f"{word} of {user} stands in {path.name}")
