"""Keeps what was embedded once on disk: benchmarks embed the same texts again and again."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from afterword.ports import Embedder, Vector, Vectors

_SCHEMA = "CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, vector BLOB NOT NULL) WITHOUT ROWID"
_WAIT = 30.0  # seconds for another process's write


class CachedEmbedder:
    """An `Embedder` that asks `inner` only for what `folder` does not hold yet. Keys are hashes of model, prefix, text.

    Several processes may share the folder. The texts themselves are not kept.
    """

    def __init__(self, inner: Embedder, folder: Path) -> None:
        self._inner = inner
        self._folder = folder
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    @property
    def model(self) -> str:
        return self._inner.model

    @property
    def max_tokens(self) -> int:
        return self._inner.max_tokens

    async def query(self, text: str) -> Vector:
        key = self._key("query", text)
        known = await asyncio.to_thread(self._read, [key])
        if key not in known:
            known[key] = await self._inner.query(text)
            await asyncio.to_thread(self._write, {key: known[key]})
        return known[key]

    async def passages(self, texts: Sequence[str]) -> Vectors:
        keys = [self._key("passage", text) for text in texts]
        known = await asyncio.to_thread(self._read, keys)
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        if missing or not texts:
            made = await self._inner.passages(list(missing.values()))
            if not texts:
                return made
            fresh = dict(zip(missing, made, strict=True))
            await asyncio.to_thread(self._write, fresh)
            known |= fresh
        return np.stack([known[key] for key in keys])

    async def aclose(self) -> None:
        await asyncio.to_thread(self._close)
        await self._inner.aclose()

    def _key(self, prefix: str, text: str) -> bytes:
        digest = hashlib.sha256()
        for part in (self._inner.model, prefix, text):
            digest.update(part.encode("utf-8", "surrogatepass") + b"\0")
        return digest.digest()

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / "vectors.db"
            self._connection = sqlite3.connect(path, timeout=_WAIT, check_same_thread=False, isolation_level=None)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute(_SCHEMA)
        return self._connection

    def _read(self, keys: Sequence[bytes]) -> dict[bytes, Vector]:
        with self._lock:
            connection = self._opened()
            found: dict[bytes, Vector] = {}
            for key in keys:
                row = connection.execute("SELECT vector FROM vectors WHERE key = ?", (key,)).fetchone()
                if row:
                    found[key] = np.frombuffer(row[0], dtype="<f4").astype(np.float32)
            return found

    def _write(self, vectors: dict[bytes, Vector]) -> None:
        rows = [(key, vector.astype("<f4").tobytes()) for key, vector in vectors.items()]
        with self._lock, self._opened() as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?)", rows)

    def _close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
