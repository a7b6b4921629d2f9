"""What an open page reads again after news, and that it shows what others wrote."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import Request, expect

from afterword.glance import EVERYTHING
from tests.browser.house import House, Visitor
from tests.browser.test_page_in_a_browser import replied, send

Visit = Callable[..., Visitor]


def looked_at(request: Request) -> list[list[str]]:
    """The news of a look; nothing of any other request."""
    asked = (request.post_data_json or {}).get("data") if "component_server" in request.url else None
    return [asked["news"]] if asked and asked["do"] == "look" else []


def test_a_memory_that_another_process_writes_shows_in_every_tab(house: House, visit: Visit, user: str) -> None:
    first, second = visit().open(), visit().open()
    house.run(house.elsewhere(user, "The user keeps a goat."))
    for tab in (first, second):
        expect(tab.locator(".aw-card .aw-text")).to_contain_text("goat")


def test_background_work_is_looked_at_part_by_part_and_a_reload_looks_at_everything(
    house: House, visit: Visit, user: str
) -> None:
    page = visit().open()
    looks: list[list[str]] = []
    page.on("request", lambda request: looks.extend(looked_at(request)))
    gate = house.llm.hold_complete()
    try:
        send(page, "I live in Bergen with a goat.")
        replied(page)
        expect(page.locator(".aw-job.running")).to_contain_text("Remember")
    finally:
        gate.release()
    expect(page.locator(".aw-card .aw-text")).to_contain_text("Bergen")
    expect(page.locator(".aw-job.done")).to_contain_text("Remember")
    assert [look for look in looks if len(look) < len(EVERYTHING)]
    looks.clear()
    page.reload()
    expect(page.locator(".aw-card .aw-text")).to_contain_text("Bergen")
    expect(page.locator(".aw-reply[data-reply-to]")).to_be_visible()
    assert set(looks[0]) == EVERYTHING
