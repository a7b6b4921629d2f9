"""Servers that die and are started again, and the fake LLM they all speak to."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from afterword.testing import FakeOpenAI
from bench.crash_server import Order
from bench.random_llm import RandomLLM
from bench.traffic import Died

ROOT = Path(__file__).resolve().parent.parent
LEASE = 2.0  # seconds: how long a killed server's jobs wait for the next one
STEP = 5.0  # seconds
STEPS = 24  # that are waited for a server. Counted, so that a campaign that was suspended itself goes on
LOOKS = 1200  # at what is left to do, 0.05 s apart


@dataclass
class Life:
    """One server process, from its start to its end."""

    pid: int
    started: float
    ready: float | None = None  # seconds that it took
    address: str = ""
    dead: asyncio.Event = field(default_factory=asyncio.Event)
    by: int = 0  # the signal that ended it

    def kill(self, number: int = signal.SIGKILL) -> None:
        if not self.dead.is_set():
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)


class House:
    """Starts one server after another, each forked from a process that has only imported (`crash_server`)."""

    def __init__(self, llm: FakeOpenAI, *, cold: bool = False, log: Path | None = None) -> None:
        self._llm = llm
        self._cold = cold
        self._log = log or Path(os.devnull)
        self._parent: asyncio.subprocess.Process | None = None
        self._begun = 0.0
        self._life: Life | None = None
        self._waiter: asyncio.Task[None] | None = None

    async def start(self, order: Order) -> Life:
        """A server that is ready, or dead already. `cold`: with a parent of its own, so that its imports count."""
        if self._cold or self._parent is None:
            await self.aclose()
            self._begun = time.monotonic()
            await self._start_parent()
        parent = self._parent
        assert parent is not None
        assert parent.stdin is not None
        begun = self._begun if self._cold else time.monotonic()
        parent.stdin.write(order.line().encode())
        await parent.stdin.drain()
        life = self._life = Life(int((await self._heard())["started"]), begun)
        told = await self._heard()
        if "failed" in told:
            raise RuntimeError(f"the server did not start: {told['failed']}")
        if "ready" in told:
            life.ready, life.address = time.monotonic() - begun, told["ready"]
            self._waiter = asyncio.create_task(self._wait(life))
        else:
            self._died(life, told)
        return life

    async def _wait(self, life: Life) -> None:
        told = await self._heard(None)
        self._died(life, told)

    def _died(self, life: Life, told: dict[str, Any]) -> None:
        life.by = int(told.get("signal", 0))
        life.dead.set()

    async def _start_parent(self) -> None:
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("AFTERWORD_", "OPENAI_"))
        }
        with self._log.open("a") as log:
            self._parent = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "bench.crash_server",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env={**environment, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                cwd=ROOT,
            )
        await self._heard()

    async def _heard(self, steps: int | None = STEPS) -> dict[str, Any]:
        assert self._parent is not None
        assert self._parent.stdout is not None
        line = b""
        for number in itertools.count(1):
            with suppress(TimeoutError):
                async with asyncio.timeout(STEP):
                    line = await self._parent.stdout.readline()
                break
            if number == steps:
                raise RuntimeError(f"a server says nothing; see {self._log}")
        if not line:
            raise RuntimeError(f"the servers' parent died; see {self._log}")
        heard: dict[str, Any] = json.loads(line)
        return heard

    async def aclose(self) -> None:
        if self._life is not None:
            self._life.kill()
        if self._waiter is not None:
            self._waiter.cancel()
        if self._parent is not None and self._parent.stdin is not None:
            self._parent.stdin.close()
            with suppress(TimeoutError):
                async with asyncio.timeout(10):
                    await self._parent.wait()
            if self._parent.returncode is None:
                self._parent.kill()
                await self._parent.wait()
            self._parent = None

    def settings(self, folder: Path, *, embed: str = "embed-a", llm: bool = True, **more: Any) -> dict[str, Any]:
        """Of a server on this folder: no debounce, a short lease, everything fake."""
        models = {"embedder": "openai", "embed_base_url": self._llm.base_url, "embed_model": embed}
        if llm:
            models |= {"llm_base_url": self._llm.base_url, "llm_model": "fake"}
        waits = {"debounce": 0, "debounce_most": 0, "drain_deadline": 0.5, "lease": LEASE, "consolidate_cron": ""}
        waits |= {"recall_deadline": 20.0}
        rates = {"backfill_per_minute": 1_000_000, "log_level": "warning"}
        return {"data_dir": str(folder), "port": 0, "open_browser": False, **models, **waits, **rates, **more}


@asynccontextmanager
async def furnished(
    rng: random.Random, *, cold: bool = False, log: Path | None = None
) -> AsyncIterator[tuple[House, FakeOpenAI, RandomLLM]]:
    """A house with its fake LLM."""
    async with FakeOpenAI() as server:
        llm = RandomLLM(rng)
        llm.speak_for(server)
        house = House(server, cold=cold, log=log)
        try:
            yield house, server, llm
        finally:
            await house.aclose()


@asynccontextmanager
async def reached(life: Life) -> AsyncIterator[httpx.AsyncClient]:
    """A client of this server."""
    async with httpx.AsyncClient(base_url=life.address, timeout=None, trust_env=False) as client:
        yield client


async def until_dead(life: Life, work: Callable[[], Awaitable[None]], patience: float) -> bool:
    """Do the work, again and again, until the server dies; whether it died by itself within this many seconds."""

    async def on_and_on() -> None:
        with suppress(Died):
            while not life.dead.is_set():
                await work()
        await life.dead.wait()

    try:
        async with asyncio.timeout(patience):
            await on_and_on()
    except TimeoutError:
        life.kill()
        await life.dead.wait()
        return False
    return True


async def drained(life: Life, client: httpx.AsyncClient) -> None:
    """Until no job waits or runs, or it has been looked at often enough."""
    for _ in range(LOOKS):
        status = (await client.get("/api/status")).json()
        if life.dead.is_set() or (not status["waiting"] and not status["running"]):
            return
        await asyncio.sleep(0.05)


async def died(life: Life) -> None:
    """Wait for the end of a server that was told to end."""
    for _ in range(STEPS):
        with suppress(TimeoutError):
            async with asyncio.timeout(STEP):
                await life.dead.wait()
            return
    raise RuntimeError("a server does not end")
