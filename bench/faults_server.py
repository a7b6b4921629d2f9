"""`afterword`, with a clock or a disk that a fault campaign sets: the machine's own can't be.

`FAULTS_CLOCK` names a file with the seconds that the wall clock is off by; `FAULTS_PAGES` one with the most pages that
the ledger's file may have (0: no limit). Both are read again and again while the server runs.
"""

from __future__ import annotations

import os
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

from afterword import cli
from afterword.ledger import sqlite
from afterword.offload import SystemClock

UNLIMITED = 1_073_741_823


def _number(name: str) -> int:
    path = os.environ.get(name)
    return int(Path(path).read_text() or 0) if path else 0


def _shifted(self: SystemClock) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=_number("FAULTS_CLOCK"))


_begin = sqlite.SqliteDatabase._begin


def _begin_limited(self: sqlite.SqliteDatabase) -> sqlite3.Connection:
    assert self._writing is not None
    sqlite._driver(self._writing).execute(f"PRAGMA max_page_count={_number('FAULTS_PAGES') or UNLIMITED}")
    return _begin(self)


if __name__ == "__main__":
    if "FAULTS_CLOCK" in os.environ:
        SystemClock.now = _shifted  # type: ignore[method-assign]
    if "FAULTS_PAGES" in os.environ:
        sqlite.SqliteDatabase._begin = _begin_limited  # type: ignore[method-assign]
    cli.main()
