"""CPU work off the event loop, and the real clock."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar, TypeVarTuple

T = TypeVar("T")
Args = TypeVarTuple("Args")


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Pools:
    """Two bounded pools: threads for work that releases the GIL, one spawned process for work that holds it.

    The process starts when it is first needed and is made again if it was killed. Where it would run the caller's own
    script once more (`_may_spawn`) a thread does its work.
    """

    def __init__(self, threads: int = 2) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="afterword-cpu")
        self._processes: ProcessPoolExecutor | None = None

    async def thread(self, function: Callable[[*Args], T], *args: *Args) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)

    async def process(self, function: Callable[[*Args], T], *args: *Args) -> T:
        if not _may_spawn():
            return await self.thread(function, *args)
        loop = asyncio.get_running_loop()
        for attempt in (1, 2):
            if self._processes is None:
                # spawn: a forked child would inherit locks that threads of ours hold
                spawn = multiprocessing.get_context("spawn")
                self._processes = ProcessPoolExecutor(1, mp_context=spawn, initializer=_end_with_the_parent)
            try:
                return await loop.run_in_executor(self._processes, function, *args)
            except BrokenExecutor:
                self._processes = None
                if attempt == 2:
                    raise
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Wait for nothing: work that is still queued is dropped."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._processes is not None:
            self._processes.shutdown(wait=False, cancel_futures=True)


def _may_spawn() -> bool:
    """Whether a spawned process leaves the main program alone.

    It imports the file that Python was started with: a script without `if __name__ == "__main__":`, as most are that use
    a library, would run again from its top. Our own command has that line, a session at the prompt and `python -m
    package` are not imported.
    """
    main = sys.modules["__main__"]
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if spec is not None:
        return bool(spec.name.endswith(".__main__"))
    return file is None or Path(file).stem == "afterword"


def _end_with_the_parent() -> None:
    """In the pool's process: it holds both ends of its queue, so it would wait for ever for a parent that was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_outlive_nobody, args=(parent.join,), daemon=True).start()


def _outlive_nobody(parent_ended: Callable[[], None]) -> None:
    parent_ended()
    os._exit(1)
