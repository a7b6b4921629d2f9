"""The chat page as a person meets it: a real server, a real Chromium, a scripted LLM."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from afterword.errors import LLMUnavailable
from afterword.records import Filters
from tests.browser.house import House, Visitor, artefact

Visit = Callable[..., Visitor]
SECOND = 1000  # milliseconds, as Playwright counts


def send(page: Page, text: str) -> None:
    page.fill("#aw-text", text)
    page.press("#aw-text", "Enter")


def replied(page: Page, nth: int = 0) -> None:
    expect(page.locator(".aw-reply[data-reply-to]").nth(nth)).to_be_visible()
    expect(page.locator("#aw-send")).to_be_visible()


def teach(house: House, user: str, *texts: str) -> None:
    async def tell() -> None:
        for text in texts:
            await house.memory.add(text, user, "lessons", timeout=15)

    house.run(tell())


def test_a_typed_message_is_shown_at_once_and_its_reply_streams(house: House, visit: Visit) -> None:
    page = visit().open()
    gate = house.llm.hold_stream(after=2)
    try:
        send(page, "My sister Ann lives in Oslo.")
        expect(page.locator(".aw-user .aw-body", has_text="My sister Ann lives in Oslo.").first).to_be_visible()
        expect(page.locator("#aw-live-slot")).to_contain_text("You said:")
        expect(page.locator("#aw-live-slot")).not_to_contain_text("Oslo")
        expect(page.locator("#aw-stop")).to_be_visible()
    finally:
        gate.release()
    replied(page)
    expect(page.locator(".aw-reply[data-reply-to] .aw-body")).to_have_text("You said: My sister Ann lives in Oslo.")
    expect(page.locator("#aw-streaming")).to_be_hidden()


def test_the_reply_is_complete_while_its_memory_is_held_back_and_the_panel_follows_within_a_second(
    house: House, visit: Visit, user: str
) -> None:
    page = visit().open()
    gate = house.llm.hold_complete()
    try:
        send(page, "I moved to Bergen in March.")
        replied(page)
        expect(page.locator(".aw-job.running")).to_contain_text("Remember")
        assert page.locator(".aw-card").count() == 0
    finally:
        gate.release()
    house.until(user, lambda: house.memory.get_all(user))
    expect(page.locator(".aw-card .aw-text")).to_contain_text("Bergen", timeout=SECOND)


def test_a_missed_recall_costs_the_reply_its_memories_and_why_says_so(house: House, visit: Visit) -> None:
    page = visit().open()
    house.index_away = True
    try:
        send(page, "Where did I leave the ladder?")
        replied(page)
    finally:
        house.index_away = False
    reply = page.locator(".aw-reply[data-reply-to]")
    expect(reply.locator(".aw-body")).to_have_text("You said: Where did I leave the ladder?")
    expect(reply.locator(".aw-why .aw-badge.warn")).to_be_visible()
    reply.locator(".aw-why summary").click()
    expect(reply.locator(".aw-missed")).to_contain_text("the index is away")


def test_why_shows_the_memories_used_with_scores_and_their_source(house: House, visit: Visit, user: str) -> None:
    teach(house, user, "My brother Tor keeps eleven bees in Bodø.")
    page = visit().open()
    page.click("[data-do=new-chat]")
    send(page, "Where does my brother Tor keep bees?")
    replied(page)
    page.locator(".aw-why summary").click()
    hit = page.locator(".aw-hit").first
    expect(hit).to_contain_text("Bodø")
    assert float(hit.locator("header b").inner_text()) > 0
    hit.locator("[data-do=open-source]").click()
    expect(page.locator(".aw-turn.found")).to_contain_text("eleven bees")


def test_consolidation_shows_its_progress_in_every_tab_and_is_not_started_twice(
    house: House, visit: Visit, user: str
) -> None:
    teach(house, user, *(f"My friend number {n} is called Kari{n}." for n in range(6)))
    visitor = visit()
    first, second = visitor.open(), visitor.open()
    first.bring_to_front()
    gate = house.llm.hold_complete()
    try:
        first.click("#aw-consolidate")
        expect(first.locator(".aw-run progress")).to_be_visible()
        expect(first.locator("#aw-consolidate")).to_be_disabled()
        second.bring_to_front()
        expect(second.locator(".aw-run progress")).to_be_visible()
        expect(second.locator("#aw-consolidate")).to_be_disabled()
        house.run(house.memory.consolidate(user))
    finally:
        gate.release()
    house.until(user, lambda: _ended(house, user))
    expect(second.locator("#aw-runs")).to_contain_text("Consolidated", timeout=SECOND)
    assert len(house.run(house.memory.runs(user, "consolidate"))) == 1
    second.click("#aw-tabs [data-id=semantic]")
    expect(second.locator(".aw-card").first).to_contain_text("Kari")


async def _ended(house: House, user: str) -> bool:
    return all(run.state != "running" for run in await house.memory.runs(user, "consolidate"))


def test_reset_asks_first_and_a_no_changes_nothing(house: House, visit: Visit, user: str) -> None:
    teach(house, user, "I have a boat called Solveig.")
    page = visit().open()
    page.click("#aw-reset")
    expect(page.locator("#aw-dialog")).to_contain_text(user)
    page.click("[data-choice=no]")
    expect(page.locator("#aw-dialog")).to_be_hidden()
    page.click("#aw-reset")
    page.keyboard.press("Escape")
    expect(page.locator(".aw-card")).to_contain_text("Solveig")
    assert len(house.run(house.memory.get_all(user))) == 1


def test_reset_confirmed_erases_everything_of_this_user(house: House, visit: Visit, user: str) -> None:
    teach(house, user, "I have a boat called Solveig.")
    page = visit().open()
    page.click("#aw-reset")
    page.click("[data-choice=yes]")
    expect(page.locator(".aw-card")).to_have_count(0)
    expect(page.locator(".aw-welcome")).to_be_visible()
    assert house.run(house.memory.get_all(user)) == []
    assert house.run(house.memory.chats(user)) == []


def test_switching_users_shows_the_others_memory_only(house: House, visit: Visit, user: str) -> None:
    teach(house, user, "I have a boat called Solveig.")
    page = visit().open()
    expect(page.locator(".aw-card")).to_contain_text("Solveig")
    page.click("[data-do=users]")
    page.fill("#aw-user-name", "O'Brien\"; <b>--")
    page.click("[data-choice=yes]")
    expect(page.locator("#aw-user")).to_have_text("O'Brien\"; <b>--")
    expect(page.locator(".aw-card")).to_have_count(0)
    expect(page.locator("#aw-chats .aw-chat")).to_have_count(0)
    page.reload(wait_until="domcontentloaded")
    expect(page.locator("#aw-user")).to_have_text("O'Brien\"; <b>--")
    page.click("[data-do=users]")
    page.locator(".aw-users button", has_text=user).click()
    expect(page.locator(".aw-card")).to_contain_text("Solveig")


def test_a_reload_during_a_reply_shows_it_running_and_it_goes_on(house: House, visit: Visit) -> None:
    page = visit().open()
    gate = house.llm.hold_stream(after=3)
    try:
        send(page, "Count the boats in the harbour.")
        expect(page.locator("#aw-live-slot")).to_contain_text("You said: Count")
        page.reload(wait_until="domcontentloaded")
        expect(page.locator("#aw-live-slot")).to_contain_text("You said: Count")
        expect(page.locator("#aw-stop")).to_be_visible()
    finally:
        gate.release()
    replied(page)
    expect(page.locator(".aw-reply[data-reply-to] .aw-body")).to_have_text("You said: Count the boats in the harbour.")


def test_chats_are_listed_kept_and_opened_again(visit: Visit) -> None:
    page = visit().open()
    send(page, "First of all, hello.")
    replied(page)
    page.click("[data-do=new-chat]")
    expect(page.locator(".aw-welcome")).to_be_visible()
    send(page, "Second, something else.")
    replied(page)
    expect(page.locator(".aw-chat")).to_have_count(2)
    page.reload(wait_until="domcontentloaded")
    expect(page.locator("#aw-transcript")).to_contain_text("Second, something else.")
    page.locator(".aw-chat", has_text="First of all").click()
    expect(page.locator("#aw-transcript")).to_contain_text("You said: First of all, hello.")
    expect(page.locator("#aw-transcript")).not_to_contain_text("Second")


def test_leaving_a_chat_while_its_reply_streams_mixes_nothing(house: House, visit: Visit) -> None:
    page = visit().open()
    gate = house.llm.hold_stream(after=2)
    try:
        send(page, "Slowly about whales.")
        expect(page.locator("#aw-live-slot")).to_contain_text("You said:")
        page.click("[data-do=new-chat]")
        expect(page.locator("#aw-streaming")).to_be_hidden()
        expect(page.locator("#aw-send")).to_be_visible()
    finally:
        gate.release()
    send(page, "And now about owls.")
    replied(page)
    expect(page.locator("#aw-transcript")).not_to_contain_text("whales")
    page.locator(".aw-chat", has_text="whales").click()
    expect(page.locator(".aw-reply[data-reply-to] .aw-body")).to_have_text("You said: Slowly about whales.")


def test_stop_keeps_the_part_that_was_made_and_ask_again_makes_it_whole(house: House, visit: Visit) -> None:
    page = visit().open()
    gate = house.llm.hold_stream(after=3)
    try:
        send(page, "Tell me about the sea.")
        expect(page.locator("#aw-live-slot")).to_contain_text("You said: Tell")
        page.click("#aw-stop")
        expect(page.locator(".aw-mark")).to_contain_text("Stopped")
        expect(page.locator(".aw-reply[data-reply-to] .aw-body")).to_have_text("You said: Tell")
    finally:
        gate.release()
    page.click("[data-do=ask-again]")
    expect(page.locator(".aw-reply[data-reply-to] .aw-body")).to_have_text("You said: Tell me about the sea.")
    expect(page.locator(".aw-mark")).to_have_count(0)


def test_before_the_memory_is_open_the_page_says_so_and_then_comes_alive(house: House, visit: Visit) -> None:
    house.ready = False
    try:
        page = visit().open(ready=False)
        expect(page.locator("#aw-cover h2")).to_have_text("Afterword is getting ready…")
        page.wait_for_timeout(1000)
        expect(page.locator("#aw-cover")).to_be_visible()
    finally:
        house.ready = True
    expect(page.locator("#aw-cover")).to_be_hidden()
    send(page, "Good morning.")
    replied(page)


def test_a_server_out_of_reach_is_told_and_found_again(visit: Visit) -> None:
    page = visit().open()
    page.route("**/gradio_api/component_server/**", lambda route: route.abort())
    page.click("[data-do=new-chat]")
    expect(page.locator("#aw-lost")).to_be_visible()
    page.unroute_all()
    expect(page.locator("#aw-lost")).to_be_hidden()


def test_a_message_sent_during_a_reply_goes_out_when_the_reply_has_ended(house: House, visit: Visit) -> None:
    page = visit().open()
    gate = house.llm.hold_stream(after=2)
    try:
        send(page, "One.")
        expect(page.locator("#aw-live-slot")).to_contain_text("You said:")
        send(page, "Two.")
        expect(page.locator("#aw-text")).to_have_value("Two.")
    finally:
        gate.release()
    replied(page, 1)
    expect(page.locator(".aw-reply[data-reply-to] .aw-body").nth(1)).to_have_text("You said: Two.")


def test_an_llm_that_fails_is_shown_with_cause_and_fix(house: House, visit: Visit) -> None:
    page = visit().open()
    house.llm.fail_with(LLMUnavailable("the LLM refused the key", fix="Set OPENAI_API_KEY."), on="stream", after=1)
    send(page, "Hello there.")
    expect(page.locator(".aw-mark")).to_contain_text("the LLM refused the key")
    expect(page.locator(".aw-mark")).to_contain_text("Set OPENAI_API_KEY.")


def test_a_memory_is_edited_and_deleted_and_keeps_its_versions(house: House, visit: Visit, user: str) -> None:
    teach(house, user, "I have a boat called Solveig.")
    page = visit().open()
    page.locator(".aw-card").hover()
    page.click(".aw-card [data-do=edit]")
    page.fill(".aw-edit textarea", "I have a boat called <i>Ragnhild</i>.")
    page.click(".aw-edit [type=submit]")
    expect(page.locator(".aw-card .aw-text")).to_have_text("I have a boat called <i>Ragnhild</i>.")
    expect(page.locator(".aw-card")).to_contain_text("v2")
    page.click(".aw-card summary")
    expect(page.locator(".aw-card details ol li")).to_have_count(2)
    expect(page.locator(".aw-card details")).to_contain_text("Solveig")
    page.click(".aw-card [data-do=delete]")
    page.click("[data-choice=yes]")
    expect(page.locator(".aw-card")).to_have_count(0)
    assert house.run(house.memory.get_all(user, Filters())) == []


def test_a_browser_in_chinese_gets_a_chinese_page_and_can_switch(visit: Visit) -> None:
    page = visit(locale="zh-CN").open()
    expect(page.locator(".aw-welcome h2")).to_have_text("今天想聊什么？")
    send(page, "我姐姐住在奥斯陆。")
    replied(page)
    expect(page.locator("html")).to_have_attribute("lang", "zh-CN")
    expect(page.locator(".aw-panel h2")).to_have_text("记忆")
    expect(page.locator(".aw-card")).to_contain_text("奥斯陆")
    page.click("#aw-language")
    expect(page.locator(".aw-panel h2")).to_have_text("Memory")
    expect(page.locator(".aw-user header b").first).to_have_text("You")


def test_an_enter_that_ends_a_composition_sends_nothing(visit: Visit) -> None:
    page = visit(locale="zh-CN").open()
    page.fill("#aw-text", "ni hao")
    page.evaluate(
        "document.querySelector('#aw-text').dispatchEvent("
        "new KeyboardEvent('keydown', {key: 'Enter', isComposing: true, bubbles: true, cancelable: true}))"
    )
    expect(page.locator("#aw-text")).to_have_value("ni hao")
    assert page.locator(".aw-user:visible").count() == 0


def test_what_people_and_models_write_is_inert_and_calls_nobody(house: House, visit: Visit) -> None:
    evil = '<img src=x onerror="window.pwned=1"><script>window.pwned=2</script> ![p](http://192.0.2.7/p.png)'
    page = visit().open()
    gate = house.llm.hold_stream(after=12)
    try:
        send(page, evil + " [link](javascript:window.pwned=3) and some more words to wait for")
        expect(page.locator("#aw-live-slot")).to_contain_text("You said:")
        page.wait_for_timeout(300)
    finally:
        gate.release()
    replied(page)
    expect(page.locator(".aw-card")).to_be_visible()
    page.locator(".aw-why summary").click()
    page.click(".aw-card summary")
    expect(page.locator(".aw-card details li")).to_be_visible()
    assert page.evaluate("window.pwned") is None
    assert page.locator(".aw img:visible, .aw-body script, .aw a[href^=javascript]").count() == 0


@pytest.mark.parametrize(
    ("name", "locale", "width", "height", "scheme"),
    [
        ("en-wide-light", "en-GB", 1440, 900, "light"),
        ("zh-wide-dark", "zh-CN", 1440, 900, "dark"),
        ("en-narrow-dark", "en-GB", 390, 844, "dark"),
        ("zh-narrow-light", "zh-CN", 390, 844, "light"),
    ],
)
def test_the_page_fits_its_window(
    house: House, visit: Visit, user: str, name: str, locale: str, width: int, height: int, scheme: str
) -> None:
    chinese = locale.startswith("zh")
    told = (
        ("我姐姐安住在奥斯陆。", "安不能吃坚果。")
        if chinese
        else ("My sister Ann lives in Oslo.", "Ann can't eat nuts.")
    )
    teach(house, user, *told)
    page = visit(locale=locale, viewport={"width": width, "height": height}, color_scheme=scheme).open()
    if width > 720:
        page.click("[data-do=new-chat]")
    house.llm.replies = [
        "安住在**奥斯陆**，这是你今天告诉我的。订晚餐时请记住：她不能吃坚果。"
        if chinese
        else "Ann lives in **Oslo**; you told me so today. Before you book a table, remember:\n\n- she can't eat nuts"
    ]
    send(page, "安住在哪里？" if chinese else "Where does Ann live?")
    replied(page)
    if width > 720:
        page.locator(".aw-why summary").last.click()
        expect(page.locator(".aw-hit").first).to_be_visible()
    page.screenshot(path=artefact(name))
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.evaluate("document.body.classList.contains('dark')") is (scheme == "dark")
    expect(page.locator(".aw-panel")).to_be_visible(visible=width > 720)
    if width <= 720:
        page.click("[data-do=toggle-memory]")
        expect(page.locator(".aw-panel .aw-card").first).to_be_in_viewport()
        page.wait_for_timeout(250)
        page.screenshot(path=artefact(f"{name}-memory"))
