"""What is done to the SQLite file as a whole: put in place, emptied of what was erased."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from pathlib import Path

REWRITTEN = 64_000_000  # bytes of a ledger that is written anew at a start or a stop, in about half a second
SCRUB_TRIES = 20
SCRUB_PAUSE = 0.01  # seconds; readers are short


def put_in_place(new: Path, path: Path) -> None:
    """Durable, and never over another that a quicker process has made."""
    with contextlib.suppress(FileExistsError):
        os.link(new, path)
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def scrub(driver: sqlite3.Connection) -> bool:
    """Empty the write-ahead log, so that what was erased stands in no file any more. False: a reader was in the way."""
    for _ in range(SCRUB_TRIES):
        (busy, _, _) = driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if not busy:
            return True
        time.sleep(SCRUB_PAUSE)
    return False


def rewrite(driver: sqlite3.Connection, path: Path) -> None:
    """Write the file anew where something was erased since it last was: `secure_delete` overwrites what is deleted, but a
    stale copy of a row that moved between pages may stand in the unused part of one."""
    with contextlib.suppress(sqlite3.Error):  # somebody else writes, or the disk is full: the next one does it
        (erased,) = driver.execute("PRAGMA user_version").fetchone()
        if erased and path.stat().st_size <= REWRITTEN:
            driver.execute("VACUUM")
            driver.execute("PRAGMA user_version=0")
            scrub(driver)
