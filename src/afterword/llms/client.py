"""The official client, imported and made when it is first needed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import openai

    from afterword.llms.outages import Service

CONNECT = 10.0  # seconds to a connection
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def load_client() -> None:
    """Import the official client, which takes a third of a second: for a server, whose first call should not wait."""
    import openai  # noqa: F401


class LazyClient:
    """An `AsyncOpenAI` without retries (the worker retries) and without read deadlines (the adapters have theirs)."""

    def __init__(self, service: Service, connect_timeout: float = CONNECT) -> None:
        self._service = service
        self._connect_timeout = connect_timeout
        self._client: openai.AsyncOpenAI | None = None
        self._making = asyncio.Lock()

    async def get(self) -> openai.AsyncOpenAI:
        """The client. Raises the service's outage where address or key can't be used at all."""
        async with self._making:
            if self._client is None:
                self._check()
                # imports the client and reads certificates: half a second that the loop must not wait
                self._client = await asyncio.to_thread(self._make)
        return self._client

    async def aclose(self) -> None:
        """Close its connections."""
        if self._client is not None:
            await self._client.close()

    def _check(self) -> None:
        service = self._service
        try:
            address = urlsplit(service.base_url)
            sound = address.scheme in ("http", "https") and bool(address.hostname) and address.port != 0
        except ValueError:
            sound = False
        if not sound:
            raise service.down(
                f"{service.base_url!r} is no web address",
                f"set {service.setting}_BASE_URL to one that begins with http",
            )
        if not service.api_key.isascii() or any(c.isspace() for c in service.api_key):
            raise service.down(
                "the key holds characters that no key has", f"set {service.setting}_API_KEY to the key alone"
            )

    def _make(self) -> openai.AsyncOpenAI:
        import openai

        # a proxy set for the outside must not take calls to this machine
        local = urlsplit(self._service.base_url).hostname in _LOOPBACK
        timeout = openai.Timeout(None, connect=self._connect_timeout)
        return openai.AsyncOpenAI(
            base_url=self._service.base_url,
            api_key=self._service.api_key or "none",
            max_retries=0,
            timeout=timeout,
            default_headers={"Accept-Encoding": "identity"},
            http_client=openai.DefaultAsyncHttpxClient(
                timeout=timeout, trust_env=not local, event_hooks={"response": [self._refuse_packed]}
            ),
        )

    async def _refuse_packed(self, response: Any) -> None:
        """We ask for plain answers: what comes packed all the same may unpack to any size."""
        packed = response.headers.get("content-encoding", "identity")
        if packed.lower() != "identity":
            raise self._service.down(
                f"{self._service.base_url} sent its answer packed ({packed[:20]}) though a plain one was asked for",
                "let the server, or the proxy before it, leave answers as they are",
            )
