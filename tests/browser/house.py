"""A real server with a scripted LLM in a thread of its own, and a real Chromium to visit it with."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar, cast

import uvicorn
from playwright.sync_api import Browser, BrowserContext, Page, Request, sync_playwright

from afterword.errors import IndexUnavailable
from afterword.interfaces.http import create_app
from afterword.interfaces.page import mount_page
from afterword.memory import AsyncMemory
from afterword.plan import Insert, Plan
from afterword.ports import Candidates, Index, Query
from afterword.records import Scope
from afterword.settings import Settings
from afterword.testing import ScriptedLLM
from afterword.wiring import Around, open_memory

T = TypeVar("T")
FLAGS = [
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
AT_HOME = re.compile(r"(https?://127\.0\.0\.1[:/]|data:|blob:|about:)")
PATIENCE = 10_000  # milliseconds


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()


class _Breakable:
    """An index that is away while the house says so."""

    def __init__(self, index: Index, house: House) -> None:
        self._index = index
        self._house = house

    def __getattr__(self, name: str) -> Any:
        return getattr(self._index, name)

    async def search(self, scope: Scope, query: Query) -> Candidates:
        if self._house.index_away:
            raise IndexUnavailable("the index is away")
        return await self._index.search(scope, query)


class House:
    """The server. `run` does something on its loop and waits for it."""

    def __init__(self, folder: Path) -> None:
        self.llm = ScriptedLLM()
        self.address = ""
        self.index_away = False
        self.ready = True  # False: the page finds no memory, as while it is being opened
        self.memory: AsyncMemory
        self._settings = Settings(
            data_dir=folder,
            embedder="none",
            debounce=0.0,
            debounce_most=0.0,
            timezone="UTC",
            consolidate_cron="",
            consolidate_chunk=2,
            recall_deadline=5.0,
        )
        self._up = threading.Event()
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._main, name="house")

    def __enter__(self) -> House:
        self._thread.start()
        assert self._up.wait(60), "the server did not come up"
        if self._failed is not None:
            raise self._failed
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)

    def run(self, work: Coroutine[Any, Any, T], seconds: float = 20) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(seconds)

    def until(self, user: str, look: Callable[[], Awaitable[T]], seconds: float = 20) -> T:
        """What `look` gives once that is true, looked at after each change of this user's data."""

        async def wait() -> T:
            async for _ in self.memory.events(user):
                if found := await look():
                    return found
            raise AssertionError("unreachable")

        return self.run(wait(), seconds)

    async def elsewhere(self, user: str, text: str) -> None:
        """A memory that another process writes: it has the same ledger, and tells nobody here."""
        wrote = Insert("episodic", text, datetime.now(UTC), 0, (), "import")
        async with open_memory(self._settings, llm=self.llm, run_worker=False) as other:
            await other.ledger.edit(other.scope(user), Plan((wrote,)))

    def _peek(self) -> AsyncMemory | None:
        return self.memory if self.ready else None

    def _main(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._failed = error
            raise
        finally:
            self._up.set()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        around = Around(index=lambda index: cast("Index", _Breakable(index, self)))
        async with open_memory(self._settings, llm=self.llm, around=around) as self.memory:
            app = mount_page(create_app(self.memory, self._settings), self._peek, self._settings)
            config = uvicorn.Config(app, port=0, lifespan="on", log_config=None, timeout_graceful_shutdown=1)
            server = _Server(config)
            serving = asyncio.create_task(server._serve())
            await server.listening.wait()
            self.address = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
            self._up.set()
            await self._stop.wait()
            server.should_exit = True
            await serving


class Visitor:
    """One person's browser profile. Remembers what their pages asked for elsewhere, and what broke in them."""

    def __init__(self, context: BrowserContext, address: str, user: str) -> None:
        self.context = context
        self.address = address
        self.strayed: list[str] = []
        self.broke: list[str] = []
        context.set_default_timeout(PATIENCE)
        context.add_init_script(
            "if (location.protocol === 'http:' && !localStorage.getItem('afterword.user'))"
            f" localStorage.setItem('afterword.user', {json.dumps(json.dumps(user))});"
        )
        context.on("request", lambda r: None if AT_HOME.match(r.url) else self.strayed.append(r.url))
        context.on("requestfailed", self._failed)
        context.on("weberror", lambda e: self.broke.append(str(e.error)))

    def _failed(self, request: Request) -> None:
        if request.failure == "csp":  # the browser refused it before it left
            self.strayed.remove(request.url)

    def open(self, *, ready: bool = True) -> Page:
        """A tab with the page in it; `ready` waits until it can be used."""
        page = self.context.new_page()
        page.goto(self.address, wait_until="domcontentloaded")
        if not ready:
            return page
        page.wait_for_selector(".aw[data-ready=yes]")
        return page


@contextmanager
def chromium() -> Iterator[Browser]:
    """Chromium as the system has it. Fails clearly where there is none."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        raise RuntimeError("no Chromium: apt-get install -y --no-install-recommends chromium fonts-noto-cjk")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


def artefact(name: str) -> Path:
    """Where a picture of this run goes."""
    default = Path(__file__).parents[2] / "artefacts"
    folder = Path(os.environ.get("AFTERWORD_ARTEFACTS") or default)
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}.png"
