"""A fake OpenAI-compatible server: the real protocol on loopback, with every way it can go wrong on order."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from afterword.testing import openai_answers
from afterword.testing.gates import Gate
from afterword.testing.http11 import Connection, Incoming
from afterword.testing.openai_behaviour import Behaviour, Request, Script
from afterword.testing.openai_sending import Received, Sender, send_embeddings, send_scores

KEPT = 10_000  # requests remembered
_ROUTES: dict[str, Request] = {
    "chat/completions": "chat",
    "embeddings": "embeddings",
    "rerank": "rerank",
    "models": "models",
}


class FakeOpenAI:
    """`async with FakeOpenAI() as server:` and point a client at `server.base_url`.

    `always` and `next` set the behaviour of each kind of request ("chat", "complete", "embeddings", "rerank", "models"); `reply`
    and `answer` may be replaced by functions; `only` says which requests a behaviour holds for. `received` and `cancelled` (the client left before the end) record.
    The same by HTTP: `POST /__script` with what `Script.apply` takes, `GET /__state`.
    """

    def __init__(
        self,
        *,
        models: tuple[str, ...] = ("fake-chat", "fake-embed"),
        api_key: str | None = None,
        strict_models: bool = False,
        dimensions: int = 64,
        formats: tuple[str, ...] = ("json_schema", "json_object"),
    ) -> None:
        self.models = models
        self.api_key = api_key
        self.strict_models = strict_models
        self.dimensions = dimensions
        self.formats = formats
        self.reply: Callable[[Received], str] = lambda received: openai_answers.echo(received.asked)
        self.answer: Callable[[Received, dict[str, Any]], str] = lambda received, schema: openai_answers.answer_json(
            schema, received.asked
        )
        self.base64 = True  # whether embeddings are coded so when that is asked for; some servers never do
        self.script = Script()
        self.only: Callable[[Received], bool] = lambda _: True  # requests that the script holds for; others are calm
        self.received: deque[Received] = deque(maxlen=KEPT)
        self.cancelled: deque[Received] = deque(maxlen=KEPT)
        self.counts: dict[str, int] = dict.fromkeys(("received", "finished", "cancelled", "running"), 0)
        self.host, self.port = "127.0.0.1", 0
        self._gates: dict[Request, list[Gate]] = {}
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self._changed = asyncio.Condition()

    # ── life ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def start(self, port: int = 0, host: str = "127.0.0.1") -> None:
        """Listen; port 0 takes a free one."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Connection(self._answer, self._connections), host, port, backlog=1024
        )
        self.host, self.port = self._server.sockets[0].getsockname()[:2]

    async def aclose(self) -> None:
        """Close the door and cut what is still under way."""
        if self._server is None:
            return
        self._server.close()
        for connection in list(self._connections):
            await connection.aclose()
        await self._server.wait_closed()
        self._server = None

    async def __aenter__(self) -> FakeOpenAI:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    @property
    def base_url(self) -> str:
        return f"http://{self.host}:{self.port}/v1"

    # ── what a test sets and waits for ─────────────────────────────────────────────────────────────────────────────

    def always(self, request: Request, **behaviour: Any) -> None:
        """From now on; fields of `Behaviour`."""
        self.script.always(request, **behaviour)

    def next(self, request: Request, times: int = 1, **behaviour: Any) -> None:
        """For the next `times` requests of the kind."""
        self.script.next(request, times, **behaviour)

    def hold(self, request: Request) -> Gate:
        """Hold requests of the kind back before their first byte until released."""
        gate = Gate()
        self._gates.setdefault(request, []).append(gate)
        return gate

    async def until(self, reached: Callable[[], bool]) -> None:
        """Wait for something that the records show, e.g. `lambda: len(server.cancelled) == 1`."""
        async with self._changed:
            await self._changed.wait_for(reached)

    # ── answering ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _answer(self, incoming: Incoming, connection: Connection) -> None:
        path = urlsplit(incoming.path).path.strip("/")
        if path in ("__script", "__state"):
            await self._control(path, incoming, connection)
            return
        route = _ROUTES.get(path.removeprefix("v1/"))
        if route is None:
            await connection.send_json(404, _error(f"no route {path}", "not_found"))
            return
        try:
            body = json.loads(incoming.body or b"{}")
        except ValueError:
            await connection.send_json(400, _error("the body is no JSON", "invalid_json"))
            return
        kind: Request = "complete" if route == "chat" and not body.get("stream") else route
        await self._recorded(Received(kind, incoming.headers, body), connection)

    async def _recorded(self, received: Received, connection: Connection) -> None:
        self.received.append(received)
        await self._count("received", "running", by=1)
        ended = "finished"
        try:
            await self._serve(received, connection)
        except (asyncio.CancelledError, ConnectionError):
            ended = "cancelled"
            self.cancelled.append(received)
            raise
        finally:
            self.counts["running"] -= 1
            await self._count(ended, by=1)

    async def _count(self, *names: str, by: int) -> None:
        for name in names:
            self.counts[name] += by
        async with self._changed:
            self._changed.notify_all()

    async def _serve(self, received: Received, connection: Connection) -> None:
        behaviour = self.script.take(received.request) if self.only(received) else Behaviour()
        for gate in self._gates.get(received.request, []):
            await gate.wait()
        if behaviour.fault == "hang":
            await asyncio.Event().wait()
        refusal = self._refusal(received, behaviour)
        if refusal:
            status, error = refusal
            waits = {"retry-after": behaviour.retry_after} if behaviour.retry_after else {}
            await connection.send_json(status, error, waits)
            return
        if received.request == "models":
            await asyncio.sleep(behaviour.first_delay)
            listed = [{"id": model, "object": "model", "owned_by": "fake"} for model in self.models]
            await connection.send_json(200, {"object": "list", "data": listed})
        elif received.request == "embeddings":
            coded = self.base64 and received.body.get("encoding_format") == "base64"
            await send_embeddings(connection, behaviour, received, self.dimensions, coded=coded)
        elif received.request == "rerank":
            await send_scores(connection, behaviour, received)
        else:
            await self._chat(received, behaviour, connection)

    async def _chat(self, received: Received, behaviour: Behaviour, connection: Connection) -> None:
        sender = Sender(connection, behaviour, received.body)
        wanted = received.body.get("response_format") or {}
        if behaviour.text is not None:
            text = behaviour.text
        elif wanted.get("type") == "json_schema":
            text = self.answer(received, wanted["json_schema"].get("schema", {}))
        else:
            text = self.reply(received)
        await (sender.stream(text) if received.request == "chat" else sender.whole(text))

    def _refusal(self, received: Received, behaviour: Behaviour) -> tuple[int, dict[str, Any]] | None:
        model = str(received.body.get("model", ""))
        wanted = (received.body.get("response_format") or {}).get("type", "text")
        if self.api_key is not None and received.headers.get("authorization") != f"Bearer {self.api_key}":
            return 401, _error("Incorrect API key provided", "invalid_api_key")
        if behaviour.status != 200:
            message = behaviour.message or f"fake error {behaviour.status}"
            return behaviour.status, _error(message, behaviour.code)
        if self.strict_models and received.request != "models" and model not in self.models:
            return 404, _error(f"The model `{model}` does not exist", "model_not_found")
        if wanted not in ("text", *self.formats):
            return 400, _error(f"response_format type {wanted} is unavailable now", "invalid_request_error")
        return None

    async def _control(self, path: str, incoming: Incoming, connection: Connection) -> None:
        if path == "__state":
            await connection.send_json(200, self.counts)
            return
        try:
            self.script.apply(json.loads(incoming.body))
        except (ValueError, TypeError) as error:
            await connection.send_json(400, _error(str(error), "bad_script"))
            return
        await connection.send_json(200, {"ok": True})


def _error(message: str, code: str | None) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}
