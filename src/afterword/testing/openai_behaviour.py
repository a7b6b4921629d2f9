"""How the fake server behaves: values that a test sets, in this process or as JSON over HTTP."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

Request = Literal["chat", "complete", "embeddings", "rerank", "models"]
Fault = Literal[
    "",
    "hang",  # take the request and say nothing
    "silent",  # send the head, then nothing
    "drip",  # send bytes that mean nothing, for ever
    "endless",  # tokens for ever
    "cut",  # close the connection in the middle
    "short",  # end a stream in the middle as if it were whole
    "empty",  # an answer without content
    "prose",  # words where JSON was asked for
    "truncated",  # JSON that stops in the middle
    "huge",  # 1 MB of text
    "garbage",  # a body that is no JSON
    "error_event",  # an error inside the stream, as some servers send it
    "wrong_dimension",
    "nan",
    "missing",  # one embedding too few
]
REQUESTS: tuple[Request, ...] = get_args(Request)


@dataclass(frozen=True, slots=True)
class Behaviour:
    """Times in seconds. `text` is given instead of the default reply or answer; `reasoning` comes before it."""

    first_delay: float = 0.0
    gap: float = 0.0
    status: int = 200
    retry_after: str | None = None
    message: str = ""
    code: str | None = None
    fault: Fault = ""
    text: str | None = None
    reasoning: str = ""

    @classmethod
    def of_json(cls, values: Mapping[str, Any]) -> Behaviour:
        """Raises `ValueError` for a name that is none."""
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown or values.get("fault", "") not in get_args(Fault):
            raise ValueError(f"unknown behaviour: {sorted(unknown) or values['fault']}")
        return cls(**values)


class Script:
    """Which behaviour comes next: first what was queued, then what always holds."""

    def __init__(self) -> None:
        self._always: dict[Request, Behaviour] = {}
        self._queued: dict[Request, deque[Behaviour]] = {}
        self.reset()

    def reset(self) -> None:
        self._always = dict.fromkeys(REQUESTS, Behaviour())
        self._queued = {request: deque() for request in REQUESTS}

    def always(self, request: Request, **changes: Any) -> None:
        self._always[request] = replace(self._always[request], **changes)

    def next(self, request: Request, times: int = 1, **changes: Any) -> None:
        self._queued[request].extend([replace(self._always[request], **changes)] * times)

    def take(self, request: Request) -> Behaviour:
        queued = self._queued[request]
        return queued.popleft() if queued else self._always[request]

    def apply(self, order: Mapping[str, Any]) -> None:
        """`{"reset": true}`, or `{"request": "chat" (default: all), "times": 2 (default: always), "behaviour": {…}}`."""
        if order.get("reset"):
            self.reset()
            return
        changes = dict(order.get("behaviour", {}))
        Behaviour.of_json(changes)
        requests = [order["request"]] if "request" in order else list(REQUESTS)
        if not set(requests) <= set(REQUESTS):
            raise ValueError(f"request is {requests[0]!r}: give one of {', '.join(REQUESTS)}")
        for request in requests:
            if order.get("times") is None:
                self.always(request, **changes)
            else:
                self.next(request, int(order["times"]), **changes)
