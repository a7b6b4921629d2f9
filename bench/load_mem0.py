"""mem0's AsyncMemory under the very load that `bench/load.py` puts on ours, in a throw-away environment.

`python bench/load_mem0.py` runs inside that environment, where only mem0ai is installed; it prints a row a line.
Its LLM and its embedder are replaced by ones that sleep as long as ours do and answer in the form that mem0 asks for,
so that neither side pays for HTTP. Telemetry is off. The vector store is its default, Qdrant in this process: in RAM,
because in a folder (`--store folder`) adds at the same time fail ("cannot start a transaction within a transaction"),
and one call at a time, because it is not made for several threads: without the lock (`--store ram`) searches and adds
began to fail with 6 adds in flight, and with 50 all did ("operands could not be broadcast together"). It is filled through `add(infer=False)`, and only what `add` says it wrote is counted as written.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import importlib
import json
import os
import random
import subprocess
import threading
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.load_pace import Pace, sentence, under_writes
from bench.throwaway import environment

READER = "reader"
DIMENSIONS = 384


class Embedder:
    """Stands in for mem0's embedder: sleeps, then gives a vector in which the same words lie in the same places."""

    def __init__(self, config: Any) -> None:
        self.config = config
        self.delay = 0.0

    def embed(self, text: str, memory_action: str | None = None) -> list[float]:
        return self.embed_batch([text])[0]

    def embed_batch(self, texts: list[str], memory_action: str = "add") -> list[list[float]]:
        if self.delay:
            time.sleep(self.delay)
        return [_vector(text) for text in texts]


def _vector(text: str) -> list[float]:
    row = [0.0] * DIMENSIONS
    for word in text.lower().split():
        number = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "big")
        row[(number >> 1) % DIMENSIONS] += 1.0 if number & 1 else -1.0
    length = sum(value * value for value in row) ** 0.5 or 1.0
    return [value / length for value in row]


class LLM:
    """Stands in for mem0's LLM: sleeps, then extracts one memory from what it is asked about."""

    def __init__(self, delay: float) -> None:
        self.delay = delay
        self.running = 0
        self.calls = 0
        self._alone = threading.Lock()

    def generate_response(self, messages: list[dict[str, str]], **_: Any) -> str:
        with self._alone:
            self.running += 1
            self.calls += 1
        try:
            time.sleep(self.delay)
            asked = messages[-1]["content"]
            said = asked[asked.rindex("user: ") + len("user: ") :].splitlines()[0]
            return json.dumps({"memory": [{"id": "0", "text": f"User said: {said}", "attributed_to": "user"}]})
        finally:
            with self._alone:
                self.running -= 1


def qdrant_in_ram(locked: bool) -> Any:
    """A Qdrant client without a server; `locked`: one call at a time."""
    client = importlib.import_module("qdrant_client").QdrantClient
    if not locked:
        return client(":memory:")
    alone = threading.RLock()

    def one_at_a_time(name: str) -> Any:
        def call(self: Any, *args: Any, **more: Any) -> Any:
            with alone:
                return getattr(client, name)(self, *args, **more)

        return call

    calls = ("upsert", "query_points", "query_batch_points", "scroll", "retrieve", "delete", "set_payload", "count")
    methods = {name: one_at_a_time(name) for name in (*calls, "update_vectors", "overwrite_payload")}
    return type("OneAtATime", (client,), methods)(":memory:")


def opened(folder: Path, store_in: str, llm: LLM) -> Any:
    """An AsyncMemory with the stand-ins in place."""
    store: dict[str, Any] = {"collection_name": "load", "path": str(folder / "qdrant"), "on_disk": True}
    if store_in != "folder":
        store = {"collection_name": "load", "client": qdrant_in_ram(store_in == "locked")}
    config = {
        "vector_store": {"provider": "qdrant", "config": {**store, "embedding_model_dims": DIMENSIONS}},
        "llm": {"provider": "openai", "config": {"api_key": "none", "model": "fake"}},
        "embedder": {
            "provider": "openai",
            "config": {"api_key": "none", "model": "fake", "embedding_dims": DIMENSIONS},
        },
        "history_db_path": str(folder / "history.db"),
    }
    memory = importlib.import_module("mem0").AsyncMemory.from_config(config)
    memory.llm = llm
    memory.embedding_model = Embedder(memory.embedding_model.config)
    return memory


async def fill(memory: Any, count: int, seed: int) -> dict[str, Any]:
    chance, began, kept = random.Random(seed), time.perf_counter(), 0
    for number in range(count):
        done = await memory.add(sentence(number, chance), user_id=READER, infer=False)
        kept += len(done["results"])
    return {"memories": kept, "seconds": round(time.perf_counter() - began, 1)}


async def measure(arguments: argparse.Namespace) -> None:
    arguments.folder.mkdir(parents=True, exist_ok=True)
    llm = LLM(arguments.llm_delay)
    memory = opened(arguments.folder, arguments.store, llm)
    filled = await fill(memory, arguments.memories, arguments.seed)
    print(json.dumps({"version": version("mem0ai"), "store": arguments.store, "fill": filled}), flush=True)
    memory.embedding_model.delay = arguments.embed_delay
    pace = Pace(arguments.searches, arguments.every, arguments.warm_up, arguments.seed)

    async def search(query: str) -> int:
        return len((await memory.search(query, filters={"user_id": READER}, top_k=10))["results"])

    async def add(user: str, text: str) -> int:
        return len((await memory.add(text, user_id=user))["results"])

    await search("warm up")
    for in_flight in map(int, arguments.in_flight.split(",")):
        print(json.dumps(await under_writes(search, add, in_flight, pace, lambda: llm.running)), flush=True)


def rows(folder: Path, options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Make the environment in `folder`, run this file in it, and give what it prints, as it comes."""
    python = environment(folder / "venv", "mem0ai")
    private = {name: str(folder / name) for name in ("HOME", "MEM0_DIR")}
    for place in private.values():
        Path(place).mkdir(exist_ok=True)
    root = Path(__file__).resolve().parent.parent
    quiet = {"MEM0_TELEMETRY": "False", "PYTHONPATH": str(root), "PATH": os.environ.get("PATH", "")}
    given = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    command = [str(python), str(Path(__file__).resolve()), f"--folder={folder}", *given]
    own = {**private, **quiet}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=own, cwd=folder) as running:
        assert running.stdout is not None
        for line in running.stdout:
            if line.startswith("{"):
                yield json.loads(line)
    if running.returncode:
        raise SystemExit(f"mem0 under load ended with exit code {running.returncode}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--store", choices=["locked", "ram", "folder"], default="locked")
    parser.add_argument("--memories", type=int, default=10_000)
    parser.add_argument("--in-flight", default="0,6,20,50,200")
    parser.add_argument("--searches", type=int, default=200)
    parser.add_argument("--every", type=float, default=0.05)
    parser.add_argument("--warm-up", type=float, default=3.0)
    parser.add_argument("--llm-delay", type=float, default=1.0)
    parser.add_argument("--embed-delay", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=1)
    asyncio.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
