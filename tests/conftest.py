"""What every test has: one event loop backend, a tripwire against the network, and a memory to open."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from afterword.memory import AsyncMemory
from afterword.settings import Settings
from afterword.testing import ScriptedLLM, no_network
from afterword.wiring import open_memory

OpenMemory = Callable[..., Awaitable[AsyncMemory]]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _tripwire() -> Iterator[None]:
    with no_network():
        yield


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        data_dir=tmp_path / "data",
        embedder="none",
        debounce=0.0,
        debounce_most=0.0,
        timezone="UTC",
        consolidate_cron="",
        recall_deadline=5.0,
    )


@pytest.fixture
async def opened(settings: Settings) -> AsyncIterator[OpenMemory]:
    """Opens memories that are closed at the end: `await opened(llm=…, debounce=…)`."""
    async with AsyncExitStack() as stack:

        async def opening(
            *, llm: Any = None, embedder: Any = None, run_worker: bool = True, **flags: Any
        ) -> AsyncMemory:
            chosen = settings.model_copy(update=flags)
            parts = {"llm": llm or ScriptedLLM(), "embedder": embedder, "run_worker": run_worker}
            return await stack.enter_async_context(open_memory(chosen, **parts))

        yield opening
