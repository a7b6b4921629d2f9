"""Milvus Lite for the contract suite: one server for all tests of a run, a namespace for each."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import tempfile
import uuid
from pathlib import Path

from afterword.index.exact import ExactIndex
from afterword.index.milvus import MilvusIndex
from afterword.index.milvus_lite import LiteProcess
from afterword.ports import Index, Offload, Reads
from afterword.testing import FrozenClock

_held: list[LiteProcess] = []


async def shared_folder() -> Path:
    """A data folder with a server that lives until this process ends."""
    if not _held:
        folder = Path(tempfile.mkdtemp(prefix="afterword-milvus-"))
        process = LiteProcess(folder / "milvus.db", folder)
        await process.address()
        atexit.register(_end, process, folder)
        _held.append(process)
    return _held[0].log.parent


def _end(process: LiteProcess, folder: Path) -> None:
    served = process.served()
    if served is not None:
        os.kill(served.pid, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


async def milvus_lite(reads: Reads, offload: Offload, tmp_path: Path) -> Index:
    """An index on the shared server that shares nothing with others."""
    folder = await shared_folder()
    return MilvusIndex(
        reads,
        uri=str(folder / "milvus.db"),
        token="",
        data_dir=folder,
        offload=offload,
        clock=FrozenClock(),
        lexical=ExactIndex(reads, offload=offload, keep_vectors=False),
        timeout=20.0,
        namespace=uuid.uuid4().hex,
    )
