"""Kill points within a transaction, by what SQLite is given to do: the ledger's own code is left alone.

SQLite tells each statement, its values filled in, before it runs. A switch's order says which to die at: the n-th of
the transaction of a call under way, or its `COMMIT`. `migrate` means the first opening, before any call.
"""

from __future__ import annotations

import random
import sqlite3
import threading
from typing import TYPE_CHECKING

from sqlalchemy import event
from sqlalchemy.engine import Engine

from afterword.testing.kill_points import KillSwitch

if TYPE_CHECKING:
    from collections.abc import Callable

WITHIN = ("inside", "commit", "committing")
LATEST = 0.002  # seconds into a commit


def watch_statements(switch: KillSwitch) -> Callable[[], None]:
    """Watch every SQLite connection opened from now on in this process; the value ends that."""

    def connected(connection: sqlite3.Connection, _: object) -> None:
        connection.set_trace_callback(Statements(switch))

    if switch.order.moment not in WITHIN:
        return lambda: None
    event.listen(Engine, "connect", connected)
    return lambda: event.remove(Engine, "connect", connected)


class Statements:
    """Reads the statements of one connection: its writing transactions hold items, each between savepoints."""

    def __init__(self, switch: KillSwitch) -> None:
        self._switch = switch
        self._migrates = switch.order.name == "migrate"
        self._writes = False
        self._ours = False  # the item that runs is of a call that is meant
        self._any_ours = False  # one of this transaction was
        self._left = switch.order.nth

    def __call__(self, sql: str) -> None:
        word = sql.lstrip()[:15]
        if word.startswith("BEGIN"):
            self._writes = "IMMEDIATE" in word
            self._ours = self._any_ours = self._migrates and self._writes
        elif word.startswith("SAVEPOINT item"):
            self._ours = False
        elif word.startswith("COMMIT"):
            self._committing()
        elif word.startswith(("RELEASE", "ROLLBACK")):
            self._ours = self._migrates and self._ours
        elif self._writes:
            self._statement(sql)

    def _statement(self, sql: str) -> None:
        if not self._ours:
            self._ours = self._switch.under_way(sql)
            self._any_ours = self._any_ours or self._ours
        if self._ours and self._switch.order.moment == "inside":
            self._left -= 1
            if self._left <= 0:
                self._switch.strike(sql)

    def _committing(self) -> None:
        if not self._any_ours:
            return
        if self._switch.order.moment == "commit":
            self._switch.strike()
        elif self._switch.order.moment == "committing":
            threading.Timer(random.uniform(0, LATEST), self._switch.strike).start()
        self._any_ours = False
