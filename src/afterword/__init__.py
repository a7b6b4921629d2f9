"""Afterword: long-term memory for LLM chat that replies first and remembers after.

`async with open_memory() as memory` gives an `AsyncMemory`; `Memory()` is the same for code that blocks. Nothing is
imported until it is used: `import afterword` loads no adapter.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from afterword.blocking import Memory
    from afterword.errors import AfterwordError, NotRemembered, StillPending
    from afterword.memory import AsyncMemory
    from afterword.records import Filters, Hit, MemoryRecord, NewTurn, Turn
    from afterword.settings import Settings, load_settings
    from afterword.wiring import open_memory

_HOMES = {
    "AfterwordError": "errors",
    "AsyncMemory": "memory",
    "Filters": "records",
    "Hit": "records",
    "Memory": "blocking",
    "MemoryRecord": "records",
    "NewTurn": "records",
    "NotRemembered": "errors",
    "Settings": "settings",
    "StillPending": "errors",
    "Turn": "records",
    "load_settings": "settings",
    "open_memory": "wiring",
}

__all__ = [
    "AfterwordError",
    "AsyncMemory",
    "Filters",
    "Hit",
    "Memory",
    "MemoryRecord",
    "NewTurn",
    "NotRemembered",
    "Settings",
    "StillPending",
    "Turn",
    "load_settings",
    "open_memory",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'afterword' has no attribute {name!r}")
    return getattr(import_module(f"afterword.{_HOMES[name]}"), name)
