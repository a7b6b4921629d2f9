"""Components of other people that only block: each runs in a bounded thread pool of its own.

A slow one fills its own pool and waits there; it takes no thread from another, and none from the event loop.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Protocol, TypeVar, TypeVarTuple

from afterword.errors import EmbedderUnavailable, LLMUnavailable, Outage
from afterword.ports import Message, Prompt

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from afterword.records import Json

T = TypeVar("T")
Args = TypeVarTuple("Args")
THREADS = 4


class BlockingLLM(Protocol):
    """What an LLM of somebody's own has to have: one blocking method that gives the pieces of an answer.

    `schema` is the JSON schema that the answer should follow (None: plain text).
    """

    model: str

    def generate(self, messages: Sequence[Message], schema: Json | None) -> Iterable[str]: ...


class BlockingEmbedder(Protocol):
    """What an embedder of somebody's own has to have: one blocking method, one vector a text."""

    model: str

    def embed(self, texts: Sequence[str]) -> Sequence[Sequence[float]]: ...


class BlockingMemory(Protocol):
    """What a memory of somebody's own has to have."""

    def add(self, text: str, user_id: str) -> object: ...

    def search(self, query: str, user_id: str) -> Sequence[object]: ...


class Pool:
    """Calls blocking functions in at most `threads` threads. Whatever they raise becomes `outage`."""

    def __init__(self, name: str, outage: type[Outage], threads: int = THREADS) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=f"afterword-{name}")
        self._outage = outage
        self._name = name

    async def call(self, function: Callable[[*Args], T], *args: *Args) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, function, *args)
        except Exception as error:  # the edge to somebody's own code: whatever it raises
            raise self._outage(f"the {self._name} that was handed in failed: {error}", said=str(error)) from error

    def close(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)


class ThreadedLLM:
    """`ports.LLM` over a `BlockingLLM`. Leaving a stream early ends it at its next piece."""

    quotes = False

    def __init__(self, inner: BlockingLLM, threads: int = THREADS) -> None:
        self._inner = inner
        self._pool = Pool("llm", LLMUnavailable, threads)

    @property
    def model(self) -> str:
        return self._inner.model

    async def stream(self, prompt: Prompt) -> AsyncGenerator[str, None]:
        """The pieces, handed over from the thread that makes them; at most 64 wait to be taken."""
        loop = asyncio.get_running_loop()
        pieces: queue.Queue[str | None] = queue.Queue(maxsize=64)
        arrived, left = asyncio.Event(), threading.Event()

        def produce() -> None:
            try:
                for piece in self._inner.generate(prompt.messages, None):
                    _put(pieces, piece, left)
                    if left.is_set():
                        return
                    loop.call_soon_threadsafe(arrived.set)
            finally:
                _put(pieces, None, left)
                loop.call_soon_threadsafe(arrived.set)

        made = asyncio.ensure_future(self._pool.call(produce))
        with ExitStack() as leaving:
            leaving.callback(left.set)
            while True:
                await arrived.wait()
                arrived.clear()
                while not pieces.empty():
                    piece = pieces.get_nowait()
                    if piece is None:
                        await made
                        return
                    yield piece

    async def complete(self, messages: Sequence[Message], *, schema: Json, max_tokens: int) -> str:
        return await self._pool.call(lambda: "".join(self._inner.generate(messages, schema)))

    async def aclose(self) -> None:
        self._pool.close()


def _put(pieces: queue.Queue[str | None], piece: str | None, left: threading.Event) -> None:
    while not left.is_set():
        try:
            pieces.put(piece, timeout=0.1)
        except queue.Full:
            continue
        return


class ThreadedEmbedder:
    """`ports.Embedder` over a `BlockingEmbedder`. Queries have a thread that passages never take."""

    def __init__(self, inner: BlockingEmbedder, max_tokens: int = 512, threads: int = 2) -> None:
        self._inner = inner
        self.max_tokens = max_tokens
        self._queries = Pool("embedder-query", EmbedderUnavailable, 1)
        self._passages = Pool("embedder", EmbedderUnavailable, threads)

    @property
    def model(self) -> str:
        return self._inner.model

    async def query(self, text: str) -> npt.NDArray[np.float32]:
        vector: npt.NDArray[np.float32] = (await self._queries.call(self._embed, [text]))[0]
        return vector

    async def passages(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        return await self._passages.call(self._embed, list(texts))

    def _embed(self, texts: list[str]) -> npt.NDArray[np.float32]:
        import numpy as np  # noqa: PLC0415  (loaded when an embedder is used, not with the library)

        made = np.asarray(self._inner.embed(texts), dtype=np.float32)
        if made.ndim != 2 or len(made) != len(texts) or not np.isfinite(made).all():
            raise EmbedderUnavailable(f"{len(texts)} texts gave vectors of shape {made.shape}, or not finite")
        unit: npt.NDArray[np.float32] = made / np.maximum(np.linalg.norm(made, axis=1, keepdims=True), 1e-12)
        return unit

    async def aclose(self) -> None:
        self._queries.close()
        self._passages.close()


class ThreadedMemory:
    """Somebody's own blocking memory, awaitable: reads never wait behind writes."""

    def __init__(self, inner: BlockingMemory, threads: int = THREADS) -> None:
        self._inner = inner
        self._searches = Pool("memory-search", Outage, threads)
        self._writes = Pool("memory-add", Outage, threads)

    async def search(self, query: str, user_id: str) -> Sequence[object]:
        return await self._searches.call(self._inner.search, query, user_id)

    async def add(self, text: str, user_id: str) -> object:
        return await self._writes.call(self._inner.add, text, user_id)

    async def aclose(self) -> None:
        self._searches.close()
        self._writes.close()
