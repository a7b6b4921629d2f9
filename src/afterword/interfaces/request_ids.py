"""Each request has an id: in every log line that it causes, and in its answer's header `X-Request-Id`.

A caller's own id is taken where it is short and plain, so that a proxy's logs and ours name the same request.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from uuid import uuid4

import structlog
from starlette.datastructures import Headers, MutableHeaders

from afterword.tracing import taken_up

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = "X-Request-Id"
_PLAIN = re.compile(r"[A-Za-z0-9._-]{1,64}")


class RequestIds:
    """The outermost middleware. Pure ASGI, so that streams pass through untouched."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(HEADER, "")
        name = given if _PLAIN.fullmatch(given) else uuid4().hex[:16]

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = name
            await send(message)

        structlog.contextvars.bind_contextvars(request=name)  # the request's own task: nobody else's context
        with taken_up(Headers(scope=scope).get("traceparent")):
            await self._app(scope, receive, named)
