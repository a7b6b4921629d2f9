"""What the page does with a message that the server does not take."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from afterword.errors import LedgerError
from tests.browser.house import House, Visitor
from tests.browser.test_page_in_a_browser import replied, send

Visit = Callable[..., Visitor]


@pytest.mark.parametrize(
    ("locale", "head", "why"), [("en-GB", "Not sent. ", "No space is left"), ("zh-CN", "没有发出。", "磁盘已满")]
)
def test_a_message_that_can_not_be_kept_is_given_back_and_the_cause_is_told(
    house: House, visit: Visit, monkeypatch: pytest.MonkeyPatch, locale: str, head: str, why: str
) -> None:
    async def full(*_: object, **__: object) -> None:
        raise LedgerError(
            "no space is left for the ledger /data/ledger.db: free some, then go on; what was acknowledged is kept (full)"
        )

    page = visit(locale=locale).open()
    with monkeypatch.context() as patched:
        patched.setattr(house.memory, "chat", full)
        send(page, "My sister Ann lives in Oslo.")
        told = page.locator("#aw-toasts")
        expect(told).to_contain_text(head)
        expect(told).to_contain_text(why)
        expect(page.locator("#aw-text")).to_have_value("My sister Ann lives in Oslo.")
        expect(page.locator("#aw-send")).to_be_visible()
    page.press("#aw-text", "Enter")
    replied(page)
