"""Milvus loses what it acknowledged after a full disk: the ledger has it all, and it is written again."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

import anyio
import pytest

from afterword.errors import IndexUnavailable
from afterword.index.milvus import MilvusIndex
from tests.test_milvus import ANN, NAME, Shadow, dense, entry, lite_of, opened, query, rows, shadow

pytestmark = pytest.mark.anyio
__all__ = ["shadow"]


async def test_rows_that_a_killed_server_lost_are_written_again_though_nobody_writes(
    tmp_path: Path,
    shadow: Shadow,
) -> None:
    shadow.put(ANN, *(entry(name, axis) for axis, name in enumerate("abcd", 1)))
    async with opened(shadow, tmp_path) as index:
        await index.project(ANN)
        assert len(await rows(index, ANN)) == 4
        # as if the log's end had not reached the disk
        await index.store.delete_where(NAME, 'record in ["b", "c", "d"] and kind != "mark"')
        served = lite_of(index).served()
        assert served is not None
        os.kill(served.pid, signal.SIGKILL)
        with anyio.fail_after(60):
            await searched(index)  # nothing else
            while len(await rows(index, ANN)) < 4:  # noqa: ASYNC110 - another process has no event to wait for
                await anyio.sleep(0.05)
            await found(index, "c", 3)


async def searched(index: MilvusIndex) -> None:
    """Search until the server that was started anew answers."""
    while True:
        with suppress(IndexUnavailable):
            assert dense(await index.search(ANN, query(1)))["a"] == 1.0
            return
        await anyio.sleep(0.05)


async def found(index: MilvusIndex, name: str, axis: int) -> None:
    """Search until it is found by meaning: Lite may count a row a moment before it finds it."""
    while True:
        if dense(await index.search(ANN, query(axis))).get(name) == 1.0:
            return
        await anyio.sleep(0.05)
