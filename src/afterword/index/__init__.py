"""Shadows of the ledger that find candidates. Each module is an adapter, imported when it is chosen."""
