"""CPU work for tests: off the loop, without a pool of processes to start."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

T = TypeVar("T")
Args = TypeVarTuple("Args")


class InlineOffload:
    """An `Offload` whose threads and processes are both the loop's own threads."""

    async def thread(self, function: Callable[[*Args], T], *args: *Args) -> T:
        return await asyncio.to_thread(function, *args)

    async def process(self, function: Callable[[*Args], T], *args: *Args) -> T:
        return await asyncio.to_thread(function, *args)
