"""Runs the server: one a data folder, answering from the first moment, stopping in order.

The order of a stop: no new connections; replies are cut and stored, the worker drains, index and ledger close (all of
this is `open_memory`'s exit); then what tabs still hold open is ended.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import sys
import webbrowser
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import uvicorn

from afterword.errors import SettingsError
from afterword.interfaces.guard import check_exposure
from afterword.interfaces.heap import SettledHeap
from afterword.interfaces.holder import MemoryHolder
from afterword.interfaces.one_server import only_server

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from afterword.memory import AsyncMemory
    from afterword.settings import Settings

    Opening = Callable[[Settings], AbstractAsyncContextManager[AsyncMemory]]

GRACE = 2  # seconds; the backstop
TURN = 0.0005  # seconds that a thread may keep the interpreter while others want it
FLUSH = 0.5  # seconds for answers to end by themselves once the memory is closed
PORTS_TRIED = 20
GETTING_READY = """<!doctype html><html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="1">
<meta name="color-scheme" content="light dark"><title>Afterword</title></head>
<body style="font:16px/1.6 system-ui,sans-serif;display:grid;place-items:center;min-height:90vh;text-align:center">
<div><p>Afterword is getting ready. This page opens by itself.</p><p lang="zh">正在准备,页面会自动打开。</p></div>
</body></html>"""
NO_PAGE = "Afterword answers here; there is no page: {reason}.\n"


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's event loop where it is installed, which spares a page about a third of its CPU; else Python's own."""
    return uvicorn.Config("", loop="auto", log_config=None).get_loop_factory()


async def serve(
    settings: Settings,
    *,
    page: bool = True,
    announce: Callable[[str], None] = lambda _: None,
    opening: Opening | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM. `announce` is given the address once the memory is open; `opening` opens it
    (`wiring.open_memory` where None).

    Raises `SettingsError` (exposed without a token, port taken), `LedgerInUse`, and what opening the memory raises.
    """
    check_exposure(settings)
    share_the_interpreter()
    with ExitStack() as stack:
        note_address = (
            stack.enter_context(only_server(settings.data_dir))
            if settings.ledger_url.startswith("sqlite")
            else lambda _: None
        )
        listener = stack.enter_context(_listen(settings))
        address = _address(settings, listener.getsockname()[1])
        note_address(address)
        await _run(settings, listener, page, lambda: _ready(settings, address, announce), opening)


async def _run(
    settings: Settings, listener: socket.socket, page: bool, ready: Callable[[], None], opening: Opening | None
) -> None:
    holder, door = MemoryHolder(), Door()

    async def stop() -> None:
        opened = holder.state == "ok"
        holder.close()
        door.close()
        if not opened:
            house.cancel()  # still importing or opening: there is nothing to end in order
        await asyncio.wait({house})
        await door.empty()

    config = uvicorn.Config(
        door,
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        timeout_graceful_shutdown=GRACE,
    )
    server = _Server(config, stop)
    house = asyncio.create_task(_keep_house(settings, holder, door, page, ready, opening), name="server:house")
    house.add_done_callback(lambda _: setattr(server, "should_exit", True))
    await server.serve(sockets=[listener])
    if not house.cancelled():
        house.result()


async def _keep_house(
    settings: Settings,
    holder: MemoryHolder,
    door: Door,
    page: bool,
    ready: Callable[[], None],
    opening: Opening | None,
) -> None:
    """Build the application and open the memory while the door says "starting"; keep both until the stop."""
    from afterword.wiring import open_memory, warm_models

    app = await asyncio.to_thread(_build, settings, holder, page)
    async with app.router.lifespan_context(app), (opening or open_memory)(settings) as memory:
        heap = SettledHeap()
        with heap.kept():
            holder.set(memory)
            beside = [
                asyncio.create_task(app.state.loop_lag.run(memory.watch.meter), name="server:loop-lag"),
                asyncio.create_task(heap.tidy(lambda: memory.replying), name="server:heap"),
            ]
            door.open(app)
            ready()
            await warm_models(memory)
            await holder.closing.wait()
            for task in beside:
                task.cancel()


def _build(settings: Settings, holder: MemoryHolder, page: bool) -> FastAPI:
    """Imports FastAPI, and Gradio for the page (seconds of work: not on the event loop)."""
    from afterword.interfaces.http import create_app

    app = create_app(holder, settings)
    if page and find_spec("gradio"):
        from afterword.interfaces.page import mount_page

        return mount_page(app, holder.peek, settings)
    reason = "it was not asked for" if not page else "install it with  pip install 'afterword[page]'"

    async def no_page() -> Any:
        from starlette.responses import PlainTextResponse

        return PlainTextResponse(NO_PAGE.format(reason=reason))

    app.add_api_route("/", no_page, include_in_schema=False)
    return app


def share_the_interpreter() -> None:
    """Let threads take turns ten times as often as Python does by itself (5 ms).

    A search crosses between the event loop and threads several times, and where writes keep other threads busy each
    crossing waits for a whole turn of each. Measured with 50 writes in flight on two quiet cores: the slowest twentieth of
    searches took 36 to 49 ms instead of 41 to 54; for the page's first token it makes no difference.
    """
    sys.setswitchinterval(TURN)


class Door:
    """The application from the first moment: says "starting" until the real one is there."""

    def __init__(self) -> None:
        self._app: ASGIApp | None = None
        self._state = "starting"
        self._inside: set[asyncio.Task[object]] = set()

    def open(self, app: ASGIApp) -> None:
        self._app = app

    def close(self) -> None:
        self._state = "stopping"

    async def empty(self) -> None:
        """Let answers end by themselves, for a moment; then end what a tab holds open (heartbeats, event streams)."""
        if self._inside:
            await asyncio.wait(self._inside, timeout=FLUSH)
        for task in list(self._inside):
            task.cancel()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._app is None:
            await self._say_state(scope, send)
            return
        started = False

        async def noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        task = asyncio.current_task()
        assert task is not None
        self._inside.add(task)
        try:
            await self._app(scope, receive, noted)
        except asyncio.CancelledError:
            if self._state != "stopping":
                raise
            task.uncancel()
            if started:
                await send({"type": "http.response.body", "body": b""})
        finally:
            self._inside.discard(task)

    async def _say_state(self, scope: Scope, send: Send) -> None:
        status, kind, body = 503, b"application/json", json.dumps({"status": self._state})
        if scope["path"] == "/" and self._state == "starting":
            status, kind, body = 200, b"text/html; charset=utf-8", GETTING_READY
        headers = [(b"content-type", kind), (b"cache-control", b"no-store"), (b"retry-after", b"1")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body.encode()})


class _Server(uvicorn.Server):
    """Closes the memory between the last new connection and the end of the open ones; ends with exit code 0."""

    def __init__(self, config: uvicorn.Config, before_stop: Callable[[], Awaitable[None]]) -> None:
        super().__init__(config)
        self._before_stop = before_stop

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        await self._before_stop()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        with super().capture_signals():
            try:
                yield
            finally:
                self._captured_signals.clear()  # uvicorn would raise them again, as if nothing had been handled


# ── where it listens ───────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def _listen(settings: Settings) -> Iterator[socket.socket]:
    """A listening socket on the port; where none was named, on the next free one after the usual."""
    named = settings.source("port") != "default"
    last = settings.port if named else settings.port + PORTS_TRIED
    for port in range(settings.port, min(last, 65535) + 1):
        listener = _bound(settings.host, port)
        if listener is not None:
            with listener:
                yield listener
            return
    taken = f"port {settings.port} is" if named else f"ports {settings.port} to {last} are"
    raise SettingsError(f"{taken} taken on {settings.host}: name a free one with --port (0 takes any)")


def _bound(host: str, port: int) -> socket.socket | None:
    name = host.strip("[]")
    try:
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, where = found[0]
        return socket.create_server(where[:2], family=family, backlog=2048)
    except PermissionError:
        raise SettingsError(f"port {port} needs rights that this account lacks: name one above 1023") from None
    except socket.gaierror:
        raise SettingsError(f"host is {host!r}, which is no address of this machine: try 127.0.0.1") from None
    except OSError as error:
        if error.errno in (errno.EADDRINUSE, 10048):  # the second is Windows'
            return None
        raise SettingsError(f"can't listen on {host} port {port}: {error.strerror}; try 127.0.0.1") from None


def _address(settings: Settings, port: int) -> str:
    host = settings.host.strip("[]")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


# ── once it is ready ───────────────────────────────────────────────────────────────────────────────────────────────


def _ready(settings: Settings, address: str, announce: Callable[[str], None]) -> None:
    token = settings.token.get_secret_value()
    announce(f"{address}?token=…  (your token)" if token else address)
    if settings.open_browser and _has_display():
        url = f"{address}?token={quote(token)}" if token else address
        asyncio.get_running_loop().run_in_executor(None, webbrowser.open, url)


def _has_display() -> bool:
    if sys.platform in ("win32", "darwin"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
