"""Milvus as this project needs it: one collection a model, rows of one scope, plain calls that fail in one way.

Everything in which Milvus Lite, a server and Zilliz Cloud differ stands in this file:

- Lite runs as a process of its own, is exact (FLAT) and answers UNIMPLEMENTED after it has made an index; servers
  choose the index themselves (AUTOINDEX is all that Zilliz Cloud takes) and read with Strong consistency, since
  weaker ones miss rows that were just written.
- Lite lets an insert overwrite a key, servers keep both rows: nothing here inserts a key that is there.
- Upsert with a partition key made rows vanish on server 2.3, filter templates fail on Lite: neither is used.
- The async client swallows the errors of a delete, so every delete is by keys that a query found, and is looked up.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio

from afterword.errors import Closed, IndexUnavailable
from afterword.index.milvus_lite import LiteProcess
from afterword.index.milvus_rows import Row, one_of

if TYPE_CHECKING:
    from afterword.ports import Offload, Vector

PREFIX = "afterword_v1_"  # raised when the fields change
BATCH = 100  # rows or keys a call: packing 100 rows holds the loop for a few milliseconds
PAGE = 1000  # rows a query
CONNECT = 5.0  # seconds that a server gets to answer at least, before it is held to be hung
PAUSE = 2.0  # seconds in which a server that was away is not asked again: a reply must not wait for each trial
MOST = 16_384  # what a server returns at most
CLOSING = 5.0  # seconds for a connection to close


def name_prefix(namespace: str) -> str:
    """What our collections' names begin with; ledgers that share a Milvus must have namespaces of their own."""
    return f"{PREFIX}{hashlib.sha256(namespace.encode()).hexdigest()[:8]}_"


def collection_name(namespace: str, model: str) -> str:
    """Where vectors of this model lie."""
    return name_prefix(namespace) + hashlib.sha256(model.encode()).hexdigest()[:16]


def is_remote(uri: str) -> bool:
    """True for a server's address, False for a local path."""
    return uri.startswith(("http://", "https://", "tcp://"))


class MilvusStore:
    """Calls to one Milvus. All raise `IndexUnavailable`; after a failure the next call connects anew.

    `connection` counts the connections made: what was learnt under an earlier one may no longer hold.
    """

    def __init__(
        self, uri: str, *, token: str, data_dir: Path, offload: Offload, timeout: float, namespace: str = ""
    ) -> None:
        self.lite = None if is_remote(uri) else LiteProcess(Path(uri), data_dir)
        self.connection = 0
        self.connect_timeout = max(timeout, CONNECT)
        self._namespace = namespace
        self._uri = uri
        self._token = token
        self._offload = offload
        self._timeout = timeout
        self._client: Any = None
        self._lite_pid = 0
        self._suspect = False
        self._closed = False
        self._ready: set[str] = set()
        self._away: IndexUnavailable | None = None
        self._away_until = 0.0
        self._mending: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Load the client library, which takes 2 s of CPU, and connect."""
        self._milvus: Any = await self._offload.thread(importlib.import_module, "pymilvus")
        self._grpc: Any = importlib.import_module("grpc")
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # it prints a traceback for each error it raises
        await self.connected()

    async def aclose(self) -> None:
        """Close the connection; ends the Lite process if nobody else uses it."""
        self._closed = True
        if self._mending is not None and not self._mending.done():
            self._mending.cancel()
            await asyncio.gather(self._mending, return_exceptions=True)
        with anyio.move_on_after(CLOSING, shield=True):  # a connection to a server that was killed may never close
            await self._disconnect()
        with anyio.CancelScope(shield=True):
            if self.lite is not None:
                await self.lite.aclose()

    # ── collections

    def name(self, model: str) -> str:
        """The collection of a model."""
        return collection_name(self._namespace, model)

    async def names(self) -> list[str]:
        """Our collections. Where Lite can't read what it has, all of it is dropped: the ledger fills it again."""
        try:
            return await self._names()
        except IndexUnavailable as error:
            if self.lite is None or not isinstance(error.__cause__, self._milvus.MilvusException):
                raise
            if self._client is None or await self._silence(self._client):
                raise
            await self._disconnect()
            await self.lite.replace(drop=True)
            return await self._names()

    async def _names(self) -> list[str]:
        async with self._calling("list collections") as client:
            names = await client.list_collections(timeout=self._timeout)
        return [name for name in names if name.startswith(name_prefix(self._namespace))]

    async def exists(self, name: str) -> bool:
        """Whether the collection is there; if so it is loaded."""
        await self.connected()
        if name in self._ready:
            return True
        if name not in await self.names():
            return False
        async with self._calling("load a collection") as client:
            await client.load_collection(name, timeout=self._timeout)
        self._ready.add(name)
        return True

    async def ensure(self, name: str, dimensions: int) -> None:
        """Make the collection; one of other dimensions, or one that can't be loaded, is made anew."""
        try:
            if await self.exists(name) and await self.dimensions(name) == dimensions:
                return
        except IndexUnavailable:
            if self.lite is None:
                raise
        await self.drop(name)
        await self._create(name, dimensions)

    async def drop(self, name: str) -> None:
        self._ready.discard(name)
        if name in await self.names():
            async with self._calling("drop a collection") as client:
                await client.drop_collection(name, timeout=self._timeout)

    async def dimensions(self, name: str) -> int:
        async with self._calling("describe a collection") as client:
            found = await client.describe_collection(name, timeout=self._timeout)
        return next(int(field["params"]["dim"]) for field in found["fields"] if field["name"] == "vector")

    async def _create(self, name: str, dimensions: int) -> None:
        async with self._calling("make a collection") as client:
            schema = self._schema(dimensions)
            await client.create_collection(name, schema=schema, consistency_level="Strong", timeout=self._timeout)
            index = client.prepare_index_params()
            index.add_index("vector", index_type="FLAT" if self.lite else "AUTOINDEX", metric_type="IP")
            try:
                await client.create_index(name, index, timeout=self._timeout)
            except self._grpc.RpcError as error:
                if self.lite is None or error.code() is not self._grpc.StatusCode.UNIMPLEMENTED:
                    raise
            await client.load_collection(name, timeout=self._timeout)
        self._ready.add(name)

    def _schema(self, dimensions: int) -> Any:
        kinds = self._milvus.DataType
        schema = self._milvus.AsyncMilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("key", kinds.VARCHAR, is_primary=True, max_length=160)
        schema.add_field("scope", kinds.VARCHAR, max_length=64, is_partition_key=True)
        # lengths are in bytes: an id has up to 200 characters of up to 4
        for name, length in (("build", 64), ("record", 1024), ("kind", 16), ("chat_id", 1024), ("role", 16)):
            schema.add_field(name, kinds.VARCHAR, max_length=length)
        for name in ("version", "epoch", "said_at"):
            schema.add_field(name, kinds.INT64)
        schema.add_field("vector", kinds.FLOAT_VECTOR, dim=dimensions)
        return schema

    # ── rows

    async def insert(self, name: str, rows: Sequence[Row]) -> None:
        """Insert rows whose keys are not there yet."""
        for start in range(0, len(rows), BATCH):
            async with self._calling("insert") as client:
                await client.insert(name, list(rows[start : start + BATCH]), timeout=self._timeout)

    async def delete(self, name: str, keys: Sequence[str]) -> None:
        """Delete rows by key, and look whether they are gone."""
        for start in range(0, len(keys), BATCH):
            batch = list(keys[start : start + BATCH])
            async with self._calling("delete") as client:
                await client.delete(name, ids=batch, timeout=self._timeout)
            if await self.query(name, one_of("key", batch), ("key",)):
                raise IndexUnavailable("Milvus did not delete rows that it was told to", fix=self._fix)

    async def delete_where(self, name: str, where: str) -> None:
        """Delete what a filter finds: keys are looked up first."""
        while found := await self.query(name, where, ("key",), limit=PAGE):
            await self.delete(name, [row["key"] for row in found])

    async def query(self, name: str, where: str, fields: Sequence[str], *, limit: int = MOST) -> list[Row]:
        async with self._calling("query") as client:
            return [
                dict(row)
                for row in await client.query(
                    name, filter=where, output_fields=list(fields), limit=limit, timeout=self._timeout
                )
            ]

    async def count(self, name: str, where: str) -> int:
        async with self._calling("count") as client:
            found = await client.query(name, filter=where, output_fields=["count(*)"], timeout=self._timeout)
        return int(found[0]["count(*)"])

    async def search(
        self, name: str, vector: Vector, where: str, fields: Sequence[str], limit: int, *, settled: bool
    ) -> list[Row]:
        """The nearest rows with their inner product as `score`, best first.

        `settled`: nothing that matters was written in the last seconds. On a server a Strong read waits about 0.2 s,
        a Bounded one may miss the last 5 s.
        """
        async with self._calling("search") as client:
            found = await client.search(
                name,
                data=[vector],
                filter=where,
                limit=min(limit, MOST),
                output_fields=list(fields),
                search_params={"metric_type": "IP"},
                consistency_level="Bounded" if settled else "Strong",
                timeout=self._timeout,
            )
        return [{**hit["entity"], "score": float(hit["distance"])} for hit in found[0]]

    # ── the connection

    @property
    def _fix(self) -> str:
        where = self.lite.log if self.lite else self._uri
        return f"Look at {where}; if rows are damaged, run `afterword reindex`."

    async def connected(self) -> Any:
        """The client. A caller that gives up leaves the connecting going on, so that a later one finds it done."""
        if self._closed:
            raise Closed("the index was closed")
        if self._client is not None and not self._suspect and self._same_process():
            return self._client
        if self._away is not None and asyncio.get_running_loop().time() < self._away_until:
            raise IndexUnavailable(str(self._away), fix=self._away.fix)
        if self._mending is None or self._mending.done():
            self._mending = asyncio.create_task(self._mend())
            # a caller that gave up is no longer there to see the error
            self._mending.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.shield(self._mending)
        return self._client

    def _same_process(self) -> bool:
        served = self.lite.served() if self.lite else None
        return (served.pid if served else 0) == self._lite_pid

    async def _mend(self) -> None:
        if self._client is not None and self._same_process() and not await self._silence(self._client):
            self._suspect = False
            return
        await self._disconnect()
        try:
            await self._connect()
        except IndexUnavailable as error:
            self._away, self._away_until = error, asyncio.get_running_loop().time() + PAUSE
            raise
        self._suspect, self._away = False, None

    async def _silence(self, client: Any) -> str:
        """Why the server does not answer; empty when it does."""
        try:
            await client.get_server_version(timeout=self.connect_timeout)
        except (self._milvus.MilvusException, self._grpc.RpcError, TimeoutError, OSError, ValueError) as error:
            return _cause(error) or type(error).__name__
        return ""

    async def _connect(self) -> None:
        for attempt in (1, 2):
            uri = self._uri if self.lite is None else await self.lite.address()
            # dedicated: a connection shared with other clients of the process would be closed under our feet
            client = self._milvus.AsyncMilvusClient(
                uri, token=self._token, dedicated=True, timeout=self.connect_timeout
            )
            cause = await self._silence(client)
            if not cause:
                break
            await client.close()
            if self.lite is None or attempt == 2:
                raise IndexUnavailable(f"Milvus at {uri} does not answer: {cause}", fix=self._connect_fix)
            await self.lite.replace()
        self._client = client
        self.connection += 1
        served = self.lite.served() if self.lite else None
        self._lite_pid = served.pid if served else 0

    @property
    def _connect_fix(self) -> str:
        return "Start it, or check AFTERWORD_MILVUS_URI and AFTERWORD_MILVUS_TOKEN."

    async def _disconnect(self) -> None:
        client, self._client = self._client, None
        self._ready.clear()
        if client is not None:
            await client.close()

    @asynccontextmanager
    async def _calling(self, what: str) -> AsyncIterator[Any]:
        client = await self.connected()
        try:
            yield client
        except (self._milvus.MilvusException, self._grpc.RpcError, OSError, ValueError) as error:
            # the grpc channel raises ValueError once it is closed
            self._suspect = True
            self._ready.clear()
            raise IndexUnavailable(f"Milvus could not {what}: {_cause(error)}", fix=self._fix) from error
        except BaseException:
            self._suspect = True  # a deadline of the caller's: the server may hang
            raise


def _cause(error: Exception) -> str:
    message = getattr(error, "message", "") or getattr(error, "details", lambda: "")() or str(error)
    return " ".join(str(message).split())[:300]
