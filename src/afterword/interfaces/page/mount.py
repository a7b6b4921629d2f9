"""Mounts the page on a FastAPI app, with the guards that keep every request at home."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastapi import FastAPI
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from afterword.memory import AsyncMemory
    from afterword.settings import Settings

# A reply is written by a model that read whatever people told it: a picture's address in it would carry memories to
# another host the moment it is shown. So the browser is told to talk to this server alone. Gradio compiles handlers
# in the browser, hence the two `unsafe` words; text is escaped before it becomes HTML.
POLICY = "; ".join((
    "default-src 'self' data: blob:",
    "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
    "style-src 'self' 'unsafe-inline'",
    "object-src 'none'",
    "form-action 'none'",
    "base-uri 'self'",
    "frame-ancestors 'none'",
))  # fmt: skip


def mount_page(app: FastAPI, memory: Callable[[], AsyncMemory | None], settings: Settings, path: str = "/") -> FastAPI:
    """Mount the chat page at `path` of `app`, after all other routes of it. Loads Gradio (some seconds).

    `memory` returns None until the memory is open; the page says so meanwhile and comes alive by itself.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    # After every event Gradio sums up all events so far with pandas, for a dashboard that is not shown here.
    os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", str(10**9))
    os.environ.setdefault("GRADIO_ANALYTICS_MAX_EVENTS", "1")
    if find_spec("matplotlib") is None:
        # Gradio tries to import it around every update, and a module that is not there is looked for on the disk each
        # time: this says once that there is none.
        sys.modules.setdefault("matplotlib", None)  # type: ignore[arg-type]
    import gradio as gr

    from afterword.interfaces.page.layout import HEAD, STYLE, THEME, build

    app.add_middleware(_StayAtHome)
    mounted: FastAPI = gr.mount_gradio_app(
        app,
        build(memory, settings),
        path,
        footer_links=[],
        run_history=False,
        show_error=True,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        pwa=False,
        theme=THEME,
        css=STYLE,
        head=HEAD,
    )
    return mounted


class _StayAtHome:
    """Adds the content policy to every HTML page."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start" and _is_html(message):
                message["headers"] = [
                    *message["headers"],
                    (b"content-security-policy", POLICY.encode()),
                    (b"referrer-policy", b"no-referrer"),
                ]
            await send(message)

        await self._app(scope, receive, guarded if scope["type"] == "http" else send)


def _is_html(message: Message) -> bool:
    return any(name == b"content-type" and value.startswith(b"text/html") for name, value in message["headers"])
