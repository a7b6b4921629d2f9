"""What the server takes out of the garbage collector's sight, and what becomes of it."""

from __future__ import annotations

import asyncio
import gc
import weakref

import anyio
import pytest

from afterword.interfaces import heap as heaps
from afterword.interfaces.heap import SettledHeap

pytestmark = pytest.mark.anyio


class Ring:
    """Garbage that only the collector can take away."""

    def __init__(self) -> None:
        self.own = self


def test_what_start_up_made_is_frozen_while_it_serves_and_not_longer() -> None:
    before = gc.get_freeze_count()
    with SettledHeap().kept():
        assert gc.get_freeze_count() > before
    assert gc.get_freeze_count() == 0


def test_what_survives_a_long_collection_is_frozen_too(monkeypatch: pytest.MonkeyPatch) -> None:
    heap = SettledHeap()
    with heap.kept():
        kept = [Ring() for _ in range(100)]
        gc.collect()
        assert heap.frozen == 0, "it was short"
        monkeypatch.setattr(heaps, "LONG", -1.0)
        count = gc.get_freeze_count()
        gc.collect()
        assert heap.frozen == 1
        assert gc.get_freeze_count() >= count + len(kept)


async def test_what_became_garbage_after_it_was_frozen_is_collected_when_nobody_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(heaps, "LONG", -1.0)
    heap, waits = SettledHeap(), True
    with heap.kept():
        ring, taken = Ring(), asyncio.Event()
        gone = weakref.ref(ring, lambda _: taken.set())
        gc.collect()
        del ring
        gc.collect()
        assert gone() is not None, "frozen"
        tidying = asyncio.create_task(heap.tidy(lambda: waits, every=0.01))
        await asyncio.sleep(0.05)
        assert gone() is not None, "somebody waits for a reply"
        waits = False
        with anyio.fail_after(10):
            await taken.wait()
        tidying.cancel()
