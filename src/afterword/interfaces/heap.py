"""Keeps full garbage collections away from people who wait.

With Gradio loaded a full collection walks over a million objects: measured, it holds every thread, and so the event loop,
for 200 to 350 ms. After the start that can be spared by freezing what there is; but every open tab adds thousands of
objects more, and with 500 tabs it was back at 250 ms, every few seconds. So what survives a long collection is frozen too,
and what of that has become garbage since is collected when nobody waits for a reply.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LONG = 0.02  # seconds of a full collection, after which its survivors are frozen
EVERY = 600.0  # seconds between two looks at what is frozen
PATIENCE = 3600.0  # seconds that such a look waits for a quiet moment
NAP = 1.0  # seconds between two tries


class SettledHeap:
    """`with SettledHeap().kept():` while serving; `tidy` as a task beside it."""

    def __init__(self) -> None:
        self._began = 0.0
        self.frozen = 0  # times that survivors were frozen since the last look

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Freeze what start-up made; inside, also what survives a long collection."""
        gc.collect()
        gc.freeze()
        gc.callbacks.append(self._seen)
        try:
            yield
        finally:
            gc.callbacks.remove(self._seen)
            gc.unfreeze()

    async def tidy(self, busy: Callable[[], bool], every: float = EVERY) -> None:
        """For ever: now and then, at a moment when nobody waits, collect what was garbage before it was frozen or became
        it since."""
        while True:
            await asyncio.sleep(every)
            if not self.frozen:
                continue
            until = time.monotonic() + PATIENCE
            while busy() and time.monotonic() < until:  # noqa: ASYNC110  replies end often, nobody tells of each
                await asyncio.sleep(min(NAP, every))
            self.frozen = 0
            gc.unfreeze()
            gc.collect()
            gc.freeze()

    def _seen(self, phase: str, info: dict[str, int]) -> None:
        if info["generation"] < 2:
            return
        if phase == "start":
            self._began = time.perf_counter()
        elif time.perf_counter() - self._began > LONG:
            self.frozen += 1
            gc.freeze()
