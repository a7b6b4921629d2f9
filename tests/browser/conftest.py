"""One server and one browser for all browser tests; a user and a browser profile for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest
from playwright.sync_api import Browser

from tests.browser.house import House, Visitor, chromium

Visit = Callable[..., Visitor]
numbers = count(1)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with House(tmp_path_factory.mktemp("data")) as opened:
        yield opened


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


@pytest.fixture
def user() -> str:
    return f"person {next(numbers)}"


@pytest.fixture
def visit(house: House, browser: Browser, user: str) -> Iterator[Visit]:
    """Visitors whose pages, at the end, must have asked nobody but the server, and not have broken."""
    visitors: list[Visitor] = []

    def come(name: str = user, **profile: Any) -> Visitor:
        chosen = {
            "locale": "en-GB",
            "timezone_id": "Europe/Oslo",
            "viewport": {"width": 1440, "height": 900},
            **profile,
        }
        visitors.append(Visitor(browser.new_context(**chosen), house.address, name))
        return visitors[-1]

    yield come
    for visitor in visitors:
        visitor.context.close()
    house.llm.heal()
    assert [url for visitor in visitors for url in visitor.strayed] == []
    assert [error for visitor in visitors for error in visitor.broke] == []
