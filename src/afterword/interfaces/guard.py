"""Who may ask: the right Host and Origin, JSON for what changes something, the token where one is set, a body's size.

Pure ASGI, so that streams pass through untouched. Host and Origin are checked because a page anywhere on the web can
reach a server on loopback through the browser (DNS rebinding, cross-site requests).
"""

from __future__ import annotations

import hmac
import json
import math
from hashlib import sha256
from http.cookies import CookieError, SimpleCookie
from ipaddress import ip_address
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException

from afterword.errors import SettingsError
from afterword.interfaces.rates import Rates

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from afterword.settings import Settings

COOKIE = "afterword_session"
BODY_LIMIT = 1_000_000
IMPORT_LIMIT = 10_000_000
BODIES_AT_ONCE = 100_000_000  # bytes, of all requests under way
OPEN_PATHS = frozenset({"/healthz", "/readyz"})  # what they tell without the token is no more than up or down


class Refusal(NamedTuple):
    status: int
    error: str
    message: str
    fix: str
    retry_after: int = 0  # seconds


def is_loopback(host: str) -> bool:
    """Whether this host name or address can only be reached from this machine."""
    name = host.strip("[]").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


def check_exposure(settings: Settings) -> None:
    """Raises `SettingsError` when others could reach the server and no token is set."""
    if not is_loopback(settings.host) and not settings.token.get_secret_value():
        raise SettingsError(
            f"host is {settings.host!r}, which others can reach, and no token is set: "
            "set AFTERWORD_TOKEN to a long secret, or listen on 127.0.0.1"
        )


class Guard:
    """The middleware around every route."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._host = settings.host.strip("[]").lower()
        token = settings.token.get_secret_value()
        self._token = token.encode()
        self._rates = Rates(settings.max_requests_per_minute)
        self._bodies = 0  # bytes of bodies that requests under way have sent
        self._session = hmac.new(self._token, b"afterword session", sha256).hexdigest() if token else ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = self._host_refusal(headers) or self._origin_refusal(headers) or _type_refusal(scope, headers)
        refusal = refusal or self._rate_refusal(scope)
        if refusal is None and self._token and scope["path"] not in OPEN_PATHS:
            if self._opens_session(scope):
                await self._start_session(scope, send)
                return
            refusal = self._token_refusal(headers)
        elif self._token:
            scope["afterword.known"] = self._token_refusal(headers) is None
        if refusal is not None:
            await _refuse(scope, receive, send, refusal)
            return
        if scope["type"] != "http":
            await self._app(scope, receive, _with_headers(send))
            return
        body = _Body(self, receive, IMPORT_LIMIT if scope["path"] == "/api/turns" else BODY_LIMIT, headers)
        try:
            await self._app(scope, body.receive, _with_headers(send))
        finally:
            self.hold(-body.size)

    def hold(self, size: int) -> None:
        """Count the bytes of bodies in memory. Raises `HTTPException` (429) where all requests together hold too many."""
        if size > 0 and self._bodies + size > BODIES_AT_ONCE:
            told = f"requests under way hold {BODIES_AT_ONCE // 1_000_000} MB already: send this again in a moment"
            raise HTTPException(429, told, {"Retry-After": "1"})
        self._bodies += size

    def _rate_refusal(self, scope: Scope) -> Refusal | None:
        if scope["path"] in OPEN_PATHS:
            return None
        wait = self._rates.wait((scope.get("client") or ("",))[0])
        if not wait:
            return None
        told = "this address has sent more requests than max_requests_per_minute allows"
        return Refusal(429, "TooManyRequests", told, "wait a little", math.ceil(wait))

    def _host_refusal(self, headers: Headers) -> Refusal | None:
        name = _host_name(headers.get("host", ""))
        anywhere = self._host in ("0.0.0.0", "::", "")  # a token is set then
        if name and (is_loopback(name) or name == self._host or anywhere):
            return None
        return Refusal(
            421, "WrongHost", f"host {name[:100]!r} is not served here", "use the address that the server printed"
        )

    def _origin_refusal(self, headers: Headers) -> Refusal | None:
        origin = headers.get("origin")
        if origin is None or urlsplit(origin).netloc.lower() == headers.get("host", "").lower():
            return None
        return Refusal(403, "WrongOrigin", "this request comes from another site's page", "open the page itself")

    def _opens_session(self, scope: Scope) -> bool:
        if scope["type"] != "http" or scope["method"] != "GET" or scope["path"] != "/":
            return False
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        return hmac.compare_digest(given.encode("utf-8", "replace"), self._token)

    async def _start_session(self, scope: Scope, send: Send) -> None:
        secure = "; Secure" if scope.get("scheme") == "https" else ""
        cookie = f"{COOKIE}={self._session}; HttpOnly; SameSite=Lax; Path=/{secure}"
        root = scope.get("root_path", "")
        headers = [(b"location", f"{root}/".encode()), (b"set-cookie", cookie.encode()), (b"content-length", b"0")]
        start: Message = {"type": "http.response.start", "status": 303, "headers": headers}
        await _with_headers(send)(start)
        await send({"type": "http.response.body", "body": b""})

    def _token_refusal(self, headers: Headers) -> Refusal | None:
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(bearer.strip().encode(), self._token):
            return None
        if hmac.compare_digest(_cookie(headers).encode(), self._session.encode()):
            return None
        fix = "open /?token=… once, or send the header 'Authorization: Bearer …'"
        return Refusal(401, "TokenNeeded", "this server asks for its token", fix)


def _host_name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _cookie(headers: Headers) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found else ""


def _type_refusal(scope: Scope, headers: Headers) -> Refusal | None:
    """A form of another site can send any type but JSON without asking first."""
    if scope["type"] != "http" or scope["method"] not in ("POST", "PUT", "PATCH"):
        return None
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        return None
    return Refusal(415, "JsonNeeded", "the body must be JSON", "send the header 'Content-Type: application/json'")


class _Body:
    """A request's body on its way in, held to its limit and counted while the request is under way."""

    def __init__(self, guard: Guard, receive: Receive, limit: int, headers: Headers) -> None:
        length = headers.get("content-length", "")
        self.size = 0
        self._guard = guard
        self._receive = receive
        self._limit = limit
        self._declared = int(length) if length.isascii() and length.isdecimal() and len(length) < 20 else 0

    async def receive(self) -> Message:
        self._check(self._declared)
        message = await self._receive()
        came = len(message.get("body", b""))
        self._check(self.size + came)
        self._guard.hold(came)
        self.size += came
        return message

    def _check(self, size: int) -> None:
        if size > self._limit:
            raise HTTPException(413, f"the body is over {self._limit // 1_000_000} MB: send less at once")


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.setdefault("X-Content-Type-Options", "nosniff")
            headers.setdefault("Referrer-Policy", "no-referrer")
            headers.setdefault("X-Frame-Options", "SAMEORIGIN")
        await send(message)

    return sending


async def _refuse(scope: Scope, receive: Receive, send: Send, refusal: Refusal) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008})
        return
    answer = {"error": refusal.error, "message": refusal.message, "fix": refusal.fix}
    body = json.dumps(answer, ensure_ascii=False).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if refusal.retry_after:
        headers.append((b"retry-after", str(refusal.retry_after).encode()))
    start: Message = {"type": "http.response.start", "status": refusal.status, "headers": headers}
    await _with_headers(send)(start)
    await send({"type": "http.response.body", "body": body})
