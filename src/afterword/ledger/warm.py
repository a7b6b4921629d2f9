"""Compiling statements takes tens of milliseconds the first time. It is done before the first person waits for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from afterword.ledger.database import Database


async def warm_up(db: Database) -> None:
    pass
