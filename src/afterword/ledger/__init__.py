"""The ledger: turns, memories, jobs and receipts in one SQL database."""

from afterword.ledger.ledger import SqlLedger

__all__ = ["SqlLedger"]
