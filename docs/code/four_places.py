"""The four places where a call can go: the loop, a thread, a process, behind the reply."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class Place(NamedTuple):
    """Where a piece of code ran."""

    pid: int
    thread: str


def here() -> Place:
    return Place(os.getpid(), threading.current_thread().name)


def count_primes(below: int) -> tuple[int, Place]:
    """Pure Python: it holds the GIL from beginning to end."""
    return sum(all(n % d for d in range(2, int(n**0.5) + 1)) for n in range(2, below)), here()


def old_driver(query: str) -> tuple[str, Place]:
    """A client that only blocks. While it waits it holds no GIL."""
    time.sleep(0.01)
    return query.upper(), here()


# region: places
class Offload:
    """A bounded pool for each thing that blocks, so that a slow one takes no thread from another."""

    def __init__(self) -> None:
        self.driver = ThreadPoolExecutor(4, thread_name_prefix="driver")
        # spawn: a forked child would inherit the locks that our threads hold at that moment
        self.crunch = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))

    async def in_thread(self, function: Callable[[str], T], argument: str, limit: float) -> T:
        """For what waits or releases the GIL. A time-out frees the caller; the thread goes on to its end."""
        loop = asyncio.get_running_loop()
        return await asyncio.wait_for(loop.run_in_executor(self.driver, function, argument), limit)

    async def in_process(self, function: Callable[[int], T], argument: int) -> T:
        """For Python that computes for over 10 ms. Function and arguments are pickled: hand over little."""
        return await asyncio.get_running_loop().run_in_executor(self.crunch, function, argument)

    def close(self) -> None:
        self.driver.shutdown(wait=False, cancel_futures=True)
        self.crunch.shutdown()


# endregion
