"""Who may ask: hosts, origins, body types and sizes, the token; and one server a data folder."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from afterword.errors import LedgerInUse, SettingsError
from afterword.interfaces.guard import BODY_LIMIT
from afterword.interfaces.holder import MemoryHolder
from afterword.interfaces.http import create_app
from afterword.interfaces.one_server import only_server, running_server
from afterword.settings import Settings

pytestmark = pytest.mark.anyio


def direct(app: Any) -> httpx.AsyncClient:
    """Without a socket: for answers that are no streams."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:7860")


@pytest.fixture
async def guarded(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """Routes over no memory: what gets past the guard is answered 503."""
    async with direct(create_app(MemoryHolder(), settings)) as client:
        yield client


PASSED = 503


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:7860", "[::1]:7860", "page.localhost"])
async def test_loopback_names_are_served(guarded: httpx.AsyncClient, host: str) -> None:
    assert (await guarded.get("/api/status", headers={"Host": host})).status_code == PASSED


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "192.168.1.5", "localhost.evil.example"])
async def test_another_host_name_is_refused(guarded: httpx.AsyncClient, host: str) -> None:
    answer = await guarded.get("/api/status", headers={"Host": host})
    assert (answer.status_code, answer.json()["error"]) == (421, "WrongHost")


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1", "http://localhost"])
async def test_another_sites_page_is_refused(guarded: httpx.AsyncClient, origin: str) -> None:
    answer = await guarded.get("/api/status", headers={"Origin": origin})
    assert (answer.status_code, answer.json()["error"]) == (403, "WrongOrigin")


async def test_the_pages_own_origin_is_served(guarded: httpx.AsyncClient) -> None:
    own = str(guarded.base_url).rstrip("/")
    assert (await guarded.get("/api/status", headers={"Origin": own})).status_code == PASSED


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
async def test_what_changes_something_must_be_json(guarded: httpx.AsyncClient, kind: str) -> None:
    answer = await guarded.post("/api/reset", content=b'{"user_id":"ann"}', headers={"Content-Type": kind})
    assert (answer.status_code, answer.json()["error"]) == (415, "JsonNeeded")


async def test_a_body_over_the_limit_is_refused_with_or_without_its_length(guarded: httpx.AsyncClient) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(BODY_LIMIT // 100_000 + 2):
            yield b" " * 100_000

    json = {"Content-Type": "application/json"}
    declared = await guarded.post("/api/chat", content=b" " * (BODY_LIMIT + 1), headers=json)
    streamed = await guarded.post("/api/chat", content=parts(), headers=json)
    for answer in (declared, streamed):
        assert (answer.status_code, answer.json()["error"]) == (413, "TooLarge")
    larger = await guarded.post("/api/turns", content=b" " * (BODY_LIMIT + 1), headers=json)
    assert larger.status_code == 400  # a transcript may be larger; this one is no JSON


# ── token ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def locked(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    settings = Settings(data_dir=tmp_path, token="opensesame")  # type: ignore[arg-type]
    async with direct(create_app(MemoryHolder(), settings)) as client:
        yield client


async def test_with_a_token_every_route_but_health_asks_for_it(locked: httpx.AsyncClient) -> None:
    app = cast(Any, create_app(MemoryHolder(), Settings()))
    paths = {route.path for route in app.routes if hasattr(route, "path")} | set(app.openapi()["paths"])
    assert "/api/chat" in paths
    for path in sorted(paths - {"/healthz", "/readyz"}):
        for method in ("GET", "POST"):
            answer = await locked.request(method, path, json={} if method == "POST" else None)
            assert answer.status_code == 401, (method, path)
    assert (await locked.get("/healthz")).status_code == 503
    assert (await locked.get("/readyz")).json() == {"status": "starting", "reasons": []}
    wrong = await locked.get("/api/status", headers={"Authorization": "Bearer wrong"})
    assert wrong.status_code == 401
    right = await locked.get("/api/status", headers={"Authorization": "Bearer opensesame"})
    assert right.status_code == PASSED


async def test_opening_the_page_with_the_token_makes_a_session_that_does_not_hold_it(locked: httpx.AsyncClient) -> None:
    assert (await locked.get("/", params={"token": "wrong"})).status_code == 401
    opened = await locked.get("/", params={"token": "opensesame"})
    assert (opened.status_code, opened.headers["location"]) == (303, "/")
    cookie = opened.headers["set-cookie"]
    assert "opensesame" not in cookie
    assert "HttpOnly" in cookie
    assert "SameSite" in cookie
    assert (await locked.get("/api/status")).status_code == PASSED


def test_exposure_without_a_token_is_refused(tmp_path: Path) -> None:
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.org"):
        with pytest.raises(SettingsError, match="AFTERWORD_TOKEN"):
            create_app(MemoryHolder(), Settings(data_dir=tmp_path, host=host))


# ── one server a folder ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_second_server_is_refused_with_the_firsts_address(tmp_path: Path) -> None:
    assert running_server(tmp_path) is None
    with only_server(tmp_path) as note:
        note("http://127.0.0.1:7860/")
        assert running_server(tmp_path) == "http://127.0.0.1:7860/"
        with pytest.raises(LedgerInUse, match="7860") as caught, only_server(tmp_path):
            pass
        assert caught.value.address == "http://127.0.0.1:7860/"
    assert running_server(tmp_path) is None
    with only_server(tmp_path):
        pass
